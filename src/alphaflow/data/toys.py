"""Two-dimensional distributions with known shapes, for experiments that take seconds."""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alphaflow.data.dataset import fingerprint
from alphaflow.errors import UserError, choose

Points = NDArray[np.float64]
Labels = NDArray[np.int64]


def _checkerboard(rng: np.random.Generator, count: int) -> tuple[Points, Labels]:
    """Draw uniformly from the eight dark squares of a 4x4 board, whose sides are 1 before scaling."""
    row = rng.integers(0, 4, count)
    column = 2 * rng.integers(0, 2, count) + row % 2
    corner = np.stack([column, row], axis=1) - 2.0
    points = corner + rng.random((count, 2))
    return points / math.sqrt(4 / 3), np.zeros(count, np.int64)


def _moons(rng: np.random.Generator, count: int) -> tuple[Points, Labels]:
    """Draw from two interleaved half circles with Gaussian noise of standard deviation 0.05 before scaling."""
    label = rng.integers(0, 2, count)
    angle = math.pi * rng.random(count)
    side = 1.0 - 2.0 * label
    arc = np.stack([side * np.cos(angle) + label, side * np.sin(angle) + 0.5 * label], axis=1)
    points = arc - [0.5, 0.25] + 0.05 * rng.standard_normal((count, 2))
    variance_x = 3 / 4
    variance_y = 1 / 2 - 4 / math.pi**2 + (2 / math.pi - 1 / 4) ** 2
    return points / math.sqrt((variance_x + variance_y) / 2 + 0.05**2), label


def _gaussians(rng: np.random.Generator, count: int) -> tuple[Points, Labels]:
    """Draw from eight Gaussians of standard deviation 0.1 evenly spaced on a circle of radius about 1.41."""
    label = rng.integers(0, 8, count)
    angle = math.pi / 4 * label
    radius = math.sqrt(2 * (1 - 0.1**2))
    centre = radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return centre + 0.1 * rng.standard_normal((count, 2)), label


def _spirals(rng: np.random.Generator, count: int) -> tuple[Points, Labels]:
    """Draw from two arms of one and a half turns, uniform in area, with Gaussian noise of 0.03 after scaling."""
    label = rng.integers(0, 2, count)
    angle = 3 * math.pi * np.sqrt(rng.random(count))
    radius = angle * (1.0 - 2.0 * label) / (1.5 * math.pi)
    arm = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return arm + 0.03 * rng.standard_normal((count, 2)), label


_DRAW: dict[str, Callable[[np.random.Generator, int], tuple[Points, Labels]]] = {
    "checkerboard": _checkerboard,
    "moons": _moons,
    "gaussians": _gaussians,
    "spirals": _spirals,
}
_CLASSES: dict[str, tuple[str, ...]] = {
    "checkerboard": (),
    "moons": ("upper", "lower"),
    "gaussians": tuple("01234567"),
    "spirals": ("first", "second"),
}
TOYS = tuple(_DRAW)
"""The names that `Toy` and `toy_points` take."""


def toy_points(name: str, count: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """Draw `count` independent points of a toy distribution.

    The mean is about 0 and the variance, averaged over the two axes, about 1.

    Args:
        name: one of `TOYS`.
        count: number of points, at least 1.
        seed: non-negative; the same seed gives the same points.

    Returns:
        points, float32 (count, 2), and labels, int64 (count,), or `None` where there are no classes.

    Raises:
        UserError: the name is unknown, the count below 1 or the seed negative.
    """
    choose("toy data set", name, TOYS)
    if count < 1:
        raise UserError(f"count {count} is no number of points: give at least 1")
    if seed < 0:
        raise UserError(f"seed {seed} is negative: give 0 or more")
    points, labels = _DRAW[name](np.random.default_rng(seed), count)
    y = torch.from_numpy(labels) if _CLASSES[name] else None
    return torch.from_numpy(points.astype(np.float32)), y


class Toy:
    """A fixed sample of a toy distribution; see `toy_points` for the arguments and the errors."""

    shape: tuple[int, ...] = (2,)
    kind: Literal["image", "video", "points"] = "points"
    manifest: None = None

    def __init__(self, name: str, count: int = 50_000, seed: int = 0) -> None:
        self._x, self._y = toy_points(name, count, seed)
        self.class_names: tuple[str, ...] = _CLASSES[name]
        self.num_classes: int = len(self.class_names)
        arrays = [tensor.numpy() for tensor in (self._x, self._y) if tensor is not None]
        self.fingerprint: str = fingerprint(f"toy {name}", *arrays)

    def __len__(self) -> int:
        return self._x.shape[0]

    def batch(self, indices: Tensor, flip: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return x, float32 (B, 2), and y, int64 (B,), or `None`; see `Dataset.batch`."""
        if flip is not None:
            raise ValueError("flip mirrors images; points cannot be flipped")
        return self._x[indices], None if self._y is None else self._y[indices]
