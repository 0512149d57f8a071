"""du/dt by its different ways: equal where all work, fallen back from with a reason, and checked."""

import copy
import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from alphaflow import models
from alphaflow.derivatives.total import DerivativeError, check_derivative, choose_method, total_derivative
from alphaflow.errors import UserError
from alphaflow.path import Points
from reference import SmallNet, slope_in_time


class MixedNet(nn.Module):
    """Every kind of layer that image networks use, on z (B, 4, 4, 4): conv, norms, attention, gates, embedding."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.times = nn.Linear(2, 8)
            self.classes = nn.Embedding(5, 8)
            self.conv_in = nn.Conv2d(4, 8, 3, padding=1)
            self.down = nn.Conv2d(8, 8, 3, stride=2, padding=1)
            self.group_norm = nn.GroupNorm(2, 8)
            self.layer_norm = nn.LayerNorm(8)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.qkv = nn.Linear(8, 24)
            self.gate = nn.Linear(8, 16)
            self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
            self.conv_out = nn.Conv2d(8, 4, 3, padding=1)
            for norm in (self.group_norm, self.layer_norm):
                nn.init.normal_(norm.weight, 1, 0.3)
                nn.init.normal_(norm.bias, 0, 0.3)
        self.double()

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        condition = self.times(torch.stack([t, t - r], 1))
        condition = F.silu(condition if y is None else condition + self.classes(y))
        hidden = self.down(self.conv_in(z) * (1 + condition[:, :, None, None]))
        hidden = F.gelu(self.group_norm(hidden), approximate="tanh")
        tokens = self.layer_norm(hidden.flatten(2).transpose(1, 2))
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        q, k, v = self.qkv(tokens).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        tokens = tokens + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        tokens = tokens + F.glu(self.gate(tokens)) * condition[:, None]
        return self.conv_out(self.up(tokens.transpose(1, 2).unflatten(2, (2, 2))))


class SineWithoutJvp(torch.autograd.Function):
    """sin by a kernel that torch can't look into: no forward rule; the backward can be differentiated again."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.from_numpy(np.sin(x.detach().numpy()))

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0].cos()


class SineOnce(SineWithoutJvp):
    """sin whose backward must not be differentiated again."""

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0].cos()


class SineOutsideTheGraph(SineWithoutJvp):
    """sin whose backward leaves no graph, like kernels of one's own: a second derivative misses it, silently."""

    @staticmethod
    def backward(ctx, grad):
        return grad.detach() * ctx.saved_tensors[0].detach().cos()


class SineWithWrongJvp(torch.autograd.Function):
    """sin with a right backward and a forward-mode rule that is off by a tenth."""

    @staticmethod
    def forward(x):
        return x.sin()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0].cos()

    @staticmethod
    def jvp(ctx, tangent):
        return 1.1 * tangent * ctx.saved_tensors[0].cos()


class SineNet(nn.Module):
    """A network that leads through one of the operations above; `out` may be zero, as in adaLN-zero."""

    def __init__(self, operation, *, zero: bool = False) -> None:
        super().__init__()
        self.operation = operation
        self.inner = SmallNet(dim=3, seed=2)
        self.out = nn.Linear(3, 3).double()
        with torch.no_grad():
            self.out.weight.copy_(torch.zeros(3, 3) if zero else torch.eye(3) + 0.1)
            self.out.bias.zero_()

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self.out(self.operation(3 * self.inner(z, r, t, y)))


def images() -> tuple[Tensor, ...]:
    source = torch.Generator().manual_seed(0)
    z, v = (torch.randn(4, 4, 4, 4, generator=source, dtype=torch.float64) for _ in range(2))
    r, t = torch.rand(2, 4, generator=source, dtype=torch.float64).sort(dim=0).values
    return z, v, r, t, torch.arange(4)


def relative(a: Tensor, b: Tensor) -> float:
    return float(((a - b).norm() / b.norm()).detach())


@pytest.fixture(params=["mlp", "mixed", "mixed without classes"])
def case(request, net, batch):
    if request.param == "mlp":
        return net, batch
    return MixedNet(), images() if request.param == "mixed" else (*images()[:4], None)


def test_fused_forward_reverse_and_difference_agree(case):
    net, inputs = case
    u = net(*(inputs[k] for k in (0, 2, 3, 4)))
    results = {
        method: total_derivative(net, *inputs, method=method)
        for method in ("fused", "forward", "reverse", "difference")
    }
    assert relative(results["fused"][1], results["forward"][1]) < 1e-12
    assert relative(results["reverse"][1], results["forward"][1]) < 1e-12
    assert relative(results["difference"][1], results["forward"][1]) < 1e-6
    for value, slope in results.values():
        assert relative(value, u) < 1e-13
        assert slope.norm() > 0.1
        assert not value.requires_grad
        assert not slope.requires_grad


