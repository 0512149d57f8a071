"""Scoring a trained run, or a folder of images, against the run's own data.

Every result names its protocol: how many samples, whose labels, which sampler, evaluations, seed and weights.
Beside the generated samples stand two halves of the real data, scored against each other in the same way (for
nearest neighbours: each real sample among all others): no metric has a meaning of its own, and that row is the
scale to read it by.
"""

import hashlib
import itertools
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import metrics
from .data import Dataset, MovingDigits
from .errors import UserError, choose
from .generate import CHUNK, Generator, choose_labels
from .pixels import to_uint8
from .results import Evaluation, Result, read, write_text
from .rng import seeded
from .scoring import AT_MOST, KEPT, METRICS, Figures, Samples, between_halves, choose_metrics, score

__all__ = ["METRICS", "Evaluation", "Result", "Setting", "evaluate", "evaluate_images", "read"]

log = logging.getLogger("alphaflow")

LABELS = {"data": "from the data", "balanced": "balanced", "random": "random by seed and sample"}
"""How the classes of the samples are chosen; Fréchet distances under different protocols do not compare."""


@dataclass(frozen=True)
class Setting:
    """How samples are drawn: a sampler, and a number of evaluations or a grid of times."""

    method: str | tuple[str, ...] = "ode"
    nfe: int = 1
    times: tuple[float, ...] | None = None


def settings(
    nfes: Sequence[int] = (1, 2),
    methods: Sequence[str | Sequence[str]] = ("ode",),
    times: Sequence[float] | None = None,
    midpoints: Sequence[float] = (),
) -> list[Setting]:
    """All of them: each method at each number of evaluations and with two around each midpoint; or at `times`."""
    for middle in midpoints:
        if not 0 < middle < 1:
            raise UserError(f"midpoint {middle:g} must lie between 0 and 1, where data and noise are", status=2)
    grids: list[tuple[int, tuple[float, ...] | None]] = [(nfe, None) for nfe in nfes]
    if times is not None:
        grids = [(len(times) - 1, tuple(times))]
    grids += [(2, (1.0, middle, 0.0)) for middle in midpoints]
    found = [
        Setting(method if isinstance(method, str) else tuple(method), nfe, grid)
        for method, (nfe, grid) in itertools.product(methods, grids)
    ]
    return list(dict.fromkeys(found))


class _Scorer:
    """The real samples, examined once, and what is asked of others."""

    def __init__(self, dataset: Dataset, names: Sequence[str] | None) -> None:
        self.dataset, self.detector = dataset, _detector(dataset)
        self.names = choose_metrics(names, dataset, self.detector is not None)
        self.size = min(len(dataset), AT_MOST[dataset.kind])
        self.pixels = dataset.kind in ("image", "video")
        rows = torch.randperm(len(dataset), generator=seeded("real"))[: self.size]
        parts = [dataset.batch(some) for some in rows.split(CHUNK)]
        labels = None if parts[0][1] is None else torch.cat([y for _, y in parts if y is not None])
        self.real = self.examine((x for x, _ in parts), labels)

    @property
    def detector_name(self) -> str | None:
        return f"{self.detector.name}, sha256 {self.detector.sha256}" if self.detector else None

    def labels(self, words: str, count: int, num_classes: int, seed: int) -> Tensor:
        if words != "data":
            return choose_labels(words, count, num_classes, seed)
        known = self.real.labels
        found = torch.zeros(self.size, dtype=torch.int64) if known is None else known
        return found[torch.arange(count) % self.size]

    def examine(self, chunks: Iterable[Tensor | NDArray[np.uint8]], labels: Tensor | None) -> Samples:
        """Samples (B, C, …) or images uint8 (B, H, W, C), 64 at a time: what the metrics need of them.

        Pixels are rounded as a PNG would hold them. The detector sees 64 at a time, whatever the source.
        """
        values, features, guesses, logits = [], [], [], []
        moments = metrics.Accumulator()
        kept = 0
        for chunk in chunks:
            if self.pixels:
                images = to_uint8(chunk) if isinstance(chunk, Tensor) else chunk
                chunk = torch.from_numpy(images.reshape(len(images), -1).astype(np.float64)) / 127.5 - 1
                if self.detector:
                    seen = self.detector(images)
                    moments.update(seen.features)
                    guesses.append(seen.logits.argmax(1))
                    if kept < KEPT:
                        features.append(seen.features)
                    if "inception" in self.names:
                        logits.append(seen.logits)
            assert isinstance(chunk, Tensor)
            if kept < KEPT:
                values.append(chunk.flatten(1).double())
            kept += len(chunk)
        return Samples(
            values=torch.cat(values)[:KEPT],
            labels=labels,
            features=torch.cat(features)[:KEPT] if features else None,
            guesses=torch.cat(guesses) if guesses else None,
            logits=torch.cat(logits) if logits else None,
            moments=moments.groups() if guesses else None,
        )

    def score(self, fake: Samples) -> Figures:
        return score(self.real, fake, self.names)

    def rounding(self) -> str:
        return "uint8, as in a PNG" if self.pixels else "none"

    def evaluation(self, run: str, step: int, results: list[Result]) -> Evaluation:
        return Evaluation(
            run=run,
            step=step,
            detector=self.detector_name,
            data=self.dataset.fingerprint,
            real_count=self.size,
            results=results,
            halves=between_halves(self.real, self.names),
        )


