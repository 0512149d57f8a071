"""SoFlow and RCGM, which keep a step at the interval's start: each against its paper, row by row."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from alphaflow.method.alpha import StepSize
from alphaflow.method.family import RCGM, MeanFlow, SoFlow, member
from alphaflow.method.objective import AlphaFlow
from alphaflow.method.targets import average_velocity_target
from alphaflow.method.times import Times, Uniform
from alphaflow.method.weighting import Weight
from drawn import PLAIN, ROWS, assert_same, keyed, on_path
from reference import Counting, GaussianFlow, gradient, order

SMALL = [2.0**-k for k in range(6, 13)]


@pytest.fixture(scope="module")
def exact() -> GaussianFlow:
    return GaussianFlow(
        torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64), torch.tensor([0.3, 1.0, 1.5], dtype=torch.float64)
    )


# --- SoFlow ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [1.0, 0.75, 0.5])
def test_soflow_is_its_weighted_difference_quotient(net, data, power):
    """With jumps f(z_t, t → r) = z_t - (t - r) u and l between: the gradient of -2 u · w (f_t - f_l) / (t - l),
    where w = 1 / (mean square of that quotient + c)^p."""
    x, y = data
    out = SoFlow(weight=Weight(kind="scaled", power=power, c=1e-2), flow_ratio=0.25)(
        net, x, y, step=100_000, generator=keyed()
    )
    z, v = on_path(x, out)
    alpha = 0.1 * (0.002 / 0.1) ** 0.25
    expected, far = [], 0
    for i in range(ROWS):
        row = slice(i, i + 1)
        r, t = out.r[row], out.t[row]
        u = net(z[row], r, t, y[row])
        if r == t:
            quotient = v[row] - u.detach()
        else:
            far += 1
            end = t + (r - t) * alpha
            moved = z[row] + v[row] * (end - t)
            jumped = moved - (end - r) * net(moved, r, end, y[row])
            quotient = ((z[row] - (t - r) * u - jumped) / (t - end)).detach()
        weight = 1 / (quotient.square().mean() + 1e-2) ** power
        expected.append(-2 * weight * (u * quotient).mean())
    assert far >= 4
    assert_same(gradient(out.loss, net), gradient(torch.stack(expected).mean(), net), 1e-9)


def test_soflows_alpha_falls_by_the_same_factor_over_any_run():
    for steps in (10, 400_000):
        objective = member("soflow", steps)
        alphas = [objective.alpha_at(k * steps // 5) for k in range(6)]
        assert alphas[0] == pytest.approx(0.1) and alphas[-1] == pytest.approx(0.002)
        factors = [b / a for a, b in pairwise(alphas)]
        assert factors == pytest.approx([50 ** (-1 / 5)] * 5, rel=1e-9)


def test_soflows_gradient_comes_to_meanflows_as_alpha_falls(net, data):
    def slope(alpha: float) -> Tensor:
        return gradient(SoFlow(alpha=alpha)(net, *data, generator=keyed()).loss, net)

    errors = [float((slope(alpha) - slope(0.0)).norm()) for alpha in SMALL]
    assert order(SMALL, errors) == pytest.approx(1, abs=0.05)


def test_soflows_times_are_its_laws(net):
    rows = 4000
    draw = SoFlow().draw(lambda z, r, t, y: z, torch.zeros(rows, 1), generator=torch.Generator().manual_seed(0))
    flow, far = draw.t[:3000].logit(), draw.t[3000:].logit()
    assert torch.equal(draw.r[:3000], draw.t[:3000]) and bool((draw.r <= draw.t).all())
    assert flow.mean().item() == pytest.approx(-0.2, abs=0.06) and flow.std().item() == pytest.approx(1, abs=0.05)
    assert far.mean().item() == pytest.approx(0.2, abs=0.09) and far.std().item() == pytest.approx(0.8, abs=0.07)


# --- RCGM --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jumps", [1, 2, 3])
@pytest.mark.parametrize("cut", [1.0, 1e9])
def test_rcgm_is_its_clamped_difference_by_sub_jumps(net, data, jumps, cut):
    """u⁻ - clamp([(t - r) u⁻ - Σ ℓ_k u⁻_k] / δ - v), the loss E / (E + c²)^½ times TwinFlow's factor."""
    x, y = data
    delta = 0.2
    out = RCGM(delta, jumps=jumps, max_change=cut)(net, x, y, generator=keyed())
    z, v = on_path(x, out)
    expected, short, cuts = [], 0, 0
    for i in range(ROWS):
        row = slice(i, i + 1)
        r, t = out.r[row], out.t[row]
        u = net(z[row], r, t, y[row])
        target = v[row]
        if i >= 3:
            step = min(delta, float(t - r))
            short += step < delta
            place, start, passed = z[row] - step * v[row], t - step, 0
            length = (t - r - step) / jumps
            for _ in range(jumps):
                velocity = net(place, (start - length).clamp(min=0), start, y[row])
                place, start, passed = place - length * velocity, start - length, passed + length * velocity
            change = (((t - r) * u - passed) / step - v[row]).detach()
            cuts += int((change.abs() > cut).sum())
            target = (u - change.clamp(-cut, cut)).detach()
        square = (u - target).square().mean()
        weight = (math.tan((1 - float(t - r)) * math.pi / 2.5) + 1) / (square.detach() + 1e-6).sqrt()
        expected.append(weight * square)
    assert short and (cut > 1 or cuts)
    losses = torch.stack(expected)
    assert_same(out.per_sample, losses.detach(), 1e-8)
    assert_same(gradient(out.loss, net), gradient(losses.mean(), net), 1e-8)