def test_the_derivative_is_v_times_the_jacobian_plus_the_partial_in_t(net, batch):
    z, v, r, t, y = batch
    _, slope = total_derivative(net, z, v, r, t, y)
    for i in range(len(z)):
        row = slice(i, i + 1)
        expected = slope_in_time(net, z[row], v[row], r[row], t[row], y[row])
        torch.testing.assert_close(slope[row], expected, rtol=1e-12, atol=1e-14)


def test_the_derivative_is_that_of_u_along_the_path_with_r_held(net, batch):
    """d/dt of u(z + (τ - t) v, r, τ) at τ = t, by Richardson's extrapolated differences."""
    z, v, r, t, y = batch

    def along(h):
        return (net(z + h * v, r, t + h, y) - net(z - h * v, r, t - h, y)) / (2 * h)

    _, slope = total_derivative(net, z, v, r, t, y)
    assert relative((4 * along(5e-4) - along(1e-3)) / 3, slope) < 1e-10


@pytest.mark.parametrize("method", ["auto", "fused", "forward", "reverse", "difference"])
def test_the_derivative_is_linear_in_nothing_but_the_tangent_of_z(net, batch, method):
    """slope(v) - slope(0) is the part by z: doubled with v."""
    z, v, r, t, y = batch
    none, one, two = (total_derivative(net, z, k * v, r, t, y, method=method)[1] for k in (0, 1, 2))
    assert relative(two - none, 2 * (one - none)) < 1e-6


def test_a_batch_of_half_precision_tangents_is_taken(net, batch):
    z, v, r, t, y = batch
    half = v.half()
    torch.testing.assert_close(
        total_derivative(net, z, half, r, t, y)[1], total_derivative(net, z, half.double(), r, t, y)[1]
    )


def test_auto_takes_fused_where_it_can_and_says_so_once(net, batch, caplog):
    with caplog.at_level(logging.INFO, logger="alphaflow"):
        first = total_derivative(net, *batch)[1]
        second = total_derivative(net, *batch)[1]
    assert torch.equal(first, second)
    assert torch.equal(first, total_derivative(net, *batch, method="fused")[1])
    assert [record.getMessage() for record in caplog.records] == [
        "du/dt of SmallNet: fused (the cheapest way it supports)"
    ]


@pytest.mark.parametrize(
    ("operation", "method", "reasons"),
    [
        (SineWithoutJvp.apply, "reverse", ["not fused: ", "not forward: "]),
        (SineOnce.apply, "difference", ["not fused: ", "not forward: ", "not reverse: "]),
    ],
    ids=["no forward rule", "no second backward"],
)
def test_auto_falls_back_with_a_warning_that_gives_the_reason_once(operation, method, reasons, batch, caplog):
    net = SineNet(operation)
    with caplog.at_level(logging.INFO, logger="alphaflow"):
        slope = total_derivative(net, *batch)[1]
        total_derivative(net, *batch)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(f"du/dt of SineNet: {method}; ")
    assert all(reason in record.getMessage() for reason in reasons)
    assert torch.equal(slope, total_derivative(net, *batch, method=method)[1])
    right = SineNet(torch.sin)
    assert relative(slope, total_derivative(right, *batch, method="forward")[1]) < 1e-6


@pytest.mark.parametrize("operation", [SineOnce.apply, SineOutsideTheGraph.apply], ids=["declared", "undeclared"])
@pytest.mark.parametrize("zero", [False, True], ids=["usual", "zero-initialised"])
def test_auto_leaves_reverse_where_an_op_beside_a_skip_drops_out_silently(operation, zero, batch, caplog):
    """The skip connection keeps the graph alive, so PyTorch raises nothing and reverse is wrong."""

    class Skip(SineNet):
        def forward(self, z, r, t, y=None):
            return z**2 + super().forward(z, r, t, y)

    wrong = total_derivative(Skip(operation), *batch, method="reverse")[1]
    right = total_derivative(Skip(torch.sin), *batch, method="forward")[1]
    assert zero or relative(wrong, right) > 0.01
    net = Skip(operation, zero=zero)
    assert choose_method(net, Points(*batch)) == "difference"
    assert "not reverse: du/dt by 'reverse' is off by" in caplog.text
    assert relative(total_derivative(Skip(operation), *batch)[1], right) < 1e-6


def test_auto_differences_a_function_that_is_no_graph(batch):
    z, v, _, t, _ = batch

    def outside(z, r, t, y=None):
        return torch.from_numpy(np.sin(z.detach().numpy()) * t.detach().numpy()[:, None] - r.numpy()[:, None])

    assert choose_method(outside, Points(*batch)) == "difference"
    _, slope = total_derivative(outside, *batch)
    assert relative(slope, z.cos() * v * t[:, None] + z.sin()) < 1e-8


def test_a_mistake_in_the_network_is_not_taken_for_a_missing_rule(batch):
    def broken(z, r, t, y=None):
        return z @ torch.zeros(7, 7, dtype=z.dtype)

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        total_derivative(broken, *batch)


