"""One shard of a set of latents: a safetensors file that is there whole or not at all.

    moments   float16 or float32 (n, V, 2C, h, w): mean and log-variance; (n, V, C, h, w) without variance
    labels    int64 (n,), where there are classes
    mean, var float64 (C, h, w): of the shard's latents as they are drawn, at each position

and in its metadata which images it stands for, which of them could not be read, and a digest of the rest.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alphaflow.errors import UserError, one_line
from alphaflow.files import write_whole

LOGVAR_MIN, LOGVAR_MAX = -30.0, 20.0  # as diffusers' DiagonalGaussianDistribution bounds it
CLASSES_AT_MOST = 2**20
"""The most classes; more are taken for damage, since each has its name, and its row in a network."""
_DIGESTS = 2**256  # what the digests of rows are summed by


def shard_name(number: int) -> str:
    """Return the file of shard `number`."""
    return f"shard-{number:06d}.safetensors"


class LatentStatistics(NamedTuple):
    """Number, mean and variance of latents at each position, the latter float64 (C, h, w)."""

    total: int
    mean: NDArray[np.float64]
    var: NDArray[np.float64]


@dataclass(frozen=True)
class Shard:
    """The head of a shard's file."""

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
    stored_digest: int | None = None
    """The digest as `row_digests` gave it; None in older shards."""

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of one version of one image."""
        return int(np.prod(self.moments_shape)) * self.dtype.itemsize

    def labels(self) -> NDArray[np.int64] | None:
        """Classes, int64 (n,), or `None` without classes."""
        if self.labels_at is None:
            return None
        return np.fromfile(self.path, "<i8", count=self.count, offset=self.labels_at).astype(np.int64)

    def indices(self) -> list[int]:
        """Return the numbers in the source of the rows."""
        missing = {index for index, _ in self.skipped}
        return [index for index in range(self.first, self.stop) if index not in missing]

    def digest(self) -> int:
        """Return the digest of the rows, from the metadata, or computed for an older shard; see `row_digests`."""
        if self.stored_digest is not None:
            return self.stored_digest
        labels, total, indices = self.labels(), 0, self.indices()
        at = self.row_bytes * self.versions // self.dtype.itemsize
        with self.path.open("rb") as file:
            file.seek(self.moments_at)
            for k, index in enumerate(indices):
                row = np.fromfile(file, self.dtype, at)[None]
                total += row_digests(row, None if labels is None else labels[k : k + 1], [index])
        return total % _DIGESTS

    def check_labels(self, classes: int) -> None:
        """Raise a `UserError` for a label that is no class."""
        labels = self.labels()
        if labels is None or not len(labels) or (labels.min() >= 0 and labels.max() < classes):
            return
        row = int(np.flatnonzero((labels < 0) | (labels >= classes))[0])
        raise UserError(
            f"{self.path}: row {row} has label {labels[row]}, and the set has {classes} classes: it is damaged; "
            "remove it and give the `alphaflow encode` command again"
        )

    def statistics(self) -> LatentStatistics:
        """Return the statistics of the latents in this shard."""
        from safetensors.numpy import safe_open

        with safe_open(self.path, "np") as file:
            return LatentStatistics(self.count * self.versions, file.get_tensor("mean"), file.get_tensor("var"))


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
    skipped = list(skipped)
    missing = {index for index, _ in skipped}
    indices = [index for index in range(first, stop) if index not in missing]
    digest = row_digests(moments, labels, indices)
    about = {"first": first, "stop": stop, "skipped": skipped, "digest": f"{digest:064x}"}
    write_whole(path, save(tensors, metadata={"shard": json.dumps(about)}))


def row_digests(moments: NDArray[np.floating], labels: NDArray[np.int64] | None, indices: Sequence[int]) -> int:
    """Return the sum, modulo 2²⁵⁶, of the SHA-256 of each row (n, …) with its label and its number in the source.
    Those of several shards are added, so it does not matter how the rows are shared out among them."""
    total = 0
    for k, index in enumerate(indices):
        label = "" if labels is None else int(labels[k])
        row_hash = hashlib.sha256(f"{index}|{label}|".encode())
        row_hash.update(np.ascontiguousarray(moments[k]).data.cast("B"))
        total += int.from_bytes(row_hash.digest(), "big")
    return total % _DIGESTS


def contents_digest(shards: Iterable[Shard]) -> str:
    """Return 16 hexadecimal digits of all rows of some shards, whatever the shards' sizes."""
    total = sum(shard.digest() for shard in shards) % _DIGESTS
    return hashlib.sha256(f"{total:064x}".encode()).hexdigest()[:16]


def _statistics(moments: NDArray[np.floating], variance: bool) -> LatentStatistics:
    """Return mean and variance of the drawn latents, exactly: Var x = Var(mean) + E(variance)."""
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
    return LatentStatistics(count, pivot + total / count, square / count - (total / count) ** 2 + spread / count)


def merge(parts: Iterable[LatentStatistics]) -> LatentStatistics:
    """Return the statistics of several shards together (Chan, Golub & LeVeque 1979), in their order."""
    count, mean, var = next(iter(parts := iter(parts)))
    for more, other, spread in parts:
        share = more / (count + more)
        shift = other - mean
        var = (1 - share) * var + share * spread + share * (1 - share) * shift**2
        mean, count = mean + share * shift, count + more
    return LatentStatistics(count, mean, var)


def open_shard(path: Path) -> Shard:
    """Read the head of a shard's file, and check that nothing of the rest is missing.

    Raises:
        UserError: the file is truncated, or no shard.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length < 2**25:
                raise ValueError("its head is not that of a safetensors file")
            head = json.loads(file.read(length))
        about = json.loads(head.pop("__metadata__")["shard"])
        moments, labels, start = head["moments"], head.get("labels"), 8 + length
        end = start + max(_checked(entry) for entry in head.values())
        if path.stat().st_size != end:
            raise ValueError(f"it has {path.stat().st_size} bytes instead of {end}")
        count, versions, *shape = moments["shape"]
        if labels is not None and (labels["dtype"], labels["shape"]) != ("I64", [count]):
            raise ValueError(f"its labels are {labels['dtype']} {labels['shape']}, not I64 [{count}]")
        skipped = tuple((int(index), str(reason)) for index, reason in about["skipped"])
        if about["stop"] - about["first"] != count + len(skipped):
            raise ValueError(f"it holds {count} images and {len(skipped)} skipped ones of {about}")
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
            skipped=skipped,
            stored_digest=int(about["digest"], 16) if "digest" in about else None,
        )
    except FileNotFoundError:
        raise UserError(f"{path} is missing: give the command of `alphaflow encode` again") from None
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        what = one_line(error)
        raise UserError(
            f"{path} is damaged ({what}): remove it and give the `alphaflow encode` command again"
        ) from None


_BYTES = {"F16": 2, "F32": 4, "F64": 8, "I64": 8}


def _checked(entry: dict[str, Any]) -> int:
    """Return where a tensor's bytes end; raise a `ValueError` unless they are as many as its shape and type
    say."""
    begin, end = entry["data_offsets"]
    numbers = [*entry["shape"], begin, end]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("its head holds numbers that are no sizes")
    if end - begin != math.prod(entry["shape"]) * _BYTES[entry["dtype"]]:
        raise ValueError(f"a tensor {entry['shape']} of {entry['dtype']} has {end - begin} bytes")
    return end
