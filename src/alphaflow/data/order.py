"""The order in which rows are drawn: pure functions of the position in the endless stream of samples.

Nothing here holds as much as a permutation of the data, so a set of any size costs a process nothing, and any
position of any epoch is found at once: resumption needs no state, and the number of processes does not matter.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alphaflow.errors import UserError
from alphaflow.rng import hash_key, hash_keys, permuted, seeded

SMALL = 65_536
"""The most rows for which an epoch's permutation is drawn as a whole, as earlier versions did for all."""


class Runs:
    """Rows of chosen classes, numbered class by class: stretches of neighbours with one label.

    A set that is sorted by class, as one from folders is, has one stretch a class; a shuffled one up to one a row.

    Args:
        labels: int64 (N,).
        classes: the classes to take, each once.

    Raises:
        UserError: one of the classes has no row.
    """

    def __init__(self, labels: NDArray[np.int64], classes: Sequence[int]) -> None:
        borders = np.flatnonzero(np.diff(labels)) + 1
        starts = np.concatenate([[0], borders])
        stops = np.concatenate([borders, [len(labels)]])
        place = np.full(int(labels.max(initial=0)) + 1, -1)
        for k, label in enumerate(classes):
            if label >= len(place) or not (labels == label).any():
                raise UserError(f"class {label} has no samples in this data set: leave it out of data.classes")
            place[label] = k
        rank = place[labels[starts]]
        order = np.argsort(rank, kind="stable")[(rank < 0).sum() :]
        lengths = (stops - starts)[order]
        self.counts = torch.from_numpy(np.bincount(rank[order], weights=lengths).astype(np.int64))
        """Rows of each chosen class, int64 (K,)."""
        self.offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(self.counts.numpy())]))
        """Number of the first row of each chosen class, int64 (K + 1,)."""
        ends = np.cumsum(lengths)
        self._ends = torch.from_numpy(ends)
        self._shift = torch.from_numpy(starts[order] - (ends - lengths))

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def rows(self, numbers: Tensor) -> Tensor:
        """Return the rows of the data set with these numbers, int64 (B,)."""
        return numbers + self._shift[torch.searchsorted(self._ends, numbers, right=True)]


class Order(Protocol):
    """An order: the row at each position of the stream, and whether it is mirrored."""

    def rows(self, positions: Tensor) -> Tensor:
        """Return rows of the data set, int64 (B,), at `positions`, int64 (B,)."""

    def flips(self, positions: Tensor) -> Tensor:
        """Return a fair coin for each position, bool (B,)."""


def _coins(seed: int, positions: Tensor) -> Tensor:
    return hash_keys(hash_key(seed, "flip"), positions) < 0


class Epochs:
    """The order of one permutation of all `size` rows (or of those in `runs`) after the other.

    Every epoch shows every row exactly once.
    """

    def __init__(self, size: int, seed: int, runs: Runs | None = None) -> None:
        self.size, self.seed, self.runs = len(runs) if runs else size, seed, runs
        self._drawn: dict[int, tuple[Tensor, Tensor]] = {}

    def rows(self, positions: Tensor) -> Tensor:
        epochs, places = positions // self.size, positions % self.size
        if self.size <= SMALL:
            numbers = self._look_up(epochs, places, 0)
        else:
            keys = hash_keys(hash_key(self.seed, "order"), epochs)
            numbers = permuted(places, torch.full_like(places, self.size), keys)
        return self.runs.rows(numbers) if self.runs else numbers

    def flips(self, positions: Tensor) -> Tensor:
        if self.size <= SMALL:
            return self._look_up(positions // self.size, positions % self.size, 1)
        return _coins(self.seed, positions)

    def _look_up(self, epochs: Tensor, places: Tensor, which: int) -> Tensor:
        drawn = {e: self._drawn.get(e) or self._draw(e) for e in epochs.unique().tolist()}
        self._drawn = drawn  # only what this batch needs stays
        found = torch.empty(len(places), dtype=torch.bool if which else torch.int64)
        for epoch, parts in drawn.items():
            found[epochs == epoch] = parts[which][places[epochs == epoch]]
        return found

    def _draw(self, epoch: int) -> tuple[Tensor, Tensor]:
        order = torch.randperm(self.size, generator=seeded(self.seed, "order", epoch))
        return order, torch.rand(self.size, generator=seeded(self.seed, "flip", epoch)) < 0.5


class Balanced:
    """The order that shows every class equally often, whatever its size.

    Of K classes, each stretch of K positions shows every one once, in a new order; and the visits to a class go
    through its rows in one permutation after the other.
    """

    def __init__(self, runs: Runs, seed: int) -> None:
        self.runs, self.seed = runs, seed

    def rows(self, positions: Tensor) -> Tensor:
        classes = len(self.runs.counts)
        turn, place = positions // classes, positions % classes
        keys = hash_keys(hash_key(self.seed, "classes"), turn)
        chosen = permuted(place, torch.full_like(place, classes), keys)
        size = self.runs.counts[chosen]
        keys = hash_keys(hash_key(self.seed, "within"), chosen, turn // size)
        return self.runs.rows(self.runs.offsets[chosen] + permuted(turn % size, size, keys))

    def flips(self, positions: Tensor) -> Tensor:
        return _coins(self.seed, positions)
