"""Samplers against the exact flow of Gaussian data, where every answer is known."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial.legendre import leggauss
from scipy import stats
from torch import Tensor

from alphaflow.errors import UserError
from alphaflow.method.guidance import Guided
from alphaflow.method.sampling import METHODS, grid, invert, jump, sample
from alphaflow.path import interpolate
from alphaflow.rng import KeyedRandom
from reference import Counting, GaussianFlow, order

MEAN = torch.tensor([1.5, -0.5], dtype=torch.float64)
STD = torch.tensor([0.4, 1.7], dtype=torch.float64)
FLOW = GaussianFlow(MEAN, STD)
times_inside = st.lists(st.floats(0.001, 0.999), max_size=6, unique=True).map(
    lambda t: (1.0, *sorted(t, reverse=True), 0.0)
)
unit = st.floats(0, 1)


def noise(rows: int = 64, seed: int = 0) -> Tensor:
    return torch.randn(rows, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def keyed(*index: int, seed: int = 0) -> KeyedRandom:
    return KeyedRandom(seed, torch.tensor(index))


def assert_same(a, b):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def normal_pvalues(x: Tensor, mean: Tensor, std: Tensor) -> list[float]:
    return [stats.kstest(x[:, k].numpy(), stats.norm(mean[k], std[k]).cdf).pvalue for k in range(2)]


def test_one_step_from_noise_is_the_exact_map_to_the_data():
    assert_same(sample(FLOW, noise()), MEAN + STD * noise())


@given(times_inside)
def test_every_grid_of_ode_steps_lands_on_the_same_point(times):
    assert_same(sample(FLOW, noise(), times=times), MEAN + STD * noise())


@given(times_inside, st.floats(0.001, 0.999))
def test_a_path_cut_anywhere_is_the_same_path(times, stop):
    """Sampling to `stop` has the marginal there: mean (1-t) m, standard deviation √var_t, same standard score."""
    stop = torch.tensor(stop, dtype=torch.float64)
    above = tuple(t for t in times if t > stop)
    z = sample(FLOW, noise(), times=(*above, float(stop)))
    assert_same(z, (1 - stop) * MEAN + FLOW.variance(stop).sqrt() * noise())


def test_jumps_agree_with_the_instantaneous_velocity_they_average():
    """u over [r, t] is the mean of u(z_s, s, s) along the trajectory: Gauss-Legendre with 20 points."""
    z = noise(8)
    t, r = torch.tensor(0.9, dtype=torch.float64), torch.tensor(0.2, dtype=torch.float64)
    nodes, weights = (torch.from_numpy(part) for part in leggauss(20))
    mean = torch.zeros_like(z)
    for node, weight in zip(nodes, weights):
        s = ((t - r) * node + t + r) / 2
        z_s = jump(FLOW, z, 0.9, float(s))
        mean += weight / 2 * FLOW(z_s, s.repeat(8), s.repeat(8))
    assert_same(FLOW(z, r.repeat(8), t.repeat(8)), mean)


@given(unit, unit, unit)
def test_jumps_compose(a, b, c):
    r, s, t = sorted((a, b, c))
    assert_same(jump(FLOW, jump(FLOW, noise(), t, s), s, r), jump(FLOW, noise(), t, r))


def test_rows_may_jump_between_different_times():
    z = noise(3)
    t, r = torch.tensor([[1.0, 0.7, 0.5], [0.0, 0.2, 0.5]], dtype=torch.float64)
    together = jump(FLOW, z, t, r)
    for i in range(3):
        assert_same(together[i : i + 1], jump(FLOW, z[i : i + 1], float(t[i]), float(r[i])))
    assert torch.equal(together[2], z[2])


@given(st.floats(0, 0.85), st.floats(0, 0.15))
def test_invert_undoes_a_jump(r, length):
    z, t = noise(), r + length
    assert_same(invert(FLOW, jump(FLOW, z, t, r), r, t, iterations=60, tolerance=1e-12), z)


def test_data_inverted_by_short_intervals_gives_its_noise_back():
    z = MEAN + STD * noise()
    for k in range(20):
        z = invert(FLOW, z, k / 20, (k + 1) / 20, tolerance=1e-12)
    torch.testing.assert_close(z, noise(), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("slope", [5.0, 0.95], ids=["moves apart", "is not there yet"])
def test_an_inversion_that_does_not_converge_is_refused(slope):
    def steep(z, r, t, y=None):
        return slope * z

    with pytest.raises(ValueError, match=r"still changes a row by .* go by shorter intervals"):
        invert(steep, noise(), 0.0, 1.0)


def test_one_row_that_does_not_converge_is_enough_to_refuse():
    """However many rows, and however large, are at rest beside it."""

    def steep_once(z, r, t, y=None):
        return 0.95 * z * torch.tensor([1.0] + [0.0] * (len(z) - 1), dtype=z.dtype)[:, None]

    z = noise()
    z[0] *= 1e-6
    with pytest.raises(ValueError, match="still changes a row by"):
        invert(steep_once, z, 0.0, 1.0)
    assert torch.equal(invert(steep_once, z, 0.0, 0.1)[1:], z[1:])


def test_inversion_stops_when_it_has_converged():
    counting = Counting(FLOW)
    invert(counting, noise(), 0.5, 0.6)
    assert len(counting.rows) < 20


def test_one_consistency_step_is_one_ode_step():
    assert torch.equal(sample(FLOW, noise(), method="consistency"), sample(FLOW, noise()))


def test_consistency_sampling_keeps_the_data_law_over_many_steps():
    """Exact jumps and exact re-noising: N(m, σ²) after any number of steps, here with all moments by KS."""
    for times in ((1.0, 0.5, 0.0), (1.0, 0.8, 0.55, 0.2, 0.0)):
        source = torch.Generator().manual_seed(2)
        x = sample(FLOW, noise(20_000), times=times, method="consistency", generator=source)
        assert min(normal_pvalues(x, MEAN, STD)) > 1e-3
        assert x.mean(0).tolist() == pytest.approx(MEAN.tolist(), abs=0.05)
        assert x.std(0).tolist() == pytest.approx(STD.tolist(), rel=0.02)


def test_a_re_noised_point_has_the_marginal_of_its_time():
    """(1 - s) x̂ + s noise: the factor that the paper's listing leaves out."""
    x = sample(
        FLOW, noise(20_000), times=(1.0, 0.5), method="consistency", generator=torch.Generator().manual_seed(1)
    )
    half = torch.tensor(0.5, dtype=torch.float64)
    assert min(normal_pvalues(x, MEAN / 2, FLOW.variance(half).sqrt())) > 1e-3


