"""Scoring a trained run against its own data.

Every result names its protocol: how many samples, whose labels, which sampler, evaluations, seed and weights.
Beside the generated samples stand two halves of the real data, scored against each other in the same way (for
nearest neighbours: each real sample among all others): no metric has a meaning of its own, and that row is the
scale to read it by.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import metrics
from .data import Dataset, MovingDigits
from .errors import UserError, choose
from .generate import Generator
from .pixels import to_uint8
from .rng import seeded


@dataclass(frozen=True)
class Samples:
    """Samples as the metrics see them: values (N, D); features (N, F) and guesses where a detector fits."""

    values: Tensor
    labels: Tensor | None
    features: Tensor | None = None
    guesses: Tensor | None = None

    def rows(self, index: Tensor) -> "Samples":
        pick = [
            None if part is None else part[index]
            for part in (self.values, self.labels, self.features, self.guesses)
        ]
        return Samples(*pick)  # type: ignore[arg-type]


Metric = Callable[[Samples, Samples], dict[str, float]]
"""(real, fake) -> figures by name."""


def _frechet(real: Samples, fake: Samples) -> dict[str, float]:
    assert real.features is not None and fake.features is not None
    return {"frechet": metrics.frechet_from_features(real.features, fake.features)}


def _accuracy(real: Samples, fake: Samples) -> dict[str, float]:
    assert fake.guesses is not None and fake.labels is not None
    return {"accuracy": (fake.guesses == fake.labels).double().mean().item()}


def _manifold(real: Samples, fake: Samples) -> dict[str, float]:
    assert real.features is not None and fake.features is not None
    result = metrics.precision_recall(real.features, fake.features)
    return {"precision": result.precision, "recall": result.recall}


def _neighbours(real: Samples, fake: Samples) -> dict[str, float]:
    """Distances per dimension to the nearest real sample, and the share that is nearer than real ones ever are.

    `fake` may be `real` itself: then no sample counts as its own neighbour.

    `copies`: share of samples nearer to a real one than all but 1 % of the real ones are to each other; about 0.01
    for new samples, near 1 for a memoriser.
    """
    scale = real.values.shape[1] ** 0.5
    own = metrics.nearest_neighbours(real.values, real.values, exclude_self=True).distances / scale
    found = own if fake is real else metrics.nearest_neighbours(fake.values, real.values).distances / scale
    copies = (found < own.quantile(0.01)).double().mean().item()
    return {"neighbour": found.median().item(), "copies": copies}


def _energy(real: Samples, fake: Samples) -> dict[str, float]:
    return {"energy": metrics.energy_distance(real.values, fake.values)}


def _sliced(real: Samples, fake: Samples) -> dict[str, float]:
    return {"sliced_wasserstein": metrics.sliced_wasserstein(real.values, fake.values)}


METRICS: dict[str, Metric] = {
    "frechet": _frechet,
    "accuracy": _accuracy,
    "manifold": _manifold,
    "neighbours": _neighbours,
    "energy": _energy,
    "sliced": _sliced,
}
NEEDS_DETECTOR = ("frechet", "accuracy", "manifold")
AT_MOST = {"image": 10_000, "latent": 10_000, "points": 10_000, "video": 2_000}
"""Real samples that the metrics look at, by their kind, and generated ones unless asked otherwise."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """Figures of one setting, with the protocol that they hold for."""

    nfe: int
    method: str
    times: tuple[float, ...] | None
    count: int
    labels: str
    seed: int
    weights: str
    figures: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All results of one run at one step, and the same figures between two halves of the real data."""

    run: str
    step: int
    detector: str | None
    data: str
    real_count: int
    results: list[Result]
    halves: dict[str, float]

    def write(self, path: Path) -> None:
        """As JSON, atomically."""
        temporary = path.with_name(path.name + ".tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(asdict(self), indent=2) + "\n")
            temporary.replace(path)
        except OSError as error:
            raise UserError(f"cannot write {path} ({error.strerror}): choose another place") from None

    def table(self) -> str:
        """For people: a line a setting, and last the real halves."""
        names = list(self.halves)
        rows = [[f"{r.nfe} NFE, {r.method}", *(f"{r.figures[name]:.4g}" for name in names)] for r in self.results]
        rows = [["", *names], *rows, ["real halves", *(f"{self.halves[name]:.4g}" for name in names)]]
        widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
        return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows)


