"""The straight path between data and noise, in float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alphaflow.path import expand, interpolate, move
from reference import GaussianFlow

unit = st.floats(0, 1)


def pair(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    return tuple(torch.randn(*shape, generator=source, dtype=torch.float64) for _ in range(2))


def test_the_path_starts_at_data_and_ends_at_noise():
    x, noise = pair(4, 2, 3, 3)
    assert torch.equal(interpolate(x, noise, torch.zeros(4).double())[0], x)
    assert torch.equal(interpolate(x, noise, torch.ones(4).double())[0], noise)


def test_v_is_the_derivative_of_z_in_t():
    x, noise = pair(5, 3)
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    _, slope = torch.func.jvp(lambda t: interpolate(x, noise, t)[0], (t,), (torch.ones_like(t),))
    torch.testing.assert_close(slope, interpolate(x, noise, t)[1])


@given(st.lists(st.tuples(unit, unit), min_size=1, max_size=5))
def test_moving_along_v_from_t_to_r_lands_on_the_path(times):
    t, r = torch.tensor(times, dtype=torch.float64).unbind(1)
    x, noise = pair(len(times), 2, 2)
    z, v = interpolate(x, noise, t)
    torch.testing.assert_close(move(z, v, t, r), interpolate(x, noise, r)[0], rtol=1e-12, atol=1e-12)


@given(unit, unit, unit)
def test_moves_along_one_velocity_compose(t, s, r):
    z, v = pair(1, 3)
    t, s, r = (torch.tensor([value], dtype=torch.float64) for value in (t, s, r))
    torch.testing.assert_close(move(move(z, v, t, s), v, s, r), move(z, v, t, r), rtol=1e-12, atol=1e-12)


def test_each_row_goes_by_its_own_time():
    x, noise = pair(3, 2, 4)
    t = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    z, _ = interpolate(x, noise, t)
    for i in range(3):
        torch.testing.assert_close(z[i], (1 - t[i]) * x[i] + t[i] * noise[i])
    assert expand(t, x).shape == (3, 1, 1)


def test_the_mean_velocity_given_z_is_the_velocity_of_the_marginals():
    """For Gaussian data E[v | z] is linear in z: the regression of v on z has the closed form's line."""
    mean, std = torch.tensor([0.7], dtype=torch.float64), torch.tensor([0.4], dtype=torch.float64)
    x, noise = pair(200_000, 1)
    for time in (0.2, 0.5, 0.9):
        t = torch.full((len(x),), time, dtype=torch.float64)
        z, v = interpolate(mean + std * x, noise, t)
        slope = ((z - z.mean()) * v).mean() / z.var()
        at_mean = v.mean()
        u = GaussianFlow(mean, std)
        points = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        low, high = u(points, t[:2], t[:2])[:, 0]
        assert abs(slope - (high - low)) < 0.02
        assert abs(at_mean - u(z.mean().reshape(1, 1), t[:1], t[:1])[0, 0]) < 0.02


@pytest.mark.parametrize(
    ("noise", "t", "words"),
    [
        (torch.zeros(2, 4), torch.zeros(2), r"noise has shape \(2, 4\)"),
        (torch.zeros(2, 3), torch.zeros(1), r"the 2 rows"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(noise, t, words):
    with pytest.raises(ValueError, match=words):
        interpolate(torch.zeros(2, 3), noise, t)
