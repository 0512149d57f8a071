"""The compiled objective: equal to the eager one, in one graph for each kind of α; and what it refuses."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.utils import counters

import alphaflow as af
from alphaflow import models, schedules
from alphaflow.derivatives import attention
from alphaflow.derivatives import writes as dual_writes
from alphaflow.derivatives.fused import NoRule, dual_forward
from alphaflow.derivatives.total import total_derivative
from alphaflow.method import compiled as compiled_module
from alphaflow.method.compiled import Compiled

ROWS = 8


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()
    counters.clear()


class Affine(nn.Module):
    """What compiles badly elsewhere: affine norms, attention's module, slices, views, an update in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.group, self.layer = nn.Conv2d(3, 8, 2, stride=2), nn.GroupNorm(2, 8), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.times, self.out = nn.Linear(2, 8), nn.Linear(8, 12)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        c = self.times(torch.stack([t, t - r], 1))
        x = self.group(self.conv(z)).flatten(2).transpose(1, 2) + c[:, None]
        n = self.layer(x)
        x = x + self.attention(n, n, n, need_weights=False)[0]
        x = x + torch.einsum("bnc,bmc->bnm", x, x) @ nn.functional.softplus(x)  # no rules of their own
        x += c[:, None]
        left, right = self.out(x).split(6, -1)
        return torch.cat([left.abs(), right], -1).mT.unflatten(1, (3, 4)).reshape(z.shape)


NETWORKS = {
    "DiT": lambda: models.DiT(4, 2, 3, 16, 1, 2, 4),
    "UNet": lambda: models.UNet(3, 8, (1, 2), num_classes=4),
    "MLP": lambda: models.MLP(48, 16, 1, num_classes=4),
    "affine": Affine,
}


def batch() -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(0)
    return torch.randn(ROWS, 3, 4, 4, generator=source, dtype=torch.float64), torch.arange(ROWS) % 4


def network(name: str = "DiT") -> nn.Module:
    net, source = NETWORKS[name](), torch.Generator().manual_seed(1)
    for weight in net.parameters():
        weight.data.add_(0.1 * torch.randn(weight.shape, generator=source))
    return net.double()


def step(objective, net: nn.Module, seed: int = 0, k: int = 0) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    net.zero_grad()
    out = objective(net, *batch(), step=k, generator=torch.Generator().manual_seed(seed))
    out.loss.backward()
    return out.loss.detach(), out.per_sample, [weight.grad for weight in net.parameters()]


def close(ours, theirs, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance / 10)


@pytest.mark.parametrize("name", NETWORKS)
def test_meanflow_and_its_gradient_equal_the_eager_ones(name):
    net, objective = network(name), af.MeanFlow(flow_ratio=0.25, derivative="fused")
    compiled = Compiled(objective, backend="aot_eager")
    for seed in range(3):
        close(step(compiled, net, seed), step(objective, net, seed))
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]


def test_a_schedule_from_one_to_zero_takes_three_graphs():
    net, values = network(), (1.0, 0.8, 0.5, 0.2, 0.0, 0.0)
    objective = af.AlphaFlow(alpha=lambda k: values[min(k, 5)], flow_ratio=0.25, clip=4.0)
    compiled = Compiled(objective, backend="aot_eager")
    for k in range(len(values)):
        close(step(compiled, net, seed=k, k=k), step(objective, net, seed=k, k=k))
    assert counters["stats"]["unique_graphs"] == 3 and not counters["graph_break"]


def test_a_schedule_of_the_share_takes_a_bounded_number_of_graphs(monkeypatch):
    monkeypatch.setattr(compiled_module, "SPLITS", 4)
    net, objective = network("MLP"), af.AlphaFlow(alpha=0.0, flow_ratio=schedules.linear(0, 100))
    compiled = Compiled(objective, backend="aot_eager")
    for k in range(0, 101, 8):
        step(compiled, net, k=k)
    assert counters["stats"]["unique_graphs"] == 5
    close(step(compiled, net, k=40), step(af.AlphaFlow(alpha=0.0, flow_ratio=0.5), net, k=40))


