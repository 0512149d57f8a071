"""Blocks that are compiled by themselves, or recomputed, take the same steps."""

import copy
import dataclasses

import pytest
import torch
from torch import Tensor, nn

import alphaflow as af
from alphaflow.errors import UserError
from alphaflow.models import DiT
from alphaflow.parallel.blocks import compile_blocks, prepare_blocks, recompute_blocks
from alphaflow.runs.config import Config


@pytest.fixture(scope="module")
def net() -> DiT:
    torch.manual_seed(0)
    made = DiT(input_size=8, patch=4, channels=1, width=16, depth=3, heads=2, num_classes=3)
    for weight in made.parameters():
        nn.init.normal_(weight, std=0.1)
    return made


def step(net: nn.Module, objective: af.AlphaFlow) -> tuple[Tensor, Tensor]:
    """Residuals and the gradient."""
    net.zero_grad()
    x = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    y = torch.arange(8) % 3
    out = objective(net, x, y, generator=torch.Generator().manual_seed(2))
    out.loss.backward()
    return out.residual.detach(), torch.cat([weight.grad.flatten() for weight in net.parameters()])


@pytest.mark.parametrize("derivative", ["fused", "forward", "reverse", "difference"])
def test_recomputed_blocks_give_the_same_gradient_to_the_bit(net, derivative):
    objective = dataclasses.replace(af.MeanFlow(flow_ratio=0.25), derivative=derivative)
    changed = copy.deepcopy(net)
    recompute_blocks(changed)
    for ours, theirs in zip(step(changed, objective), step(net, objective)):
        assert torch.equal(ours, theirs)


def test_recomputed_blocks_keep_only_their_inputs(net):
    """Values that autograd holds for the backward pass."""

    def held(one: nn.Module) -> int:
        sizes: list[int] = []
        objective = af.MeanFlow(flow_ratio=0.25)
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            objective(one, torch.randn(8, 1, 8, 8), torch.arange(8) % 3)
        return sum(sizes)

    changed = copy.deepcopy(net)
    recompute_blocks(changed)
    assert held(changed) < 0.3 * held(net)


@pytest.mark.parametrize("both", [False, True])
def test_compiled_blocks_share_one_graph_and_carry_tangents(net, both):
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        graphs.append(graph)
        return graph.forward

    changed = copy.deepcopy(net)
    compile_blocks(changed, backend=backend)
    if both:
        recompute_blocks(changed)
    objective = dataclasses.replace(af.MeanFlow(flow_ratio=0.25), derivative="fused")
    for ours, theirs in zip(step(changed, objective), step(net, objective)):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert len(graphs) == 1


@pytest.mark.parametrize("derivative", ["forward", "reverse"])
def test_what_must_be_compiled_whole_is_refused(net, derivative):
    with pytest.raises(UserError, match=f"does not go with derivative '{derivative}'"):
        prepare_blocks(copy.deepcopy(net), derivative, compiled=True)


def test_a_derivative_with_its_graph_is_not_recomputed_but_by_differences(net):
    """Both ways through the objective: refused by name, and the same gradient where it is not."""
    with pytest.raises(UserError, match=r"recompute does not go with a gradient through ∂u/∂r by .* 'forward'"):
        prepare_blocks(copy.deepcopy(net), "forward", recompute=True, graphed=True)
    changed, objective = copy.deepcopy(net), af.TVM(derivative="difference")
    prepare_blocks(changed, "difference", recompute=True, graphed=True)
    for ours, theirs in zip(step(changed, objective), step(net, objective)):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("other", ["compile_blocks", "recompute"])
def test_the_whole_and_its_blocks_are_not_both_compiled(other):
    with pytest.raises(UserError, match="compile does not go with"):
        Config(compile=True, **{other: True})
