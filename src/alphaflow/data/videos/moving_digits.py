"""Moving digits: videos drawn on the fly from scikit-learn's handwritten digits, for want of a download.

After Moving MNIST (Srivastava et al. 2015, arXiv 1502.04681), with one 8 × 8 digit, whole pixels a frame, and the
digit as the class.
"""

from typing import Literal

import torch
from torch import Tensor

from alphaflow.data.dataset import fingerprint
from alphaflow.data.digits import Digits
from alphaflow.errors import UserError
from alphaflow.pixels import mirror
from alphaflow.rng import KeyedRandom, hash_key

SPEEDS = (-1, 0, 1)
"""Pixels a frame, along each axis; no digit stands still."""
DIGIT = 8


class MovingDigits:
    """Grey videos (1, frames, size, size) in [-1, 1] of a digit that moves and bounces off the edges.

    The digit, its start and its motion are functions of (seed, index): nothing is stored.

    Args:
        frames: frames of a video, at least 1.
        size: side of a frame in pixels, at least 9.
        count: number of videos.
        seed: fixes all of them.

    Raises:
        UserError: there are no frames, or too few pixels for a digit to move in.
    """

    num_classes: int = 10
    class_names: tuple[str, ...] = tuple("0123456789")
    kind: Literal["image", "video", "points"] = "video"
    manifest: None = None

    def __init__(self, frames: int = 8, size: int = 12, *, count: int = 100_000, seed: int = 0) -> None:
        if frames < 1:
            raise UserError(
                f"a video of {frames} frames has nothing to show: give --data.frames 1 or more", status=2
            )
        if size <= DIGIT:
            raise UserError(
                f"digits of {DIGIT} pixels cannot move in frames of {size}: give --data.size 9 or more", status=2
            )
        self.frames, self.size, self.count, self.seed = frames, size, count, seed
        self._digits = Digits()
        self.shape: tuple[int, ...] = (1, frames, size, size)
        settings = f"moving digits 1, {frames} frames of {size}, {count} of seed {seed}"
        self.fingerprint: str = fingerprint(f"{settings}, digits {self._digits.fingerprint}")

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: Tensor, flip: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return x, float32 (B, 1, frames, size, size), and the digits y, int64 (B,); see `Dataset.batch`."""
        random = KeyedRandom(hash_key("moving digits", self.seed), indices)
        ink, y = self._digits.batch((random.uniform("digit") * len(self._digits)).long())
        x = torch.full((len(indices), *self.shape[1:]), -1.0)
        place = torch.arange(DIGIT)
        rows, columns = (self.path(random, axis)[:, :, None] + place for axis in ("y", "x"))
        samples, times = torch.arange(len(indices))[:, None, None, None], torch.arange(self.frames)[:, None, None]
        x[samples, times, rows[:, :, :, None], columns[:, :, None, :]] = ink.expand(-1, self.frames, -1, -1)
        return mirror(x[:, None], flip), y

    def path(self, random: KeyedRandom, axis: str) -> Tensor:
        """Return the position of the digit's upper left corner along "x" or "y" in each frame, int64 (B,
        frames)."""
        far = self.size - DIGIT
        start = (random.uniform(f"start {axis}") * (far + 1)).long()
        moves = [(a, b) for a in SPEEDS for b in SPEEDS if (a, b) != (0, 0)]
        speeds = torch.tensor(moves)[(random.uniform("move") * len(moves)).long(), "xy".index(axis)]
        straight = start[:, None] + speeds[:, None] * torch.arange(self.frames)
        return far - (straight.remainder(2 * far) - far).abs()
