"""The identities of the average-velocity target, in float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alphaflow.errors import UserError
from alphaflow.method.targets import average_velocity_target
from alphaflow.path import expand, move
from reference import Counting, GaussianFlow, SmallNet, gradient, order, slope_in_time

SHIFTS = ["data", "model", "velocity", "end"]
SMALL = [2.0**-k for k in range(6, 13)]


def assert_same(a, b):
    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("shift", SHIFTS)
def test_alpha_1_is_trajectory_flow_matching_and_evaluates_no_network(net, batch, shift):
    z, v, r, t, y = batch
    counting = Counting(net)
    assert torch.equal(average_velocity_target(counting, z, v, r, t, 1.0, y, shift=shift), v)
    assert counting.rows == []
    assert torch.equal(average_velocity_target(net, z, v, r, t, torch.ones_like(t), y, shift=shift), v)


@pytest.mark.parametrize("wrong", [0.0, -0.1, 1.5, float("nan")])
def test_a_tensor_of_alphas_outside_0_to_1_is_refused_with_the_value(net, batch, wrong):
    z, v, r, t, y = batch
    alpha = torch.full_like(t, 0.5)
    alpha[3] = wrong
    with pytest.raises(ValueError, match=f"alpha {wrong:g} in a tensor"):
        average_velocity_target(net, z, v, r, t, alpha, y)


@given(st.floats(0.01, 0.99))
def test_the_target_is_definition_1_with_the_sign_of_algorithm_1(alpha):
    net = SmallNet()
    source = torch.Generator().manual_seed(1)
    z, v = (torch.randn(5, 3, generator=source, dtype=torch.float64) for _ in range(2))
    r, t = torch.rand(2, 5, generator=source, dtype=torch.float64).sort(dim=0).values
    target = average_velocity_target(net, z, v, r, t, alpha)
    for i in range(5):
        s = alpha * r[i] + (1 - alpha) * t[i]
        z_s = z[i : i + 1] - (t[i] - s) * v[i]
        far = net(z_s, r[i : i + 1], s.reshape(1))
        assert_same(target[i : i + 1], alpha * v[i : i + 1] + (1 - alpha) * far)


def test_alpha_half_with_the_models_shift_is_the_shortcut_target(net, batch):
    """Two half steps of the model itself: (u(z_t, s, t) + u(z_s, r, s)) / 2 at the midpoint s."""
    z, v, r, t, y = batch
    s = (r + t) / 2
    first = net(z, s, t, y)
    second = net(z - ((t - r) / 2)[:, None] * first, r, s, y)
    expected = torch.where((r == t)[:, None], v, (first + second) / 2)
    assert_same(average_velocity_target(net, z, v, r, t, 0.5, y, shift="model"), expected)


def test_alpha_0_is_meanflow(net, batch):
    z, v, r, t, y = batch
    target = average_velocity_target(net, z, v, r, t, 0.0, y)
    for i in range(len(z)):
        row = slice(i, i + 1)
        slope = slope_in_time(net, z[row], v[row], r[row], t[row], y[row])
        assert_same(target[row], v[row] - (t[i] - r[i]) * slope)


def test_alpha_0_with_the_velocity_shift_is_improved_meanflow(net, batch):
    """Its v-loss ‖u + (t - r) du⁻/dt - v‖² has the tangent u(z, t, t), not v."""
    z, v, r, t, y = batch
    tangent = net(z, t, t, y).detach()
    target = average_velocity_target(net, z, v, r, t, 0.0, y, shift="velocity")
    for i in range(2, len(z)):
        row = slice(i, i + 1)
        slope = slope_in_time(net, z[row], tangent[row], r[row], t[row], y[row])
        assert_same(target[row], v[row] - (t[i] - r[i]) * slope)


@pytest.mark.parametrize("shift", SHIFTS)
def test_the_error_over_alpha_converges_to_the_limit_at_first_order(net, batch, shift):
    """(u - τ_α) / α → u - τ_0, with an error of O(α)."""
    z, v, r, t, y = (part[2:] for part in batch)
    with torch.no_grad():
        u = net(z, r, t, y)
        limit = u - average_velocity_target(net, z, v, r, t, 0.0, y, shift=shift)
        errors = [
            float(((u - average_velocity_target(net, z, v, r, t, a, y, shift=shift)) / a - limit).norm())
            for a in SMALL
        ]
    assert order(SMALL, errors) == pytest.approx(1, abs=0.05)
    assert errors[-1] < 2e-3 * limit.norm()


@pytest.mark.parametrize("shift", SHIFTS)
def test_the_gradient_converges_to_meanflows_at_first_order(net, batch, shift):
    """Theorem 1: ‖∇L_α - ∇L_0‖ = O(α), where L_α carries 1/α."""
    z, v, r, t, y = batch

    def slope(alpha: float) -> torch.Tensor:
        target = average_velocity_target(net, z, v, r, t, alpha, y, shift=shift)
        rows = torch.where(r < t, alpha or 1.0, 1.0)
        return gradient(((net(z, r, t, y) - target).square().mean(1) / rows).mean(), net)

    limit = slope(0.0)
    errors = [float((slope(alpha) - limit).norm()) for alpha in SMALL]
    assert order(SMALL, errors) == pytest.approx(1, abs=0.05)
    assert errors[-1] < 2e-3 * limit.norm()


@pytest.mark.parametrize("alpha", [1.0, 0.3, 0.0, torch.full((8,), 0.3, dtype=torch.float64)], ids=str)
@pytest.mark.parametrize("shift", SHIFTS)
def test_rows_with_r_equal_t_give_v(net, batch, alpha, shift):
    z, v, r, t, y = batch
    target = average_velocity_target(net, z, v, r, t, alpha, y, shift=shift)
    assert torch.equal(target[:2], v[:2])


@pytest.mark.parametrize("shift", SHIFTS)
def test_a_tensor_of_alphas_goes_row_by_row(net, batch, shift):
    z, v, r, t, y = batch
    alphas = torch.linspace(0.05, 1, 8, dtype=torch.float64)
    together = average_velocity_target(net, z, v, r, t, alphas, y, shift=shift)
    for i in range(8):
        row = slice(i, i + 1)
        alone = average_velocity_target(net, z[row], v[row], r[row], t[row], float(alphas[i]), y[row], shift=shift)
        assert_same(together[row], alone)


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("alpha", [1.0, 0.5, 0.0])
def test_targets_carry_no_gradient(net, batch, shift, alpha):
    z, v, r, t, y = batch
    assert not average_velocity_target(net, z.requires_grad_(), v, r, t, alpha, y, shift=shift).requires_grad


@pytest.mark.parametrize("derivative", ["forward", "reverse", "difference"])
def test_every_way_of_differentiating_gives_the_meanflow_target(net, batch, derivative):
    z, v, r, t, y = batch
    auto = average_velocity_target(net, z, v, r, t, 0.0, y)
    other = average_velocity_target(net, z, v, r, t, 0.0, y, derivative=derivative)
    torch.testing.assert_close(other, auto, rtol=1e-7, atol=1e-8)


@pytest.fixture
def exact() -> GaussianFlow:
    return GaussianFlow(
        torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64), torch.tensor([0.3, 1.0, 1.5], dtype=torch.float64)
    )


@pytest.mark.parametrize("alpha", [0.9, 0.5, 0.1, 0.0])
def test_the_exact_flow_map_is_its_own_target_under_the_models_shift(exact, batch, alpha):
    """Interval additivity, (t-r) u(z_t,r,t) = (t-s) u(z_t,s,t) + (s-r) u(z_s,r,s), and its limit."""
    z, _, r, t, _ = batch
    u = exact(z, r, t)
    target = average_velocity_target(exact, z, exact(z, t, t), r, t, alpha, shift="model")
    torch.testing.assert_close(target, u, rtol=1e-9, atol=1e-10)


def test_the_models_shift_is_one_family_from_the_eulerian_to_the_lagrangian_error(net, batch):
    """(T_α - u) / α → MeanFlow's along the model's velocity as α → 0, (T_α - u) / (1 - α) → the Lagrangian one as
    α → 1, each at first order; and "end" is "model" from the other side."""
    z, v, r, t, y = (part[2:] for part in batch)
    with torch.no_grad():
        u = net(z, r, t, y)
        first, last = (average_velocity_target(net, z, v, r, t, 0.0, y, shift=one) - u for one in ("model", "end"))
        away = {
            "first": [model_error(net, batch, a) / a - first for a in SMALL],
            "last": [model_error(net, batch, 1 - a) / a - last for a in SMALL],
        }
    for limit, gaps in zip((first, last), away.values()):
        errors = [float(gap.norm()) for gap in gaps]
        assert order(SMALL, errors) == pytest.approx(1, abs=0.05)
        assert errors[-1] < 2e-3 * limit.norm()
    for a in (0.2, 0.5, 0.9):
        end = average_velocity_target(net, z, v, r, t, a, y, shift="end")
        assert_same(end, average_velocity_target(net, z, v, r, t, 1 - a, y, shift="model"))


def model_error(net, batch, alpha):
    z, v, r, t, y = (part[2:] for part in batch)
    return average_velocity_target(net, z, v, r, t, alpha, y, shift="model") - net(z, r, t, y)


def test_the_lagrangian_target_row_by_row(net, batch):
    """u(z_r, r, r) + (t - r) ∂u/∂r, by the full Jacobian in r."""
    z, v, r, t, y = batch
    target = average_velocity_target(net, z, v, r, t, 0.0, y, shift="end")
    for i in range(2, len(z)):
        one = slice(i, i + 1)
        slope = torch.autograd.functional.jacobian(lambda s: net(z[one], s, t[one], y[one])[0], r[one])[:, 0]  # noqa: B023
        u = net(z[one], r[one], t[one], y[one])
        arrived = net(z[one] - (t[i] - r[i]) * u, r[one], r[one], y[one])
        assert_same(target[one], (arrived + (t[i] - r[i]) * slope).detach())


def test_the_exact_flow_map_satisfies_the_meanflow_identity(exact, batch):
    """u = v - (t - r) du/dt with the marginal velocity v."""
    z, _, r, t, _ = batch
    for shift in SHIFTS:
        target = average_velocity_target(exact, z, exact(z, t, t), r, t, 0.0, shift=shift)
        torch.testing.assert_close(target, exact(z, r, t), rtol=1e-9, atol=1e-10)


def test_with_the_data_velocity_the_shifted_point_lies_on_the_data_path(net, batch):
    """The network is asked at (z_s, r, s) with z_s the interpolation at s, whatever t was."""
    _, _, r, t, y = batch
    source = torch.Generator().manual_seed(3)
    x, noise = (torch.randn(8, 3, generator=source, dtype=torch.float64) for _ in range(2))
    z = (1 - expand(t, x)) * x + expand(t, x) * noise
    counting = Counting(net)
    average_velocity_target(counting, z, noise - x, r, t, 0.25, y)
    (call,) = counting.calls
    s = 0.25 * r + 0.75 * t
    assert_same(call["t"], s)
    assert_same(call["z"], (1 - expand(s, x)) * x + expand(s, x) * noise)
    assert_same(move(call["z"], noise - x, s, torch.zeros_like(s)), x)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alphas_outside_0_to_1_are_refused(net, batch, alpha):
    z, v, r, t, y = batch
    with pytest.raises(ValueError, match=r"lies outside \[0, 1\]: 1 is flow matching, 0 is MeanFlow"):
        average_velocity_target(net, z, v, r, t, alpha, y)


@pytest.mark.parametrize(
    ("setting", "words"), [({"shift": "modle"}, "did you mean 'model'"), ({"derivative": "forwards"}, "'forward'")]
)
def test_misspelt_settings_are_refused_with_the_nearest(net, batch, setting, words):
    z, v, r, t, y = batch
    with pytest.raises(UserError, match=words):
        average_velocity_target(net, z, v, r, t, 0.0, y, **setting)