def test_a_consistency_step_is_the_jump_to_the_data_and_the_path_back():
    z, fresh = noise(5), keyed(*range(5)).normal("sample0", (2,)).double()
    expected, _ = interpolate(jump(FLOW, z, 1.0, 0.0), fresh, torch.full((5,), 0.3, dtype=torch.float64))
    assert_same(sample(FLOW, z, times=(1.0, 0.3), method="consistency", generator=keyed(*range(5))), expected)


@pytest.mark.parametrize(("method", "expected"), [("euler", 1), ("heun", 2)])
def test_velocity_steps_converge_at_their_order(method, expected):
    counts = [16, 32, 64, 128, 256]
    exact = MEAN + STD * noise()
    errors = [float((sample(FLOW, noise(), times=grid(n), method=method) - exact).norm()) for n in counts]
    assert order([1 / n for n in counts], errors) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize(("method", "calls"), [("ode", 1), ("consistency", 1), ("euler", 1), ("heun", 2)])
def test_each_step_costs_its_evaluations_at_the_right_times(method, calls):
    counting = Counting(FLOW)
    sample(counting, noise(3), times=(1.0, 0.6, 0.0), method=method)
    assert len(counting.calls) == 2 * calls
    seen = [(float(call["r"][0]), float(call["t"][0])) for call in counting.calls]
    assert (
        seen
        == {
            "ode": [(0.6, 1.0), (0.0, 0.6)],
            "consistency": [(0.0, 1.0), (0.0, 0.6)],
            "euler": [(1.0, 1.0), (0.6, 0.6)],
            "heun": [(1.0, 1.0), (0.6, 0.6), (0.6, 0.6), (0.0, 0.0)],
        }[method]
    )


def test_a_list_of_methods_gives_each_interval_its_own():
    times = (1.0, 0.7, 0.3, 0.0)
    hybrid = sample(FLOW, noise(), times=times, method=("heun", "euler", "ode"))
    by_hand = sample(FLOW, noise(), times=times[:2], method="heun")
    by_hand = sample(FLOW, by_hand, times=times[1:3], method="euler")
    assert torch.equal(hybrid, sample(FLOW, by_hand, times=times[2:]))
    assert torch.equal(sample(FLOW, noise(), times=times, method=["ode"] * 3), sample(FLOW, noise(), times=times))


def test_labels_reach_the_network_in_every_method():
    y = torch.tensor([2, 0, 1])
    for method in METHODS:
        counting = Counting(FLOW)
        sample(counting, noise(3), y, times=(1.0, 0.5, 0.0), method=method)
        assert all(torch.equal(call["y"], y) for call in counting.calls)


