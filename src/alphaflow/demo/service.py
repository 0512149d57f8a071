"""The models behind the demo, and the queue before them: one grid is computed at a time."""

import asyncio
import io
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import figures
from ..errors import UserError
from ..generate import CHUNK, Generator, draw, load
from ..sampling import grid
from .wishes import IN_TURN, MOST_GUIDANCE, Bounds, Wish, labels_of

MOST_WAITING = 256


class BusyError(UserError):
    """Too many wishes wait already."""


@dataclass(frozen=True)
class Shown:
    """A model that is shown."""

    name: str
    generator: Generator


@dataclass(frozen=True)
class Drawn:
    """A grid as a PNG, and how long the network took to make it."""

    png: bytes
    seconds: float


class Service:
    """Computes wishes in turn, in a thread of its own, so that whoever serves them stays free to answer.

    Args:
        models: one or more, with the same number of classes.

    Raises:
        UserError: their numbers of classes differ.
    """

    def __init__(self, models: Sequence[Shown]) -> None:
        first = models[0].generator
        for other in models[1:]:
            if other.generator.num_classes != first.num_classes:
                raise UserError(
                    f"{models[0].name} has {first.num_classes} classes and {other.name} "
                    f"{other.generator.num_classes}: show them one at a time"
                )
        self.models = tuple(models)
        guidable = all(one.generator.guides is not None for one in models)
        told = [(0, MOST_GUIDANCE), *(one.generator.scales for one in models if one.generator.scales)]
        scales = max(least for least, _ in told), min(largest for _, largest in told)
        self.bounds = Bounds(first.num_classes, guidable, len(models), scales)
        self.waiting = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="generate")

    async def draw(self, asked: Any) -> Drawn:
        """Check a wish, wait for its turn, and compute it.

        Raises:
            UserError: see `Bounds.read`. BusyError: `MOST_WAITING` wait already.
        """
        wish = self.bounds.read(asked)
        if self.waiting >= MOST_WAITING:
            raise BusyError(f"{self.waiting} others are waiting: try again in a moment")
        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self.compute, wish)
        finally:
            self.waiting -= 1

    def compute(self, wish: Wish) -> Drawn:
        """The grid, at once."""
        shown = self.models[wish.model]
        generator, labels = shown.generator, labels_of(wish, self.bounds.num_classes)
        start = time.perf_counter()
        samples = draw(
            generator.guided(wish.guidance),
            generator.shape,
            None if labels is None else torch.tensor(labels),
            count=wish.count,
            times=grid(wish.nfe),
            method=wish.method,
            seed=wish.seed,
            device=generator.device,
            chunk=min(CHUNK, 1 << (wish.count - 1).bit_length()),
        )
        seconds = time.perf_counter() - start
        if not bool(samples.isfinite().all()):
            raise UserError("this model's samples are not finite: it has diverged, or is guided too strongly")
        many = self.bounds.num_classes
        columns = many if wish.label == IN_TURN and 1 < many <= 20 else None
        memory = io.BytesIO()
        figures.picture(generator.pictures(samples), columns).save(memory, format="png", compress_level=1)
        return Drawn(memory.getvalue(), seconds)

    def close(self) -> None:
        """Let the thread go; wishes that wait are dropped."""
        self._thread.shutdown(wait=True, cancel_futures=True)


def open_model(path: Path, device: str = "cpu", vae: str | None = None) -> Shown:
    """What `alphaflow.load` opens, for the demo.

    Raises:
        UserError: as there.
    """
    return Shown(path.resolve().name, load(path, device=device, vae=vae))
