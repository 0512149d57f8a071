"""A set of latents as training sees it: read from disk as it is asked for, drawn anew at each visit."""

import os
import resource
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alphaflow.errors import UserError
from alphaflow.rng import KeyedRandom, hash_key

from .manifest import Manifest, read_manifest
from .shards import Shard, open_shard

_BLOCK = 16  # rows that are computed together, few enough to stay in the processor's cache


class Latents:
    """The set of latents in the folder `root`, as `alphaflow encode` made it.

    A sample is x = (latent - offset) / divisor, channel by channel (see `Manifest.scaling`), with
    latent = mean + exp(logvar / 2) · noise. Nothing is held in memory: each latent is read at its place in its
    shard when it is asked for. That goes through the system's page cache as mapped memory would, but costs one
    request a latent when the disk has to be asked, and leaves the process's memory as it was.

    Raises:
        UserError: no finished set there, or a damaged shard.
    """

    kind: Literal["latent"] = "latent"

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self.manifest: Manifest = read_manifest(root)
        self.shape: tuple[int, ...] = self.manifest.shape
        self.class_names = self.manifest.fingerprint.class_names
        self.num_classes: int = len(self.class_names)
        self.fingerprint: str = self.manifest.fingerprint.digest
        self.mirrored: bool = self.manifest.versions == 2
        self._shards = [self._open(name, count) for name, count in self.manifest.shards if count]
        self._starts = np.cumsum([0, *(shard.count for shard in self._shards)])
        self._files: dict[int, int] = {}
        offset, divisor = (torch.from_numpy(part).reshape(-1, 1, 1) for part in self.manifest.scaling)
        self._offset, self._divisor = offset, divisor
        _allow_open_files(len(self._shards))

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __del__(self) -> None:
        for file in getattr(self, "_files", {}).values():
            os.close(file)

    def labels(self) -> NDArray[np.int64] | None:
        """The labels of all rows, int64 (N,), read from the shards; `None` without classes."""
        if not self.num_classes:
            return None
        return np.concatenate([part for shard in self._shards if (part := shard.labels()) is not None])

    def batch(self, indices: Tensor, flip: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The latents at `indices`, each with the noise that belongs to its row; see `Dataset.batch`."""
        return self.draw(indices, indices, 0, flip)

    def draw(
        self, indices: Tensor, sample_ids: Tensor, seed: int, flip: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The latents at `indices`, int64 (B,), each drawn with the noise of (seed, sample id).

        Args:
            indices: rows of the set.
            sample_ids: int64 (B,): which visits these are; the same row gets other noise at another visit.
            flip: bool (B,); takes the mirrored version of those images.

        Returns:
            x, float32 (B, C, h, w), and the labels y, int64 (B,), or `None` without classes.

        Raises:
            ValueError: `flip` was given and the mirrored images are not in the set.
        """
        if flip is not None and not self.mirrored:
            raise ValueError(f"{self.root} holds no mirrored images, and a latent cannot be mirrored itself")
        rows = indices.numpy()
        versions = np.zeros(len(rows), np.int64) if flip is None else flip.numpy().astype(np.int64)
        x, y = torch.empty(len(rows), *self.shape), np.empty(len(rows), np.int64)
        key = hash_key(seed, "latent")
        for first in range(0, len(rows), _BLOCK):
            part = slice(first, first + _BLOCK)
            moments = torch.from_numpy(self._read(rows[part], versions[part], y[part])).float()
            if self.manifest.variance:
                mean, logvar = moments.chunk(2, dim=1)
                noise = KeyedRandom(key, sample_ids[part]).normal("latent", self.shape)
                moments = mean.addcmul_(logvar.mul_(0.5).exp_(), noise)
            torch.div(moments.sub_(self._offset), self._divisor, out=x[part])
        return x, torch.from_numpy(y) if self.num_classes else None

    def _read(self, rows: NDArray, versions: NDArray, labels: NDArray) -> NDArray[np.floating]:
        """The stored numbers of these rows; fills in `labels` where there are classes."""
        head = self._shards[0]
        moments = np.empty((len(rows), *head.moments_shape), head.dtype)
        label = np.empty(1, "<i8")
        where = np.searchsorted(self._starts, rows, side="right") - 1
        for k, (row, number, version) in enumerate(zip(rows, where.tolist(), versions.tolist())):
            shard, inside = self._shards[number], int(row - self._starts[number])
            file = self._file(number)
            at = shard.moments_at + (inside * shard.versions + version) * shard.row_bytes
            if os.preadv(file, [moments[k].reshape(-1).view(np.uint8).data], at) != shard.row_bytes:
                raise UserError(f"{shard.path} has become shorter while it was read: encode the set anew")
            if shard.labels_at is not None:
                os.preadv(file, [label.view(np.uint8).data], shard.labels_at + 8 * inside)
                labels[k] = label[0]
        return moments

    def _file(self, number: int) -> int:
        """The open file of a shard. Two threads may both open it at first; one of the two is closed again."""
        if number not in self._files:
            try:
                opened = os.open(self._shards[number].path, os.O_RDONLY)
            except OSError as error:
                raise UserError(f"cannot read {self._shards[number].path} ({error.strerror})") from None
            if self._files.setdefault(number, opened) != opened:
                os.close(opened)
        return self._files[number]

    def _open(self, name: str, count: int) -> Shard:
        shard = open_shard(self.root / name)
        channels = self.manifest.shape[0] * (2 if self.manifest.variance else 1)
        expected = (count, self.manifest.versions, (channels, *self.manifest.shape[1:]), self.manifest.dtype)
        found = (shard.count, shard.versions, shard.moments_shape, shard.dtype.name)
        if found != expected:
            raise UserError(f"{shard.path} holds {found}, and the manifest says {expected}: encode the set anew")
        return shard


def _allow_open_files(count: int) -> None:
    """Raise the process's own bound on open files, which is often 1024, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 512
    if soft != resource.RLIM_INFINITY and soft < wanted:
        bound = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (bound, hard))