def test_a_sample_is_the_same_in_any_batch():
    """With keyed noise, over several re-noising steps, which must differ from one another."""
    settings = {"times": (1.0, 0.7, 0.4, 0.0), "method": "consistency"}
    whole = sample(FLOW, noise(6), **settings, generator=keyed(*range(6)))
    some = sample(FLOW, noise(6)[[4, 1]], **settings, generator=keyed(4, 1))
    assert torch.equal(some, whole[[4, 1]])
    other = sample(FLOW, noise(6), **settings, generator=keyed(*range(6), seed=1))
    assert not torch.isclose(other, whole).any()


def test_fresh_noise_differs_between_the_steps_of_one_sample():
    jumps = Counting(lambda z, r, t, y=None: torch.zeros_like(z))
    sample(jumps, noise(50) * 0, times=(1.0, 0.5, 0.25, 0.0), method="consistency", generator=keyed(*range(50)))
    first = jumps.calls[1]["z"] / 0.5
    second = (jumps.calls[2]["z"] - 0.75 * jumps.calls[1]["z"]) / 0.25
    assert abs(float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])) < 0.4


def test_sampling_builds_no_graph(net):
    x = sample(net, torch.randn(2, 3, dtype=torch.float64), times=(1.0, 0.5, 0.0), method="heun")
    assert not x.requires_grad


@pytest.mark.parametrize(
    ("nfe", "settings", "times"),
    [
        (1, {}, (1.0, 0.0)),
        (4, {}, (1.0, 0.75, 0.5, 0.25, 0.0)),
        (2, {"midpoint": 0.55}, (1.0, 0.55, 0.0)),
        (2, {"start": 0.8}, (0.8, 0.4, 0.0)),
    ],
)
def test_grids_fall_evenly_from_start_to_0(nfe, settings, times):
    assert grid(nfe, **settings) == pytest.approx(times)
    assert grid(nfe, **settings)[-1] == 0


def test_guided_is_the_extrapolation_from_null_to_class_within_its_interval(net):
    source = torch.Generator().manual_seed(0)
    z = torch.randn(3, 3, generator=source, dtype=torch.float64)
    r, t = torch.tensor([[0.1, 0.2, 0.3], [0.2, 0.5, 0.9]], dtype=torch.float64)
    y, null = torch.tensor([0, 3, 1]), torch.full((3,), 4)
    counting = Counting(net)
    guided = Guided(counting, null=4, scale=2.5, t_min=0.3, t_max=0.8)(z, r, t, y)
    scale = torch.tensor([[1.0], [2.5], [1.0]], dtype=torch.float64)
    without = net(z, r, t, null)
    assert_same(guided, without + scale * (net(z, r, t, y) - without))
    assert counting.rows == [6]
    assert_same(Guided(net, null=4, scale=1.0)(z, r, t, y), net(z, r, t, y))
    assert_same(Guided(net, null=4, scale=0.0)(z, r, t, y), without)


@pytest.mark.parametrize(
    "times",
    [
        (0.0, 1.0),
        (1.0, 0.5, 0.5, 0.0),
        (1.0, 0.2, 0.4),
        (1.1, 0.0),
        (1.0, -0.1),
        (1.0,),
        (),
        (1.0, float("nan"), 0.0),
    ],
    ids=str,
)
def test_times_that_do_not_fall_within_0_and_1_are_refused(times):
    with pytest.raises(ValueError, match="must fall, within"):
        sample(FLOW, noise(2), times=times)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: jump(FLOW, noise(2), 0.2, 0.5), "cannot jump from t = 0.2 to r = 0.5"),
        (lambda: jump(FLOW, noise(2), 1.5, 0.5), "cannot jump"),
        (lambda: invert(FLOW, noise(2), 0.5, 0.2), "cannot invert from r = 0.5 to t = 0.2"),
        (lambda: sample(FLOW, noise(2), method=["ode", "ode"]), "2 methods for 1 intervals"),
        (lambda: grid(0), "nfe 0 must be at least 1"),
        (lambda: grid(3, midpoint=0.5), "midpoint goes with 2"),
        (lambda: Guided(FLOW, null=4, scale=2.0)(noise(1), torch.zeros(1), torch.ones(1)), "needs labels"),
    ],
)
def test_impossible_requests_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_an_unknown_method_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="unknown sampling method 'consistent': did you mean 'consistency'"):
        sample(FLOW, noise(2), method="consistent")
