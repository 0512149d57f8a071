"""The fused derivative: one pass, exact, on part of the batch, for any module; and what it refuses."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import alphaflow as af
from alphaflow import models
from alphaflow.derivatives import attention as dual_attention
from alphaflow.derivatives.fused import NoRule, dual_forward
from alphaflow.derivatives.total import choose_method, total_derivative
from alphaflow.method.guidance import with_guidance
from alphaflow.path import Points
from reference import Counting


def images(channels: int, size: int, rows: int = 5) -> tuple[Tensor, ...]:
    source = torch.Generator().manual_seed(0)
    z, v = (torch.randn(rows, channels, size, size, generator=source, dtype=torch.float64) for _ in range(2))
    r, t = torch.rand(2, rows, generator=source, dtype=torch.float64).sort(dim=0).values
    return z, v, r, t, torch.arange(rows) % 4


def videos(*shape: int) -> tuple[Tensor, ...]:
    z, v, r, t, y = images(1, 48)
    size = math.prod(shape)
    return z.flatten(1)[:, :size].reshape(-1, *shape), v.flatten(1)[:, :size].reshape(-1, *shape), r, t, y


def points(rows: int = 5) -> tuple[Tensor, ...]:
    z, v, r, t, _ = images(2, 1, rows)
    return z.flatten(1), v.flatten(1), r, t, None


def lively(net: nn.Module) -> nn.Module:
    """In float64, with no zero-initialised part that would hide what lies before it."""
    source = torch.Generator().manual_seed(1)
    for weight in net.parameters():
        weight.data.add_(0.1 * torch.randn(weight.shape, generator=source))
    return net.double()


class Zoo(nn.Module):
    """Most ops that a user's network may call, with and without rules of their own."""

    def __init__(self, **kwargs) -> None:
        super().__init__()
        self.times, self.classes = nn.Linear(2, 8), nn.Embedding(5, 8)
        self.conv, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 1)
        self.group, self.layer, self.rms = nn.GroupNorm(2, 8), nn.LayerNorm(8), nn.RMSNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.qkv, self.gate = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, z, r, t, y=None):
        c = self.times(torch.stack([t, t - r], 1)).sin() + self.classes(y)
        h = F.silu(self.group(self.conv(z)), inplace=True)
        b, _, rows, columns = h.shape
        h = F.avg_pool2d(F.interpolate(h, scale_factor=2, mode="nearest"), 2)
        x = h.flatten(2).transpose(1, 2) + c[:, None]
        n = self.layer(x)
        x = x + self.attention(n, n, n, need_weights=False)[0]
        q, k, v = self.qkv(self.rms(x)).reshape(b, rows * columns, 3, 2, 4).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + mixed.transpose(1, 2).reshape(b, -1, 8) * torch.sigmoid(self.gate(c)).unsqueeze(1)
        x = F.softplus(x) * torch.softmax(x, -1) / (1 + x.square().mean(-1, keepdim=True))
        x = x - torch.einsum("bnc,bmc->bnm", x, x).tanh() @ x
        x = torch.cat([x[..., :4], torch.relu(x[..., 4:]) + F.gelu(x[..., :4])], dim=-1)
        x = x * torch.where(r < t, 1.0, 2.0)[:, None, None] + torch.exp(-x.abs()).clamp(max=0.9)
        scale, shift = c.chunk(2, dim=1)
        x = torch.addcmul(x, scale.repeat(1, 2)[:, None].expand(b, 16, 8), x) - shift.sum(1)[:, None, None]
        x = x / t.cos()[:, None, None] + x.new_ones(b, 1, 8) * torch.arange(8 * b).to(x).view_as(c)[:, None]
        x += c.view(b, 1, 8)
        return self.out(x.mT.unflatten(2, (rows, columns)))


def told(channels: int, size: int) -> tuple[Tensor, ...]:
    """Labels with a guidance scale and interval, another for each row."""
    *rest, y = images(channels, size)
    share = torch.linspace(0, 1, len(y), dtype=torch.float64)
    return *rest, with_guidance(y, 1 + 3 * share, share / 2, 1 - share / 3, null=4, dtype=torch.float64)


