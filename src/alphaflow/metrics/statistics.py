"""Mean and covariance of features of a set, streamed; no rounding error depends on batches or processes.

Sample i belongs to group (i // 64) mod 8, whoever computes it and in whatever batch. Each group is summed by
itself, in the order of its samples, and the groups are merged in order at the end: so the last bit is the same
for any batch size and any number of processes up to 8, and memory does not grow with the number of samples. The
groups also tell how far a figure would move with other samples: see `estimates`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alphaflow.metrics._checks import ArrayLike, as_float64

BLOCK = 64
"""Samples that follow each other in one group; also those that `generate` draws at once."""
GROUPS = 8


def groups_of(index: Tensor) -> Tensor:
    """Return the group of each sample, int64 (N,) in 0 … 7, from its number, int64 (N,)."""
    return index // BLOCK % GROUPS


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Mean and covariance of a set of images, as a Fréchet distance needs them, and what the numbers belong to."""

    mean: Tensor
    """Float64 (D,)."""
    cov: Tensor
    """Float64 (D, D), unbiased (divided by count - 1)."""
    count: int
    """The number of images."""
    detector: str = ""
    """Its name and the hash of its weights; empty where they are not known, as in files of others."""
    preprocessing: str = ""
    """The change of the pixels before the detector, in words; may be empty, too."""
    source: str = ""
    """A digest of the images; may be empty, too."""

    def __post_init__(self) -> None:
        if self.count < 2:
            raise ValueError(f"{self.count} samples have no covariance: at least 2 are needed")


@dataclass
class _Sums:
    """Count, sum and scatter of x - origin in one group, the origin being the mean of the first block."""

    count: int = 0
    origin: Tensor | None = None
    total: Tensor | None = None  # (D,)
    scatter: Tensor | None = None  # (D, D)

    def add(self, x: Tensor) -> None:
        if self.origin is None:
            self.origin = x.mean(0)
            self.total = torch.zeros_like(self.origin)
            self.scatter = self.origin.new_zeros(len(self.origin), len(self.origin))
        assert self.total is not None and self.scatter is not None
        x = x - self.origin
        self.count += len(x)
        self.total += x.sum(0)
        self.scatter.addmm_(x.T, x)

    def moments(self) -> "Moments":
        """Return count, mean, and scatter about the mean."""
        assert self.origin is not None and self.total is not None and self.scatter is not None
        shift = self.total / self.count
        scatter = torch.addr(self.scatter, self.total, shift, alpha=-1)
        return Moments(self.count, self.origin + shift, scatter)


@dataclass(frozen=True)
class Moments:
    """Count, mean (D,) and scatter (D, D), the sum of (x - mean)(x - mean)ᵀ, of some samples. Of no samples all
    are 0."""

    count: int
    mean: Tensor
    scatter: Tensor

    def __add__(self, other: "Moments") -> "Moments":
        """Return the moments of both sets together.

        Source: T. F. Chan, G. H. Golub, R. J. LeVeque, Updating formulae and a pairwise algorithm for computing
        sample variances, COMPSTAT 1982.
        """
        if len(self.mean) != len(other.mean):
            raise ValueError(f"features have {len(other.mean)} dimensions, and earlier ones {len(self.mean)}")
        if not self.count or not other.count:
            return self if self.count else other
        total = self.count + other.count
        shift = other.mean - self.mean
        scatter = self.scatter + other.scatter
        scatter.addr_(shift, shift, alpha=self.count * other.count / total)
        return Moments(total, self.mean + shift * (other.count / total), scatter)

    def statistics(self, **belongs: str) -> Statistics:
        """Return the statistics, with `detector`, `preprocessing` and `source` where they are known."""
        return Statistics(mean=self.mean, cov=self.scatter / max(1, self.count - 1), count=self.count, **belongs)


