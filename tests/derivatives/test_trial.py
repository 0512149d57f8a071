"""What `auto` takes is right, no error of a way gets out, and what is no u is refused in a line."""

import copy
import logging

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import alphaflow as af
from alphaflow.derivatives.agreement import DerivativeError, compare
from alphaflow.derivatives.total import check_derivative, choose_method, total_derivative
from alphaflow.errors import UserError
from alphaflow.method.family import MEMBERS
from alphaflow.path import Points
from small_networks import ROWS, Net, points, relative

# --- what is taken is right --------------------------------------------------------------------------------------


@torch.library.custom_op("alphaflow_tests::swish", mutates_args=())
def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def _keep(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _pull(ctx, grad):
    (x,) = ctx.saved_tensors
    return grad * x.sigmoid() * (1 + x * (1 - x.sigmoid()))


torch.library.register_autograd("alphaflow_tests::swish", _pull, setup_context=_keep)


def scaled_in_place(x: Tensor) -> Tensor:
    y = 1 * x
    y.data.mul_(3)
    return y.tanh()


@pytest.mark.parametrize(
    ("net", "right"),
    [
        (Net(joined=lambda r, t: torch.tensor([[float(a), float(b)] for a, b in zip(r, t)])), "difference"),
        (Net(joined=lambda r, t: torch.tensor(torch.stack([r, t], 1).tolist())), "difference"),
        (Net(joined=lambda r, t: torch.stack([r, t], 1).detach()), "fused"),
        (Net(joined=lambda r, t: torch.stack([r, t], 1).data), "difference"),
        (Net(between=lambda x: x + 0.1 * x.detach().sin()), "fused"),
        (Net(between=lambda x: x + 1e-3 * x.detach().sin()), "fused"),
        (Net(between=lambda x: x + 1e-3 * x.data.sin()), "difference"),
        (Net(between=scaled_in_place), "difference"),
        (Net(between=lambda x: x + swish(x)), "reverse"),
    ],
    ids="float() tolist() detach() .data part thousandth thousandth.data data.mul_ custom_op".split(),
)
@pytest.mark.filterwarnings("ignore:Converting a tensor", "ignore:To copy construct")
def test_every_way_is_checked_and_only_one_that_agrees_is_taken(net, right, caplog):
    """torch.func.jvp, too, loses what leaves the graph; no message may make that look well."""
    z, v, r, t = points(2)
    assert choose_method(net, Points(z, v, r, t)) == right
    slope = total_derivative(net, z, v, r, t)[1]
    true = total_derivative(net.double(), *(x.double() for x in (z, v, r, t)), method="difference")[1]
    assert relative(slope, true) < 1e-2
    try:
        check_derivative(net.float(), z, v, r, t, method="forward")
    except Exception as error:  # the swish has no forward rule: whatever torch raises
        assert "off by" in str(error) or right == "reverse"
    else:
        pytest.fail("forward loses what leaves the graph, and nothing was said")
    assert right == "fused" or "not forward: du/dt by 'forward' is off by" in caplog.text


class Written(nn.Module):
    """The time as a token written by index: lost, all of ∂u/∂t is, and hardly seen along (v, 0, 1)."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.a, self.e, self.o = nn.Linear(4, 16), nn.Linear(2, 16), nn.Linear(16, 4)
            layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True, norm_first=True)
            self.b = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, z, r, t, y=None):
        x = F.pad(self.a(z), (0, 0, 1, 0))
        x[:, 0] = self.e(torch.stack([r, t], 1))
        return self.o(self.b(x)[:, 1:])


class Rotary(nn.Module):
    """Rotary positions by complex numbers, behind a small gate."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.i, self.qkv, self.o = nn.Linear(6, 32), nn.Linear(32, 96), nn.Linear(32, 4)
        self.gate = nn.Parameter(torch.full((32,), 0.1))
        angles = torch.outer(torch.arange(16.0), 10 ** -torch.arange(4.0))
        self.register_buffer("w", torch.polar(torch.ones(16, 4), angles)[:, None])

    def turn(self, x):
        x = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2)) * self.w
        return torch.view_as_real(x).flatten(3).transpose(1, 2)

    def forward(self, z, r, t, y=None):
        h = self.i(torch.cat([z, torch.stack([r, t], 1)[:, None].expand(-1, 16, -1)], -1))
        q, k, v = self.qkv(h).unflatten(2, (3, 4, 8)).unbind(2)
        a = F.scaled_dot_product_attention(self.turn(q), self.turn(k), v.transpose(1, 2))
        return self.o(h + self.gate * a.transpose(1, 2).flatten(2))


