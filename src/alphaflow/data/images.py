"""Images of a source as a data set: decoded once, into memory or, if they are many, into a file of the cache."""

import hashlib
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alphaflow.data.pixel_cache import Decoded, decoded_file
from alphaflow.data.sources import Crop, Source, decode_or_reason, open_source
from alphaflow.data.sources.classes import shown
from alphaflow.data.sources.decoding import CROPPED, check_size_and_crop
from alphaflow.data.sources.words import found_words
from alphaflow.errors import UserError, one_line
from alphaflow.pixels import luminance, mirror, scale_pixels

Skipped = list[tuple[int, str]]
"""The images that cannot be decoded, by number, each with the reason."""

IN_MEMORY = 4.0
"""GB (10⁹ bytes) of decoded images that one process may well hold."""
_NAMED_AT_MOST = 10
_BLOCK = 8  # images a task of the pool: enough to hide what a task costs
_ROUND = 4096  # images between two marks of progress


class Images:
    """The images of a source, as RGB or grey of `size` x `size` pixels in [-1, 1]; see `sources.decode` for the
    conversion.

    All of them are decoded once, into 3 · size² bytes an image: into memory if they fit into `memory`, otherwise
    into a file of the cache, which is mapped, shared by the processes of a machine and found again by the next
    run. Images that cannot be decoded are named on stderr and left out.

    Args:
        source: the images, or their address; see `open_source`.
        class_names: the order of the classes, if a run has recorded it; images of other classes are passed over.
            `None`: the source's own.
        size: side of the images in pixels, at least 1.
        crop: how an image becomes a square; see `sources.decode`.
        tolerance: the largest share of undecodable images, in [0, 1], that is not an error.
        memory: GB (10⁹ bytes) of decoded images that may be held in memory, at least 0.
        grey: whether samples have one channel, the luminance, rather than three.

    Raises:
        UserError: an argument is bad, too many images cannot be decoded, a class is left with none, or there is no
            room for the cache.
    """

    kind: Literal["image", "video", "points"] = "image"
    manifest: None = None

    def __init__(
        self,
        source: Source | str | os.PathLike[str],
        size: int,
        *,
        crop: Crop = "lanczos",
        tolerance: float = 0.1,
        memory: float = IN_MEMORY,
        class_names: Sequence[str] | None = None,
        grey: bool = False,
    ) -> None:
        check_size_and_crop(size, crop)
        if not 0 <= tolerance <= 1:
            raise UserError(f"tolerance {tolerance!r} is not a share: give a number from 0 to 1")
        if not memory >= 0:
            raise UserError(f"memory {memory!r} is no amount: give GB, 0 or more")
        source = open_source(os.fspath(source)) if isinstance(source, (str, os.PathLike)) else source
        self.source, self.crop = source, CROPPED[crop]
        count = len(source)
        if not count:
            raise UserError(f"{source.address} holds no images: give another address")
        kept: Decoded | None = None
        if count * 3 * size * size <= round(memory * 1e9):
            pixels = np.empty((count, 3, size, size), np.uint8)
            bad = decode_range(source, pixels, crop, range(count))
        else:
            kept = decoded_file(source, size, crop, decode_range)
            pixels, bad = kept.pixels, kept.skipped
        self.skipped = [(source.name(index), reason) for index, reason in bad]
        _report(self.skipped)
        _check(source.address, self.skipped, count, tolerance)
        self._rows = np.setdiff1d(np.arange(count), [index for index, _ in bad]) if bad else None
        every, self.class_names = _in_order(source, class_names)
        labels = np.zeros(count, np.int64) if every is None else every
        labels = labels if self._rows is None else labels[self._rows]
        for label in np.setdiff1d([] if every is None else every, labels):
            raise UserError(
                f"{source.address}: class {self.class_names[label]!r}: none of its images can be read: remove it"
            )
        self.shape: tuple[int, ...] = (1 if grey else 3, size, size)
        self.num_classes: int = len(self.class_names)
        settings = f"folder {size} {crop} centre {self.class_names}{' grey' * grey}"

        def hashed() -> str:
            return _fingerprint(settings, pixels, self._rows, labels)

        self.fingerprint: str = kept.remember(settings, hashed) if kept else hashed()
        self._pixels = torch.from_numpy(pixels)
        self._y = torch.from_numpy(labels) if self.num_classes else None
        self._count = len(labels)

    @property
    def found(self) -> str:
        """One line for people about what the source holds; see `found_words`."""
        return found_words(
            self.source.address,
            len(self),
            self.class_names,
            origin=getattr(self.source, "origin", ""),
            skipped=len(self.skipped),
            passed_over=getattr(self.source, "passed_over", ()),
        )

    def __len__(self) -> int:
        return self._count

    def batch(self, indices: Tensor, flip: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return x, float32 (B, 3, size, size), or (B, 1, size, size) of grey ones, in [-1, 1], and y, int64 (B,),
        or `None`; see `Dataset`."""
        y = None if self._y is None else self._y[indices]
        rows = indices if self._rows is None else torch.from_numpy(self._rows[indices.numpy()])
        pixels = self._pixels[rows]
        return mirror(scale_pixels(luminance(pixels) if self.shape[0] == 1 else pixels), flip), y


def _in_order(source: Source, names: Sequence[str] | None) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    """Return labels and class names of a source, with its classes in the order of `names` where these are the same
    ones."""
    mine, safe = tuple(source.class_names), tuple(map(shown, names or ()))
    if source.labels is None or mine == safe or sorted(mine) != sorted(safe):
        return source.labels, mine
    place = np.array([safe.index(name) for name in mine])
    return place[source.labels], tuple(names or ())


def decode_range(source: Source, pixels: NDArray[np.uint8], crop: Crop, which: Sequence[int]) -> Skipped:
    """Decode the images `which` of a source into their rows of `pixels`, uint8 (N, 3, size, size), on all cores.

    Returns:
        those that cannot be decoded; their rows are zero.
    """
    from rich.console import Console
    from rich.progress import Progress

    def work(block: Sequence[int]) -> Skipped:
        bad: Skipped = []
        for index in block:
            reason = _read(source, index, crop, pixels[index])
            if reason is not None:
                pixels[index] = 0
                bad.append((index, reason))
        return bad

    skipped: Skipped = []
    bar = Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True)
    with bar, ThreadPoolExecutor(min(64, len(os.sched_getaffinity(0)))) as pool:
        task = bar.add_task("decoding images", total=len(source), completed=which[0] if which else 0)
        for start in range(0, len(which), _ROUND):  # bounds the number of tasks that wait at once
            some = which[start : start + _ROUND]
            for bad in pool.map(work, (some[k : k + _BLOCK] for k in range(0, len(some), _BLOCK))):
                skipped += bad
            bar.advance(task, len(some))
    return skipped


def _read(source: Source, index: int, crop: Crop, out: NDArray[np.uint8]) -> str | None:
    """Decode one image into `out`, or say why it cannot be."""
    try:
        data = source.read(index)
    except OSError as error:
        return error.strerror or one_line(error)
    outcome = decode_or_reason(data, out.shape[-1], crop, out)
    return outcome if isinstance(outcome, str) else None


def _fingerprint(
    settings: str, pixels: NDArray[np.uint8], rows: NDArray[np.int64] | None, labels: NDArray[np.int64]
) -> str:
    """Return what `dataset.fingerprint` gives for the chosen rows and the labels, without a copy of the rows."""
    digest = hashlib.sha256(settings.encode())
    digest.update(f"|{pixels.dtype.str}{(len(labels), *pixels.shape[1:])}|".encode())
    for start in range(0, len(labels), _ROUND):
        part = slice(start, start + _ROUND)
        digest.update(np.ascontiguousarray(pixels[part] if rows is None else pixels[rows[part]]).data)
    digest.update(f"|{labels.dtype.str}{labels.shape}|".encode())
    digest.update(np.ascontiguousarray(labels).data)
    return digest.hexdigest()[:16]


def _report(skipped: Sequence[tuple[str, str]]) -> None:
    for name, reason in skipped[:_NAMED_AT_MOST]:
        print(f"skipped {name}: {reason}", file=sys.stderr)
    if len(skipped) > _NAMED_AT_MOST:
        print(f"skipped {len(skipped) - _NAMED_AT_MOST} more unreadable images", file=sys.stderr)


def _check(address: str, skipped: Sequence[tuple[str, str]], total: int, tolerance: float) -> None:
    if len(skipped) == total or len(skipped) > tolerance * total:
        name, reason = skipped[0]
        raise UserError(
            f"{address}: {len(skipped)} of {total} images cannot be read, more than the tolerated "
            f"{tolerance:.0%} (first {name}: {reason}): repair or remove them, or raise the tolerance"
        )
