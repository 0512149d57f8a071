"""From a trained run to samples.

Sample i of a seed is the same whatever is asked for beside it: its noise is keyed by (seed, i), and it is always
computed at place i mod 64 of a batch of 64, since a network's rounding errors depend on the size of the batch.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..data import Told, Vocabulary
from ..data.class_words import class_of
from ..data.vocabulary import BLANK, some_condition
from ..encoding.decoder import Decoder
from ..errors import UserError
from ..method.guidance import GuidanceConditioned, Guided
from ..method.sampling import sample
from ..path import Network
from ..pixels import to_uint8
from ..progress import ProgressBar
from ..rng import KeyedRandom, hash_key
from .sampler import WHOLE, Sampler

CHUNK = 64
"""Samples are drawn in blocks of so many."""
Labels = Sequence[int] | NDArray[Any] | Tensor | int
"""A class for each sample, or how many samples of no class; of a network that reads words, a prompt for each as
its `Vocabulary` encodes it, int64 (N, L)."""


def draw_chunks(
    net: Network,
    shape: Sequence[int],
    labels: Tensor | None,
    sampler: Sampler,
    *,
    count: int,
    device: torch.device | str = "cpu",
    firsts: Iterable[int] | None = None,
    chunk: int = CHUNK,
) -> Iterator[Tensor]:
    """Yield samples 0 … count-1 of the sampler's seed, 64 at a time and the rest, (B, *shape) float32 on the CPU.

    Args:
        net: the network, already under the sampler's guidance (`Generator.guided`).
        labels: (count,) int64, or (count, L) of prompts; None where the network is told nothing.
        firsts: the first samples, multiples of 64, of the only blocks to draw.
        chunk: how many rows are computed at a time; samples then differ by the network's rounding errors.
    """
    times = sampler.grid
    for first in range(0, count, chunk) if firsts is None else firsts:
        index = torch.arange(first, first + chunk)
        random = KeyedRandom(hash_key(sampler.seed, "sample"), index)
        noise = random.normal("start", shape, device)
        y = None
        if labels is not None:
            y = torch.zeros(chunk, *labels.shape[1:], dtype=torch.int64, device=device)
            given = labels[first : first + chunk]
            y[: len(given)] = given.to(device)
        z = sample(net, noise, y, times=times, method=sampler.method, generator=random)
        yield z[: count - first].float().cpu()


def draw(
    net: Network,
    shape: Sequence[int],
    labels: Tensor | None,
    sampler: Sampler,
    *,
    count: int,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw all samples of `draw_chunks` as one tensor, (count, *shape)."""
    return _joined(draw_chunks(net, shape, labels, sampler, count=count, device=device), shape, count)


def _joined(chunks: Iterable[Tensor], shape: Sequence[int], count: int) -> Tensor:
    parts, done = [], 0
    with ProgressBar("sampling", 0, count, unit="samples") as bar:
        for part in chunks:
            parts.append(part)
            done += len(part)
            bar.update(done)
    return torch.cat(parts) if parts else torch.empty(0, *shape)


