"""Samples shared out to processes, block by block, so that what all find together does not depend on how many.

Sample i belongs to block i // 64 and group (i // 64) mod 8 (see `metrics.statistics`); process p of n takes the
groups p, p + n, …. Sums of a group are therefore those of one process, and adding up only adds zeros to them.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import UserError
from ..metrics.statistics import BLOCK, GROUPS
from .parallel import Parallel


class Share:
    """What of a number of samples is this process's. Without a `parallel`, everything.

    Raises:
        UserError: more processes than groups.
    """

    def __init__(self, parallel: Parallel | None = None) -> None:
        self._parallel = parallel
        self.rank, self.world = (parallel.rank, parallel.world) if parallel else (0, 1)
        if self.world > GROUPS:
            raise UserError(
                f"{self.world} processes were started, and samples go to at most {GROUPS} (that is what keeps the "
                f"figures the same for any number): give torchrun --nproc-per-node {GROUPS} or fewer",
                status=2,
            )

    @property
    def main(self) -> bool:
        """Whether this process scores, writes and speaks."""
        return self.rank == 0

    def blocks(self, count: int) -> list[int]:
        """Return the first sample of each block that is this process's, of samples 0 … count - 1."""
        return [first for first in range(0, count, BLOCK) if first // BLOCK % GROUPS % self.world == self.rank]

    def exchange(self, value: Any) -> list[Any]:
        """Return what each process says, in the order of ranks; values must be JSON's. All must call.

        Raises:
            UserError: another process has gone; so does all that follows here.
        """
        with _company():
            return self._parallel.exchange(value) if self._parallel else [value]

    def from_main(self, make: Callable[[], Any]) -> Any:
        """Return what the main process makes, on all of them; a value of JSON's. All must call.

        Raises:
            UserError: the main process did; the others do too, and end with the same status.
        """
        if self.world == 1:
            return make()
        value, failure = None, None
        if self.main:
            try:
                value = make()
            except UserError as error:
                failure = error
        answer = [value, None if failure is None else [str(failure), failure.status]]
        value, words = self.exchange(answer)[0]
        if failure:
            raise failure
        if words:
            raise UserError(words[0], status=words[1], reported=True)
        return value

    @property
    def all_reduce(self) -> Callable[[Tensor], object] | None:
        """Sums a tensor of the CPU over the processes, in place; all must call. None for one that is alone."""
        if self.world == 1:
            return None
        return self._add

    def _add(self, tensor: Tensor) -> None:
        with _company():
            dist.all_reduce(tensor, group=self._host)

    def collect(self, parts: Mapping[int, Tensor]) -> Tensor | None:
        """Return the rows (N, …) of all processes in the order of samples, on the main process; None elsewhere.

        Args:
            parts: this process's rows by the number of their first one: (B, …), on the CPU, of one type and shape
                everywhere; none at all on a process without samples. All must call.
        """
        outline = [[first, list(rows.shape), str(rows.dtype)] for first, rows in sorted(parts.items())]
        said = self.exchange(outline)
        if not self.main:
            with _company():
                for first in sorted(parts):
                    dist.send(parts[first].contiguous(), 0, group=self._host)
            return None
        order = sorted((first, rank, shape, kind) for rank, one in enumerate(said) for first, shape, kind in one)
        if not order:
            return None
        _, _, shape, kind = order[0]
        whole = torch.empty(sum(one[2][0] for one in order), *shape[1:], dtype=_dtype(kind))
        places, start = {}, 0
        for first, _, (rows, *_), _ in order:
            places[first] = whole[start : start + rows]
            start += rows
        with _company():
            for first, rank, _, _ in order:
                if rank == 0:
                    places[first].copy_(parts[first])
                else:
                    dist.recv(places[first], rank, group=self._host)
        return whole

    def collect_everywhere(self, parts: Mapping[int, Sequence[int]]) -> list[int]:
        """As `collect`, of a number for each sample, on all processes."""
        said = self.exchange([[first, list(numbers)] for first, numbers in parts.items()])
        return [number for _, numbers in sorted(block for one in said for block in one) for number in numbers]

    @property
    def _host(self) -> Any:
        assert self._parallel is not None
        return self._parallel.host


@contextlib.contextmanager
def _company() -> Iterator[None]:
    """Say plainly that another process has gone, which said why itself."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0][:150]
        raise UserError(f"another process has gone, see what it said itself; here: {reason}") from None


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name.removeprefix("torch."))
    assert isinstance(found, torch.dtype)
    return found
