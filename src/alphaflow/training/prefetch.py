"""Batches made by a thread while the device computes, in memory from which copies to it need not wait."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from ..data import Batch, Batches


class Prefetcher:
    """The same batches as `batches`, of which the next are ready before they are asked for.

    Only the order in which training asks is foreseen: the parts of a step in turn, then those of the next step.
    Whatever else is asked for is made on the spot. Batches are functions of the step, so none can be a wrong one.

    Args:
        parts: the rows of each batch that this process takes, in the order in which it asks for them.
        pin: copy batches into page-locked memory (needs a GPU).
        depth: how many parts are made ahead.
    """

    def __init__(self, batches: Batches, parts: Sequence[slice], *, pin: bool, depth: int = 2) -> None:
        self.batches, self.parts, self.pin, self.depth = batches, list(parts), pin, depth
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._coming: dict[tuple[int, int], Future[Batch]] = {}

    def __call__(self, step: int, part: slice = slice(None)) -> Batch:
        """Return what `Batches` would."""
        if part not in self.parts:
            return self._make(step, part)
        place = (step, self.parts.index(part))
        future = self._coming.pop(place, None)
        ahead = [place]
        for _ in range(self.depth):
            step, number = ahead[-1]
            ahead.append((step, number + 1) if number + 1 < len(self.parts) else (step + 1, 0))
        future = future or self._pool.submit(self._make, place[0], part)
        kept = {key: self._coming[key] for key in ahead[1:] if key in self._coming}
        for step, number in ahead[1:]:
            if (step, number) not in kept:
                kept[step, number] = self._pool.submit(self._make, step, self.parts[number])
        self._coming = kept
        return future.result()

    def _make(self, step: int, part: slice) -> Batch:
        batch = self.batches(step, part)
        if not self.pin:
            return batch
        y = None if batch.y is None else batch.y.pin_memory()
        return Batch(batch.x.pin_memory(), y, batch.sample_ids)


def prefetch_on(device: torch.device, batches: Batches, parts: Sequence[slice]) -> Batches | Prefetcher:
    """Return `batches`, made ahead where the device is a GPU: on a CPU, a thread would only slow training down."""
    return Prefetcher(batches, parts, pin=True) if device.type == "cuda" else batches
