"""The objective: against a plain re-implementation of Algorithm 1, its metrics, precision and refusals."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alphaflow import schedules
from alphaflow.errors import UserError
from alphaflow.method.alpha import RandomSplit, StepSize
from alphaflow.method.family import ConsistencyTraining, MeanFlow
from alphaflow.method.guidance import Guidance
from alphaflow.method.objective import AlphaFlow
from alphaflow.method.residuals import measure
from alphaflow.method.targets import average_velocity_target
from alphaflow.method.times import Constant, Times, Uniform
from alphaflow.method.weighting import Weight
from drawn import NULL, PLAIN, ROWS, assert_same, keyed, noise_of, on_path
from reference import SmallNet, algorithm_1, gradient, slope_in_time

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
        (
            {"guidance": Guidance(null=NULL, omega=0.4, t_min=0.2, t_max=0.75, drop=0.4, guide_dropped=True)},
            {"omega": 0.4, "interval": (0.2, 0.75), "guide_dropped": True},
        ),
        (
            {"guidance": Guidance(null=NULL, omega=2.0, t_min=0.2, t_max=0.75, drop=0.4, drop_where="everywhere")},
            {"omega": 2.0, "interval": (0.2, 0.75)},
        ),
        ({"guidance": Guidance(null=NULL, omega=3.0, drop=0.0), "clip": 4.0}, {"omega": 3.0, "clip": 4.0}),
    ],
    ids=[
        "plain",
        "clipped",
        "c",
        "guided in an interval",
        "dropped rows guided",
        "dropped everywhere",
        "guided without kappa, clipped",
    ],
)
def test_loss_and_gradient_are_those_of_algorithm_1(net, data, alpha, settings, plain):
    x, y = data
    out = AlphaFlow(alpha=alpha, **settings)(net, x, y, generator=keyed())
    dropped = None
    if "guidance" in settings:
        dropped = keyed().uniform("drop") < settings["guidance"].drop
        if settings["guidance"].drop_where == "interval":
            dropped &= (out.t > 0.2) & (out.t < 0.75)
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


# --- targets under clip, single precision ------------------------------------------------------------------------


@pytest.mark.parametrize(("alpha", "clips"), [(1.0, True), (0.5, True), (0.0, False)])
def test_targets_are_clipped_where_r_is_below_t_and_alpha_above_0(net, data, alpha, clips):
    """With a bound near 0 the target vanishes there; rows with r = t keep v."""
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


@pytest.mark.parametrize("shaping", [{"clip": 1e-9}, {"relaxation": 0.5}])
def test_rows_that_happen_to_have_r_equal_t_keep_their_target(net, data, shaping):
    """Under the coupling `minimum` r meets t on many of the other rows."""
    x, y = data
    times = Times(coupling="minimum", t=Uniform(), r=Constant(0.5))
    out, plain = (
        AlphaFlow(alpha=0.5, flow_ratio=0.0, times=times, **changes)(net, x, y, generator=keyed())
        for changes in (shaping, {})
    )
    meet = out.r == out.t
    assert 0 < int(meet.sum()) < ROWS
    assert_same(out.residual[meet], plain.residual[meet])
    assert not torch.isclose(out.residual[~meet], plain.residual[~meet]).any()


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


@pytest.mark.parametrize("alpha", [0.5, 0.0, RandomSplit(Uniform()), schedules.constant(0.5)], ids=str)
@pytest.mark.parametrize("shift", ["model", "end"])
def test_a_target_that_never_holds_the_data_is_refused(net, data, shift, alpha):
    """u = 0 fits it: the residual of a network that says nothing would be 0."""

    def silent(z, r, t, y=None):
        return 0 * z

    almost = AlphaFlow(alpha=alpha, shift=shift, flow_ratio=1 / 12)
    residual = almost(silent, *data, generator=keyed()).residual
    assert residual[0] > 0.1 and residual[1:].eq(0).all()
    with pytest.raises(ValueError, match=f"shift {shift!r} with flow_ratio 0 never sees the data"):
        AlphaFlow(alpha=alpha, shift=shift, flow_ratio=0)


@pytest.mark.parametrize("alpha", [1.0, schedules.step(50), StepSize(0.5)], ids=str)
def test_alpha_1_teaches_the_data_under_the_models_shift(net, data, alpha):
    objective = AlphaFlow(alpha=alpha, shift="model", flow_ratio=0)
    out = objective(net, *data, generator=keyed())
    z, v = on_path(data[0], out)
    error = (net(z, out.r, out.t, data[1]) - v).square().mean(1)
    rows = out.t <= 0.5 if isinstance(alpha, StepSize) else out.t > 0
    assert rows.any()
    assert_same(out.residual[rows], error[rows])


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