@dataclass(frozen=True)
class Generator:
    """A trained network with what is needed to sample from it. `load` makes one; a call of it returns images."""

    net: nn.Module
    """u(z, r, t, y) in evaluation mode, with the averaged weights, on `device`."""
    shape: tuple[int, ...]
    """A sample's shape: (C, H, W), (C, T, H, W) for videos, (D,) for points."""
    num_classes: int
    """The number of classes of the data; 0 without classes."""
    class_names: tuple[str, ...]
    """A name for each class."""
    kind: str
    """What a sample is: "image", "video", "latent" or "points"."""
    step: int
    """The number of steps of its training."""
    device: torch.device
    """The device of the network."""
    weights: str = "ema"
    """Which weights the network has, in words."""
    runtime: str = ""
    """What computes the network and how precisely, in words, where that was chosen: "onnx int8"; else torch does,
    as precisely as the weights are."""
    decoder: Decoder | None = None
    """It makes pictures of samples that are latents."""
    guides: tuple[float, float] | None = None
    """The times between which labels were dropped in training, so that plain guidance applies; None: nowhere."""
    scales: tuple[float, float] | None = None
    """The least and the largest scale of guidance that the network takes as an input; None: it takes none."""
    intervals: bool = False
    """Whether the network also takes the interval of guidance as an input."""
    name: str = "this model"
    """The folder or address of the model, for messages."""
    vocabulary: Vocabulary | None = None
    """The words that the network reads; None: it reads none."""

    @property
    def told(self) -> Told:
        """What the network is told: the number of classes, or the vocabulary."""
        return self.vocabulary or self.num_classes

    def __call__(
        self,
        labels: Labels | None = None,
        nfe: int = 1,
        seed: int = 0,
        method: str | Sequence[str] = "ode",
        times: Sequence[float] | None = None,
        guidance: float = 1.0,
        interval: tuple[float, float] = WHOLE,
        *,
        prompts: Sequence[str] | None = None,
    ) -> NDArray[np.uint8]:
        """Draw images uint8 (N, H, W, C), or videos (N, T, H, W, C), one a label or prompt; see `samples`."""
        if self.kind == "points":
            raise UserError("this run generates points, not images: use generator.samples(...)")
        drawn = self.samples(labels, nfe, seed, method, times, guidance, interval, prompts=prompts)
        return self.pictures(drawn)

    def pictures(self, samples: Tensor) -> NDArray[Any]:
        """Make pictures of samples: images uint8 (N, H, W, C), videos (N, T, H, W, C), decoded where samples are
        latents. Points (N, 2) stay as they are."""
        if self.kind == "points":
            return samples.numpy()
        return to_uint8(self.decoder(samples) if self.decoder else samples)

    def samples(
        self,
        labels: Labels | None = None,
        nfe: int = 1,
        seed: int = 0,
        method: str | Sequence[str] = "ode",
        times: Sequence[float] | None = None,
        guidance: float = 1.0,
        interval: tuple[float, float] = WHOLE,
        *,
        prompts: Sequence[str] | None = None,
    ) -> Tensor:
        """Draw samples as the network makes them, (N, *shape) float32.

        Args:
            labels: a class for each sample, 0 … num_classes (that last one: no class); or how many samples,
                which then have no class.
            nfe, seed, method, times, interval: see `Sampler`.
            guidance: its scale, 1 for none. A network that takes the scale as an input is given it; others are
                evaluated twice, with and without the class.
            prompts: in place of labels, words for each sample; for networks that read them.

        Raises:
            UserError: labels out of range, a time grid or method that doesn't fit, guidance of a network that was
                not trained for it, or not for this scale or interval.
        """
        if (labels is None) == (prompts is None):
            raise UserError("give labels or prompts: one of them says what to draw, and how many")
        told: Labels = self.encode(prompts or []) if labels is None else labels
        count = int(told) if isinstance(told, int | np.integer) else len(torch.as_tensor(told))
        sampler = Sampler(nfe, seed, method, times, guidance, interval)
        return _joined(self.chunks(told, sampler), self.shape, count)

    def chunks(self, labels: Labels, sampler: Sampler, firsts: Iterable[int] | None = None) -> Iterator[Tensor]:
        """Yield the samples of `samples` 64 at a time, for callers that need not hold them all.

        firsts: the first samples, multiples of 64, of the only blocks to draw.
        """
        count, y = self._labels(labels)
        scale = sampler.guidance
        net = self.guided(scale, sampler.interval)
        reason = "" if scale == 1 else f", or guidance {scale:g} leads too far"
        try:
            for chunk in draw_chunks(net, self.shape, y, sampler, count=count, device=self.device, firsts=firsts):
                self._check(chunk, reason)
                yield chunk
        except UserError:
            raise
        except ValueError as error:
            raise UserError(str(error), status=2) from None

    def check(self) -> None:
        """Draw one sample, and raise `UserError` where it is not finite."""
        y = some_condition(self.told, 1)
        for chunk in draw_chunks(self.net, self.shape, y, Sampler(), count=1, device=self.device, chunk=1):
            self._check(chunk)

    def _check(self, samples: Tensor, reason: str = "") -> None:
        if not bool(samples.isfinite().all()):
            raise UserError(
                f"{self.name} makes samples that are not finite: it has diverged by step {self.step}{reason}; "
                "train it again with a smaller --optimizer.lr"
            )

    def guided(self, scale: float, interval: tuple[float, float] = WHOLE) -> Network:
        """Return the network at this scale of guidance, which is given to it where it takes that input,
        and applied as plain guidance elsewhere; at scale 1 the network is returned as it is.

        Raises:
            UserError: the network was not trained for that, or the scale is below 0.
        """
        if tuple(interval) != WHOLE and (not self.intervals or scale == 1):
            reason = "a scale: 1 guides nothing"
            if not self.intervals:
                reason = "a network trained with --model.guided --objective.scales 1 4 --objective.intervals"
            start, end = interval
            raise UserError(f"guidance between {start:g} and {end:g} needs {reason}", status=2)
        if scale == 1:
            return self.net
        if self.scales is not None:
            return self._conditioned(scale, interval)
        if not 0 <= scale < math.inf:
            raise UserError(f"guidance {scale:g} must be a number of at least 0: 1 guides nothing", status=2)
        if self.guides is None:
            reason = "it was trained without label_drop" if self.told else "its data have no classes"
            raise UserError(
                f"guidance {scale:g} needs a network that knows samples without a class, and {reason}: leave "
                "--guidance out, or train with --objective.label-drop 0.1",
                status=2,
            )
        null = BLANK if self.vocabulary else self.num_classes
        return Guided(self.net, null, scale, *self.guides)

    def _conditioned(self, scale: float, interval: tuple[float, float]) -> GuidanceConditioned:
        assert self.scales is not None
        (least, largest), (start, end) = self.scales, interval
        if not least <= scale <= largest:
            raise UserError(
                f"guidance {scale:g} lies outside {least:g} … {largest:g}, the scales that this network was "
                "trained for: choose one of them, or train with other --objective.scales",
                status=2,
            )
        if not 0 <= start <= 0.5 <= end <= 1:
            raise UserError(
                f"guidance between {start:g} and {end:g} is none that this network was trained for: begin between "
                "0 and 0.5, and end between 0.5 and 1",
                status=2,
            )
        return GuidanceConditioned(self.net, self.num_classes, scale, start, end)

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Return prompts as the network reads them, int64 (N, L).

        Raises:
            UserError: the network reads no words, or not so many.
        """
        if self.vocabulary is None:
            told = f"classes, 0 … {self.num_classes - 1}: give labels" if self.num_classes else "nothing"
            raise UserError(f"{self.name} reads no prompts: it is told {told}", status=2)
        return self.vocabulary.encode(prompts)

    def _prompts(self, vocabulary: Vocabulary, y: Tensor) -> tuple[int, Tensor]:
        if y.shape[1:] != (vocabulary.length,) or y.dtype != torch.int64:
            raise UserError(
                f"{self.name} is told in words, and labels of shape {tuple(y.shape)} are none: give prompts=[…]",
                status=2,
            )
        return len(y), y

    def _labels(self, labels: Any) -> tuple[int, Tensor | None]:
        if isinstance(labels, int | np.integer):
            if labels < 0:
                raise UserError(f"cannot make {labels} samples: give a number of at least 0")
            if self.vocabulary:
                return int(labels), self.vocabulary.encode([""] * int(labels))
            null = torch.full((int(labels),), self.num_classes)
            return int(labels), null if self.num_classes else None
        if self.vocabulary:
            return self._prompts(self.vocabulary, torch.as_tensor(labels))
        y = torch.as_tensor(labels).reshape(-1)
        if y.is_complex() or y.dtype == torch.bool or bool((y != y.round()).any()):
            wrong = next((label for label in y.tolist() if not isinstance(label, float) or label % 1), y[0].item())
            raise UserError(f"label {wrong} is no class: give whole numbers", status=2)
        y = y.to(torch.int64)
        if self.num_classes == 0:
            return len(y), None
        bad = y[(y < 0) | (y > self.num_classes)]
        if len(bad):
            raise UserError(
                f"label {int(bad[0])} is out of range: classes are 0 … {self.num_classes - 1}, "
                f"and {self.num_classes} means no class",
                status=2,
            )
        return len(y), y


def choose_labels(
    words: str, count: int, num_classes: int, seed: int = 0, names: Sequence[str] | None = None
) -> Tensor:
    """Choose labels (count,) int64: `balanced` (i mod classes), `random` (by seed and i), or a list to go
    round in, of the numbers of classes or of their `names` (see `class_of`). Without classes all labels are
    0.

    Raises:
        UserError: a word that is no class.
    """
    index = torch.arange(count)
    if num_classes == 0:
        return torch.zeros(count, dtype=torch.int64)
    if words == "balanced":
        return index % num_classes
    if words == "random":
        share = KeyedRandom(hash_key(seed, "labels"), index).uniform("label")
        return (share * num_classes).long()
    names = list(names or map(str, range(num_classes)))
    parts = [words] if words in names else [word.strip() for word in words.split(",")]
    if not all(parts):
        raise UserError(f"--labels {words!r}: give balanced, random, or classes like 0,1,2", status=2)
    listed = torch.tensor([class_of(word, names) for word in parts])
    return listed[index % len(listed)]