CASES = {
    "DiT": (lambda: models.DiT((4, 8), 2, 3, 16, 2, 2, 4), lambda: images(3, 8)),
    "video, joint": (lambda: models.VideoDiT((2, 4), 3, 2, 2, 16, 2, 2, 4), lambda: videos(2, 3, 2, 4)),
    "video, factorised": (
        lambda: models.VideoDiT((2, 4), 3, 2, 2, 16, 2, 2, 4, attention="factorised"),
        lambda: videos(2, 3, 2, 4),
    ),
    "DiT, told of guidance": (lambda: models.DiT(8, 4, 1, 16, 2, 2, 4, guided=True), lambda: told(1, 8)),
    "UNet": (lambda: models.UNet(3, 16, num_classes=4), lambda: images(3, 8)),
    "MLP": (lambda: models.MLP(2, 32), points),
    "zoo": (Zoo, lambda: images(3, 4)),
    "data prediction": (lambda: models.DataPrediction(models.MLP(2, 32)), points),
}


@pytest.fixture(params=CASES)
def case(request):
    make, data = CASES[request.param]
    inputs = data()
    net = lively(make())
    if request.param == "DiT":
        inputs = (inputs[0][:, :, :4], inputs[1][:, :, :4], *inputs[2:])
    return net, inputs


def fused(net, z, v, r, t, y, start):
    return dual_forward(lambda z, t: net(z, r, t, y), z, v[start:], t, start=start)


@pytest.mark.parametrize("start", [0, 2, 4])
def test_it_equals_forward_mode_on_any_part_of_the_batch(case, start):
    net, (z, v, r, t, y) = case
    u, slope = fused(net, z, v, r, t, y, start)
    value, expected = total_derivative(net, z, v, r, t, y, method="forward")
    torch.testing.assert_close(u, value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(slope, expected[start:], rtol=1e-10, atol=1e-11)
    assert slope.norm() > 0.01 and not slope.requires_grad


@pytest.mark.parametrize("start", [0, 2])
def test_its_u_has_the_graph_of_a_plain_call(case, start):
    net, (z, v, r, t, y) = case
    weights = list(net.parameters())
    gradients = [
        torch.autograd.grad(u.square().sum(), weights, allow_unused=True)
        for u in (net(z, r, t, y), fused(net, z, v, r, t, y, start)[0])
    ]
    for plain, ours in zip(*gradients):
        assert (plain is None) == (ours is None)
        if plain is not None:
            torch.testing.assert_close(ours, plain, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("shift", "ratio"),
    [("data", 0.0), ("velocity", 0.0), *((s, q) for s in ("data", "model", "velocity") for q in (0.4, 1.0))],
)
def test_the_objective_and_its_gradient_equal_those_of_the_two_pass_way(shift, ratio):
    net = lively(models.DiT(8, 2, 3, 16, 2, 2, 4))
    x, _, _, _, y = images(3, 8, rows=8)
    results = []
    for derivative in ("fused", "forward"):
        net.zero_grad()
        objective = af.MeanFlow(flow_ratio=ratio, shift=shift, derivative=derivative)
        out = objective(net, x, y, generator=torch.Generator().manual_seed(0))
        out.loss.backward()
        results.append((out.per_sample, torch.cat([weight.grad.flatten() for weight in net.parameters()])))
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-12)


def test_a_meanflow_step_calls_the_network_once():
    net = Counting(models.MLP(2, 16).double())
    objective = af.MeanFlow(flow_ratio=0.5, derivative="fused")
    objective(net, points(8)[0], generator=torch.Generator().manual_seed(0)).loss.backward()
    assert net.rows == [8]


