"""Averages of the weights, in closed form, and lengths made afterwards against those averaged directly."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from alphaflow.models.ema import EMA, WIDEST, PowerEMA, StoredAverage, combine, gamma_of


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


WIDTHS = (0.05, 0.10)


def walk(steps: int, size: int = 64) -> torch.Tensor:
    """Weights that wander: (steps, size), float64. Averages of different lengths lie far apart on it."""
    source = torch.Generator().manual_seed(1)
    return torch.randn(steps, size, generator=source, dtype=torch.float64).cumsum(0)


class Vector(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size, dtype=torch.float64))


def average(history: torch.Tensor, std: float, stored: tuple[int, ...]) -> dict[int, torch.Tensor]:
    """A power-function average at each of the steps `stored`, as training would store it."""
    model = Vector(history.shape[1])
    ema, kept = PowerEMA(model, std), {}
    for step, weights in enumerate(history, 1):
        model.weight.data.copy_(weights)
        ema.update(model, step)
        if step in stored:
            kept[step] = ema.weights["weight"].clone()
    return kept


@given(st.floats(0.005, WIDEST))
def test_a_profile_has_the_width_it_was_made_for(std):
    """Mean and variance of k^gamma on [0, 1], by a fine sum."""
    gamma = gamma_of(std)
    middles = ((np.arange(20_000) + 0.5) / 20_000) ** (1 / (gamma + 1))  # of cells of equal mass
    assert middles.std() == pytest.approx(std, rel=1e-3)
    assert gamma >= 0


def test_published_exponents_belong_to_the_published_widths():
    """EDM2 (section 3.2) stores gamma = 16.97 and 6.94: widths of 5 % and 10 %."""
    assert gamma_of(0.05) == pytest.approx(16.97, abs=5e-3)
    assert gamma_of(0.10) == pytest.approx(6.94, abs=5e-3)


def test_a_power_function_average_weighs_steps_by_their_power():
    history = walk(40)
    kept = average(history, 0.1, (7, 40))
    for step, value in kept.items():
        cumulative = (torch.arange(step + 1, dtype=torch.float64) / step) ** (gamma_of(0.1) + 1)
        torch.testing.assert_close(value, cumulative.diff() @ history[:step], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("wanted", [0.04, 0.08, 0.15, 0.2])
@pytest.mark.parametrize("end", [400, 300])
def test_a_length_made_afterwards_equals_the_one_averaged_directly(wanted, end):
    """To 1 % of what separates it from the newest weights, a far smaller number than the weights themselves."""
    history = walk(400)
    steps = tuple(range(20, 401, 20))
    stored, values = [], []
    for std in WIDTHS:
        for step, value in average(history, std, steps).items():
            stored.append(StoredAverage(gamma_of(std), step))
            values.append(value)
    coefficients, distance = combine(stored, StoredAverage(gamma_of(wanted), end))
    made = torch.from_numpy(coefficients) @ torch.stack(values)
    direct = average(history[:end], wanted, (end,))[end]
    assert (made - direct).norm() < 0.01 * (direct - history[end - 1]).norm()
    assert 0 < distance < 0.03
    assert coefficients.sum() == pytest.approx(1, abs=1e-9)
    assert not coefficients[[one.step > end for one in stored]].any()


def test_a_stored_length_is_given_back_as_it_is():
    stored = [StoredAverage(gamma_of(std), step) for std in WIDTHS for step in (100, 200, 300)]
    coefficients, distance = combine(stored, StoredAverage(gamma_of(0.1), 200))
    np.testing.assert_allclose(coefficients, [0, 0, 0, 0, 1, 0], atol=1e-9)
    assert distance < 1e-6


def test_the_distance_told_is_that_of_the_profiles():
    steps, wanted = (50, 100, 150, 200), StoredAverage(gamma_of(0.08), 200)
    stored = [StoredAverage(gamma_of(std), step) for std in WIDTHS for step in steps]
    coefficients, distance = combine(stored, wanted)
    places = (np.arange(200_000) + 0.5) / 1000

    def profile(one: StoredAverage) -> np.ndarray:
        inside = places <= one.step
        return np.where(inside, (one.gamma + 1) * (places / one.step) ** one.gamma / one.step, 0)

    made = sum(share * profile(one) for share, one in zip(coefficients, stored))
    aim = profile(wanted)
    assert distance == pytest.approx(np.linalg.norm(made - aim) / np.linalg.norm(aim), rel=1e-3)


def test_lengths_that_cannot_be_made_are_refused():
    for std in (0.0, 0.3, -0.1):
        with pytest.raises(ValueError, match="lies outside"):
            gamma_of(std)
    with pytest.raises(ValueError, match="no average is stored up to step 50"):
        combine([StoredAverage(7.0, 100)], StoredAverage(7.0, 50))
