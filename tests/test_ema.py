"""The average of the weights, in closed form."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from alphaflow.ema import EMA


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 3, dtype=torch.float64))
        self.register_buffer("count", torch.zeros(()))


def train(steps: int, **settings: float) -> tuple[EMA, list[torch.Tensor]]:
    """An average over a random walk of weights, and the weights at each step, the first before step 1."""
    source = torch.Generator().manual_seed(0)
    model = Model()
    ema, history = EMA(model, **settings), [model.weight.detach().clone()]
    for step in range(1, steps + 1):
        with torch.no_grad():
            model.weight += torch.randn(2, 3, generator=source, dtype=torch.float64)
            model.count.fill_(step)
        ema.update(model, step)
        history.append(model.weight.detach().clone())
    return ema, history


@given(st.floats(0, 50), st.floats(0.01, 1), st.integers(1, 40))
def test_the_average_is_the_weighted_sum_of_all_weights(half_life, ramp, steps):
    """Weights of step j count (1 - β_j) β_{j+1} … β_n, those before training β_1 … β_n."""
    ema, history = train(steps, half_life=half_life, ramp=ramp)
    shares, left = [], 1.0
    for j in range(steps, 0, -1):
        life = min(half_life, ramp * j)
        kept = 0.5 ** (1 / life) if life > 0 else 0.0
        shares.insert(0, left * (1 - kept))
        left *= kept
    expected = sum(share * weight for share, weight in zip([left, *shares], history))
    torch.testing.assert_close(ema.module.weight.data, expected, rtol=1e-10, atol=1e-12)


def test_after_a_half_life_half_of_the_old_average_is_left():
    model = Model()
    with torch.no_grad():
        model.weight.fill_(1.0)
    ema = EMA(model, half_life=20)
    with torch.no_grad():
        model.weight.zero_()
    for step in range(10_000, 10_020):
        ema.update(model, step)
    assert ema.module.weight.data.unique().item() == pytest.approx(0.5, rel=1e-12)


def test_the_half_life_is_ramped_while_training_is_young():
    ema = EMA(Model(), half_life=6931, ramp=0.05)
    assert ema.decay(20) == pytest.approx(0.5)  # half-life 1
    assert ema.decay(1000) == pytest.approx(0.5 ** (1 / 50))
    assert ema.decay(200_000) == ema.decay(10**9) == pytest.approx(0.9999, abs=1e-8)
    assert all(ema.decay(k) <= ema.decay(k + 1) for k in range(1, 2000, 17))


def test_a_half_life_of_0_copies_the_weights():
    ema, history = train(3, half_life=0)
    assert torch.equal(ema.module.weight.data, history[-1])


def test_buffers_are_copied_and_not_averaged():
    ema, _ = train(7)
    assert ema.module.count.item() == 7


def test_the_average_is_a_model_of_its_own_without_gradients():
    model = Model().train()
    ema = EMA(model)
    assert not ema.module.training
    assert model.training
    assert model.weight.requires_grad
    assert not any(weight.requires_grad for weight in ema.module.parameters())
    assert ema.module.weight.data_ptr() != model.weight.data_ptr()


@pytest.mark.parametrize("settings", [{"half_life": -1}, {"ramp": 0}])
def test_impossible_half_lives_and_ramps_are_refused(settings):
    with pytest.raises(ValueError, match="EMA half-life"):
        EMA(Model(), **settings)