def evaluate(
    generators: Generator | Iterable[Generator],
    dataset: Dataset,
    *,
    run: str,
    sweep: Sequence[Setting] | None = None,
    names: Sequence[str] | None = None,
    count: int | None = None,
    labels: str = "data",
    seed: int = 0,
    keep: Path | None = None,
) -> Evaluation:
    """Score each of the `generators` (the same network with other weights) in each setting of the sweep.

    Samples are drawn once for each, 64 at a time, and all metrics look at them.

    Args:
        dataset: the run's data. names: which of `METRICS`; None: all but those `ON_DEMAND`, as far as they apply.
        sweep: None: one and two evaluations.
        count: how many samples; None: as many as there are data, at most `AT_MOST`.
        labels: one of `LABELS`.
        keep: a folder where each finished setting is kept, and looked for: a sweep that was broken off goes on
            after its last one.

    Raises:
        UserError: a metric that is unknown or does not apply, too few samples.
    """
    choose("labels", labels, LABELS, status=2)
    if count is not None and count < 8:
        raise UserError(f"--count {count} is too few to measure anything: give at least 8", status=2)
    scorer = _Scorer(dataset, names)
    count = scorer.size if count is None else count
    results, step = [], 0
    for generator in [generators] if isinstance(generators, Generator) else generators:
        step = generator.step
        digest = _digest(generator) if keep else ""
        y = scorer.labels(labels, count, generator.num_classes, seed)
        for setting in sweep or settings():
            protocol = {
                "nfe": setting.nfe,
                "method": setting.method if isinstance(setting.method, str) else ",".join(setting.method),
                "times": setting.times,
                "count": count,
                "labels": LABELS[labels],
                "seed": seed,
                "weights": generator.weights,
                "rounding": scorer.rounding(),
            }
            whole = [protocol, scorer.names, scorer.size, scorer.detector_name, dataset.fingerprint, digest]
            file = keep / f"{hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:16]}.json" if keep else None
            result = _kept(file)
            if result is None:
                chunks = generator.chunks(y, setting.nfe, seed, setting.method, setting.times)
                fake = scorer.examine(chunks, y if generator.num_classes else None)
                result = _result(scorer.score(fake), protocol)
                if file:
                    write_text(file, json.dumps(asdict(result)) + "\n")
            results.append(result)
    return scorer.evaluation(run, step, results)


def evaluate_images(
    chunks: Iterator[NDArray[np.uint8]],
    dataset: Dataset,
    *,
    source: str,
    labels: Tensor | None = None,
    names: Sequence[str] | None = None,
) -> Evaluation:
    """Score images of anybody's, uint8 (B, H, W, C) 64 at a time, against `dataset`.

    labels: (N,) int64, the classes asked for, where they are known; without them there is no accuracy.
    """
    scorer = _Scorer(dataset, names)
    if not scorer.pixels:
        raise UserError(f"images cannot be compared with {dataset.kind}: give a run on images", status=2)
    fake = scorer.examine(chunks, labels)
    count = len(fake.values) if fake.guesses is None else len(fake.guesses)
    protocol = {
        "nfe": 0,
        "method": source,
        "times": None,
        "count": count,
        "labels": "unknown" if labels is None else "in the file names",
        "seed": 0,
        "weights": "unknown",
        "rounding": "as in the files",
    }
    return scorer.evaluation(source, 0, [_result(scorer.score(fake), protocol)])


def _result(found: Figures, protocol: dict) -> Result:
    return Result(
        figures={name: one.value for name, one in found.items()},
        errors={name: one.error for name, one in found.items() if one.error is not None},
        intervals={
            name: (one.low, one.high)
            for name, one in found.items()
            if one.low is not None and one.high is not None
        },
        **protocol,
    )


def _kept(file: Path | None) -> Result | None:
    if file is None or not file.exists():
        return None
    log.info("found %s: this setting was scored before", file)
    record = json.loads(file.read_text())
    return Result(**{**record, "times": record["times"] and tuple(record["times"])})


def _digest(generator: Generator) -> str:
    """Of the weights, so that a kept result is not taken for one of another network."""
    digest = hashlib.sha256(str(generator.step).encode())
    for name, tensor in sorted(generator.net.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _detector(dataset: Dataset) -> metrics.Detector | None:
    """The network whose features fit the data, if there is one."""
    if isinstance(dataset, MovingDigits):
        return metrics.load_moving_digits_detector(dataset.frames, dataset.size)
    return metrics.load_digits_detector() if dataset.shape == (1, 8, 8) else None
