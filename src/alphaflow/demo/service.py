"""The models behind the demo make a grid of pictures for each request."""

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..generation import pictures
from ..generation.generator import CHUNK, Generator, draw_chunks
from ..path import Network
from ..runs.loading import load
from ..runtimes.running import run_in
from .line import Line
from .requests import IN_TURN, MOST_GUIDANCE, Bounds, Request, labels_of


@dataclass(frozen=True)
class Shown:
    """A model that is shown."""

    name: str
    """The name of the model's folder."""
    generator: Generator
    """The model, ready to draw."""


@dataclass(frozen=True)
class DrawnGrid:
    """A grid that was drawn."""

    png: bytes
    """The picture as a PNG."""
    seconds: float
    """The time that the network took."""
    runtime: str
    """What computed it, and how precisely, in words."""


class Service:
    """A service computes requests in turn, in a thread of its own, so that whoever serves them stays free to
    answer.

    Args:
        models: one model or more, with the same number of classes, or all of them told in words.

    Raises:
        UserError: the numbers of classes differ, or some are told in words and others not.
    """

    def __init__(self, models: Sequence[Shown]) -> None:
        first = models[0].generator
        for other in models[1:]:
            if _told(other.generator) != _told(first):
                raise UserError(
                    f"{models[0].name} has {_told(first)} and {other.name} {_told(other.generator)}: show them "
                    "one at a time"
                )
        self.models = tuple(models)
        guidable = all(model.generator.guides is not None for model in models)
        ranges = [(0, MOST_GUIDANCE), *(model.generator.scales for model in models if model.generator.scales)]
        scales = max(least for least, _ in ranges), min(largest for _, largest in ranges)
        self.bounds = Bounds(first.num_classes, guidable, len(models), scales, bool(first.vocabulary))
        self.line = Line()

    async def draw(self, asked: Any) -> DrawnGrid:
        """Check a request, wait for its turn, and compute it. Cancelled, it stops before the next evaluation.

        Raises:
            UserError: see `Bounds.read`, `compute`.
            BusyError: too much waits already.
        """
        request = self.bounds.read(asked)
        return await self.line.run(self.work(request), lambda go_on: self.compute(request, go_on))

    def work(self, request: Request) -> int:
        """Count the network's evaluations for a request, by rows."""
        plain = request.guidance != 1 and self.models[request.model].generator.scales is None
        return _rows(request) * request.nfe * (2 if request.method == "heun" else 1) * (2 if plain else 1)

    def compute(self, request: Request, go_on: Callable[[], None] = lambda: None) -> DrawnGrid:
        """Compute the grid at once. `go_on` is called before each evaluation, and may raise.

        Raises:
            UserError: the samples are not finite, or the prompt is too long.
        """
        generator = self.models[request.model].generator
        told = _conditions(generator, request)
        start = time.perf_counter()
        (samples,) = draw_chunks(
            _watched(generator.guided(request.guidance), go_on),
            generator.shape,
            told,
            request.sampler,
            count=request.count,
            device=generator.device,
            chunk=_rows(request),
        )
        seconds = time.perf_counter() - start
        if not bool(samples.isfinite().all()):
            raise UserError("this model's samples are not finite: it has diverged, or is guided too strongly")
        vocabulary, many = generator.vocabulary, self.bounds.num_classes
        if vocabulary:
            many = 1 if request.prompt else len(vocabulary.examples)
        columns = many if request.label == IN_TURN and 1 < many <= 20 else None
        memory = io.BytesIO()
        pictures.picture(generator.pictures(samples), columns).save(memory, format="png", compress_level=1)
        return DrawnGrid(memory.getvalue(), seconds, generator.runtime or "torch")

    def close(self) -> None:
        """Let the thread go; requests that wait are dropped."""
        self.line.close()


def _told(generator: Generator) -> str:
    """Say by what a model is told what to draw."""
    return "words" if generator.vocabulary else f"{generator.num_classes} classes"


def _conditions(generator: Generator, request: Request) -> Tensor | None:
    """Return the condition of each picture: (count,) classes, or (count, L) prompts in numbers."""
    if generator.vocabulary:
        prompts = [request.prompt] if request.prompt else generator.vocabulary.examples
        return generator.vocabulary.encode([prompts[k % len(prompts)] for k in range(request.count)])
    labels = labels_of(request, generator.num_classes)
    return None if labels is None else torch.tensor(labels)


def _rows(request: Request) -> int:
    """Return how many rows are computed at a time: the next power of two, `CHUNK` at most."""
    return min(CHUNK, 1 << (request.count - 1).bit_length())


def _watched(net: Network, go_on: Callable[[], None]) -> Network:
    def watched(z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        go_on()
        return net(z, r, t, y)

    return watched


def open_model(
    path: Path,
    device: str = "cpu",
    vae: str | None = None,
    runtime: str | None = None,
    precision: str | None = None,
) -> Shown:
    """Open a model for the demo as `alphaflow.load` does, to be computed as `run_in` says.

    Raises:
        UserError: see `alphaflow.load`, `run_in`.
    """
    return Shown(path.resolve().name, run_in(load(path, device=device, vae=vae), runtime, precision))