@pytest.mark.parametrize("method", ["fused", "forward", "reverse", "difference"])
def test_no_way_leaves_gradients_on_weights_or_inputs(net, batch, method):
    z = batch[0].clone().requires_grad_()
    total_derivative(net, z, *batch[1:], method=method)
    assert z.grad is None
    assert all(weight.grad is None for weight in net.parameters())


@pytest.mark.parametrize("method", ["auto", "fused", "forward", "reverse", "difference"])
def test_the_check_passes_a_right_network(case, method):
    net, inputs = case
    assert check_derivative(net, *inputs, method=method) < 1e-6


@pytest.mark.parametrize("zero", [False, True], ids=["usual", "zero-initialised"])
def test_the_check_catches_a_wrong_rule_and_gives_the_figures(batch, zero):
    net = SineNet(SineWithWrongJvp.apply, zero=zero)
    with pytest.raises(
        DerivativeError, match=r"'forward' is off by 0\.[01]\d* .*norms .* worst row \d at r=0\.\d{4}"
    ):
        check_derivative(net, *batch, method="forward")
    assert check_derivative(net, *batch, method="reverse") < 1e-6
    assert check_derivative(SineNet(torch.sin, zero=zero), *batch) < 1e-6


def test_zero_initialised_networks_would_pass_without_the_checks_noise(batch):
    """Why the check disturbs the weights: here both derivatives vanish."""
    net = SineNet(SineWithWrongJvp.apply, zero=True)
    for method in ("forward", "difference"):
        assert not total_derivative(net, *batch, method=method)[1].any()


def test_the_tolerance_of_the_check_decides(batch):
    net = SineNet(SineWithWrongJvp.apply)
    error = check_derivative(net, *batch, method="forward", tolerance=0.5)
    assert 0.01 < error < 0.2
    with pytest.raises(DerivativeError):
        check_derivative(net, *batch, method="forward", tolerance=error * 0.99)


def test_the_check_leaves_the_weights_as_they_were(batch):
    net = SineNet(torch.sin, zero=True)
    before = copy.deepcopy(net.state_dict())
    check_derivative(net, *batch)
    after = net.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(weight.grad is None for weight in net.parameters())


def test_the_check_takes_plain_functions(batch):
    def wave(z, r, t, y=None):
        return (z * t[:, None]).sin()

    assert check_derivative(wave, *batch) < 1e-6


def test_an_unknown_way_is_refused_with_the_nearest(net, batch):
    with pytest.raises(UserError, match="did you mean 'reverse'"):
        total_derivative(net, *batch, method="revers")


def test_differences_are_taken_in_full_precision_whatever_the_setting(monkeypatch):
    """TF32 has 10 bits; values of u that differ in their third digit need more."""
    seen = []

    def net(z, r, t, y=None):
        seen.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
        return z * t[:, None]

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    try:
        total_derivative(net, *torch.randn(2, 3, 2), *torch.rand(2, 3), method="difference")
        assert seen == [("highest", False)] * 3
        assert torch.get_float32_matmul_precision() == "high" and torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before)


def test_data_prediction_near_t_0_is_not_taken_for_a_wrong_derivative():
    """u = (z - f) / t: at t = 0.01 a central difference in float32 would be off by a tenth and more."""
    net = models.DataPrediction(models.MLP(2, 16))
    z, v = torch.randn(2, 64, 2, generator=torch.Generator().manual_seed(0))
    t = torch.linspace(0.005, 1, 64)
    assert check_derivative(net, z, v, torch.zeros_like(t), t) < 2e-2


def test_a_network_that_rounds_is_not_passed_by_differences_too_fine_to_see_it(batch):
    """Its derivative by rule is 0 and so is a difference finer than its steps; the usual one sees it rise."""

    def stairs(z, r, t, y=None):
        return (1e5 * z * t[:, None]).round() / 1e5

    with pytest.raises(DerivativeError, match="'forward' is off by"):
        check_derivative(stairs, *batch, method="forward")


def test_times_multiplied_by_1000_are_too_rough_for_differences_and_for_nothing_else(caplog):
    """The usual step of a difference in float32 spans 5 radians of such a network's fastest wave."""
    net = models.MLP(2, 16)

    def fast(z, r, t, y=None):
        return net(z, 1000 * r, 1000 * t, y)

    z, v = torch.randn(2, 64, 2, generator=torch.Generator().manual_seed(0))
    t = torch.linspace(0.1, 1, 64)
    with torch.no_grad():
        assert choose_method(fast, Points(z, v, t / 2, t)) == "fused"
        assert "not fused" not in caplog.text
        for method in ("fused", "forward", "reverse"):
            assert check_derivative(fast, z, v, t / 2, t, method=method) < 2e-2
        with pytest.raises(DerivativeError, match="too rough in t for differences"):
            check_derivative(fast, z, v, t / 2, t, method="difference")
