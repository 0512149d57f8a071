"""How several processes share one run: the only file that knows ranks.

Launched by torchrun, every process runs the same program. A step's batch is cut into n = world × accumulate parts,
part j being rows j, j + n, j + 2n, …; random numbers belong to samples, and the first rows of the *whole* batch
have r = t. So losses and weights do not depend on how many processes there are (but for rounding).

ddp: each process holds everything, gradients are averaged.  fsdp: weights, gradients, moments and averages are
sharded (FSDP2).  hsdp: sharded within a machine, replicated over machines.
"""

import atexit
import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from ..dual import Dual, make
from ..errors import UserError
from ..objectives import AlphaFlow


class Part(NamedTuple):
    """Rows `start`, `start + stride`, … of a step's batch."""

    start: int
    stride: int

    @property
    def rows(self) -> slice:
        return slice(self.start, None, self.stride)

    def below(self, limit: int) -> int:
        """How many of its rows are among the first `limit` of the batch."""
        return len(range(self.start, limit, self.stride))


class Parallel:
    """This process among the others. With one process every method is the identity.

    Args:
        strategy: ddp, fsdp or hsdp.
    """

    def __init__(self, strategy: str = "ddp") -> None:
        self.world = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self.strategy = strategy if self.world > 1 else "none"

    @property
    def main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def device(self, chosen: torch.device) -> torch.device:
        """This process's own device, after which it can talk to the others."""
        if self.world == 1:
            return chosen
        if chosen.type == "cuda":
            chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(chosen)
        if not self.main:
            logging.getLogger("alphaflow").setLevel(logging.ERROR)
        if not dist.is_initialized():
            dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
            atexit.register(_leave)
        return chosen

    def parts(self, accumulate: int) -> list[Part]:
        """The parts of each batch that are this process's."""
        stride = self.world * accumulate
        return [Part(k * self.world + self.rank, stride) for k in range(accumulate)]

    def check_batch(self, batch_size: int, accumulate: int) -> None:
        """Refuse a batch that does not divide evenly: the mean of the parts would not be the batch's."""
        if batch_size % (self.world * accumulate):
            raise UserError(
                f"batch_size {batch_size} does not divide into {self.world} processes × accumulate = {accumulate} "
                "equal parts: change one of them",
                status=2,
            )

    # ------------------------------------------------------------------ modules

    def suit(self, objective: AlphaFlow, *, compiled: bool) -> AlphaFlow:
        """An objective that every process evaluates with as many collectives; refuses what sharding cannot do."""
        if self.strategy not in ("fsdp", "hsdp"):
            return objective
        for name, asked in (("--compile", compiled), ("derivative 'reverse'", objective.derivative == "reverse")):
            if asked:
                raise UserError(
                    f"{name} does not go with sharded weights: choose --parallel.strategy ddp", status=2
                )
        return replace(objective, even=True)

    def shard(self, net: nn.Module, device: torch.device) -> None:
        """With fsdp or hsdp: shard a network in place, each child of its module lists on its own."""
        if self.strategy not in ("fsdp", "hsdp"):
            return
        mesh = self._mesh(device)
        for module in [m for m in net.modules() if isinstance(m, nn.ModuleList)]:
            for child in module:
                if not isinstance(child, nn.ModuleList | FSDPModule):
                    fully_shard(child, mesh=mesh, reshard_after_forward=True)
                    _carry_tangents(child)
        # the root's weights too, or an average's network would go on with those of its first evaluation
        fully_shard(net, mesh=mesh, reshard_after_forward=True)
        _carry_tangents(net)

    def wrap(self, step: nn.Module) -> nn.Module:
        """A module whose forward is the whole objective: the derivative inside it, or gradients go unaveraged."""
        return DistributedDataParallel(step, forward_sync_buffers=False) if self.strategy == "ddp" else step

    @contextlib.contextmanager
    def syncing(self, step: nn.Module, last: bool) -> Iterator[None]:
        """Average gradients over processes in the last part of a step only."""
        if isinstance(step, DistributedDataParallel) and not last:
            with step.no_sync():
                yield
            return
        for module in step.modules():
            if isinstance(module, FSDPModule):
                module.set_requires_gradient_sync(last, recurse=False)
        yield

    def _mesh(self, device: torch.device) -> DeviceMesh:
        if self.strategy == "fsdp":
            return init_device_mesh(device.type, (self.world,))
        local = int(os.environ.get("LOCAL_WORLD_SIZE", str(self.world)))
        return init_device_mesh(device.type, (self.world // local, local), mesh_dim_names=("replicate", "shard"))

    # ------------------------------------------------------------------ values

    def any(self, flag: bool) -> bool:
        """Whether it is true on any process."""
        if self.world == 1:
            return flag
        votes = torch.tensor([float(flag)], device=_voice())
        dist.all_reduce(votes)
        return bool(votes.item())

    def mean(self, values: Tensor) -> Tensor:
        """Mean over processes of a tensor that each has, by value."""
        if self.world == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total / self.world

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all processes, (world · B, …); each has the same number."""
        if self.world == 1:
            return rows
        parts = [torch.empty_like(rows) for _ in range(self.world)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    def gather_words(self, words: list[str]) -> list[str]:
        """What all processes have to say, in the order of ranks."""
        if self.world == 1:
            return words
        said: list[Any] = [None] * self.world
        dist.all_gather_object(said, words)
        return [word for each in said for word in each]

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            dist.barrier()


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor in one piece, on every process (all must call); any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """This process's piece of a sharded tensor; any other as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def sharded_like(tensor: Tensor, like: Tensor) -> Tensor:
    """The inverse of `whole`, laid out like `like`."""
    tensor = tensor.to(like.device, copy=True)
    if not isinstance(like, DTensor) or tensor.ndim == 0:
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements)


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


def _voice() -> str:
    """The device on which small messages travel."""
    return "cuda" if dist.get_backend() == "nccl" else "cpu"


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