@pytest.mark.parametrize("most", [2 * 16 * 3, 2 * 16 * 16 * 3], ids=["three queries", "three rows"])
def test_attention_goes_piece_by_piece_with_the_same_result(monkeypatch, most):
    net, (z, v, r, t, y) = lively(Zoo()), images(3, 4)
    whole = fused(net, z, v, r, t, y, 1)[1]
    monkeypatch.setitem(dual_attention.CHUNK, "cpu", most)
    torch.testing.assert_close(fused(net, z, v, r, t, y, 1)[1], whole, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("seed", range(3))
def test_in_bfloat16_autocast_the_tangent_is_as_good_as_the_primal(seed):
    net, (z, v, r, t, y) = models.DiT(16, 2, 4, 192, 6, 3, 4), images(4, 16, rows=8)
    source = torch.Generator().manual_seed(seed)
    for weight in net.parameters():
        weight.data.add_(0.03 * torch.randn(weight.shape, generator=source))
    exact = total_derivative(net.double(), z, v, r, t, y, method="forward")[1]
    single = net.float()
    with torch.autocast("cpu", torch.bfloat16):
        _, slope = fused(single, z.float(), v.float(), r.float(), t.float(), y, 0)
    assert ((slope.double() - exact).norm() / exact.norm()) < 6e-3  # without float32 conditions: 9e-3


def test_in_bfloat16_autocast_sharp_attention_is_as_good_as_its_inputs():
    """Scores of a trained network deviate by several units; rounded to bfloat16 they would double the error."""
    source = torch.Generator().manual_seed(0)
    z, v, k, w = (torch.randn(4, 2, 64, 32, generator=source, dtype=torch.float64) for _ in range(4))

    def slope(z, v):
        def attend(z, t):
            return F.scaled_dot_product_attention(4 * z, z + k.to(z), z * w.to(z))

        return dual_forward(attend, z, v, torch.ones(4).to(z))[1].double()

    exact = slope(z, v)
    inherent = (slope(z.bfloat16().double(), v.bfloat16().double()) - exact).norm()
    with torch.autocast("cpu", torch.bfloat16):
        half = slope(z.float(), v.float())
    assert (half - exact).norm() < 1.5 * inherent  # with scores in bfloat16: 2.4


class Wrapped(nn.Module):
    """A module for each thing that must be refused, and for checkpointing, which must work."""

    def __init__(self, body) -> None:
        super().__init__()
        self.inner, self.body = models.MLP(2, 16).double(), body

    def forward(self, z, r, t, y=None):
        return self.body(self.inner(z, r, t, y))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (lambda x: F.dropout(x, 0.5), "dropout: primal and tangent would not see the same draw"),
        (lambda x: x - x.mean(0), "mean along the batch"),
        (lambda x: x - x.mean(), "mean over the whole batch"),
        (lambda x: torch.cat([x[:2], x[2:]]), "indexing the rows of the batch"),
        (lambda x: torch.cat(x.chunk(2)), "chunk along the batch"),
        (lambda x: x.softmax(0), "softmax along the batch"),
        (lambda x: F.linear(x, x), "weight that depends on z or t"),
        (lambda x: x.T.reshape(-1), "splits the rows of the batch"),
    ],
)
def test_what_it_cannot_do_is_an_error_that_names_the_function_and_module(body, message):
    net, (z, v, r, t, _) = Wrapped(body), points(4)
    with pytest.raises(NoRule, match=f"{message}.*in Wrapped"):
        fused(net, z, v, r, t, None, 2)


def test_auto_falls_back_for_it_and_says_why(caplog):
    net, batch = Wrapped(lambda x: x - x.mean(0)), points(4)
    assert choose_method(net, Points(*batch)) == "forward"
    assert "not fused: " in caplog.text and "mean along the batch (in Wrapped)" in caplog.text


def test_auto_notices_a_mix_of_rows_that_shapes_do_not_betray(caplog):
    net, batch = Wrapped(lambda x: x + 0.5 * x.flip(0)), points(4)
    assert choose_method(net, Points(*batch)) == "forward"
    assert "not fused: " in caplog.text


@pytest.mark.parametrize("start", [0, 2])
def test_activation_checkpointing_of_a_block_works(start):
    net = lively(models.DiT(8, 2, 3, 16, 2, 2, 4))
    inputs = images(3, 8)
    plain = fused(net, *inputs, start)
    plain[0].square().sum().backward()
    expected = [weight.grad.clone() for weight in net.parameters()]
    net.zero_grad()
    for block in net.blocks:
        forward = block.forward
        block.forward = lambda x, c, forward=forward: checkpoint(forward, x, c, use_reentrant=False)
    u, slope = fused(net, *inputs, start)
    u.square().sum().backward()
    torch.testing.assert_close(slope, plain[1], rtol=0, atol=0)
    for weight, gradient in zip(net.parameters(), expected):
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-12, atol=1e-13)
