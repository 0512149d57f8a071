"""Each member of the family is what its paper says."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alphaflow.method import schedules
from alphaflow.method.alpha import RandomSplit
from alphaflow.method.family import (
    FACM,
    MEMBERS,
    ConsistencyTraining,
    FlowMatching,
    ImprovedMeanFlow,
    Shortcut,
    SplitMeanFlow,
    TrajectoryFlowMatching,
    member,
    statement,
)
from alphaflow.method.times import Uniform
from alphaflow.models import DataPrediction
from alphaflow.rng import KeyedRandom
from drawn import PLAIN, ROWS, assert_same, keyed, on_path
from reference import SmallNet, gradient, order, slope_in_time


@pytest.mark.parametrize("name", sorted(MEMBERS))
@pytest.mark.parametrize("shape", [(3,), (2, 2, 3)], ids=["vectors", "images"])
def test_every_member_gives_a_finite_loss_and_gradient(name, shape):
    net = SmallNet(dim=math.prod(shape))
    x = torch.randn(ROWS, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.arange(ROWS) % 4
    for labels in (y, None):
        out = MEMBERS[name]()(net, x, labels, step=200_000, generator=keyed())
        slopes = gradient(out.loss, net)
        assert out.per_sample.shape == out.residual.shape == out.r.shape == (ROWS,)
        assert bool(slopes.isfinite().all())
        assert slopes.norm() > 1e-6
        assert_same(out.loss.detach(), out.per_sample.mean())
        assert not out.per_sample.requires_grad


@pytest.mark.parametrize("name", sorted(MEMBERS))
def test_every_member_gives_the_same_loss_again_and_another_with_other_noise(net, data, name):
    objective = MEMBERS[name]()
    losses = [objective(net, *data, step=200_000, generator=keyed(seed)).loss.item() for seed in (3, 3, 4)]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("name", sorted(set(MEMBERS) - {"fm"}))
def test_a_row_has_the_same_residual_in_half_of_the_batch(net, data, name):
    """Everything random about a row is its own: only which rows are r = t depends on the batch."""
    x, y = data
    objective = MEMBERS[name](flow_ratio=1 / ROWS)  # the first row of the whole batch, none of half of it
    whole = objective(net, x, y, step=200_000, generator=keyed())
    half = objective(net, x[6:], y[6:], step=200_000, generator=KeyedRandom(3, torch.arange(6, ROWS)))
    assert_same(half.residual, whole.residual[6:])
    assert_same(half.per_sample, whole.per_sample[6:])


def test_flow_matching_is_the_r_equal_t_slice_with_target_v(net, data):
    x, y = data
    out = FlowMatching(**PLAIN)(net, x, y, generator=keyed())
    z, v = on_path(x, out)
    assert torch.equal(out.r, out.t)
    assert_same(out.loss, (net(z, out.t, out.t, y) - v).square().mean())


def test_trajectory_flow_matching_regresses_v_for_any_r(net, data):
    x, y = data
    out = TrajectoryFlowMatching(**PLAIN)(net, x, y, generator=keyed())
    z, v = on_path(x, out)
    assert int((out.r < out.t).sum()) == 9
    assert_same(out.loss, (net(z, out.r, out.t, y) - v).square().mean())
    assert_same(out.loss.detach(), out.metrics["tfm"])


def test_shortcut_is_its_recipe(net, data):
    """A quarter of the rows learns from two half steps of the model on the dyadic grid, the rest from v."""
    x, y = data
    out = Shortcut()(net, x, y, generator=keyed())
    z, v = on_path(x, out)
    r, t = out.r, out.t
    assert int((r < t).sum()) == 3
    level = -(t - r)[9:].log2()
    assert torch.equal(level, level.round())
    middle = (r + t) / 2
    with torch.no_grad():
        first = net(z, middle, t, y)
        second = net(z - (t - middle)[:, None] * first, r, middle, y)
    target = torch.where((r < t)[:, None], (first + second) / 2, v)
    assert_same(out.loss, (net(z, r, t, y) - target).square().mean())


def test_split_meanflow_is_the_interval_splitting_identity(net, data):
    """(t-r) u(z_t,r,t) = (t-s) u(z_t,s,t) + (s-r) u(z_s,r,s) with s at a random share of the interval."""
    x, y = data
    out = SplitMeanFlow(**PLAIN, flow_ratio=1 / ROWS)(net, x, y, generator=keyed())
    z, _ = on_path(x, out)
    r, t = out.r, out.t
    s = t - keyed().uniform("alpha") * (t - r)
    with torch.no_grad():
        first = net(z, s, t, y)
        second = net(z - (t - s)[:, None] * first, r, s, y)
    target = ((t - s)[:, None] * first + (s - r)[:, None] * second) / (t - r)[:, None]
    assert_same(out.residual[1:], (net(z, r, t, y) - target).square().mean(1)[1:])


def test_split_points_are_uniform_over_the_interval():
    shares = RandomSplit(Uniform()).rows(
        KeyedRandom(0, torch.arange(20_000)), torch.zeros(20_000), torch.ones(20_000)
    )
    assert shares.min() > 0
    assert shares.mean().item() == pytest.approx(0.5, abs=0.01)
    assert shares.var().item() == pytest.approx(1 / 12, abs=0.003)


def test_improved_meanflow_is_the_v_loss(net, data):
    """‖u + (t - r) du⁻/dt - v‖² with the network's own instantaneous velocity in the tangent."""
    x, y = data
    out = ImprovedMeanFlow(**PLAIN)(net, x, y, generator=keyed())
    z, v = on_path(x, out)
    for i in range(ROWS):
        row = slice(i, i + 1)
        r, t = out.r[row], out.t[row]
        slope = slope_in_time(net, z[row], net(z[row], t, t, y[row]).detach(), r, t, y[row])
        v_error = net(z[row], r, t, y[row]) + (t - r) * slope - v[row]
        assert_same(out.residual[i], v_error.square().mean().detach())


