"""How several processes share one run: the only file that knows ranks.

Launched by torchrun, every process runs the same program. A step's batch is cut into n = world × accumulate parts,
part j being rows j, j + n, j + 2n, …; random numbers belong to samples, and the first rows of the *whole* batch
have r = t. So losses and weights do not depend on how many processes there are (but for rounding).

ddp: each process holds everything, gradients are averaged.  fsdp: weights, gradients, moments and averages are
sharded (FSDP2).  hsdp: sharded within a group of processes, by default a machine's, replicated over groups.
"""

import atexit
import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from ..errors import UserError
from ..method.objective import AlphaFlow
from ..processes import Processes
from ..runs.checkpoint import Piece
from ..runs.config import ParallelConfig
from .channels import StoreBoard, Writers, die_with_parent, exchange, fresh_store, leave
from .sharded import average_gradients, first_row, is_first_copy, is_sharded, shard_blocks


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

    Raises:
        UserError: several processes, and a strategy that leaves them nothing to share.
    """

    _store: Any = None  # one connection for all runs of this process

    def __init__(self, config: ParallelConfig | None = None) -> None:
        self.config = config or ParallelConfig()
        self._here = Processes.launched()
        self.rank, self.world = self._here.rank, self._here.world
        self.strategy = self.config.strategy if self.world > 1 else "none"
        self._limit = timedelta(minutes=2 * self.config.timeout)  # the watchdog, which knows names, comes first
        self._host: Any = None
        self._mesh_: DeviceMesh | None = None
        self._votes: list[tuple[Tensor, Any]] = []
        if self.world > 1 and self.strategy == "none":
            raise UserError(
                f"{self.world} processes were started, and parallel.strategy 'none' leaves each to itself: "
                "choose ddp, fsdp or hsdp",
                status=2,
            )

    @property
    def main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    @property
    def host(self) -> Any:
        """The group over which processes exchange what lies in main memory; None for one that is alone."""
        return self._host

    @property
    def sharded(self) -> bool:
        """Whether an evaluation of the network is a collective."""
        return self.strategy in ("fsdp", "hsdp")

    def device(self, chosen: torch.device) -> torch.device:
        """Return this process's own device, after which it can talk to the others."""
        if self.world == 1:
            return chosen
        if chosen.type == "cuda":
            chosen = self._here.own_device(chosen)
            torch.cuda.set_device(chosen)
        if not self.main:
            logging.getLogger("alphaflow").setLevel(logging.ERROR)
        if not dist.is_initialized():
            die_with_parent()
            backend = "nccl" if chosen.type == "cuda" else "gloo"
            store, _, _ = next(dist.rendezvous("env://"))
            store = fresh_store(store, self.rank, self.world, self._limit)
            dist.init_process_group(
                backend, store=store, rank=self.rank, world_size=self.world, timeout=self._limit
            )
            Parallel._store = store
            atexit.register(leave)
        if self._host is None:
            self._host = dist.new_group(backend="gloo", timeout=self._limit)
            self._mesh_ = self._mesh(chosen)
        return chosen

    def parts(self, accumulate: int) -> list[Part]:
        """Return the parts of each batch that are this process's."""
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

    def check_objective(self, objective: AlphaFlow, *, compiled: bool) -> None:
        """Refuse what cannot be evaluated over sharded weights.

        Raises:
            UserError: sharded weights do not go with what the settings ask for.
        """
        if not self.sharded:
            return
        if compiled:
            raise UserError(
                "--compile does not go with sharded weights: choose --compile-blocks, or --parallel.strategy ddp",
                status=2,
            )
        if objective.full_gradient and objective.derivative != "difference":
            raise UserError(
                "a gradient through ∂u/∂r over sharded weights needs --objective.derivative difference: choose "
                "it, or --parallel.strategy ddp",
                status=2,
            )
        if objective.derivative == "reverse":
            raise UserError(
                "derivative 'reverse' needs all weights after the forward pass, when sharded ones are gone: "
                "choose --parallel.strategy ddp or --objective.derivative difference",
                status=2,
            )

    def shard(self, net: nn.Module) -> None:
        """With fsdp or hsdp: shard a network in place, each block on its own."""
        if self.sharded:
            shard_blocks(net, self._mesh_)

    def wrap(self, step: nn.Module) -> nn.Module:
        """Wrap a module whose forward is the objective, derivative and all: outside it gradients go unaveraged."""
        if self.strategy != "ddp":
            return step
        # gloo's threads would take the processor from the backward pass that they are meant to hide behind
        bucket = 4096 if dist.get_backend() == "gloo" else None
        return DistributedDataParallel(
            step, forward_sync_buffers=False, gradient_as_bucket_view=True, bucket_cap_mb=bucket
        )

    @contextlib.contextmanager
    def syncing(self, step: nn.Module, last: bool) -> Iterator[None]:
        """Average gradients over processes in the last part of a step only."""
        if isinstance(step, DistributedDataParallel) and not last:
            with step.no_sync():
                yield
            return
        if self.sharded:
            average_gradients(step, last)
        yield

    def _mesh(self, device: torch.device) -> DeviceMesh | None:
        if not self.sharded:
            return None
        if self.strategy == "fsdp":
            return init_device_mesh(device.type, (self.world,))
        size = int(os.environ.get("LOCAL_WORLD_SIZE", str(self.world)))  # those of one machine
        if self.world % size:
            raise UserError(
                f"parallel.strategy hsdp: {self.world} processes are not {size} on each machine: start as many on "
                "each, or choose fsdp",
                status=2,
            )
        return init_device_mesh(device.type, (self.world // size, size), mesh_dim_names=("replicate", "shard"))

    # ------------------------------------------------------------------ values

    def vote(self, flag: bool) -> bool:
        """Whether any process said so in the *last* vote: answers come a step late, and nobody waits."""
        if self.world == 1:
            return flag
        answer = self.count_votes()
        mine = torch.tensor([int(flag)])
        self._votes.append((mine, dist.all_reduce(mine, group=self._host, async_op=True)))
        return answer

    def count_votes(self) -> bool:
        """Return the answer of the last vote, now."""
        answer = False
        while self._votes:
            votes, work = self._votes.pop()
            work.wait()
            answer = bool(votes.item())
        return answer

    def mean(self, values: Tensor) -> Tensor:
        """Mean over processes of a tensor that each has, by value."""
        if self.world == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total / self.world

    def sum_of_shards(self, values: Tensor) -> Tensor:
        """Sum of what was computed from this process's rows of sharded tensors; of whole ones it is whole."""
        if not self.sharded:
            return values
        total = values.clone()
        dist.all_reduce(total)
        copies = self._mesh_.size(0) if self._mesh_ is not None and self._mesh_.ndim == 2 else 1
        return total / copies

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows of all processes, (world · B, …); each has the same number."""
        if self.world == 1:
            return rows
        parts = [torch.empty_like(rows) for _ in range(self.world)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    def exchange(self, value: Any) -> list[Any]:
        """Return what each process says, in the order of ranks; values must be JSON's."""
        return [value] if self.world == 1 else exchange(value, self._host, self.world)

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.exchange(None)

    def writers(self) -> Writers:
        """All processes, on a new channel, for a thread that writes checkpoints; all must call."""
        group = None if self.world == 1 else dist.new_group(backend="gloo", timeout=self._limit)
        return Writers(self.rank, self.world, group)

    def board(self) -> StoreBoard | None:
        """Where processes post where they are; None for one that is alone."""
        return None if self.world == 1 else StoreBoard(self._store, self.rank, self.world, self.config.timeout)

    # ------------------------------------------------------------------ tensors on disk

    def pieces(self, tensors: Mapping[str, Tensor]) -> dict[str, Piece]:
        """Return what this process writes: its rows of sharded tensors, an even share of those that all hold."""
        pieces, loads = {}, [0] * self.world
        for name, tensor in tensors.items():
            if is_sharded(tensor):
                start = first_row(tensor)
                rows = tensor.to_local()
                if is_first_copy(tensor) and len(rows):
                    pieces[name] = Piece(rows, tuple(tensor.shape), start)
                continue
            writer = loads.index(min(loads))
            loads[writer] += tensor.numel() + 1
            if writer == self.rank:
                pieces[name] = Piece(tensor, tuple(tensor.shape))
        return pieces
