"""Samples are collected for the metrics in one pass, in blocks of 64, by one process or several.

Of all samples only sums by groups are kept; of the first `KEPT`, what metrics of pairs compare. So memory does not
grow with their number.
"""

import math
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import metrics
from ..metrics.statistics import BLOCK
from ..parallel.share import Share
from ..pixels import to_uint8
from .scoring import KEPT, OF_FEATURES, OF_VALUES, VALUES, Samples

Pixels = NDArray[np.uint8]
Writer = Callable[[int, "Tensor | Pixels"], object]
"""A function that gets each block, as images uint8 where samples are pixels, with the number of its first
sample."""


def kept_values(shape: tuple[int, ...]) -> int:
    """Return how many samples of that shape are kept whole: `KEPT`, or fewer large ones."""
    return max(BLOCK, min(KEPT, VALUES // math.prod(shape)))


class Collector:
    """A collector takes one set of samples and gives what the metrics need of it.

    Args:
        names: the names of the metrics.
        detector: the network that sees images, uint8.
        pixels: whether samples are rounded to uint8, as a PNG would hold them.
        decode: a function that makes pictures (B, C, …) in [-1, 1] of latents; the pictures are then collected.
        labels: (N,), the class of each sample by its number.
        judge: a function of the number of a block's first sample and its logits, which tells of each sample what
            of its caption is right, (B, A); None: nobody judges.
        whole: whether features and logits are kept whatever the metrics, as real samples need: halves of them are
            scored too.
        write: a function that gets each block besides.
    """

    def __init__(
        self,
        names: Collection[str],
        detector: metrics.Detector | None,
        *,
        pixels: bool,
        decode: Callable[[Tensor], Tensor] | None = None,
        labels: Tensor | None = None,
        judge: Callable[[int, Tensor], Tensor] | None = None,
        whole: bool = False,
        write: Writer | None = None,
    ) -> None:
        self._names, self._detector, self._pixels, self._write = set(names), detector, pixels, write
        self._labels, self._whole, self._decode, self._judge = labels, whole, decode, judge
        self._values: dict[int, Tensor] = {}
        self._features: dict[int, Tensor] = {}
        self._logits: dict[int, Tensor] = {}
        self._judged: dict[int, Tensor] = {}
        self._moments = metrics.Accumulator()
        self._guesses: metrics.Guesses | None = None
        self._rest: list[Any] = []
        self._next = 0
        self.count = 0

    def add(self, first: int, chunk: Tensor | Pixels) -> None:
        """Add samples first, first + 1, …: values (B, C, …) or images uint8 (B, H, W, C), any number of them.

        The detector sees them in whole blocks: a network's rounding errors depend on how many it sees at once.

        Raises:
            ValueError: a jump within a block, or back.
        """
        if first != self._next:
            if self._rest or first % BLOCK or first < self._next:
                raise ValueError(
                    f"samples jump from {self._next} to {first}: a process takes whole blocks in order"
                )
            self._next = first
        while len(chunk):
            room = BLOCK - self._next % BLOCK
            rows, chunk = chunk[:room], chunk[room:]
            self._rest.append(rows)
            self._next += len(rows)
            if len(rows) == room:
                self._flush()

    def samples(self, share: Share | None = None) -> Samples:
        """Return all that was added, by all processes; values, features and logits are on the main one only.

        Raises:
            ValueError: no samples at all.
        """
        share = share or Share()
        if self._rest:
            self._flush()
        states = share.exchange([self.count, self._widths()])
        count, widths = sum(count for count, _ in states), max(widths for _, widths in states)
        if not count:
            raise ValueError("no samples: there is nothing to score")
        values = share.collect(self._values)
        features = share.collect(self._features)
        logits = share.collect(self._logits)
        judged = share.collect(self._judged) if self._judge else None
        return Samples(
            count=count,
            labels=None if self._labels is None else self._labels[:KEPT],
            values=None if values is None else self._scaled(values),
            features=features,
            logits=logits if widths[1] else None,
            judged=judged,
            moments=self._reduced_moments(widths[0], share),
            guesses=self._reduced_guesses(widths[1], share),
        )

    # ------------------------------------------------------------------ a block

    def _flush(self) -> None:
        parts, self._rest = self._rest, []
        block = torch.cat(parts) if isinstance(parts[0], Tensor) else np.concatenate(parts)
        first = self._next - len(block)
        self.count += len(block)
        if self._decode and isinstance(block, Tensor):
            block = self._decode(block)
        images = to_uint8(block) if self._pixels and isinstance(block, Tensor) else block
        if self._write:
            self._write(first, images)
        if self._pixels:
            assert not isinstance(images, Tensor)
            if self._detector:
                self._run_detector(first, images, self._detector)
            block = torch.from_numpy(images.reshape(len(images), -1))
        assert isinstance(block, Tensor)
        room = kept_values(tuple(block.shape[1:])) - first
        if room > 0 and self._names & OF_VALUES:
            self._values[first] = block[:room].flatten(1).clone()

    def _run_detector(self, first: int, images: Pixels, detector: metrics.Detector) -> None:
        features, logits = detector(images)
        labels = None if self._labels is None else self._labels[first : first + len(images)]
        self._moments.update(features, first)
        if self._judge:
            self._judged[first] = self._judge(first, logits)
        if logits.shape[1] and detector.classes != "attributes":
            self._guesses = self._guesses or metrics.Guesses(logits.shape[1])
            self._guesses.add(logits, first, labels)
        if first < KEPT and (self._whole or self._names & OF_FEATURES):
            self._features[first] = features[: KEPT - first].clone()
        if first < KEPT and self._whole:
            self._logits[first] = logits[: KEPT - first].clone()

    # ------------------------------------------------------------------ all of them

    def _scaled(self, values: Tensor) -> Tensor:
        """Convert values to float64, and levels to [-1, 1]."""
        return values.double().div_(127.5).sub_(1) if self._pixels else values.double()

    def _widths(self) -> list[int]:
        """Return the widths of features and of logits; 0 where this process has seen none."""
        return [self._moments.dimensions, self._guesses.classes if self._guesses else 0]

    def _reduced_moments(self, width: int, share: Share) -> list[metrics.Moments] | None:
        if not width:
            return None
        moments = self._moments if self._moments.dimensions else metrics.Accumulator(width)
        return moments.groups(share.all_reduce)

    def _reduced_guesses(self, width: int, share: Share) -> metrics.Guesses | None:
        if not width:
            return None
        guesses = self._guesses or metrics.Guesses(width)
        if share.all_reduce:
            guesses.reduce(share.all_reduce)
        return guesses
