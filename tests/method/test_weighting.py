"""Loss weights: their formulae, their limits, and what they do to an objective."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from alphaflow.errors import UserError
from alphaflow.method.family import FlowMatching, ImprovedMeanFlow, MeanFlow, SplitMeanFlow
from alphaflow.method.objective import AlphaFlow
from alphaflow.method.targets import average_velocity_target
from alphaflow.method.weighting import AnchorWeight, Weight
from alphaflow.path import interpolate
from drawn import ROWS, assert_same, keyed, on_path
from reference import SmallNet, gradient, order

FORMULAE = {
    "adaptive": lambda e, a, d: a / (e + 1e-3),
    "scaled": lambda e, a, d: a / (e + a**2 * 1e-3),
    "power": lambda e, a, d: d / (d * e + 1e-2),
    "normalised": lambda e, a, d: 1 / (e**0.5 + a * 0.1),
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
    assert_same(weight, {"adaptive": alpha, "scaled": 1, "power": 6}[kind] / inside.sqrt())


def test_with_power_1_the_weighted_loss_sits_near_1_whatever_the_model_does(data):
    for seed in range(5):
        out = MeanFlow(weight=Weight(kind="power"))(SmallNet(seed=seed), *data, generator=keyed())
        assert 0.95 < out.loss.item() <= 1
        assert out.metrics["residual"] > 0.1


@pytest.mark.parametrize("power", [1.0, 0.75, 0.5])
@pytest.mark.parametrize("member", [ImprovedMeanFlow, SplitMeanFlow, MeanFlow])
def test_the_power_weight_is_meanflows_own_loss_with_the_sum_over_dimensions_once(member, power):
    """S / (S + c)^p with S the sum over a row's dimensions: the loss by hand and its gradient."""
    net = SmallNet(dim=48)
    x = torch.randn(ROWS, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    out = member(weight=Weight(kind="power", power=power))(net, x, generator=keyed())
    rows = out.residual * 48
    assert_same(out.loss.detach(), (rows / (rows + 1e-2) ** power).mean(), rtol=1e-12)
    flow = FlowMatching(weight=Weight(kind="power", power=power))(net, x, generator=keyed())
    z, v = on_path(x, flow)
    total = (net(z, flow.t, flow.t) - v).square().flatten(1).sum(1)
    by_hand = (total / (total.detach() + 1e-2) ** power).mean()
    assert_same(gradient(flow.loss, net), gradient(by_hand, net), rtol=1e-12)


@pytest.mark.parametrize("member", [ImprovedMeanFlow, SplitMeanFlow])
def test_members_that_sum_over_dimensions_train_in_4096_of_them_as_in_64(member):
    """Copies of a sample side by side, through a network that works on each of them alike: the loss must say the
    same of all, and of the weights; divided by D, Adam's epsilon swallows the gradient of an ImageNet latent."""
    objective = member(weight=dataclasses.replace(member().weight, c=1e-9))

    def slope(copies: int) -> tuple[float, float]:
        torch.manual_seed(0)
        inner = nn.Linear(64, 64).double()

        def net(z, r, t, y=None):
            return (inner(z.unflatten(1, (copies, 64))) * (1 + t - r)[:, None, None]).flatten(1)

        x = torch.randn(ROWS, 64, dtype=torch.float64).repeat(1, copies)
        noise = torch.randn(ROWS, 64, dtype=torch.float64).repeat(1, copies)
        draw = objective.draw(net, x, generator=keyed())
        z, v = interpolate(x, noise, draw.t)
        out = objective.evaluate(net, dataclasses.replace(draw, z=z, v=v))
        out.loss.backward()
        return out.loss.item(), inner.weight.grad.norm().item()

    few, many = slope(1), slope(64)
    assert many[0] == pytest.approx(1) and few[0] == pytest.approx(1)
    assert many[1] == pytest.approx(few[1], rel=1e-6)


@pytest.mark.parametrize("power", [1.0, 0.75, 0.5])
def test_the_scaled_weight_is_continuous_at_alpha_0(net, data, power):
    """Δ_α ≈ α Δ_MeanFlow, and the weight gives the r < t rows MeanFlow's gradient whatever the power."""
    errors, _ = jumps(net, data, Weight(kind="scaled", power=power))
    assert order(SMALL, errors) == pytest.approx(1, abs=0.1)
    assert errors[-1] < 5e-3


@pytest.mark.parametrize("kind, power", [("scaled", 1.0), ("scaled", 0.5), ("normalised", 1.0)])
def test_where_a_residual_shrinks_at_both_ends_so_does_what_the_weight_divides_by(net, data, kind, power):
    """Cut at a share α of the interval, `model` has u - target ≈ (1 - α) × the Lagrangian one as α → 1: the
    gradient goes to that of `end` at α = 0, and to that of `model` at α = 0 as α → 0, at first order."""
    weight = Weight(kind=kind, power=power)

    def slope(alpha: float, shift: str = "model") -> Tensor:
        objective = AlphaFlow(alpha=alpha, shift=shift, weight=weight)
        return gradient(objective(net, *data, generator=keyed()).loss, net)

    for limit, at in ((slope(0.0), lambda small: small), (slope(0.0, "end"), lambda small: 1 - small)):
        errors = [float((slope(at(small)) - limit).norm() / limit.norm()) for small in SMALL[:3]]
        assert order(SMALL[:3], errors) == pytest.approx(1, abs=0.15)
        assert errors[-1] < 0.02


def test_a_run_under_the_scaled_weight_before_its_correction_is_told_apart():
    """Runs with p other than 1 noted `scaled(p 0.5, …)`: their objective was another, and they are not resumed."""
    assert str(Weight(kind="scaled", power=0.5)) == "scaled(α^0, p 0.5, c 0.001)"
    assert str(Weight(kind="scaled")) == "scaled(p 1, c 0.001)"


@pytest.mark.parametrize("power", [1.0, 0.5])
def test_the_adaptive_weight_jumps_at_alpha_0(net, data, power):
    """Its r < t rows fade with α², then stand at 1 at α = 0."""
    errors, share = jumps(net, data, Weight(kind="adaptive", power=power))
    assert errors[-1] > 0.99
    assert share < 1e-2


def jumps(net: SmallNet, data: tuple[Tensor, Tensor], weight: Weight) -> tuple[list[float], float]:
    """Return the relative distances of the gradient from that at α = 0 as α falls, and the last one's length."""

    def slope(alpha: float) -> Tensor:
        objective = AlphaFlow(alpha=alpha, flow_ratio=0.0, weight=weight)
        return gradient(objective(net, *data, generator=keyed()).loss, net)

    limit = slope(0.0)
    errors = [float((slope(alpha) - limit).norm() / limit.norm()) for alpha in SMALL]
    return errors, float(slope(SMALL[-1]).norm() / limit.norm())


SMALL = [2.0**-k for k in range(7, 13)]


def test_the_definitions_weight_makes_the_gradient_converge_to_meanflows(net, data):
    x, y = data

    def slope(alpha: float) -> Tensor:
        objective = AlphaFlow(alpha=alpha, weight=Weight(kind="definition"))
        return gradient(objective(net, x, y, generator=keyed()).loss, net)

    errors = [float((slope(alpha) - slope(0.0)).norm()) for alpha in SMALL]
    assert order(SMALL, errors) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("by_time", ["tim", "rcgm"])
def test_a_factor_of_the_times_multiplies_any_weight(net, data, by_time):
    factor = {
        "tim": lambda r, t: (1 + math.tan(t) - math.tan(r)) ** -0.5,
        "rcgm": lambda r, t: math.tan((1 - (t - r)) * math.pi / 2.5) + 1,
    }[by_time]
    for kind in FORMULAE:
        out, plain = (
            AlphaFlow(alpha=0.2, weight=Weight(kind=kind, by_time=one))(net, *data, generator=keyed())
            for one in (by_time, None)
        )
        factors = torch.tensor([factor(float(r), float(t)) for r, t in zip(out.r, out.t)], dtype=torch.float64)
        assert_same(out.per_sample, factors * plain.per_sample)
        assert factors[3:].max() < factors[0] and bool((factors[:3] == factors[0]).all())
    with pytest.raises(UserError, match="did you mean 'rcgm'"):
        Weight(by_time="rgcm")


@pytest.mark.parametrize("alpha", [0.0, 0.25])
def test_the_normalised_weight_divides_the_tangents_length_out(net, data, alpha):
    """Its gradient is that of ½ ‖u - (u⁻ - g / (rms g + c))‖² · 2 with g = (u⁻ - target) / α, at any α."""
    x, y = data
    settings = {"alpha": alpha, "flow_ratio": 0.0}
    out = AlphaFlow(weight=Weight(kind="normalised"), **settings)(net, x, y, generator=keyed())
    z, v = on_path(x, out)
    u = net(z, out.r, out.t, y)
    g = (u.detach() - average_velocity_target(net, z, v, out.r, out.t, alpha, y)) / (alpha or 1)
    unit = g / (g.square().mean(1, keepdim=True).sqrt() + 0.1)
    by_hand = (u - (u.detach() - unit)).square().mean()
    assert_same(gradient(out.loss, net), gradient(by_hand, net), 1e-9)


def test_the_anchor_weight_is_1_on_anchors_and_sin_over_root_elsewhere():
    error = torch.tensor([0.5, 2.0, 0.0], dtype=torch.float64)
    r, t = torch.tensor([[0.4, 0.0, 0.0], [0.4, 0.5, 1.0]], dtype=torch.float64)
    weight = AnchorWeight()(error, torch.ones(3), 1, r, t)
    assert weight.tolist() == pytest.approx([1, math.sin(math.pi / 4) / math.sqrt(2.001), 1e-3**-0.5])
