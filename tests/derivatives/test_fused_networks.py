"""What other people's networks do to their tensors: the fused derivative is right there, or refused by name.

Each case is a small copy of what a library does; the reference is a central difference, and the plain call's
gradient.
"""

import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import alphaflow as af
from alphaflow.derivatives.fused import NoRule, dual_forward
from small_networks import inputs

ROWS, WIDTH = 4, 8


class Swish(torch.autograd.Function):
    """EfficientNet's, which keeps less for the backward pass."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * x.sigmoid() * (1 + x * (1 - x.sigmoid()))


class Reversal(torch.autograd.Function):
    """Gives its input back as it is."""

    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, grad):
        return -grad


class Net(nn.Module):
    """h from z and t, c from t, and what a case makes of them."""

    def __init__(self, body, parts: dict[str, nn.Module] | None = None, width: int = WIDTH) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.first, self.times, self.last = nn.Linear(5, width), nn.Linear(1, width), nn.Linear(width, 4)
            self.parts = nn.ModuleDict({name: make() for name, make in (parts or {}).items()})
            for weight in self.parts.parameters():
                weight.data.add_(0.1 * torch.randn(weight.shape))
        self.body = body
        self.double()

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        h = self.first(torch.cat([z, t[:, None]], -1))
        return self.last(self.body(h, self.times(t[:, None]), **self.parts))


def gradients(u: Tensor, net: nn.Module) -> list[Tensor | None]:
    return list(torch.autograd.grad(u.square().sum(), list(net.parameters()), allow_unused=True))


def check(net: nn.Module, start: int, rows: int = ROWS) -> None:
    """u, du/dt and the gradient of `fused`, with tangents on rows `start` and later, against the network's own."""
    z, v, t = inputs(rows)

    def u(z, t):
        return net(z, t, t)

    ours, slope = dual_forward(u, z.clone(), v[start:], t, start=start)
    with torch.no_grad():
        h = 1e-4
        points = [u(z + k * h * v, t + k * h) for k in (-2, -1, 1, 2)]
        expected = (points[0] - 8 * points[1] + 8 * points[2] - points[3]) / (12 * h)
    plain = u(z.clone(), t)
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(slope, expected[start:], rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(gradients(ours, net), gradients(plain, net), rtol=1e-9, atol=1e-11)


def rotary(h, c):
    """Llama's, by complex numbers."""
    turn = torch.polar(torch.ones(4).double(), torch.arange(4).double())
    return torch.view_as_real(torch.view_as_complex(h.reshape(*h.shape[:-1], -1, 2)) * turn).flatten(1) * c


def token(h, c):
    """The time as a token, written by index."""
    x = F.pad(h[:, None], (0, 0, 1, 0))
    x[:, 0] = c
    return x.sin().sum(1)


def halves(h, c):
    y = h * 1
    y[:, :4].add_(c[:, :4])
    y[:, 4:] += c[:, 4:]
    return y.sin()


def seen_before(h, c):
    """A view taken before the write sees it."""
    y = h * 1
    before, turned = y.view(-1), y.T
    y.mul_(c)
    return before.view_as(h) + turned.T.sin() + y


def through_a_view(h, c):
    y = (h * 1).view(-1, 2, 4)
    y.transpose(1, 2).add_(c.view(-1, 4, 2))
    later = y + 1  # has the tangent of y before the next write
    y.view(len(h), -1).mul_(3.0)
    return y.flatten(1) + later.flatten(1).sin()


def masked(h, c):
    x = h * 1
    x[h > 0] = 0
    return x + c


def arithmetic(h, c):
    x = h * 2
    x *= c
    x += h
    x /= 2 + c.square()
    x -= 1
    x **= 2
    return x


def own_memory(h, c):
    """Wan's rotary embedding, PyTorch Geometric's sums: into a tensor made from another."""
    x = torch.empty_like(h)
    x[..., 0::2] = h[..., 1::2]
    x[..., 1::2] = -h[..., 0::2]
    return x * c + h.new_zeros(h.shape).scatter_add_(1, torch.arange(WIDTH).flip(0).expand_as(h), c.sin())


def batch_second(h, c, norm):
    """LayerNorm on (tokens, batch, channels)."""
    x = (h.unsqueeze(1) * torch.arange(1, 4).double()[:, None] + c[:, None]).transpose(0, 1)
    return norm(x).transpose(0, 1).sum(1) * c


def tokens(h, c):
    return torch.stack([h, c, h * c], 1)


def weights_kept(h, c, attention):
    out, weights = attention(*[tokens(h, c)] * 3)
    attention.last = weights.detach()
    return out.sum(1) + weights.square().sum((1, 2))[:, None]


def both_masks(h, c, attention):
    padded = torch.tensor([[0, 0, 1]]).bool().expand(len(h), 3)
    causal = torch.ones(3, 3).triu(1).bool()
    return attention(*[tokens(h, c)] * 3, key_padding_mask=padded, attn_mask=causal)[0].sum(1)


def grouped(h, c):
    q = tokens(h, c).view(-1, 3, 4, 2).transpose(1, 2)
    return (
        F.scaled_dot_product_attention(q, 2 * q[:, :2], q[:, :2], enable_gqa=True)
        .transpose(1, 2)
        .flatten(2)
        .sum(1)
    )


def no_words(h, c):
    """Captions of 3, 0, 2 and 0 words."""
    q = tokens(h, c)[:, None]
    mask = torch.arange(3) < torch.tensor([3, 0, 2, 0])[: len(h), None]
    return F.scaled_dot_product_attention(q, q, q, attn_mask=mask[:, None, None]).sum((1, 2)) + h


def fourier(h, c):
    a = torch.fft.irfft(torch.fft.rfft(h, dim=-1) * torch.exp(1j * torch.arange(5)), dim=-1)
    return a * c + torch.fft.fft2(h.view(-1, 2, 4)).abs().flatten(1)


RIGHT = {
    "checkpoint": (lambda h, c: checkpoint(lambda x: x.sin(), h, use_reentrant=False) * c, {}),
    "complex rotary embedding": (rotary, {}),
    "Fourier transform": (fourier, {}),
    "token by index": (token, {}),
    "slices in place": (halves, {}),
    "views taken before": (seen_before, {}),
    "in place through views": (through_a_view, {}),
    "mask": (masked, {}),
    "arithmetic in place": (arithmetic, {}),
    "copy, fill, zero": (lambda h, c: (h * 1).copy_(c) * h + (h * 1).zero_() + (h * 1).fill_(2.0), {}),
    "memory of its own": (own_memory, {}),
    "index_add, masked_fill": (
        lambda h, c: (h * 1).index_add_(1, torch.tensor([0, 1]), c[:, :2]) + c.clone().masked_fill_(h > 0, 0.5),
        {},
    ),
    "leaky_relu in place": (lambda h, c: F.leaky_relu(h * 1, 0.2, inplace=True) * c, {}),
    "hardsigmoid in place": (lambda h, c: F.hardsigmoid(h * 1, inplace=True) * c, {}),
    "elu in place, by position": (lambda h, c: F.elu(h * 1, 1.0, True) * c, {}),
    "silu in place": (lambda h, c: F.silu(h * 1, inplace=True) * c, {}),
    "mish in place": (lambda h, c: F.mish(h * 1, inplace=True) * c, {}),
    "relu in place, as a statement": (lambda h, c: (y := h * 1, F.relu(y, inplace=True))[0] * c + y, {}),
    "outer with as many numbers as rows": (
        lambda h, c: torch.cat(
            [c[:, 0].ger(torch.arange(4).double()).sin(), torch.outer(h[:, 0], c.new_ones(4))], 1
        ),
        {},
    ),
    "blocks as many as rows": (
        lambda h, c: (
            torch.einsum("bgi,gio->bgo", h.view(-1, 4, 2), torch.arange(16).double().view(4, 2, 2) / 8).flatten(1)
            * c
        ),
        {},
    ),
    "conv_transpose of as many channels as rows": (
        lambda h, c, up: up(h.view(-1, 4, 2)).flatten(1)[:, :8] * c,
        {"up": lambda: nn.ConvTranspose1d(4, 4, 3)},
    ),
    "addmm": (lambda h, c, w: torch.addmm(w.bias, h, w.weight) * c, {"w": lambda: nn.Linear(8, 8)}),
    "layer norm, batch second": (batch_second, {"norm": lambda: nn.LayerNorm(8)}),
    "pad with a value": (lambda h, c: F.pad(h, (0, 1), value=1.0)[:, 1:] * c, {}),
    "to whole numbers": (lambda h, c: h * c + (3.3 * c).to(torch.int64) + (3.3 * c).type(torch.long), {}),
    "by keywords": (
        lambda h, c: (
            torch.mul(input=h, other=c)
            + torch.add(input=h, other=c, alpha=2)
            + torch.matmul(input=h, other=c.new_ones(8, 8))
        ),
        {},
    ),
    "axis": (lambda h, c: torch.cat([h, c], axis=1).mean(axis=1, keepdim=True) * h, {}),
    "attention's weights kept": (
        weights_kept,
        {"attention": lambda: nn.MultiheadAttention(8, 2, batch_first=True)},
    ),
    "attention's two masks": (both_masks, {"attention": lambda: nn.MultiheadAttention(8, 2, batch_first=True)}),
    "grouped queries": (grouped, {}),
    "rows that see nothing": (no_words, {}),
    "(b k) to b k": (lambda h, c: h.repeat_interleave(3, 0).sin().view(-1, 3, 8).square().sum(1) * c, {}),
    "softmax with a type": (lambda h, c: h.softmax(-1, dtype=torch.float64) * c, {}),
    "index by a tensor": (lambda h, c: h[:, torch.arange(8).flip(0)] * c + h[..., h.new_ones(8).bool()], {}),
    "broadcast_to": (lambda h, c: torch.broadcast_to(h[:, None], (len(h), 3, 8)).sin().sum(1) * c, {}),
    "repeat_interleave": (
        lambda h, c: torch.repeat_interleave(h, 2, dim=0, output_size=2 * len(h)).view(-1, 2, 8).sum(1) * c,
        {},
    ),
    "recurrent layers": (
        lambda h, c, gru, lstm, rnn: (
            torch.cat(
                [gru(h.view(-1, 4, 2))[0], rnn(h.view(-1, 4, 2))[0], lstm(h.view(-1, 2, 4))[0].reshape(-1, 4, 4)],
                2,
            ).mean(1)
            * c
        ),
        {
            "gru": lambda: nn.GRU(2, 2, 2, batch_first=True),
            "rnn": lambda: nn.RNN(2, 2, batch_first=True),
            "lstm": lambda: nn.LSTM(4, 4, batch_first=True, bidirectional=True),
        },
    ),
    "recurrent layers, batch second, of a state": (
        lambda h, c, gru, lstm: (
            gru(h.view(-1, 4, 2).transpose(0, 1), torch.stack([c, -c]))[0].mean(0)
            + lstm(h.view(-1, 4, 2).transpose(0, 1), (h[None], c[None]))[1][1][0]
        ),
        {"gru": lambda: nn.GRU(2, 8, 2), "lstm": lambda: nn.LSTM(2, 8)},
    ),
    "recurrent cells": (
        lambda h, c, gru, lstm, rnn: gru(h, c) + lstm(c)[0] + lstm(h, (c, torch.ones_like(c)))[1] + rnn(c, h),
        {"gru": lambda: nn.GRUCell(8, 8), "lstm": lambda: nn.LSTMCell(8, 8), "rnn": lambda: nn.RNNCell(8, 8)},
    ),
    "tensordot": (
        lambda h, c, w: (
            torch.tensordot(h, w.weight, 1)
            + torch.tensordot(w.weight, c, ([1], [1])).T
            + torch.tensordot(h.view(-1, 4, 2), w.weight[:4, :2], dims=([1, 2], [0, 1]))[:, None]
        ),
        {"w": lambda: nn.Linear(8, 8)},
    ),
    "einsum by the module of a tensor's class, as opt_einsum": (
        lambda h, c: sys.modules[type(h).__module__.split(".")[0]].einsum("bi,bi->bi", h, c),
        {},
    ),
    "detach": (lambda h, c: h.detach().sin() * c, {}),
    "batch norm, evaluated": (lambda h, c, norm: norm.eval()(h) * c, {"norm": lambda: nn.BatchNorm1d(8)}),
    "taken apart": (lambda h, c: torch.stack([*h.T], 1) * c, {}),
    "noise like it": (lambda h, c: h + 0 * torch.rand_like(c) * c, {}),
}


@pytest.mark.parametrize("start", [0, 1, 3])
@pytest.mark.parametrize("name", RIGHT)
def test_it_is_right_on_any_part_of_the_batch(name, start):
    body, parts = RIGHT[name]
    check(Net(body, parts), start)


ESCAPED = {
    "autograd function": (lambda h, c: Swish.apply(h) * c, "inside of a torch.autograd.Function"),
    "autograd function that gives its input back": (lambda h, c: Reversal.apply(h) * c, "Function|reached past"),
    "reentrant checkpoint": (
        lambda h, c: checkpoint(lambda x: x.sin(), h, use_reentrant=True) * c,
        "use_reentrant=True",
    ),
    "buffer": (lambda h, c: torch.zeros(h.shape).double().index_copy_(1, torch.arange(8), h), "writes in place"),
    "buffer by index": (lambda h, c: torch.zeros(h.shape).double().__setitem__(..., h), "writes in place"),
    "buffer plus": (lambda h, c: torch.ones(h.shape).double().add_(h) * c, "writes in place"),
    "out=": (lambda h, c: torch.add(h, c, out=torch.empty(h.shape).double()), "out="),
    "data": (lambda h, c: h * c.data, "Tensor.data"),
    "item": (lambda h, c: h * c.max().item() if len(h) == 1 else h * c[..., 0].T.tolist()[0], "tolist|item"),
    "float": (lambda h, c: h * float(c.sum((0, 1))), "float|whole batch|along the batch"),
    "tensor of it": (lambda h, c: h * torch.tensor(c), "reached past"),
    "numpy": (lambda h, c: h * torch.from_numpy(c.detach().numpy()), "numpy"),
    "array": (lambda h, c: h * torch.as_tensor(__import__("numpy").asarray(c)), "array"),
    "as_strided": (lambda h, c: torch.as_strided(h, (len(h), 4), (8, 2)).repeat(1, 2) * c, "as_strided"),
    "vmap": (lambda h, c: torch.vmap(lambda x: x.sin())(h) * c, "reached past"),
    "as_subclass": (lambda h, c: h.as_subclass(Tensor) * c, "reached past|as_subclass"),
    "operator of torch.library": (lambda h, c: h + act(h) * c, "no rule for .*act"),
    "rrelu": (lambda h, c: F.rrelu(h, training=True) * c, "same draw"),
    "bernoulli": (lambda h, c: h * torch.bernoulli(c.sigmoid()), "same draw"),
    "in place, random": (lambda h, c: h * (c * 1).normal_(), "same draw"),
    "scripted function": (
        lambda h, c: h + clamped(c, 4.0),
        "clamped is a torch.jit.script.*PYTORCH_JIT=0",
    ),
    "products scattered": (
        lambda h, c: h.scatter_reduce(1, torch.zeros(len(h), 8, dtype=torch.long), c, "prod"),
        "zeros for its derivative",
    ),
}


@torch.jit.script
def clamped(x: Tensor, most: float) -> Tensor:
    return (x / most).tanh() * most


@torch.library.custom_op("alphaflow_tests::act", mutates_args=())
def act(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


act.register_autograd(
    lambda ctx, grad: grad * ctx.slope,
    setup_context=lambda ctx, inputs, output: setattr(ctx, "slope", inputs[0].sigmoid()),
)


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("graph", [True, False], ids=["with a graph", "without"])
@pytest.mark.parametrize("name", ESCAPED)
def test_what_would_lose_the_tangent_or_the_gradient_is_refused(name, graph, start):
    body, message = ESCAPED[name]
    net, (z, v, t) = Net(body), inputs()
    with torch.set_grad_enabled(graph), pytest.raises(NoRule, match=message):
        dual_forward(lambda z, t: net(z, t, t), z, v[start:], t, start=start)


recurrent = nn.GRU(8, 8, batch_first=True).double()
MIXED = {
    "flip": lambda h, c: h.flip(0) + c,
    "flipped by keywords": lambda h, c: torch.flip(h, dims=(0,)) + c,
    "roll": lambda h, c: h.roll(1, 0) + c,
    "sort": lambda h, c: h.sort(0).values + c,
    "cumsum": lambda h, c: h.cumsum(0) + c,
    "log_softmax": lambda h, c: h.log_softmax(0) + c,
    "normalize": lambda h, c: F.normalize(h, dim=0) + c,
    "gram": lambda h, c: h @ (h.T @ c),
    "einsum": lambda h, c: torch.einsum("bi,bj,cj->ci", h, c, h),
    "permuted": lambda h, c: h[torch.arange(len(h)).flip(0)] + c,
    "gathered": lambda h, c: h.gather(0, torch.zeros(len(h), 8, dtype=torch.long)) + c,
    "attention over the batch": lambda h, c: F.scaled_dot_product_attention(h[None], h[None], c[None])[0],
    "convolution over the batch": lambda h, c: F.conv1d(h[None], torch.ones(4, 4, 1).double())[0] * c,
    "batch norm": lambda h, c: F.batch_norm(h, None, None, training=True) * c,
    "folded": lambda h, c: (h.view(2, -1, 8) * torch.arange(1, 3).double()[:, None, None]).sum(0).repeat(2, 1) + c,
    "written from another row": lambda h, c: (h * 1).index_copy_(0, torch.tensor([0, 3]), h[:2]) + c,
    "recurrent over the batch": lambda h, c: recurrent(h[None])[0][0] * c,
    "tensordot over the batch": lambda h, c: torch.tensordot(torch.ones(4, 4).double(), h, 1) + c,
    "tensordot of both": lambda h, c: torch.tensordot(h, c, ([1], [1])) @ h,
    "added to its transpose": lambda h, c: h[:, :4] @ h[:, 4:].T @ c,
}


@pytest.mark.parametrize("name", MIXED)
def test_rows_that_mix_are_refused_on_part_of_the_batch_and_right_on_all_of_it(name):
    net, (z, v, t) = Net(MIXED[name]), inputs()
    for start in (1, 3):
        with pytest.raises(NoRule):
            dual_forward(lambda z, t: net(z, t, t), z, v[start:], t, start=start)
    if name != "written from another row":
        check(net, 0)


@pytest.mark.parametrize("way", ["fused", "difference"])
def test_meanflow_trains_a_network_that_writes_in_place(way):
    net = Net(arithmetic).float()
    af.MeanFlow(derivative=way)(net, torch.randn(8, 4)).loss.backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in net.parameters())


@pytest.mark.parametrize("affine", [True, False])
def test_layer_norm_on_bfloat16_activations_under_autocast(affine):
    norm, linear, back = nn.LayerNorm(8, elementwise_affine=affine), nn.Linear(4, 8), nn.Linear(8, 4)
    z, v, t = inputs()
    exact = dual_forward(lambda z, t: back.double()(norm.double()(linear.double()(z) * t[:, None])), z, v, t)[
        1
    ].detach()
    for part in (norm, linear, back):
        part.float()
    with torch.autocast("cpu", torch.bfloat16):
        u, slope = dual_forward(
            lambda z, t: back(norm(linear(z) * t[:, None].bfloat16())), z.float(), v.float(), t.float()
        )
    u.sum().backward()
    assert (slope - exact).norm() < 0.05 * exact.norm()


def test_networks_of_bfloat16_weights():
    net, (z, v, t) = Net(lambda h, c: F.gelu(h) * c), inputs()
    exact = dual_forward(lambda z, t: net(z, t, t), z, v, t)[1]
    net.bfloat16()
    slope = dual_forward(lambda z, t: net(z, t, t), *(x.bfloat16() for x in (z, v, t)))[1]
    assert (slope - exact).norm() < 0.05 * exact.norm()