def test_facm_is_its_relaxed_target_weight_and_anchor(net, data):
    x, y = data
    out = FACM()(net, x, y, generator=keyed())
    z, v = on_path(x, out)
    expected = []
    for i in range(ROWS):
        row = slice(i, i + 1)
        r, t = out.r[row], out.t[row]
        u = net(z[row], r, t, y[row])
        if i < ROWS // 2:
            assert r == t
            expected.append((u - v[row]).square().mean() + 1 - F.cosine_similarity(u, v[row]).mean())
        else:
            assert r == 0
            meanflow = v[row] - t * slope_in_time(net, z[row], v[row], r, t, y[row])
            share = 1 - (1 - t).sqrt()
            target = (u - share * (u - meanflow).clamp(-1, 1)).detach()
            error = (u - target).square().mean()
            expected.append(torch.sin(t[0] * math.pi / 2) / (error.detach() + 1e-3).sqrt() * error)
    expected = torch.stack(expected)
    assert_same(out.per_sample, expected.detach())
    assert_same(gradient(out.loss, net), gradient(expected.mean(), net))


class Consistency(nn.Module):
    """A network of the velocity form u = (z - f) / t made from one that predicts the data, f."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = SmallNet()

    def data(self, z: Tensor, t: Tensor) -> Tensor:
        """f(z, t), with f(z, 0) = z."""
        return (1 - t[:, None]) * z + t[:, None] * self.inner(z, torch.zeros_like(t), t)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return (z - self.data(z, t)) / t[:, None]


@pytest.mark.parametrize("delta", [1 / 64, 0.2])
def test_discrete_consistency_training_is_the_member_at_alpha_delta_over_t(data, delta):
    """L_α = E[‖f_t - f⁻_s‖² / (t Δt)], Δt = t - s = δ, or t where t < δ: then s = 0, f_s = x."""
    x, _ = data
    net = Consistency()
    out = ConsistencyTraining(delta=delta)(net, x, generator=keyed())
    z, v = on_path(x, out)
    t = out.t
    assert not out.r.any()
    step = t.clamp(max=delta)
    s = t - step
    with torch.no_grad():
        far = net.data(z - step[:, None] * v, s)
    expected = ((net.data(z, t) - far).square().mean(1) / (t * step)).mean()
    assert delta < 0.1 or bool((t < delta).any())
    assert_same(out.loss, expected, 1e-9)
    assert_same(gradient(out.loss, net), gradient(expected, net), 1e-8)


def test_continuous_consistency_training_has_the_gradient_of_2_f_df_over_t(data):
    x, _ = data
    net = Consistency()
    out = ConsistencyTraining()(net, x, generator=keyed())
    z, v = on_path(x, out)
    t = out.t
    _, slope = torch.func.jvp(net.data, (z, t), (v, torch.ones_like(t)))
    expected = 2 * ((net.data(z, t) * slope.detach()).mean(1) / t).mean()
    assert_same(gradient(out.loss, net), gradient(expected, net), 1e-9)


def test_discrete_consistency_converges_to_continuous(data):
    net = Consistency()
    deltas = [2.0**-k for k in range(8, 14)]

    def slope(delta: float | None) -> Tensor:
        return gradient(ConsistencyTraining(delta=delta)(net, data[0], generator=keyed()).loss, net)

    limit = slope(None)
    errors = [float((slope(delta) - limit).norm()) for delta in deltas]
    assert order(deltas, errors) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("member", [ConsistencyTraining, lambda: ConsistencyTraining(delta=1 / 64)])
def test_a_constant_is_consistent_unless_the_parameterisation_holds_f_to_z_at_time_0(data, member):
    """Why the digits' recipe has consistency training predict the velocity: of a network that predicts the data a
    constant fits every target, and training finds it; with f = z - t u none does."""
    x, _ = data

    def constant(z, r, t, y=None):
        return torch.full_like(z, 0.3)

    collapsed = member()(DataPrediction(constant), x, generator=keyed())
    assert collapsed.residual[collapsed.t > 1 / 64].max() < 1e-20  # below, the step ends at the data
    held = member()(constant, x, generator=keyed())
    assert held.residual.min() > 1e-5


def test_the_step_of_discrete_consistency_may_fall_over_the_run(data):
    """With δ on a schedule a step's loss is that of a constant δ, and what is said has the schedule's words."""
    falling = schedules.linear(0, 100, first=0.5, last=0.01)
    objective, net = ConsistencyTraining(delta=falling), Consistency()
    for step, delta in ((0, 0.5), (50, 0.255), (100, 0.01)):
        out = objective(net, data[0], step=step, generator=keyed())
        assert_same(out.loss, ConsistencyTraining(delta=delta)(net, data[0], generator=keyed()).loss)
    assert "α linear(0, 100, first=0.5, last=0.01) / t [" in statement(objective, "discrete-consistency", 100)
    with pytest.raises(ValueError, match="consistency step 0 must lie in"):
        ConsistencyTraining(delta=schedules.linear(0, 100))


def test_a_step_to_the_data_is_said_as_earlier_runs_said_it():
    """Where r = 0, δ / (t - r) is δ / t; a run that was begun under those words goes on."""
    assert "α 0.015625 / t;" in statement(member("discrete-consistency", 100), "discrete-consistency", 100)
    assert "α 0.01 / (t - r);" in statement(member("rcgm", 100), "rcgm", 100)
