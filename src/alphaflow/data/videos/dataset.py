"""Video files as a data set: decoded once, into a file that is mapped."""

import hashlib
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alphaflow.data.dataset import fingerprint
from alphaflow.data.sources.words import found_words
from alphaflow.data.videos.clip_files import ClipFiles, check_clip, find_clips, needs_av, read_clip, require_av
from alphaflow.errors import UserError, one_line
from alphaflow.files import cache_folder, locked, write_whole
from alphaflow.pixels import mirror, scale_pixels

_NAMED_AT_MOST = 10


class VideoClips:
    """The middle of each video at an address: RGB clips (3, frames, size, size) in [-1, 1].

    All are decoded once, into 3 · frames · size² bytes a clip in a file below $ALPHAFLOW_CACHE (or else
    ~/.cache/alphaflow), which is mapped, shared by the processes of a machine and found again by the next run as
    long as the videos do not change. Videos that cannot be decoded, or are too short, are named on stderr and left
    out.

    Args:
        address: see `find_clips`.
        frames: frames of a clip.
        rate: frames a second.
        size: side of a frame in pixels.
        tolerance: the largest share of unreadable videos, in [0, 1], that is not an error.

    Raises:
        UserError: there are no videos, too many are unreadable, settings are out of range, PyAV is missing, or
            there is no room for the file.
    """

    kind: Literal["image", "video", "points"] = "video"
    manifest: None = None

    def __init__(
        self,
        address: str | os.PathLike[str],
        *,
        frames: int = 16,
        rate: float = 8.0,
        size: int = 64,
        tolerance: float = 0.1,
    ) -> None:
        check_clip(frames, rate, size)
        if not 0 <= tolerance <= 1:
            raise UserError(f"tolerance {tolerance!r} is not a share: give a number from 0 to 1", status=2)
        self.crop, self.rate = "lanczos", rate
        files = find_clips(address)
        pixels, hashed, self.skipped = _decoded(files, frames, rate, size)
        _report(self.skipped)
        _check(address, self.skipped, len(files.paths), tolerance)
        broken = {path for path, _ in self.skipped}
        kept = np.array([str(path) not in broken for path in files.paths])
        self._pixels, self._rows = pixels, torch.from_numpy(np.flatnonzero(kept))
        labels = files.labels[kept]
        self.class_names, self.num_classes = files.class_names, len(files.class_names)
        # of the classes that some list names, many may have no video here
        for label in np.setdiff1d(files.labels if self.num_classes else [], labels):
            raise UserError(
                f"{address}: class {self.class_names[label]!r}: none of its videos can be read: remove it"
            )
        self._y = torch.from_numpy(labels) if self.num_classes else None
        self.shape: tuple[int, ...] = (3, frames, size, size)
        settings = f"clips {frames} frames at {rate:g}, {size}, middle, lanczos, {self.class_names}, {hashed}"
        self.fingerprint: str = fingerprint(settings, labels)
        self._address, self._passed_over = str(address), files.passed_over

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def found(self) -> str:
        """One line for people about what the set holds: `films: 2,500 videos, 2 classes (cat, dog), 3 skipped`."""
        return found_words(
            self._address,
            len(self),
            self.class_names,
            unit="videos",
            skipped=len(self.skipped),
            passed_over=self._passed_over,
        )

    def batch(self, indices: Tensor, flip: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return x, float32 (B, 3, frames, size, size) in [-1, 1], and y, int64 (B,), or `None`; see `Dataset`."""
        pixels = torch.from_numpy(self._pixels[self._rows[indices].numpy()])  # (B, T, H, W, 3), a copy
        x = scale_pixels(pixels.movedim(-1, 1).contiguous())
        return mirror(x, flip), None if self._y is None else self._y[indices]


Skipped = list[tuple[str, str]]
"""The videos that cannot be used, each with the reason."""


def _decoded(files: ClipFiles, frames: int, rate: float, size: int) -> tuple[NDArray[np.uint8], str, Skipped]:
    """Return all clips, a digest of their numbers, and what could not be decoded.

    The clips are uint8 (N, T, size, size, 3), mapped from the cache, which is filled first if need be.
    """
    folder = cache_folder("clips")
    key = fingerprint(f"as shown {files.stamp} {frames} {rate:g} {size}")
    pixels, record = folder / f"{key}.npy", folder / f"{key}.json"
    with locked(folder / f"{key}.lock"):  # one process decodes, the others find what it made
        if not record.exists():
            try:
                _decode_into(pixels, record, files, (frames, size, size, 3), rate)
            except OSError as error:
                raise UserError(
                    f"cannot keep decoded videos in {folder} ({error.strerror or error}): set ALPHAFLOW_CACHE to "
                    "a folder with room"
                ) from None
    kept = json.loads(record.read_text())
    skipped = [(path, reason) for path, reason in kept["skipped"]]
    return np.load(pixels, mmap_mode="r"), kept["digest"], skipped


def _decode_into(pixels: Path, record: Path, files: ClipFiles, shape: tuple[int, ...], rate: float) -> None:
    """Decode all videos on all cores; the record appears last, when everything is there."""
    from rich.console import Console
    from rich.progress import Progress

    if needs_av(files):
        require_av("reading videos")
    part = pixels.with_suffix(".part")
    clips = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=(len(files.paths), *shape))
    skipped: Skipped = []

    def work(index: int) -> str | None:
        try:
            clips[index] = read_clip(files.paths[index], shape[0], rate, shape[1])
        except OSError as error:
            return one_line(error.strerror or error)
        return None

    bar = Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True)
    with bar, ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        task = bar.add_task("decoding videos", total=len(files.paths))
        for path, reason in zip(files.paths, pool.map(work, range(len(files.paths)))):
            if reason is not None:
                skipped.append((str(path), reason))
            bar.advance(task)
    clips.flush()
    broken = {path for path, _ in skipped}
    digest = hashlib.sha256(str(shape).encode())
    for path, clip in zip(files.paths, clips):
        if str(path) not in broken:
            digest.update(np.ascontiguousarray(clip).data)
    part.replace(pixels)
    write_whole(record, json.dumps({"digest": digest.hexdigest()[:16], "skipped": skipped}).encode())


def _report(skipped: Skipped) -> None:
    for path, reason in skipped[:_NAMED_AT_MOST]:
        print(f"skipped {path}: {reason}", file=sys.stderr)
    if len(skipped) > _NAMED_AT_MOST:
        print(f"skipped {len(skipped) - _NAMED_AT_MOST} more unreadable videos", file=sys.stderr)


def _check(address: str | os.PathLike[str], skipped: Skipped, total: int, tolerance: float) -> None:
    if len(skipped) == total or len(skipped) > tolerance * total:
        path, reason = skipped[0]
        raise UserError(
            f"{address}: {len(skipped)} of {total} videos cannot be used, more than the tolerated {tolerance:.0%} "
            f"(first {path}: {reason}): repair or remove them, ask for fewer frames, or raise the tolerance"
        )
