"""A teacher's paths as targets: exact between neighbours, additive, of the solver's order, without samples."""

import pytest
import torch
from torch import Tensor

from alphaflow.method.compiled import Compiled
from alphaflow.method.guidance import Guidance
from alphaflow.method.times import Times
from alphaflow.method.trajectories import Trajectories
from drawn import NULL, ROWS, assert_same, keyed, noise_of
from reference import GaussianFlow, SmallNet, gradient, order

FLOW = GaussianFlow(torch.tensor([0.5, -1.0, 0.2]).double(), torch.tensor([0.4, 0.7, 1.3]).double())
TEACHER = SmallNet(seed=7).eval()


def test_euler_between_neighbours_gives_the_teachers_velocity(net, data):
    """j = i + 1: the target at (z_i, τ_j, τ_i) is v_T(z_i, τ_i) itself."""
    x, y = data
    points = Trajectories(teacher=TEACHER, path_steps=3, pairs=20).draw(net, x, y, generator=keyed())
    next_to = (points.t - points.r - 1 / 3).abs() < 1e-9
    assert 20 < int(next_to.sum()) < len(points.z)
    velocity = TEACHER(points.z, points.t, points.t, points.y).detach()
    assert_same(points.v[next_to], velocity[next_to], 1e-9)
    assert (points.v - velocity)[~next_to].abs().max() > 1e-3


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_targets_add_up_along_a_path(data, solver):
    """(τ_i - τ_k) T_ik = (τ_i - τ_j) T_ij + (τ_j - τ_k) T_jk."""
    ours = Trajectories(teacher=TEACHER, path_steps=6, solver=solver, times=Times(time_shift=3.0))
    places, grid = ours.path(data[0], data[1]), ours.grid()

    def displacement(i: int, j: int) -> Tensor:
        r, t = grid[j].expand(ROWS), grid[i].expand(ROWS)
        return (t - r)[:, None] * ours.velocity_between(places[i], places[j], r, t)

    assert_same(displacement(0, 6), displacement(0, 2) + displacement(2, 6))
    assert_same(displacement(1, 5), displacement(1, 4) + displacement(4, 5))


@pytest.mark.parametrize(("solver", "expected"), [("euler", 1), ("heun", 2)])
def test_of_an_exact_teacher_targets_come_to_the_average_velocity_by_the_solvers_order(data, solver, expected):
    """Gaussian data: |T - u*| = O(1 / N) by Euler and O(1 / N²) by Heun."""
    sizes, errors = [32, 64, 128, 256], []
    r, t = torch.full((ROWS,), 0.25).double(), torch.full((ROWS,), 0.75).double()
    for n in sizes:
        ours = Trajectories(teacher=FLOW, path_steps=n, solver=solver)
        places = ours.path(data[0])
        target = ours.velocity_between(places[n // 4], places[3 * n // 4], r, t)
        errors.append((target - FLOW(places[n // 4], r, t)).square().mean().sqrt().item())
    assert order([1 / n for n in sizes], errors) == pytest.approx(expected, abs=0.1)
    assert errors[-1] < 0.01


def test_samples_are_never_read_and_noise_classes_and_pairs_are_each_paths_own(net, data):
    x, y = data
    ours = Trajectories(teacher=TEACHER, pairs=3)
    out = ours(net, x, y, generator=keyed())
    blind = ours(net, torch.full_like(x, torch.nan), y, generator=keyed())
    assert torch.equal(out.residual, blind.residual) and bool(out.residual.isfinite().all())
    points = ours.draw(net, x, y, generator=keyed())
    assert torch.equal(points.y, y.repeat_interleave(3))
    given = ours.draw(net, x, y, generator=keyed(), noise=noise_of(x))
    assert torch.equal(points.z, given.z)
    half = type(keyed())(3, torch.arange(6, ROWS))
    later = ours.draw(net, x[6:], y[6:], generator=half)
    assert_same(later.z, points.z[18:])
    assert_same(later.v, points.v[18:])


def test_it_is_the_mean_square_over_pairs_of_all_lengths(net, data):
    x, y = data
    ours = Trajectories(teacher=TEACHER, path_steps=4, pairs=50)
    points = ours.draw(net, x, y, generator=keyed())
    out = ours.evaluate(net, points)
    expected = (net(points.z, points.r, points.t, points.y) - points.v).square().mean(1)
    assert_same(out.residual, expected.detach())
    assert_same(out.per_sample, expected.reshape(ROWS, 50).mean(1).detach())
    assert_same(gradient(out.loss, net), gradient(expected.mean(), net))
    assert not points.v.requires_grad and bool((points.r < points.t).all())
    pairs = {(round(4 * r), round(4 * t)) for r, t in zip(points.r.tolist(), points.t.tolist())}
    assert pairs == {(r, t) for t in range(1, 5) for r in range(t)}


def test_where_the_teacher_is_constant_along_a_path_the_targets_are_those_of_one_jump(net, data):
    """A velocity that depends on the class alone: every pair says it, as trajectory flow matching would."""
    x, y = data
    speeds = torch.tensor([[1.0, 0, 0], [0, 2, 0], [0, 0, 3], [1, 1, 1]]).double()
    ours = Trajectories(teacher=lambda z, r, t, y: speeds[y], pairs=5)
    points = ours.draw(net, x, y, generator=keyed())
    assert_same(points.v, speeds[points.y], 1e-9)


def test_a_shifted_grid_lies_nearer_to_the_noise_and_keeps_its_ends():
    grid = Trajectories(teacher=FLOW, path_steps=4, times=Times(time_shift=3.0)).grid()
    assert grid.tolist() == pytest.approx([1, 0.9, 0.75, 0.5, 0])


def test_compiled_it_is_the_same(net, data):
    plain = Trajectories(teacher=TEACHER, pairs=3)
    compiled = Compiled(plain, backend="eager")
    assert_same(compiled(net, *data, generator=keyed()).loss, plain(net, *data, generator=keyed()).loss)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"path_steps": 0}, "path_steps 0 must be at least 1"),
        ({"pairs": 0}, "pairs 0 must be at least 1"),
        ({"solver": "hun"}, "did you mean 'heun'"),
        ({"alpha": 0.5}, "no guidance but the teacher's"),
        ({"guidance": Guidance(null=NULL)}, "no guidance but the teacher's"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        Trajectories(teacher=FLOW, **settings)


def test_without_a_teacher_there_is_nothing_to_learn(net, data):
    with pytest.raises(ValueError, match="give teacher=net"):
        Trajectories()(net, *data, generator=keyed())
