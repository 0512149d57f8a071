"""What is done to each block of a network by itself: compiled, recomputed in the backward pass, sharded."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..derivatives.dual import Dual, make
from ..errors import UserError


def prepare_blocks(
    net: nn.Module, derivative: str, *, compiled: bool = False, recompute: bool = False, graphed: bool = False
) -> None:
    """Compile the network's blocks, recompute them in the backward pass, or both.

    graphed: whether the derivative is taken with its graph.

    Raises:
        UserError: the derivative does not go with it.
    """
    if recompute and graphed and derivative != "difference":
        raise UserError(
            f"recompute does not go with a gradient through ∂u/∂r by derivative {derivative!r}: choose "
            "--objective.derivative difference",
            status=2,
        )
    if compiled and derivative in ("forward", "reverse"):
        raise UserError(
            f"compile_blocks does not go with derivative {derivative!r}, which must be compiled whole: choose "
            f"--objective.derivative {'' if graphed else 'fused or '}difference",
            status=2,
        )
    if compiled:
        compile_blocks(net)
    if recompute:
        recompute_blocks(net)


def blocks_of(net: nn.Module) -> Iterator[nn.Module]:
    """Yield the children of the network's module lists: transformer blocks, or the levels' layers of a U-Net.

    Lists within such a child are a part of it.
    """
    within: set[nn.Module] = set()
    for module in net.modules():  # from the outside in
        if isinstance(module, nn.ModuleList) and module not in within:
            for child in module:
                if not isinstance(child, nn.ModuleList):
                    within |= {inner for inner in child.modules() if isinstance(inner, nn.ModuleList)}
                    yield child


def recompute_blocks(net: nn.Module) -> None:
    """Keep only the blocks' inputs for the backward pass, and compute the rest again there."""
    for block in blocks_of(net):
        block.forward = _Recomputed(block.forward)


def compile_blocks(net: nn.Module, **options: Any) -> None:
    """Compile each block by itself: like blocks share a graph, and a deep network compiles as fast as one block.

    Tangents of the fused derivative enter and leave the graph as plain tensors beside their primals.

    Args:
        options: passed on to `torch.compile`.
    """
    compiled = torch.compile(_forward, **{"fullgraph": True, "dynamic": False, **options})
    for block in blocks_of(net):
        block.forward = _Compiled(block, compiled)


class _Recomputed:
    def __init__(self, forward: Callable[..., Any]) -> None:
        self._forward = forward

    def __call__(self, *args: Any, **named: Any) -> Any:
        return checkpoint(self._forward, *args, use_reentrant=False, **named)


class _Compiled:
    def __init__(self, block: nn.Module, compiled: Callable[..., Any]) -> None:
        self._block, self._compiled = [block], compiled  # in a list, for the block not to be a child of itself

    def __call__(self, *args: Any) -> Any:
        duals = [arg if isinstance(arg, Dual) else None for arg in args]
        places = [None if dual is None else (dual.start, dual.rows) for dual in duals]
        plain = [arg if dual is None else dual.primal for arg, dual in zip(args, duals)]
        tangents = [None if dual is None else dual.tangent for dual in duals]
        primal, tangent, place = self._compiled(self._block[0], plain, tangents, places)
        return primal if tangent is None else make(primal, tangent, *place)


def _forward(
    block: nn.Module, plain: Sequence[Any], tangents: Sequence[Tensor | None], places: Sequence[Any]
) -> tuple[Tensor, Tensor | None, Any]:
    """Run a block's own forward pass, with tangents taken apart at both ends."""
    args = [
        one if tangent is None else make(one, tangent, *place)
        for one, tangent, place in zip(plain, tangents, places)
    ]
    out = type(block).forward(block, *args)
    if isinstance(out, Dual):
        return out.primal, out.tangent, (out.start, out.rows)
    return out, None, None
