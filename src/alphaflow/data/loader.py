"""The order of the data as a pure function of (seed, step), so that resuming needs no loader state."""

from typing import NamedTuple

import torch
from torch import Tensor

from alphaflow.data.dataset import Dataset
from alphaflow.errors import UserError
from alphaflow.rng import seeded


class Batch(NamedTuple):
    """The samples of one step."""

    x: Tensor
    """float32 (B, *shape)"""
    y: Tensor | None
    """int64 (B,), or `None` without classes"""
    sample_ids: Tensor
    """int64 (B,): positions in the infinite stream of samples, unique over the whole run"""


class _Epoch(NamedTuple):
    order: Tensor
    """int64 (N,): a permutation of the data set"""
    flips: Tensor
    """bool (N,): which positions of this epoch are mirrored"""


class Batches:
    """Batches of the endless stream that strings together one permutation of the data set per epoch.

    Step k takes the positions [k·B, (k+1)·B) of that stream. Every epoch shows every sample exactly once,
    no sample is dropped, and a batch may straddle epochs, or span several when B exceeds the data set.

    Args:
        dataset: the samples; not empty.
        batch_size: samples a step, at least 1.
        seed: fixes the order and the flips.
        flip: mirror each image left-right with probability 1/2, drawn anew every epoch.

    Raises:
        UserError: an empty data set, a batch size below 1, or flips of points.
    """

    def __init__(self, dataset: Dataset, batch_size: int, seed: int, *, flip: bool = False) -> None:
        if len(dataset) == 0:
            raise UserError("the data set holds no samples: nothing can be drawn from it")
        if batch_size < 1:
            raise UserError(f"batch size {batch_size} is not positive: give at least 1")
        if flip and dataset.kind not in ("image", "video"):
            raise UserError(f"flip mirrors images, and this data set holds {dataset.kind}: leave flip off")
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.flip = flip
        self._epochs: dict[int, _Epoch] = {}

    def positions(self, step: int) -> Tensor:
        """Return step's positions in the infinite stream, int64 (B,)."""
        if step < 0:
            raise ValueError(f"step {step} is negative")
        return torch.arange(step * self.batch_size, (step + 1) * self.batch_size)

    def indices(self, step: int) -> Tensor:
        """Return the rows of the data set that `step` draws, int64 (B,)."""
        return torch.cat([epoch.order[rows] for epoch, rows in self._spans(step)])

    def __call__(self, step: int, part: slice = slice(None)) -> Batch:
        """Return the batch of `step`, or part of its rows, the same whenever and however often it is asked for."""
        spans = self._spans(step)
        indices = torch.cat([epoch.order[rows] for epoch, rows in spans])[part]
        flips = torch.cat([epoch.flips[rows] for epoch, rows in spans])[part] if self.flip else None
        x, y = self.dataset.batch(indices, flips)
        return Batch(x, y, self.positions(step)[part])

    def _spans(self, step: int) -> list[tuple[_Epoch, slice]]:
        """Cut step's positions at the epoch boundaries."""
        positions = self.positions(step)
        first, stop, size = int(positions[0]), int(positions[-1]) + 1, len(self.dataset)
        needed = range(first // size, (stop - 1) // size + 1)
        self._epochs = {e: self._epochs.get(e) or self._draw(e) for e in needed}
        return [(self._epochs[e], slice(max(first - e * size, 0), min(stop - e * size, size))) for e in needed]

    def _draw(self, epoch: int) -> _Epoch:
        size = len(self.dataset)
        order = torch.randperm(size, generator=seeded(self.seed, "order", epoch))
        flips = torch.rand(size, generator=seeded(self.seed, "flip", epoch)) < 0.5
        return _Epoch(order, flips)
