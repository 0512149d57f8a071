"""Tensors whose rows are shared out over processes (FSDP2's), and the plain ones beside them.

torch loads its module of sharded tensors in a second, with sympy and a thousand others. Only who shards needs it,
so it is imported with the first network that is sharded, and until then no tensor can be one.
"""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from ..derivatives.dual import Dual, make
from .blocks import blocks_of

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def shard_blocks(net: nn.Module, mesh: DeviceMesh | None) -> None:
    """Shard a network in place over the processes of `mesh`: each block on its own, then the rest."""
    from torch.distributed.fsdp import FSDPModule, fully_shard

    for block in list(blocks_of(net)):
        if not isinstance(block, FSDPModule):
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
            _carry_tangents(block)
    # the root's too, or an average's network would go on with the weights of its first evaluation
    fully_shard(net, mesh=mesh, reshard_after_forward=True)
    _carry_tangents(net)


def average_gradients(net: nn.Module, now: bool) -> None:
    """Average gradients over processes in the next backward pass of a sharded network, or only add them up."""
    from torch.distributed.fsdp import FSDPModule

    for module in net.modules():
        if isinstance(module, FSDPModule):
            module.set_requires_gradient_sync(now, recurse=False)


def is_sharded(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Return whether processes share out the rows of this tensor."""
    kind = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)
    return kind is not None and isinstance(tensor, kind)


def whole(tensor: Tensor) -> Tensor:
    """Return a sharded tensor in one piece, on every process (all must call); any other as it is."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def load_into(tensor: Tensor, read: Callable[[slice | None], Tensor]) -> None:
    """Fill a tensor, or this process's rows of a sharded one, with what `read` gives."""
    with torch.no_grad():
        if is_sharded(tensor):
            start, rows = first_row(tensor), tensor.to_local()
            rows.copy_(read(slice(start, start + len(rows))))
        else:
            tensor.copy_(read(None))


def first_row(tensor: "DTensor") -> int:
    """Return where this process's rows begin: FSDP2 cuts dimension 0 as `torch.chunk` does."""
    for dimension, placement in enumerate(tensor.placements):
        if placement.is_shard():
            assert placement.is_shard(dim=0)
            mesh = tensor.device_mesh
            size = -(-tensor.shape[0] // mesh.size(dimension))
            return min(size * mesh.get_local_rank(dimension), tensor.shape[0])
    return 0


def is_first_copy(tensor: "DTensor") -> bool:
    """Return whether no process of lower rank holds the same rows."""
    mesh = tensor.device_mesh
    return all(
        mesh.get_local_rank(dimension) == 0
        for dimension, placement in enumerate(tensor.placements)
        if not placement.is_shard()
    )


def _carry_tangents(module: nn.Module) -> None:
    """Take tangents past FSDP's hook before a module's forward, which puts a node of autograd around its inputs.

    That node keeps the primal alone. So one hook before it takes tensors with tangents apart, and one after it
    puts them together again.
    """
    carried: list[dict[Any, Dual]] = []

    def open_up(_: nn.Module, args: Any, kwargs: Any) -> Any:
        inputs = {**dict(enumerate(args)), **kwargs}
        carried.append({key: value for key, value in inputs.items() if isinstance(value, Dual)})
        plain = {key: value.primal if isinstance(value, Dual) else value for key, value in inputs.items()}
        return tuple(plain[k] for k in range(len(args))), {key: plain[key] for key in kwargs}

    def close(_: nn.Module, args: Any, kwargs: Any) -> Any:
        inputs = {**dict(enumerate(args)), **kwargs}
        for key, dual in carried.pop().items():
            inputs[key] = make(inputs[key], dual.tangent, dual.start, dual.rows)
        return tuple(inputs[k] for k in range(len(args))), {key: inputs[key] for key in kwargs}

    module.register_forward_pre_hook(open_up, prepend=True, with_kwargs=True)
    module.register_forward_pre_hook(close, with_kwargs=True)
