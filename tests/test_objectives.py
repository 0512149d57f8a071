"""The objectives: against a plain re-implementation, by their identities, and by what they cost."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from alphaflow import schedules
from alphaflow.errors import UserError
from alphaflow.guidance import Guidance
from alphaflow.members import (
    FACM,
    MEMBERS,
    ConsistencyTraining,
    FlowMatching,
    ImprovedMeanFlow,
    MeanFlow,
    Shortcut,
    SplitMeanFlow,
    TrajectoryFlowMatching,
)
from alphaflow.objectives import AlphaFlow, RandomSplit, measure
from alphaflow.path import interpolate
from alphaflow.rng import KeyedRandom
from alphaflow.targets import average_velocity_target
from alphaflow.times import Constant, Times, Uniform
from alphaflow.weighting import AnchorWeight, Weight
from reference import Counting, SmallNet, algorithm_1, gradient, order, slope_in_time

ROWS, NULL = 12, 4
PLAIN = {"weight": Weight(kind="uniform")}


def keyed(seed: int = 3) -> KeyedRandom:
    return KeyedRandom(seed, torch.arange(ROWS))


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(8)
    return torch.randn(ROWS, 3, generator=source, dtype=torch.float64), torch.arange(ROWS) % 4


def noise_of(x: Tensor, seed: int = 3) -> Tensor:
    """The noise that an objective draws from the same keys."""
    return keyed(seed).normal("noise", x.shape[1:]).double()


def on_path(x: Tensor, out) -> tuple[Tensor, Tensor]:
    return interpolate(x, noise_of(x), out.t)


def assert_same(a, b, rtol=1e-10):
    torch.testing.assert_close(a, b, rtol=rtol, atol=1e-13)


# --- Algorithm 1 -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [1.0, 0.5, 0.1, 0.0])
@pytest.mark.parametrize(
    ("settings", "plain"),
    [
        ({}, {}),
        ({"clip": 0.5}, {"clip": 0.5}),
        ({"weight": Weight(c=0.3)}, {"c": 0.3}),
        (
            {"guidance": Guidance(null=NULL, omega=0.4, kappa=0.5, t_min=0.2, t_max=0.75, drop=0.4)},
            {"omega": 0.4, "kappa": 0.5, "interval": (0.2, 0.75)},
        ),
        ({"guidance": Guidance(null=NULL, omega=3.0, drop=0.0), "clip": 4.0}, {"omega": 3.0, "clip": 4.0}),
    ],
    ids=["plain", "clipped", "c", "guided in an interval", "guided without kappa, clipped"],
)
def test_loss_and_gradient_are_those_of_algorithm_1(net, data, alpha, settings, plain):
    x, y = data
    out = AlphaFlow(alpha=alpha, **settings)(net, x, y, generator=keyed())
    dropped = None
    if "guidance" in settings:
        dropped = keyed().uniform("drop") < settings["guidance"].drop
    expected = algorithm_1(net, x, noise_of(x), y, out.r, out.t, alpha, dropped=dropped, **plain)
    assert_same(out.loss, expected)
    assert_same(gradient(out.loss, net), gradient(expected, net))
    assert int((out.r == out.t).sum()) == 3  # a quarter of the rows


def test_the_cases_above_are_what_they_say(net, data):
    """Some targets are clipped, some rows lie inside the interval, and some of those are dropped."""
    x, y = data
    out = AlphaFlow(alpha=0.5, **PLAIN)(net, x, y, generator=keyed())
    z, v = on_path(x, out)
    target = average_velocity_target(net, z, v, out.r, out.t, 0.5, y)[out.r < out.t]
    assert 0 < (target.abs() > 0.5).double().mean() < 1
    inside = (out.t > 0.2) & (out.t < 0.75)
    dropped = keyed().uniform("drop") < 0.4
    assert 0 < int((inside & dropped).sum()) < int(inside.sum()) < ROWS


# --- members -----------------------------------------------------------------------------------------------------


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
    objective = MEMBERS[name](flow_ratio=0.0)
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
    out = SplitMeanFlow(**PLAIN, flow_ratio=0.0)(net, x, y, generator=keyed())
    z, _ = on_path(x, out)
    r, t = out.r, out.t
    s = t - keyed().uniform("alpha") * (t - r)
    with torch.no_grad():
        first = net(z, s, t, y)
        second = net(z - (t - s)[:, None] * first, r, s, y)
    target = ((t - s)[:, None] * first + (s - r)[:, None] * second) / (t - r)[:, None]
    assert_same(out.residual, (net(z, r, t, y) - target).square().mean(1))


def test_split_points_are_uniform_over_the_interval():
    shares = RandomSplit(Uniform()).rows(KeyedRandom(0, torch.arange(20_000)), torch.ones(20_000))
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


# --- decomposition and metrics -----------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.5, 1.0])
def test_tfm_plus_tc_is_the_residual_up_to_a_constant_in_theta(net, data, alpha):
    """Values differ by the mean of τ² - v², and gradients by nothing: ∇residual = ∇TFM + ∇TC."""
    x, y = data
    out = AlphaFlow(alpha=alpha, **PLAIN)(net, x, y, generator=keyed())
    z, v = on_path(x, out)
    target = average_velocity_target(net, z, v, out.r, out.t, alpha, y)
    u = net(z, out.r, out.t, y)
    tfm, tc = (u - v).square().mean(), (2 * (v - target) * u).mean()
    constant = (target.square() - v.square()).mean()
    assert_same(out.metrics["tfm"], tfm.detach())
    assert_same(out.metrics["tc"], tc.detach())
    assert_same(out.metrics["residual"], (tfm + tc + constant).detach())
    assert_same(gradient(out.loss, net), gradient(tfm, net) + gradient(tc, net))
    assert (float(tc.detach()) == 0) == (alpha == 1)


def test_at_meanflow_tc_is_its_closed_form(net, data):
    """TC = 2 (t - r) uᵀ du⁻/dt."""
    x, y = data
    out = MeanFlow(flow_ratio=0.25)(net, x, y, generator=keyed())
    z, v = on_path(x, out)
    terms = []
    for i in range(ROWS):
        row = slice(i, i + 1)
        slope = slope_in_time(net, z[row], v[row], out.r[row], out.t[row], y[row])
        terms.append((2 * (out.t[i] - out.r[i]) * net(z[row], out.r[row], out.t[row], y[row]) * slope).mean())
    assert_same(out.metrics["tc"], torch.stack(terms).mean().detach())


@given(st.integers(0, 1000), st.floats(0, 1))
def test_binned_residuals_weighted_by_their_counts_sum_to_the_residual(seed, ratio):
    source = torch.Generator().manual_seed(seed)
    u, v, target = (torch.randn(40, 3, generator=source, dtype=torch.float64) for _ in range(3))
    r, t = torch.rand(2, 40, generator=source, dtype=torch.float64).sort(dim=0).values
    r[: int(40 * ratio)] = t[: int(40 * ratio)]
    t[-1] = 1.0
    metrics = measure(u, v, target, r, t)
    errors = (u - target).square().mean(1)
    for name, place, rows in (("t", t, torch.ones(40) > 0), ("d", t - r, r < t)):
        total = 0.0
        for k in range(5):
            inside = rows & (place >= k / 5) & ((place < (k + 1) / 5) | (k == 4))
            value = metrics[f"residual_{name}{k}"]
            if inside.any():
                assert_same(value, errors[inside].mean())
                total += value.item() * int(inside.sum())
            else:
                assert value.isnan()
        assert total == pytest.approx(errors[rows].sum().item())
    assert_same(metrics["residual"], errors.mean())


def test_metrics_report_alpha_and_the_flow_ratio_in_effect(net, data):
    objective = AlphaFlow(
        alpha=schedules.linear(0, 100), flow_ratio=schedules.linear(0, 100, first=0.5, last=0.25)
    )
    for step, alpha, ratio in ((0, 1, 0.5), (50, 0.5, 4 / 12), (100, 0, 0.25)):
        metrics = objective(net, *data, step=step, generator=keyed()).metrics
        assert metrics["alpha"] == alpha
        assert metrics["flow_ratio"] == pytest.approx(ratio)
    discrete = ConsistencyTraining(delta=0.1)(net, *data, generator=keyed())
    assert float(discrete.metrics["alpha"]) == pytest.approx((0.1 / discrete.t).clamp(max=1).mean().item())


def test_metrics_are_detached_scalars_that_do_not_depend_on_the_weight(net, data):
    outs = [
        AlphaFlow(alpha=0.5, weight=Weight(kind=kind))(net, *data, generator=keyed())
        for kind in ("uniform", "power")
    ]
    for name in ("residual", "tfm", "tc", "residual_t2"):
        first, second = (out.metrics[name] for out in outs)
        assert first.shape == ()
        assert not first.requires_grad
        assert torch.equal(first, second)
    assert outs[0].loss != outs[1].loss


@given(st.integers(1, 512), st.floats(0, 1))
def test_flow_rows_are_the_floor_of_the_share(batch, ratio):
    rows = AlphaFlow(flow_ratio=ratio).flow_rows(batch, 0)
    assert rows <= batch * ratio + 1e-8
    assert rows + 1 > batch * ratio


def test_shares_that_are_whole_numbers_of_rows_are_exact():
    for batch in range(1, 300):
        for part in range(batch + 1):
            assert AlphaFlow(flow_ratio=part / batch).flow_rows(batch, 0) == part


# --- what it costs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "rows"),
    [
        ({"alpha": 1.0}, [12]),
        ({"alpha": 0.5}, [12, 9]),
        ({"alpha": 1e-3, "flow_ratio": 0.5}, [12, 6]),
        ({"alpha": 0.5, "flow_ratio": 1.0}, [12]),
        ({"alpha": 0.5, "flow_ratio": 0.0}, [12, 12]),
        ({"alpha": 0.5, "shift": "model"}, [12, 9, 9]),
        ({"alpha": 0.0, "derivative": "forward"}, [12, 9]),
        ({"alpha": 0.0, "derivative": "reverse"}, [12, 9]),
        ({"alpha": 0.0, "derivative": "difference"}, [12, 9, 9, 9]),
        ({"alpha": 0.0, "flow_ratio": 1.0}, [12]),
    ],
    ids=str,
)
def test_only_rows_that_need_it_are_evaluated(net, data, settings, rows):
    counting = Counting(net)
    AlphaFlow(**settings)(counting, *data, generator=keyed())
    assert counting.rows == rows


def test_the_extra_evaluation_is_at_the_shifted_point_of_rows_with_r_below_t(net, data):
    x, y = data
    counting = Counting(net)
    out = AlphaFlow(alpha=0.25)(counting, x, y, generator=keyed())
    extra = counting.calls[1]
    s = 0.25 * out.r + 0.75 * out.t
    assert torch.equal(extra["r"], out.r[3:])
    assert_same(extra["t"], s[3:])
    assert_same(extra["z"], interpolate(x, noise_of(x), s)[0][3:])
    assert torch.equal(extra["y"], y[3:])


def test_weights_gather_their_gradient_from_one_evaluation_only(net, data):
    """Under stop-gradient the target is a constant: the gradient is that of ‖u - τ‖² with τ fixed."""
    x, y = data
    for alpha in (0.5, 0.0):
        out = AlphaFlow(alpha=alpha, **PLAIN)(net, x, y, generator=keyed())
        z, v = on_path(x, out)
        target = average_velocity_target(net, z, v, out.r, out.t, alpha, y)
        assert_same(gradient(out.loss, net), gradient((net(z, out.r, out.t, y) - target).square().mean(), net))


@pytest.mark.parametrize(
    ("guidance", "branches"),
    [
        (Guidance(null=NULL, omega=0.4, kappa=0.5, t_min=0.2, t_max=0.75, drop=0.4), [False, True]),
        (Guidance(null=NULL, omega=0.5, kappa=0.5, drop=0.0), [False]),
        (Guidance(null=NULL, omega=2.0, drop=0.0), [True]),
        (Guidance(null=NULL, omega=1.0, kappa=0.0, drop=0.5), []),
        (Guidance(null=NULL, omega=2.0, drop=1.0), []),
        (Guidance(null=NULL, omega=2.0, t_min=0.5, t_max=0.5), []),
    ],
    ids=["both", "class alone", "null alone", "drops alone", "all dropped", "empty interval"],
)
def test_guidance_evaluates_its_rows_in_one_call_and_none_where_nothing_is_guided(net, data, guidance, branches):
    x, y = data
    counting = Counting(net)
    out = AlphaFlow(alpha=1.0, guidance=guidance)(counting, x, y, generator=keyed())
    inside = (out.t > guidance.t_min) & (out.t < guidance.t_max)
    dropped = inside & (keyed().uniform("drop") < guidance.drop)
    guided = inside & ~dropped
    assert torch.equal(counting.calls[-1]["y"], torch.where(dropped, NULL, y))
    if not branches:
        assert counting.rows == [ROWS]
        return
    many = int(guided.sum())
    assert counting.rows == [many * len(branches), ROWS]
    call = counting.calls[0]
    assert torch.equal(call["r"], call["t"])
    for null, part in zip(branches, call["y"].chunk(len(branches))):
        assert torch.equal(part, torch.full((many,), NULL) if null else y[guided])
    for part in call["t"].chunk(len(branches)):
        assert torch.equal(part, out.t[guided])


def test_guided_velocities_are_the_weighted_sum_and_labels_stay_in_place(net, batch):
    z, v, _, t, y = batch
    before = y.clone()
    guidance = Guidance(null=NULL, omega=0.2, kappa=0.92, t_min=0.3, t_max=0.8, drop=0.0)
    guided, labels = guidance(net, z, v, t, y, KeyedRandom(3, torch.arange(8)))
    null = torch.full_like(y, NULL)
    with torch.no_grad():
        expected = 0.2 * v + 0.92 * net(z, t, t, y) + (1 - 0.2 - 0.92) * net(z, t, t, null)
    inside = ((t > 0.3) & (t < 0.8))[:, None]
    assert 0 < inside.sum() < len(t)
    assert_same(guided, torch.where(inside, expected, v))
    assert torch.equal(labels, before)
    assert torch.equal(y, before)


def test_a_tenth_of_the_labels_drops_inside_the_interval_and_none_outside(net):
    rows = 5000
    z = torch.zeros(rows, 3, dtype=torch.float64)
    t = torch.linspace(0, 1, rows, dtype=torch.float64)
    random = KeyedRandom(0, torch.arange(rows))
    _, labels = Guidance(null=NULL, t_min=0.2, t_max=0.7)(net, z, z, t, torch.zeros(rows).long(), random)
    dropped = labels == NULL
    inside = (t > 0.2) & (t < 0.7)
    assert not dropped[~inside].any()
    assert dropped[inside].double().mean().item() == pytest.approx(0.1, abs=0.02)


# --- weights -----------------------------------------------------------------------------------------------------

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


# --- targets under clip, single precision ------------------------------------------------------------------------


@pytest.mark.parametrize(("alpha", "clips"), [(1.0, False), (0.5, True), (0.0, False)])
def test_only_targets_of_rows_with_alpha_between_0_and_1_are_clipped(net, data, alpha, clips):
    """With a bound near 0 the target vanishes there; flow rows keep v."""
    x, y = data
    out = AlphaFlow(alpha=alpha, clip=1e-9)(net, x, y, generator=keyed())
    plain = AlphaFlow(alpha=alpha)(net, x, y, generator=keyed())
    z, _ = on_path(x, out)
    assert_same(out.residual[:3], plain.residual[:3])
    if clips:
        torch.testing.assert_close(
            out.residual[3:], net(z, out.r, out.t, y).detach().square().mean(1)[3:], rtol=1e-6, atol=1e-9
        )
    else:
        assert_same(out.residual, plain.residual)


def test_single_precision_agrees_with_double(net, data):
    x, y = data
    for alpha in (1.0, 0.3, 0.0):
        objective = AlphaFlow(alpha=alpha)
        double = gradient(objective(net, x, y, generator=keyed()).loss, net)
        single_net = SmallNet().float()
        out = objective(single_net, x.float(), y, generator=keyed())
        assert out.loss.dtype == torch.float32
        assert (gradient(out.loss, single_net).double() - double).norm() < 1e-4 * double.norm()


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"alpha": 1.5}, r"alpha 1\.5 lies outside \[0, 1\]"),
        ({"alpha": -0.1}, "lies outside"),
        ({"flow_ratio": 1.01}, r"flow_ratio 1\.01 lies outside \[0, 1\]"),
        ({"flow_ratio": -1}, "share of rows with r = t"),
        ({"clip": 0.0}, "clip 0 must be positive"),
        ({"clip": -4.0}, "clip -4 must be positive"),
        ({"shift": "modle"}, "did you mean 'model'"),
        ({"derivative": "revers"}, "did you mean 'reverse'"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused_when_the_objective_is_made(settings, words):
    with pytest.raises(ValueError, match=words):
        AlphaFlow(**settings)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Weight(kind="adaptiv"), "did you mean 'adaptive'"),
        (lambda: Weight(c=0.0), "c = 0 must be positive"),
        (lambda: Guidance(null=4, kappa=1.0), "kappa 1 must be below 1"),
        (lambda: Guidance(null=4, drop=1.5), "drop 1.5"),
        (lambda: Guidance(null=4, t_min=0.8, t_max=0.2), r"interval \(0.8, 0.2\)"),
        (lambda: ConsistencyTraining(delta=0.0), "step 0 must lie in"),
        (lambda: ConsistencyTraining(delta=1.5), "step 1.5 must lie in"),
    ],
)
def test_impossible_parts_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    "settings", [{"alpha": lambda k: 2.0}, {"flow_ratio": lambda k: 250.0}], ids=["alpha", "ratio"]
)
def test_schedules_that_leave_0_to_1_are_refused_when_they_do(net, data, settings):
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        AlphaFlow(**settings)(net, *data)


def test_guidance_without_labels_is_refused(net, data):
    with pytest.raises(ValueError, match="guidance needs labels"):
        AlphaFlow(guidance=Guidance(null=NULL, omega=2.0))(net, data[0])


def test_misspelt_settings_of_a_member_are_refused():
    with pytest.raises(TypeError, match="flow_ration"):
        MeanFlow(flow_ration=0.5)
    assert MeanFlow(times=Times(coupling="minimum", r=Constant(0.0))).times.coupling == "minimum"


def test_misspelt_names_in_errors_are_of_the_users_kind():
    with pytest.raises(UserError, match="unknown shift 'modle'"):
        AlphaFlow(shift="modle")
