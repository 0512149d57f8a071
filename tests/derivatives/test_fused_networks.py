"""What other people's networks do to their tensors: the fused derivative is right there, or refused by name.

Each case is a small copy of what a library does; the reference is a central difference, and the plain call's
gradient.
"""

import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import alphaflow as af
from alphaflow.derivatives.fused import dual_forward
from foreign_bodies import WIDTH, Net, check
from small_networks import inputs


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


@pytest.mark.parametrize("way", ["fused", "difference"])
def test_meanflow_trains_a_network_that_writes_in_place(way):
    net = Net(arithmetic).float()
    af.MeanFlow(derivative=way)(net, torch.randn(8, 4)).loss.backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in net.parameters())


@pytest.mark.parametrize("affine", [True, False])
def test_layer_norm_on_bfloat16_activations_under_autocast(affine):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)  # of 60 draws, 5 are off by 0.051 … 0.054
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