@pytest.mark.parametrize("start", [0, 3])
def test_the_derivative_equals_forward_mode(start):
    net, (z, y) = network("affine"), batch()
    v, (r, t) = z.flip(0), torch.rand(2, ROWS, dtype=torch.float64).sort(dim=0).values

    @torch.compile(fullgraph=True, backend="aot_eager")
    def run(z, v, r, t):
        return dual_forward(lambda z, t: net(z, r, t, y), z, v[start:], t, start=start)

    u, slope = run(z, v, r, t)
    value, expected = total_derivative(net, z, v, r, t, y, method="forward")
    close((u, slope), (value, expected[start:]))
    assert u.requires_grad and not slope.requires_grad


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_attention_in_many_pieces_is_one_node_of_the_graph(monkeypatch, backend):
    """Else a large batch, or a long sequence, would unroll into thousands of nodes."""
    source = torch.Generator().manual_seed(0)
    z, v = (torch.randn(6, 2, 16, 4, generator=source) for _ in range(2))
    key = torch.randn(6, 2, 16, 4, generator=source).requires_grad_()
    t, nodes, compile_it = torch.rand(6, generator=source), [], torch._dynamo.lookup_backend(backend)

    def counted(graph, inputs):
        nodes.extend(str(node.target) for node in graph.graph.nodes)
        return compile_it(graph, inputs)

    def run(z, v, t):
        return dual_forward(
            lambda z, t: F.scaled_dot_product_attention(z, key * t[:, None, None, None], z), z, v, t, start=2
        )

    expected = run(z, v[2:], t)
    for most in (6 * 2 * 16 * 16, 64):
        torch._dynamo.reset()
        nodes.clear()
        monkeypatch.setitem(attention.CHUNK, "cuda", most)
        ours = torch.compile(run, fullgraph=True, backend=counted)(z, v[2:], t)
        close(ours, expected, 1e-5)
        (gradient,) = torch.autograd.grad(ours[0].sum(), key)
        close(gradient, torch.autograd.grad(run(z, v[2:], t)[0].sum(), key)[0], 1e-5)
        assert sum("alphaflow.attention_tangent" in node for node in nodes) == (most == 64)


def test_in_bfloat16_autocast_it_equals_the_eager_one():
    net, (x, y), objective = network().float(), batch(), af.MeanFlow(flow_ratio=0.25, derivative="fused")
    with torch.autocast("cpu", torch.bfloat16):
        ours, eager = (
            run(net, x.float(), y, generator=torch.Generator().manual_seed(0)).residual
            for run in (Compiled(objective, backend="aot_eager"), objective)
        )
    close(ours, eager, 1e-3)


def test_networks_with_rules_for_all_they_do_take_no_jvp(monkeypatch):
    def refuse(*args):
        raise AssertionError("a rule was missed")

    monkeypatch.setattr(torch.func, "jvp", refuse)
    step(Compiled(af.MeanFlow(flow_ratio=0.25, derivative="fused"), backend="aot_eager"), network())


@pytest.mark.parametrize(
    "name", ["ImprovedMeanFlow", "FACM", "Shortcut", "ConsistencyTraining", "Lagrangian", "SoFlow", "RCGM"]
)
def test_other_members_compile_too(name):
    net, objective = network(), getattr(af, name)()
    close(step(Compiled(objective, backend="aot_eager"), net), step(objective, net))


def test_compiled_differences_run_in_full_precision():
    seen = []

    def backend(graph, inputs):
        def call(*values):
            seen.append(torch.get_float32_matmul_precision())
            return graph(*values)

        return call

    net, before = network("MLP"), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        step(Compiled(af.MeanFlow(flow_ratio=0.25, derivative="difference"), backend=backend), net)
        step(Compiled(af.MeanFlow(flow_ratio=0.25, derivative="fused"), backend=backend), net)
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == ["highest", "high"]


class Wrapped(nn.Module):
    def __init__(self, body) -> None:
        super().__init__()
        self.inner, self.body = network("MLP"), body

    def forward(self, z, r, t, y=None):
        return self.body(self.inner(z, r, t, y))


def test_a_function_that_dynamo_hides_from_the_rules_is_noticed():
    net = Wrapped(lambda x: x + abs(x))
    with pytest.raises(af.DerivativeError, match="differs from the uncompiled one by nan"):
        step(Compiled(af.MeanFlow(derivative="fused"), backend="aot_eager"), net)


def test_what_has_no_rule_is_refused_before_compiling():
    compiled = Compiled(af.MeanFlow(derivative="fused"), backend="aot_eager")
    with pytest.raises(NoRule, match=r"dropout.*in Wrapped"):
        step(compiled, Wrapped(lambda x: nn.functional.dropout(x, 0.5)))
    with pytest.raises(ValueError, match="'reverse' cannot be compiled"):
        step(Compiled(af.MeanFlow(derivative="reverse"), backend="aot_eager"), network())


def test_functions_in_place_are_known_by_the_one_without_the_underscore():
    assert dual_writes.IN_PLACE[Tensor.add_] is Tensor.add and dual_writes.IN_PLACE[Tensor.zero_] is None


@pytest.mark.slow
def test_inductor_agrees_at_each_kind_of_alpha():
    net = network("MLP")  # three graphs: of a DiT they take minutes, and a compiled run has one
    objective = af.AlphaFlow(alpha=lambda k: (1.0, 0.5, 0.0)[min(k, 2)], flow_ratio=0.25, derivative="fused")
    compiled = Compiled(objective)
    for k in range(3):
        close(step(compiled, net, k=k), step(objective, net, k=k), 1e-8)
