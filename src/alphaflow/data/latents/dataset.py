"""A set of latents as training sees it: read from disk as it is asked for, drawn anew at each visit."""

import math
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alphaflow.data.sources.words import found_words
from alphaflow.errors import UserError
from alphaflow.rng import KeyedRandom, hash_key

from .manifest import Manifest, by_place, read_manifest
from .shards import Shard, open_shard

_BLOCK = 32  # rows that are computed together, few enough to stay in the processor's cache


class Latents:
    """The set of latents in the folder `root`, as `alphaflow encode` made it.

    A sample is x = (latent - offset) / divisor, by channel or by place (see `Manifest.scaling`), with
    latent = mean + exp(logvar / 2) · noise. Nothing is held in memory: each latent is read at its place in its
    shard when it is asked for. That goes through the system's page cache as mapped memory would, but costs one
    request a latent when the disk has to be asked, and leaves the process's memory as it was.

    Raises:
        UserError: there is no finished set, or a shard is damaged; while it is read, a shard has numbers that are
            not finite.
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
        offset, divisor = (torch.from_numpy(by_place(part, *self.shape[1:])) for part in self.manifest.scaling)
        self._offset, self._divisor = offset, divisor
        _allow_open_files(len(self._shards))

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def found(self) -> str:
        """One line for people about what the set holds."""
        return found_words(
            str(self.root), len(self), self.class_names, unit="latents", skipped=self.manifest.skipped
        )

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # bound now: modules may go first
        for file in getattr(self, "_files", {}).values():
            close(file)

    def labels(self) -> NDArray[np.int64] | None:
        """Return the labels of all rows, int64 (N,), read from the shards; `None` without classes."""
        if not self.num_classes:
            return None
        return np.concatenate([part for shard in self._shards if (part := shard.labels()) is not None])

    def batch(self, indices: Tensor, flip: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the latents at `indices`, each with the noise that belongs to its row; see `Dataset.batch`."""
        return self.draw(indices, indices, 0, flip)

    def draw(
        self, indices: Tensor, sample_ids: Tensor, seed: int, flip: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the latents at `indices`, int64 (B,), each drawn with the noise of (seed, sample id).

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
            if not math.isfinite(float(x[part].sum())):  # one number tells of all
                self._blame(rows[part], x[part])
        return x, torch.from_numpy(y) if self.num_classes else None

    def _blame(self, rows: NDArray, x: Tensor) -> None:
        """Raise a `UserError` that names the shard of the first row that is not finite, if there is one."""
        bad = np.flatnonzero(~torch.isfinite(x).flatten(1).all(1).numpy())
        if len(bad):
            row = int(rows[bad[0]])
            number = int(np.searchsorted(self._starts, row, side="right") - 1)
            path, inside = self._shards[number].path, row - int(self._starts[number])
            raise UserError(
                f"{path}: row {inside} holds numbers that are not finite: it is damaged; remove it and give the "
                "`alphaflow encode` command again"
            )

    def _read(self, rows: NDArray, versions: NDArray, labels: NDArray) -> NDArray[np.floating]:
        """Return the stored numbers of these rows, and fill in `labels` where there are classes."""
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
        """Return the open file of a shard. Two threads may both open it at first; one of the two is closed
        again."""
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
        if self.num_classes and shard.labels_at is None:
            raise UserError(
                f"{shard.path} holds no labels, and the set has {self.num_classes} classes: encode it anew"
            )
        if self.num_classes:
            shard.check_labels(self.num_classes)
        channels = self.manifest.shape[0] * (2 if self.manifest.variance else 1)
        expected = (count, self.manifest.versions, (channels, *self.manifest.shape[1:]), self.manifest.dtype)
        form = (shard.count, shard.versions, shard.moments_shape, shard.dtype.name)
        if form != expected:
            raise UserError(f"{shard.path} holds {form}, and the manifest says {expected}: encode the set anew")
        return shard


def _allow_open_files(count: int) -> None:
    """Raise the process's own bound on open files, which is often 1024, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + 512
    if soft != resource.RLIM_INFINITY and soft < needed:
        bound = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (bound, hard))
