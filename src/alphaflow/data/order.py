"""The order in which rows are drawn: pure functions of the position in the endless stream of samples.

Each epoch is drawn as a whole by a generator of its own, so resumption needs no state, and the number of processes
does not matter. A process holds the epoch it is in: 8 bytes a sample, 10 MB for ImageNet.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alphaflow.errors import UserError
from alphaflow.rng import KeyedRandom, seeded

_TURNS = 65_536
"""About how many positions of balanced classes are drawn at once."""


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


class Tables:
    """Tables of `size` entries, one for each epoch of the stream; those of the last positions are kept.

    Args:
        draw: a function that makes the table of an epoch, (size,), the same one whenever it is asked.
        dtype: the type of its entries.
    """

    def __init__(self, size: int, draw: Callable[[int], Tensor], dtype: torch.dtype = torch.int64) -> None:
        self._size, self._draw, self._dtype = size, draw, dtype
        self._kept: dict[int, Tensor] = {}

    def __call__(self, positions: Tensor) -> Tensor:
        """Return the entry of each position, (B,)."""
        epochs, places = positions // self._size, positions % self._size
        kept = {e: self._kept[e] if e in self._kept else self._draw(e) for e in epochs.unique().tolist()}
        self._kept = kept
        found = torch.empty(len(places), dtype=self._dtype)
        for epoch, table in kept.items():
            found[epochs == epoch] = table[places[epochs == epoch]]
        return found


class Epochs:
    """The order of one permutation of all `size` rows (or of those in `runs`) after the other.

    Every epoch shows every row exactly once.
    """

    def __init__(self, size: int, seed: int, runs: Runs | None = None) -> None:
        self.runs = runs
        size = len(runs) if runs else size
        self._numbers = Tables(size, lambda epoch: torch.randperm(size, generator=seeded(seed, "order", epoch)))
        self._flips = Tables(
            size, lambda epoch: torch.rand(size, generator=seeded(seed, "flip", epoch)) < 0.5, torch.bool
        )

    def rows(self, positions: Tensor) -> Tensor:
        numbers = self._numbers(positions)
        return self.runs.rows(numbers) if self.runs else numbers

    def flips(self, positions: Tensor) -> Tensor:
        return self._flips(positions)


class Balanced:
    """The order that shows every class equally often, whatever its size.

    Of K classes, each stretch of K positions shows every one once, in a new order; and the visits to a class go
    through its rows in one permutation after the other.
    """

    def __init__(self, runs: Runs, seed: int) -> None:
        self.runs, self.seed = runs, seed
        K = len(runs.counts)
        turns = max(1, _TURNS // K)

        def classes(epoch: int) -> Tensor:
            keys = torch.rand(turns, K, dtype=torch.float64, generator=seeded(seed, "classes", epoch))
            return keys.argsort(1).flatten()

        self._classes = Tables(turns * K, classes)
        self._sizes = runs.counts.tolist()
        self._within: dict[int, tuple[int, Tensor]] = {}  # of each class the last permutation, and which one it is

    def rows(self, positions: Tensor) -> Tensor:
        chosen, turns = self._classes(positions), positions // len(self._sizes)
        numbers = [self._number(k, visit) for k, visit in zip(chosen.tolist(), turns.tolist())]
        return self.runs.rows(self.runs.offsets[chosen] + torch.tensor(numbers, dtype=torch.int64))

    def _number(self, k: int, visit: int) -> int:
        """Return which of class k's rows a visit to it shows."""
        epoch, place = divmod(visit, self._sizes[k])
        kept, table = self._within.get(k, (-1, None))
        if table is None or kept != epoch:
            table = torch.randperm(self._sizes[k], generator=seeded(self.seed, "within", k, epoch))
            self._within[k] = epoch, table
        return int(table[place])

    def flips(self, positions: Tensor) -> Tensor:
        return KeyedRandom(self.seed, positions).uniform("flip") < 0.5
