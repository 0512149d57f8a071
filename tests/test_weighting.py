"""Loss weights: their formulae, their limits, and what they do to an objective."""

import math

import pytest
import torch
from torch import Tensor

from alphaflow.members import (
    MeanFlow,
)
from alphaflow.objectives import AlphaFlow
from alphaflow.weighting import AnchorWeight, Weight
from drawn import ROWS, assert_same, keyed
from reference import SmallNet, gradient, order

FORMULAE = {
    "adaptive": lambda e, a, d: a / (e + 1e-3),
    "scaled": lambda e, a, d: a / (e + a**2 * 1e-3),
    "power": lambda e, a, d: 1 / (d * e + 1e-2),
    "definition": lambda e, a, d: 1 / a,
    "uniform": lambda e, a, d: 1.0,
}


@pytest.mark.parametrize("kind", sorted(FORMULAE))
def test_weights_are_their_formulae_on_every_row(net, data, kind):
    x, y = data
    out = AlphaFlow(alpha=0.2, weight=Weight(kind=kind))(net, x, y, generator=keyed())
    for i in range(ROWS):
        a = 1.0 if i < 3 else 0.2
        error = out.residual[i].item()
        assert out.per_sample[i].item() == pytest.approx(FORMULAE[kind](error, a, 3) * error, rel=1e-12)


@pytest.mark.parametrize("kind", ["adaptive", "scaled", "power"])
def test_power_and_c_enter_the_weight(kind):
    error, alpha = torch.tensor([0.5, 2.0], dtype=torch.float64), torch.tensor([0.3, 1.0], dtype=torch.float64)
    weight = Weight(kind=kind, power=0.5, c=0.1)(error, alpha, 6, alpha, alpha)
    inside = {"adaptive": error + 0.1, "scaled": error + alpha**2 * 0.1, "power": 6 * error + 0.1}[kind]
    assert_same(weight, (1 if kind == "power" else alpha) / inside.sqrt())


def test_with_power_1_the_weighted_loss_sits_near_1_whatever_the_model_does(data):
    for seed in range(5):
        out = MeanFlow(weight=Weight(kind="power"))(SmallNet(seed=seed), *data, generator=keyed())
        assert 0.95 < 3 * out.loss.item() <= 1  # per dimension: the weight sums over the 3
        assert out.metrics["residual"] > 0.1


@pytest.mark.parametrize("kind", ["adaptive", "scaled"])
def test_only_the_scaled_weight_is_continuous_at_alpha_0(net, data, kind):
    """Δ_α ≈ α Δ_MeanFlow: under the adaptive weight the r < t rows fade with α², then jump to 1 at α = 0."""
    x, y = data

    def slope(alpha: float) -> Tensor:
        objective = AlphaFlow(alpha=alpha, flow_ratio=0.0, weight=Weight(kind=kind))
        return gradient(objective(net, x, y, generator=keyed()).loss, net)

    limit = slope(0.0)
    errors = [float((slope(alpha) - limit).norm() / limit.norm()) for alpha in SMALL]
    if kind == "scaled":
        assert order(SMALL, errors) == pytest.approx(1, abs=0.1)
        assert errors[-1] < 5e-3
    else:
        assert errors[-1] > 0.99
        assert slope(SMALL[-1]).norm() < 1e-2 * limit.norm()


SMALL = [2.0**-k for k in range(7, 13)]


def test_the_definitions_weight_makes_the_gradient_converge_to_meanflows(net, data):
    x, y = data

    def slope(alpha: float) -> Tensor:
        objective = AlphaFlow(alpha=alpha, weight=Weight(kind="definition"))
        return gradient(objective(net, x, y, generator=keyed()).loss, net)

    errors = [float((slope(alpha) - slope(0.0)).norm()) for alpha in SMALL]
    assert order(SMALL, errors) == pytest.approx(1, abs=0.05)


def test_the_anchor_weight_is_1_on_anchors_and_sin_over_root_elsewhere():
    error = torch.tensor([0.5, 2.0, 0.0], dtype=torch.float64)
    r, t = torch.tensor([[0.4, 0.0, 0.0], [0.4, 0.5, 1.0]], dtype=torch.float64)
    weight = AnchorWeight()(error, torch.ones(3), 1, r, t)
    assert weight.tolist() == pytest.approx([1, math.sin(math.pi / 4) / math.sqrt(2.001), 1e-3**-0.5])