def merged(parts: Sequence[Moments]) -> Moments:
    """Return the moments of all `parts` together, merged in their order."""
    whole = parts[0]
    for part in parts[1:]:
        whole = whole + part
    return whole


class Accumulator:
    """Takes features in batches and keeps the moments of each group, in float64 on the CPU.

    Holds 8 (D, D) matrices: 256 MiB for 2,048 dimensions, however many samples come.
    """

    def __init__(self, dimensions: int = 0) -> None:
        """Start without features.

        dimensions: D; 0: that of the first features. A process that may get no sample at all must give it.
        """
        self._sums = [_Sums() for _ in range(GROUPS)]
        self._rest: list[Tensor] = []  # rows of a block that is not full yet
        self._next = 0
        self._dimensions = dimensions

    @property
    def dimensions(self) -> int:
        """The number of dimensions D; 0 before it is known."""
        return self._dimensions

    def update(self, features: ArrayLike, first: int | None = None) -> None:
        """Take in features (B, D) of samples `first` … first + B - 1; None: of those that follow the last ones.

        A process that computes every other block of 64 says where each begins.

        Raises:
            ValueError: not two-dimensional, empty, not finite, a D other than before, or a jump within a block.
        """
        x = as_float64("features", features, 2)
        if self._dimensions and x.shape[1] != self._dimensions:
            raise ValueError(f"features have {x.shape[1]} dimensions, and earlier ones had {self._dimensions}")
        self._dimensions = x.shape[1]
        if first is not None and first != self._next:
            if first % BLOCK or self._rest:
                raise ValueError(
                    f"samples jump from {self._next} to {first}: a process must compute whole blocks of {BLOCK}"
                )
            self._next = first
        while len(x):
            room = BLOCK - self._next % BLOCK
            rows, x = x[:room], x[room:]
            self._rest.append(rows.clone())
            if len(rows) == room:
                self._flush(self._sums)
                self._rest = []
            self._next += len(rows)

    def _flush(self, sums: list[_Sums]) -> None:
        sums[self._next // BLOCK % GROUPS].add(torch.cat(self._rest))

    def groups(self, all_reduce: Callable[[Tensor], object] | None = None) -> list[Moments]:
        """Return the moments of each of the 8 groups; further samples can still be taken in.

        Args:
            all_reduce: sums a float64 tensor over the processes, in place; every process must call this. Each
                group must have been computed by one process alone, so that the sums add only zeros.

        Raises:
            ValueError: there are no features yet.
        """
        if not self._dimensions:
            raise ValueError("no features yet: statistics need at least 1 sample")
        sums = list(self._sums)
        if self._rest:
            last = self._next // BLOCK % GROUPS
            old = sums[last]
            sums[last] = _Sums(old.count, old.origin, _copy(old.total), _copy(old.scatter))
            self._flush(sums)
        return [self._reduced(one, all_reduce) for one in sums]

    def _reduced(self, sums: _Sums, all_reduce: Callable[[Tensor], object] | None) -> Moments:
        D = self._dimensions
        moments = sums.moments() if sums.count else Moments(0, torch.zeros(D).double(), torch.zeros(D, D).double())
        if all_reduce is None:
            return moments
        packed = torch.cat(
            [torch.tensor([float(moments.count)]).double(), moments.mean, moments.scatter.flatten()]
        )
        all_reduce(packed)
        return Moments(int(packed[0]), packed[1 : D + 1], packed[D + 1 :].view(D, D))

    def statistics(self, all_reduce: Callable[[Tensor], object] | None = None, **belongs: str) -> Statistics:
        """Return the statistics of all samples; raise a `ValueError` before the second one."""
        return merged(self.groups(all_reduce)).statistics(**belongs)


def statistics_of(features: ArrayLike, **belongs: str) -> Statistics:
    """Return the statistics of features (N, D); see `Accumulator`."""
    accumulator = Accumulator()
    accumulator.update(features)
    return merged(accumulator.groups()).statistics(**belongs)


def _copy(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.clone()