def test_the_change_over_alpha_has_the_gradient_of_the_two_point_loss_over_alpha(net, data):
    """One jump, nothing cut: the residual is that of Definition 1 divided by α."""
    times = Times(coupling="scaled", t=Uniform(), r=Uniform())
    plain = {"alpha": 0.1, "times": times, **PLAIN}
    apart = AlphaFlow(**plain)(net, *data, generator=keyed())
    ours = AlphaFlow(**plain, max_change=1e9)(net, *data, generator=keyed())
    far = ours.r < ours.t
    assert_same(ours.residual[far], apart.residual[far] / 0.1**2)
    assert_same(ours.residual[~far], apart.residual[~far])
    definition = AlphaFlow(**{**plain, "weight": Weight(kind="definition")})(net, *data, generator=keyed())
    assert_same(gradient(ours.loss, net), gradient(definition.loss, net))


def test_the_change_over_alpha_at_alpha_0_bounds_meanflows_target(net, data):
    """It lies between: the same as MeanFlow where nothing is cut, and near u where all is."""
    x, y = data
    wide, plain = (
        MeanFlow(max_change=bound, flow_ratio=0.25)(net, x, y, generator=keyed()) for bound in (1e9, None)
    )
    assert_same(wide.residual, plain.residual)
    narrow = MeanFlow(max_change=1e-3, flow_ratio=0.25)(net, x, y, generator=keyed())
    assert bool((narrow.residual[3:] <= 1e-6 * (1 + 1e-9)).all()) and narrow.residual[3:].max() > 0.9e-6
    assert_same(narrow.residual[:3], plain.residual[:3])


@pytest.mark.parametrize("jumps", [1, 2, 5])
def test_by_exact_jumps_any_number_leads_to_the_same_place(exact, batch, jumps):
    """The exact flow is additive, so that the target does not depend on N; its distance to u over α → 0 with α."""
    z, _, r, t, _ = batch
    v, u = exact(z, t, t), exact(z, r, t)
    one, many = (average_velocity_target(exact, z, v, r, t, 0.1, jumps=n) for n in (1, jumps))
    torch.testing.assert_close(many, one, rtol=1e-10, atol=1e-11)
    alphas = [2.0**-k for k in range(4, 11)]
    errors = [float(((average_velocity_target(exact, z, v, r, t, a, jumps=jumps) - u) / a).norm()) for a in alphas]
    assert order(alphas, errors) == pytest.approx(1, abs=0.08)
    assert errors[-1] < 1e-2


def test_with_the_models_shift_the_exact_flow_is_its_own_target_by_any_jumps(exact, batch):
    z, _, r, t, _ = batch
    target = average_velocity_target(exact, z, exact(z, t, t), r, t, 0.3, shift="model", jumps=3)
    torch.testing.assert_close(target, exact(z, r, t), rtol=1e-9, atol=1e-10)


def test_sub_jumps_are_equal_and_end_at_r(net, batch):
    z, v, r, t, y = batch
    counting = Counting(net)
    average_velocity_target(counting, z, v, r, t, 0.25, y, jumps=3)
    s = t - 0.25 * (t - r)
    assert len(counting.calls) == 3
    for k, call in enumerate(counting.calls):
        assert_same(call["t"], s - k / 3 * (s - r))
        assert_same(call["r"], s - (k + 1) / 3 * (s - r))
    assert torch.equal(counting.calls[-1]["r"], r)


def test_a_step_has_one_length_from_anywhere_and_ends_at_r():
    r, t = torch.tensor([[0.0, 0.3, 0.595, 0.6], [0.5, 0.8, 0.6, 0.6]], dtype=torch.float64)
    alpha = StepSize(0.01).rows(keyed(), r, t)
    assert (alpha * (t - r)).tolist() == pytest.approx([0.01, 0.01, 0.005, 0])
    assert alpha.max() == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"jumps": 0}, "jumps 0 must be at least 1"),
        ({"max_change": 0.0}, "max_change 0 must be positive"),
        ({"relaxation": 0.5}, "both bound how far a target lies from u: choose one"),
        ({"trust": 0.5}, "trust does not let shrink with α: choose one"),
        ({"delta": 2.0}, "consistency step 2 must lie"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        RCGM(**settings)
