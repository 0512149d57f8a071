"""Video files become latents of clips: frames as a source of images, and latents of frames as clips."""

import os
import threading
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alphaflow.data.dataset import fingerprint
from alphaflow.data.sources.words import found_words
from alphaflow.data.videos.clip_files import check_clip, find_clips, needs_av, read_clip, require_av
from alphaflow.errors import UserError

_KEPT = 64  # clips that stay decoded: a few for each thread that reads


class ClipFrames:
    """The frames of the middle of each video at an address, one clip after the other, as a source of images.

    Frame k of clip i is image i · frames + k. A clip is decoded when one of its frames is asked for; if it cannot
    be, none of its frames can be read.

    Args:
        address: see `clip_files.find_clips`.
        frames, rate, size: see `clip_files.read_clip`.

    Raises:
        UserError: there are no videos, settings are out of range, or PyAV is missing.
    """

    def __init__(self, address: str | os.PathLike[str], *, frames: int, rate: float, size: int) -> None:
        check_clip(frames, rate, size)
        self.files, self.frames, self.rate, self.size = find_clips(address), frames, rate, size
        if needs_av(self.files):
            require_av(f"reading videos at {address}")
        self.address, self.class_names = str(address), self.files.class_names
        self.labels = self.files.labels.repeat(frames) if self.class_names else None
        self.stamp, self.passed_over = self.files.stamp, self.files.passed_over
        self.digest = fingerprint(f"{frames} frames at {rate:g}, as shown, {self.files.digest}")
        self._clips: OrderedDict[int, NDArray[np.uint8] | OSError] = OrderedDict()
        self._locks: dict[int, threading.Lock] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.files.paths) * self.frames

    def name(self, index: int) -> str:
        """Return the video's path and the number of the frame."""
        return f"{self.files.paths[index // self.frames]}#{index % self.frames}"

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return one frame, uint8 (size, size, 3). Many threads may ask at once.

        Raises:
            OSError: its video cannot be read, or is too short.
        """
        clip, frame = divmod(index, self.frames)
        with self._lock:
            lock = self._locks.setdefault(clip, threading.Lock())
        with lock:  # the frames of a clip are asked for together: one thread decodes, the others wait for it
            found = self._clips.get(clip)
            if found is None:
                try:
                    found = read_clip(self.files.paths[clip], self.frames, self.rate, self.size)
                except OSError as error:
                    found = error
                self._keep(clip, found)
        if isinstance(found, OSError):
            raise OSError(str(found))
        return found[frame]

    def _keep(self, clip: int, found: NDArray[np.uint8] | OSError) -> None:
        with self._lock:
            self._clips[clip] = found
            while len(self._clips) > _KEPT:
                self._locks.pop(self._clips.popitem(last=False)[0], None)


class ClipLatents:
    """Every `frames` consecutive rows of a set of latents as one clip (C, frames, h, w).

    The set holds the frames of one clip after the other, as `ClipFrames` gives them. A clip has the class of its
    first frame, and is mirrored whole or not at all.

    Args:
        latents: a data set of latents, (C, h, w) each.
        frames: frames of a clip.

    Raises:
        UserError: the set cannot be cut into clips of so many frames.
    """

    def __init__(self, latents: Any, frames: int) -> None:
        if frames < 1 or len(latents) % frames or len(latents) == 0:
            raise UserError(
                f"{len(latents)} latents cannot be cut into clips of {frames} frames: give --data.frames the "
                "number that they were encoded with",
                status=2,
            )
        channels, *sides = latents.shape
        self.latents, self.frames, self.manifest = latents, frames, latents.manifest
        self.shape: tuple[int, ...] = (channels, frames, *sides)
        self.kind, self.num_classes, self.class_names = latents.kind, latents.num_classes, latents.class_names
        self.fingerprint: str = fingerprint(f"clips of {frames}, {latents.fingerprint}")

    def __len__(self) -> int:
        return len(self.latents) // self.frames

    @property
    def found(self) -> str:
        """One line for people about what the set holds."""
        return found_words(
            str(self.latents.root), len(self), self.class_names, unit=f"clips of {self.frames} latents"
        )

    @property
    def mirrored(self) -> bool:
        """Whether there are latents of the mirrored frames too."""
        return getattr(self.latents, "mirrored", True)

    def labels(self) -> NDArray[np.int64]:
        """Return the labels of all clips, int64 (N,)."""
        return self.latents.labels()[:: self.frames]

    def batch(self, indices: Tensor, flip: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return x, float32 (B, C, frames, h, w), and y, int64 (B,), or `None` without classes; see `Dataset`."""
        return self._clips(*self.latents.batch(self._each(indices), self._repeated(flip)))

    def draw(
        self, indices: Tensor, sample_ids: Tensor, seed: int, flip: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return clips with the noise of (seed, sample id), other in each frame; see `Latents.draw`."""
        rows, ids = self._each(indices), self._each(sample_ids)
        return self._clips(*self.latents.draw(rows, ids, seed, self._repeated(flip)))

    def _each(self, numbers: Tensor) -> Tensor:
        """Return the numbers of the frames of the clips with these numbers, in order."""
        return (numbers[:, None] * self.frames + torch.arange(self.frames)).flatten()

    def _repeated(self, flip: Tensor | None) -> Tensor | None:
        return None if flip is None else flip.repeat_interleave(self.frames)

    def _clips(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor | None]:
        clips = x.unflatten(0, (-1, self.frames)).transpose(1, 2).contiguous()
        return clips, None if y is None else y[:: self.frames]