def evaluate(
    generator: Generator,
    dataset: Dataset,
    *,
    run: str,
    nfes: Sequence[int] = (1, 2),
    method: str | list[str] = "ode",
    times: Sequence[float] | None = None,
    names: Sequence[str] | None = None,
    count: int | None = None,
    seed: int = 0,
) -> Evaluation:
    """Score `generator` at each number of evaluations.

    Args:
        dataset: the run's data. names: which of `METRICS`; None: all that apply.
        count: how many samples; None: as many as there are data, at most `AT_MOST`. Labels are those of the data.

    Raises:
        UserError: a metric that is unknown or does not apply, too few samples.
    """
    detector = _detector(dataset)
    names = _choose_metrics(names, dataset, detector is not None)
    size = min(len(dataset), AT_MOST[dataset.kind])
    count = size if count is None else count
    if count < 8:
        raise UserError(f"--count {count} is too few to measure anything: give at least 8", status=2)
    rows, pixels = (
        torch.randperm(len(dataset), generator=seeded("real"))[:size],
        dataset.kind in ("image", "video"),
    )
    real = _examine(*dataset.batch(rows), detector, pixels)
    labels = torch.zeros(size, dtype=torch.int64) if real.labels is None else real.labels
    labels = labels[torch.arange(count) % size]
    results = []
    for nfe in [len(times) - 1] if times is not None else nfes:
        values = generator.samples(labels, nfe, seed, method, times)
        fake = _examine(values, labels if generator.num_classes else None, detector, pixels)
        results.append(
            Result(
                nfe=nfe,
                method=method if isinstance(method, str) else ",".join(method),
                times=None if times is None else tuple(times),
                count=count,
                labels="from the data",
                seed=seed,
                weights=generator.weights,
                figures=_score(real, fake, names),
            )
        )
    return Evaluation(
        run=run,
        step=generator.step,
        detector=f"{detector.name}, sha256 {detector.sha256}" if detector else None,
        data=dataset.fingerprint,
        real_count=size,
        results=results,
        halves=_between_halves(real, names),
    )


def _detector(dataset: Dataset) -> metrics.Detector | None:
    """The network whose features fit the data, if there is one."""
    if isinstance(dataset, MovingDigits):
        return metrics.load_moving_digits_detector(dataset.frames, dataset.size)
    return metrics.load_digits_detector() if dataset.shape == (1, 8, 8) else None


def _choose_metrics(names: Sequence[str] | None, dataset: Dataset, has_detector: bool) -> list[str]:
    apply = [name for name in METRICS if has_detector or name not in NEEDS_DETECTOR]
    if dataset.kind == "points":
        apply.remove("neighbours")
    elif has_detector:
        apply = [name for name in apply if name not in ("energy", "sliced")]
    for name in names or []:
        choose("metric", name, METRICS, status=2)
        if name in NEEDS_DETECTOR and not has_detector:
            raise UserError(f"metric {name!r} needs a detector for samples of shape {dataset.shape}", status=2)
    return list(names or apply)


def _examine(x: Tensor, y: Tensor | None, detector: metrics.Detector | None, pixels: bool) -> Samples:
    """Samples, `pixels` as a PNG would hold them, and what the detector says of them."""
    values = x.flatten(1).double()
    if not pixels:
        return Samples(values, y)
    images = to_uint8(x)
    values = torch.from_numpy(images.reshape(len(images), -1).astype(np.float64)) / 127.5 - 1
    if detector is None:
        return Samples(values, y)
    seen = detector(images)
    return Samples(values, y, seen.features, seen.logits.argmax(1))


def _score(real: Samples, fake: Samples, names: Sequence[str]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name in names:
        figures |= METRICS[name](real, fake)
    return figures


def _between_halves(real: Samples, names: Sequence[str], splits: int = 5) -> dict[str, float]:
    """The same figures with one random half as real and the other as fake, mean over `splits`.

    But distances to the nearest neighbour depend on how many there are to choose from: those are from each real
    sample to all other ones.
    """
    sums: dict[str, float] = {}
    whole = _neighbours(real, real) if "neighbours" in names else {}
    names = [name for name in names if name != "neighbours"]
    for k in range(splits):
        order = torch.randperm(len(real.values), generator=seeded("halves", k))
        half = len(order) // 2
        figures = _score(real.rows(order[:half]), real.rows(order[half : 2 * half]), names)
        sums = {name: sums.get(name, 0.0) + value / splits for name, value in figures.items()}
    return sums | whole


def read(path: Path) -> dict[str, Any] | None:
    """What `Evaluation.write` wrote, or None."""
    return json.loads(path.read_text()) if path.exists() else None