@pytest.mark.parametrize(
    "net",
    [
        Written(),
        Rotary(),
        *(
            Net(between=activation)
            for activation in (
                nn.LeakyReLU(0.2, inplace=True),
                nn.ELU(inplace=True),
                nn.Hardsigmoid(inplace=True),
                nn.Mish(inplace=True),
                nn.Hardswish(inplace=True),
            )
        ),
        Net(between=lambda x: (F.relu(x, inplace=True), x)[1]),
    ],
    ids=["index", "complex", "leaky", "elu", "hardsigmoid", "mish", "hardswish", "statement"],
)
def test_nothing_is_lost_that_a_loose_check_would_pass(net):
    """By whichever way: u and du/dt are right, fresh and with large weights, and the step goes through."""
    for scale in (1, 3):
        with torch.no_grad():
            for name, weight in net.named_parameters():
                weight.mul_(scale if weight.ndim > 1 or name == "gate" else 1)
        z, v, r, t = points(*((16, 4) if isinstance(net, Written | Rotary) else (2,)))
        for direction in (v, 0 * v):
            u, slope = total_derivative(net, z, direction, r, t)
            with torch.no_grad():
                assert relative(u, net(z, r, t)) < 1e-5
            inputs = (x.double() for x in (z, direction, r, t))
            exact = total_derivative(copy.deepcopy(net).double(), *inputs, method="difference")[1]
            assert relative(slope, exact) < 1e-3
        af.MeanFlow()(net, z).loss.backward()
        assert all(weight.grad is not None for weight in net.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_comparison_is_as_sharp_as_its_differences(dtype):
    """A right derivative passes; one that is off by what float32 could not see fails in float64."""
    z, v, _, t = points(2, dtype=dtype)

    def u(z, t):
        return (3 * z).sin() * t[:, None]

    right = 3 * (3 * z).cos() * v * t[:, None] + (3 * z).sin()
    assert compare(right, u(z, t), u, z, v, t).agrees
    assert not compare(right * 1.03, u(z, t), u, z, v, t).agrees
    assert not compare(0 * right, u(z, t), u, z, v, t).agrees
    assert not compare(right * torch.nan, u(z, t), u, z, v, t).agrees
    assert compare(right * (1 + 1e-5), u(z, t), u, z, v, t).agrees == (dtype == torch.float32)


@pytest.mark.filterwarnings("ignore:Converting a tensor")
def test_differences_are_not_believed_either_where_nothing_else_is_right():
    """diffusers' HiDream: its experts leave the graph, and its times are multiplied by 1000."""
    z, v, r, t = points(2)
    net = Net(joined=lambda r, t: torch.tensor([[1000 * float(a), 1000 * float(b)] for a, b in zip(r, t)]).sin())
    with pytest.raises(DerivativeError, match=r"no way .* Net is right; not fused: .* too rough in t"):
        total_derivative(net, z, v, r, t)
    assert total_derivative(net, z, v, r, t, method="difference")[1].isfinite().all()  # who asks for it has it


def test_a_network_that_rounds_inside_is_no_false_alarm():
    """Many embed times in float32 whatever they are given: differences are noise there, unless they are wide."""
    net = Net(joined=lambda r, t: torch.stack([r, t], 1).float().double()).double()
    z, v, r, t = points(2, dtype=torch.float64)
    assert choose_method(net, Points(z, v, r, t)) in ("fused", "forward")
    assert check_derivative(net, z, v, r, t) < 2e-2


# --- no way's own error gets out ---------------------------------------------------------------------------------


class Looked(nn.Module):
    """Keeps its attention's weights, to look at."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.o = nn.Linear(4, 16), nn.Linear(16, 2)
        self.m = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, z, r, t, y=None):
        x = self.i(torch.cat([z, torch.stack([r, t], 1)[:, None].expand(-1, z.shape[1], -1)], -1))
        h, weights = self.m(x, x, x)
        self.last = weights.detach()
        return self.o(h)


def raising(error):
    """An error out of what a way hands the network instead of plain tensors."""

    def between(x):
        if type(x) is not Tensor:
            raise error("not a tensor")
        return x.tanh()

    return between


@pytest.mark.parametrize(
    "error", [AttributeError, ValueError, AssertionError, TypeError, IndexError, NotImplementedError]
)
def test_an_error_out_of_one_way_is_a_reason_for_the_next(error, caplog):
    net, (z, v, r, t) = Net(between=raising(error)), points(2)
    assert choose_method(net, Points(z, v, r, t)) == "forward"
    assert "not fused: not a tensor" in caplog.text
    af.MeanFlow()(net, z).loss.backward()


def test_functions_by_keyword_and_kept_attention_weights_go_through():
    z = torch.randn(ROWS, 5, 2)
    af.MeanFlow()(Looked(), z).loss.backward()
    net = Net(between=lambda x: torch.mul(input=x.tanh(), other=torch.sub(input=x, other=x.sin())))
    af.MeanFlow()(net, z[:, 0]).loss.backward()


def test_a_mistake_of_the_networks_own_is_raised_as_it_is():
    for error in (KeyError, ZeroDivisionError):
        with pytest.raises(error, match="mine"):
            choose_method(
                Net(between=lambda x, error=error: (_ for _ in ()).throw(error("mine"))), Points(*points(2))
            )


# --- compiled networks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["torch.compile(net)", "net.compile()", "a part", "a function"])
def test_a_compiled_network_runs_and_is_told_how_to_be_compiled(how, caplog):
    caplog.set_level(logging.INFO, logger="alphaflow")
    net = Net()
    ours = net
    if how == "torch.compile(net)":
        ours = torch.compile(net, backend="aot_eager")
    elif how == "net.compile()":
        net.compile(backend="aot_eager")
    elif how == "a part":
        net.a = torch.compile(net.a, backend="aot_eager")
    else:
        ours = torch.compile(lambda z, r, t, y=None: net(z, r, t), backend="aot_eager")
    z, _, r, t = points(2)
    ours(z, r, t)
    out = af.MeanFlow()(ours, z, generator=torch.Generator().manual_seed(0))
    out.loss.backward()
    plain = af.MeanFlow()(Net(), z, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(out.residual, plain.residual, rtol=1e-4, atol=1e-6)
    assert "hand in the plain module, and compile all of the objective by af.Compiled" in caplog.text
    assert "fused (the cheapest way it supports)" in caplog.text


@pytest.mark.parametrize("norm", [nn.LayerNorm(32), nn.GroupNorm(4, 32), nn.BatchNorm1d(32).eval()])
def test_compiled_forward_mode_of_norms_with_weights_is_refused_in_words(norm):
    torch._dynamo.reset()
    compiled = af.Compiled(af.MeanFlow(derivative="forward"), backend="aot_eager")
    with pytest.raises(UserError, match="use derivative='fused' or 'difference'"):
        compiled(Net(between=norm), torch.randn(ROWS, 2))


# --- what is no u ------------------------------------------------------------------------------------------------


def narrow(z, r, t, y=None):
    return z[:, :1] * t[:, None, None, None]


def one_row(z, r, t, y=None):
    return z[:1] * t[0]


def several(z, r, t, y=None):
    return z, t


def held(z, r, t, y=None):
    return {"sample": z}


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (narrow, r"returns shape \(\d, 1, 4, 4\) for z of shape \(\d, 3, 4, 4\)"),
        (one_row, r"returns shape \(1, 3, 4, 4\) for z of shape \(\d, 3, 4, 4\)"),
        (several, r"returns a tuple, where u is one tensor like z: .*\[0\]"),
        (held, "returns a dict, where u is one tensor"),
    ],
)
@pytest.mark.parametrize("name", sorted(MEMBERS))
def test_an_output_that_is_not_like_z_is_refused_by_every_member(net, message, name):
    with pytest.raises(UserError, match=message):
        MEMBERS[name]()(net, torch.randn(8, 3, 4, 4), step=200_000)


@pytest.mark.parametrize("net", [narrow, one_row, several, held])
@pytest.mark.parametrize("method", ["ode", "consistency", "euler", "heun"])
def test_an_output_that_is_not_like_z_is_refused_in_sampling_and_in_the_derivative(net, method):
    noise = torch.randn(8, 3, 4, 4)
    with pytest.raises(UserError, match="the network returns"):
        af.sample(net, noise, times=(1, 0.5, 0), method=method)
    with pytest.raises(UserError, match="the network returns"):
        total_derivative(net, noise, noise, torch.zeros(8), torch.ones(8))


def test_a_network_too_rough_for_differences_in_float32_is_looked_at_in_float64(caplog):
    """SANA is, told 1000 t: over a step that float32 can tell, its embedding of the time has turned too far."""
    z, v, r, t = points(2)
    net = Net(joined=lambda r, t: torch.stack([(40_000 * r).sin(), (40_000 * t).sin()], 1))
    with pytest.raises(DerivativeError, match="too rough in t for differences"):
        check_derivative(net, z, v, r, t, method="difference")
    caplog.set_level("INFO", logger="alphaflow")
    assert choose_method(net, Points(z, v, r, t)) == "fused"
    assert "not fused" not in caplog.text
    _, ours = total_derivative(net, z, v, r, t)
    _, right = total_derivative(net, z, v, r, t, method="forward")
    torch.testing.assert_close(ours, right)
