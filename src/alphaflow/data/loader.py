"""Batches as pure functions of (seed, step), so that resuming needs no loader state."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alphaflow.data.class_words import class_of
from alphaflow.data.dataset import Dataset
from alphaflow.data.order import Balanced, Epochs, Order, Runs
from alphaflow.data.sources.classes import few
from alphaflow.data.vocabulary import vocabulary_of
from alphaflow.errors import UserError


class Batch(NamedTuple):
    """The samples of one step."""

    x: Tensor
    """Samples, float32 (B, *shape)."""
    y: Tensor | None
    """Classes, int64 (B,), or captions, int64 (B, L) of a `Vocabulary`; `None` without either."""
    sample_ids: Tensor
    """Positions in the infinite stream of samples, int64 (B,), unique over the whole run."""


@runtime_checkable
class DrawnDataset(Protocol):
    """A data set whose samples are drawn anew at each visit, with noise of its own."""

    def draw(
        self, indices: Tensor, sample_ids: Tensor, seed: int, flip: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return samples as `Dataset.batch`, with the randomness that belongs to (seed, sample id)."""


class Batches:
    """Batches of an endless stream of samples.

    Step k takes the positions [k·B, (k+1)·B) of that stream. It strings together one permutation of the data set
    per epoch: every epoch shows every sample exactly once, no sample is dropped, and a batch may straddle epochs,
    or span several when B exceeds the data set.

    Args:
        dataset: the samples; not empty.
        batch_size: samples a step, at least 1.
        seed: fixes the order, the flips, and the noise of a data set that is `DrawnDataset`.
        flip: mirror each image left-right with probability 1/2, drawn anew every epoch. Of a set of latents it
            takes the stored latent of the mirrored image.
        classes: only samples of these classes, by number; empty: of all.
        balanced: draw every class equally often instead of every sample.

    Raises:
        UserError: the data set is empty, the batch size is below 1, samples to be flipped have no mirror image, or
            classes are asked of a data set that has none.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        seed: int,
        *,
        flip: bool = False,
        classes: Sequence[int] = (),
        balanced: bool = False,
    ) -> None:
        if len(dataset) == 0:
            raise UserError("the data set holds no samples: nothing can be drawn from it")
        if batch_size < 1:
            raise UserError(f"batch size {batch_size} is not positive: give at least 1")
        if flip and dataset.kind == "points":
            raise UserError("flip mirrors images, and this data set holds points: leave flip off")
        if flip and vocabulary_of(dataset):
            raise UserError(
                "flip mirrors images, and what captions say of left and right would be wrong: leave it off"
            )
        if flip and not getattr(dataset, "mirrored", True):
            raise UserError(
                "data.flip needs mirrored images, and this set of latents was encoded without them: leave it off "
                "(--data.flip False), or encode with --flips stored"
            )
        self.dataset, self.batch_size, self.seed, self.flip = dataset, batch_size, seed, flip
        self.order = _order(dataset, seed, classes, balanced)

    def positions(self, step: int) -> Tensor:
        """Return step's positions in the infinite stream, int64 (B,)."""
        if step < 0:
            raise ValueError(f"step {step} is negative")
        return torch.arange(step * self.batch_size, (step + 1) * self.batch_size)

    def indices(self, step: int) -> Tensor:
        """Return the rows of the data set that `step` draws, int64 (B,)."""
        return self.order.rows(self.positions(step))

    def __call__(self, step: int, part: slice = slice(None)) -> Batch:
        """Return the batch of `step`, or part of its rows, the same whenever and however often it is asked for."""
        positions = self.positions(step)[part]
        rows = self.order.rows(positions)
        flips = self.order.flips(positions) if self.flip else None
        if isinstance(self.dataset, DrawnDataset):
            x, y = self.dataset.draw(rows, positions, self.seed, flips)
        else:
            x, y = self.dataset.batch(rows, flips)
        return Batch(x, y, positions)


def class_numbers(words: str, names: Sequence[str]) -> list[int]:
    """Return the classes that `0,3,7-9` or `cat,dog` mean, in their order; none for empty words.

    A word that is the name of a class means that one, even where it is a number.

    Raises:
        UserError: a number or a name is none of the classes.
    """
    chosen: set[int] = set()
    for word in filter(None, (word.strip() for word in words.split(","))):
        first, dash, last = word.partition("-")
        if word in names:
            chosen.add(names.index(word))
        elif first.isdigit() and (last.isdigit() or not dash):
            numbers = range(int(first), int(last or first) + 1)
            if not numbers or numbers[-1] >= len(names):
                held = few(names, 6)
                raise UserError(f"data.classes {word!r}: classes are 0 … {len(names) - 1} ({held})", status=2)
            chosen |= set(numbers)
        else:
            number = class_of(word, names, setting="data.classes")
            chosen |= {number} - {len(names)}  # that one means no class
    return sorted(chosen)


def _order(dataset: Dataset, seed: int, classes: Sequence[int], balanced: bool) -> Order:
    if not classes and not balanced:
        return Epochs(len(dataset), seed)
    if not dataset.num_classes:
        raise UserError("data.classes and data.balanced need classes, and this data set has none: leave them off")
    runs = Runs(_labels(dataset), classes or range(dataset.num_classes))
    return Balanced(runs, seed) if balanced else Epochs(len(dataset), seed, runs)


def _labels(dataset: Dataset) -> NDArray[np.int64]:
    """Return the labels of all rows, int64 (N,)."""
    if hasattr(dataset, "labels"):
        return dataset.labels()
    parts = [dataset.batch(rows)[1] for rows in torch.arange(len(dataset)).split(1024)]
    return torch.cat([part for part in parts if part is not None]).numpy()
