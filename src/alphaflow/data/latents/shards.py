"""One shard of a set of latents: a safetensors file that is there whole or not at all.

    moments   float16 or float32 (n, V, 2C, h, w): mean and log-variance; (n, V, C, h, w) without variance
    labels    int64 (n,), where there are classes
    mean, var float64 (C, h, w): of the shard's latents as they are drawn, at each position

and in its metadata which images it stands for, and which of them could not be read.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alphaflow.errors import UserError

from .manifest import write_whole

LOGVAR_MIN, LOGVAR_MAX = -30.0, 20.0  # as diffusers' DiagonalGaussianDistribution bounds it


def shard_name(number: int) -> str:
    """The file of shard `number`."""
    return f"shard-{number:06d}.safetensors"


class Statistics(NamedTuple):
    """Of the latents at each position: how many, mean and variance, float64 (C, h, w)."""

    total: int
    mean: NDArray[np.float64]
    var: NDArray[np.float64]


@dataclass(frozen=True)
class Shard:
    """What the head of a shard's file says."""

    path: Path
    count: int
    versions: int
    moments_shape: tuple[int, int, int]
    dtype: np.dtype
    moments_at: int
    """Byte at which the moments begin."""
    labels_at: int | None
    first: int
    """Number of its first image in the source."""
    stop: int
    skipped: tuple[tuple[int, str], ...]
    """Images that could not be read, with the reason."""

    @cached_property
    def row_bytes(self) -> int:
        """Of one version of one image."""
        return int(np.prod(self.moments_shape)) * self.dtype.itemsize

    def labels(self) -> NDArray[np.int64] | None:
        """int64 (n,), or `None` without classes."""
        if self.labels_at is None:
            return None
        return np.fromfile(self.path, "<i8", count=self.count, offset=self.labels_at).astype(np.int64)

    def statistics(self) -> Statistics:
        """Of the latents in this shard."""
        from safetensors.numpy import safe_open

        with safe_open(self.path, "np") as file:
            return Statistics(self.count * self.versions, file.get_tensor("mean"), file.get_tensor("var"))


def write_shard(
    path: Path,
    moments: NDArray[np.floating],
    labels: NDArray[np.int64] | None,
    *,
    variance: bool,
    first: int,
    stop: int,
    skipped: Iterable[tuple[int, str]] = (),
) -> None:
    """Write a shard atomically. `moments` (n, V, 2C or C, h, w); see the head of this file for the rest."""
    from safetensors.numpy import save

    tensors: dict[str, NDArray[np.generic]] = {"moments": np.ascontiguousarray(moments)}
    if labels is not None:
        tensors["labels"] = labels.astype(np.int64)
    if len(moments):
        _, mean, var = _statistics(moments, variance)
        tensors |= {"mean": mean, "var": var}
    # one key: safetensors writes several in an order that changes from run to run
    about = {"first": first, "stop": stop, "skipped": list(skipped)}
    write_whole(path, save(tensors, metadata={"shard": json.dumps(about)}))


def _statistics(moments: NDArray[np.floating], variance: bool) -> Statistics:
    """Mean and variance of the drawn latents, exactly: Var x = Var(mean) + E(variance)."""
    n, versions, channels = moments.shape[:3]
    kept = channels // 2 if variance else channels
    total = np.zeros((kept, *moments.shape[3:]))
    square, spread = np.zeros_like(total), np.zeros_like(total)
    pivot = moments[0, 0, :kept].astype(np.float64)  # deviations from it lose no digits
    for row in moments:
        for version in row.astype(np.float64):
            deviation = version[:kept] - pivot
            total += deviation
            square += deviation**2
            if variance:
                spread += np.exp(version[kept:])
    count = n * versions
    return Statistics(count, pivot + total / count, square / count - (total / count) ** 2 + spread / count)


def merge(parts: Iterable[Statistics]) -> Statistics:
    """The statistics of several shards together (Chan, Golub & LeVeque 1979), in their order."""
    count, mean, var = next(iter(parts := iter(parts)))
    for more, other, spread in parts:
        share = more / (count + more)
        shift = other - mean
        var = (1 - share) * var + share * spread + share * (1 - share) * shift**2
        mean, count = mean + share * shift, count + more
    return Statistics(count, mean, var)


def open_shard(path: Path) -> Shard:
    """Read the head of a shard's file, and check that nothing of the rest is missing.

    Raises:
        UserError: it is truncated, or no shard.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length < 2**25:
                raise ValueError("its head is not that of a safetensors file")
            head = json.loads(file.read(length))
        about = json.loads(head.pop("__metadata__")["shard"])
        moments, labels, start = head["moments"], head.get("labels"), 8 + length
        end = start + max(entry["data_offsets"][1] for entry in head.values())
        if path.stat().st_size != end:
            raise ValueError(f"it has {path.stat().st_size} bytes instead of {end}")
        count, versions, *shape = moments["shape"]
        return Shard(
            path=path,
            count=count,
            versions=versions,
            moments_shape=(shape[0], shape[1], shape[2]),
            dtype=np.dtype({"F16": "<f2", "F32": "<f4"}[moments["dtype"]]),
            moments_at=start + moments["data_offsets"][0],
            labels_at=None if labels is None else start + labels["data_offsets"][0],
            first=about["first"],
            stop=about["stop"],
            skipped=tuple((index, reason) for index, reason in about["skipped"]),
        )
    except FileNotFoundError:
        raise UserError(f"{path} is missing: give the command of `alphaflow encode` again") from None
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        what = " ".join(str(error).split())
        raise UserError(
            f"{path} is damaged ({what}): remove it and give the `alphaflow encode` command again"
        ) from None
