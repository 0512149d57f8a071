"""The metrics by their names, and what they look at."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .. import metrics
from ..data import Dataset
from ..errors import UserError, choose
from ..metrics import Estimate
from ..metrics.statistics import Moments, merged
from ..rng import seeded
from .obedience import obeyed

KEPT = 10_000
"""The number of first samples that metrics of pairs compare; the other metrics see all."""
VALUES = 2**27
"""Numbers in the samples whose values are kept, 1 GiB in float64: of 256 × 256 pixels in colour the first 682."""


@dataclass(frozen=True)
class Samples:
    """Samples as the metrics see them."""

    count: int
    """The number of all samples."""
    labels: Tensor | None = None
    """(n,), the classes of the first n <= `KEPT` samples, where they have classes."""
    values: Tensor | None = None
    """(m, D) float64, the values of the first samples, where a metric asks for them."""
    features: Tensor | None = None
    """(n, F) float64, the features of the first samples, where a metric asks for them."""
    logits: Tensor | None = None
    """(n, K) float64, the logits of the first samples, where a metric asks for them."""
    judged: Tensor | None = None
    """(N, A) float64, what of their captions is right of all samples, where one can judge; see `obedience`."""
    unseen: Tensor | None = None
    """(M, A) float64, the same of samples of pairs that training kept out."""
    moments: list[Moments] | None = None
    """The moments of all features, by groups."""
    guesses: metrics.Guesses | None = None
    """The classes that the detector guesses of all samples, by groups."""
    given: metrics.Statistics | None = None
    """Statistics from a file, of samples that are not here."""

    def rows(self, index: Tensor) -> "Samples":
        """Select some of the kept samples, in one group: their scores have no intervals."""
        labels, features, logits = (
            None if part is None else part[index] for part in (self.labels, self.features, self.logits)
        )
        values = None if self.values is None else self.values[index[index < len(self.values)]]
        judged = None if self.judged is None else self.judged[index]
        guesses = None
        if logits is not None and self.judged is None:
            guesses = metrics.Guesses(logits.shape[1])
            guesses.add_all(logits, labels)
        moments = None if features is None else [merged(_moments(features))]
        return Samples(len(index), labels, values, features, logits, judged, None, moments, guesses)

    @cached_property
    def statistics(self) -> metrics.Statistics:
        """Mean and covariance of the features."""
        if self.given:
            return self.given
        assert self.moments is not None
        return merged(self.moments).statistics()


Scores = dict[str, Estimate]
Metric = Callable[[Samples, Samples], Scores]
"""A function of (real, fake) that returns scores by name."""


def _frechet(real: Samples, fake: Samples) -> Scores:
    assert fake.moments is not None
    return {"frechet": metrics.frechet_estimate(real.statistics, fake.moments).distance}


def _limit(real: Samples, fake: Samples) -> Scores:
    assert fake.moments is not None
    groups = fake.moments
    if len(groups) == 1:  # half of the real samples
        assert fake.features is not None
        groups = _moments(fake.features)
    limit = metrics.frechet_estimate(real.statistics, groups, limit=True).limit
    assert limit is not None
    return {"frechet_limit": Estimate(limit)}


def _accuracy(real: Samples, fake: Samples) -> Scores:
    assert fake.guesses is not None
    return {} if fake.labels is None else {"accuracy": fake.guesses.accuracy()}


def _words(real: Samples, fake: Samples) -> Scores:
    return {} if fake.judged is None else obeyed(fake.judged, fake.unseen)


def _kernel(real: Samples, fake: Samples) -> Scores:
    assert real.features is not None and fake.features is not None
    return {"kernel": metrics.kernel_distance(real.features, fake.features)}


def _inception(real: Samples, fake: Samples) -> Scores:
    assert fake.guesses is not None
    return {"inception_score": fake.guesses.inception_score()}


def _manifold(real: Samples, fake: Samples, names: Sequence[str] = ("precision", "recall")) -> Scores:
    assert real.features is not None and fake.features is not None and fake.moments is not None
    if len(fake.moments) == 1:
        plain, dense = (
            f(real.features, fake.features) for f in (metrics.precision_recall, metrics.density_coverage)
        )
        scores = {name: Estimate(value) for name, value in (plain._asdict() | dense._asdict()).items()}
    else:
        scores = metrics.manifold_estimates(real.features, fake.features)
    return {name: scores[name] for name in names}


def _density(real: Samples, fake: Samples) -> Scores:
    return _manifold(real, fake, ("density", "coverage"))


def _neighbours(real: Samples, fake: Samples) -> Scores:
    """Measure distances per dimension to the nearest real sample, and the share that is nearer than real
    ones ever are.

    `fake` may be `real` itself: then no sample counts as its own neighbour.

    `copies`: share of samples nearer to a real one than all but 1 % of the real ones are to each other; about 0.01
    for new samples, near 1 for a memoriser.
    """
    assert real.values is not None and fake.values is not None
    scale = real.values.shape[1] ** 0.5
    own = metrics.nearest_neighbours(real.values, real.values, exclude_self=True).distances / scale
    distances = own if fake is real else metrics.nearest_neighbours(fake.values, real.values).distances / scale
    copies = metrics.mean_estimate(distances < own.quantile(0.01))
    return {"neighbour": metrics.median_estimate(distances), "copies": copies}


def _energy(real: Samples, fake: Samples) -> Scores:
    assert real.values is not None and fake.values is not None
    return {"energy": Estimate(metrics.energy_distance(real.values, fake.values))}


def _sliced(real: Samples, fake: Samples) -> Scores:
    assert real.values is not None and fake.values is not None
    return {"sliced_wasserstein": Estimate(metrics.sliced_wasserstein(real.values, fake.values))}


METRICS: dict[str, Metric] = {
    "frechet": _frechet,
    "accuracy": _accuracy,
    "words": _words,
    "manifold": _manifold,
    "neighbours": _neighbours,
    "energy": _energy,
    "sliced": _sliced,
    "kernel": _kernel,
    "inception": _inception,
    "density": _density,
    "limit": _limit,
}
"""What `alphaflow evaluate --metrics` can name, each a function of real and generated samples."""
NEEDS_DETECTOR = ("frechet", "accuracy", "words", "manifold", "kernel", "inception", "density", "limit")
OF_FEATURES = {"manifold", "kernel", "density"}
OF_VALUES = {"neighbours", "energy", "sliced"}
"""Metrics of pairs, and what they compare."""
OF_REFERENCE = ("frechet", "accuracy", "words", "inception", "limit")
"""Metrics that need no real samples, or of those only mean and covariance."""
FEWEST_REAL = 12
"""For neighbourhoods of five: in either half of the real samples each has five others."""
ON_DEMAND = ("kernel", "inception", "density", "limit")
AT_MOST = {"image": 10_000, "latent": 10_000, "points": 10_000, "video": 2_000}
"""Real samples that the metrics look at, by their kind, and generated ones unless asked otherwise."""


def choose_metrics(
    names: Sequence[str] | None,
    dataset: Dataset,
    detector: metrics.Detector | None,
    *,
    reference: bool = False,
) -> list[str]:
    """Choose the metrics to compute: `names`, or all that apply but for those `ON_DEMAND`.

    reference: whether only statistics stand in place of the real samples.

    Raises:
        UserError: one of `names` is unknown or does not apply.
    """
    for name in names or []:
        choose("metric", name, METRICS, status=2)
        if reason := _why_not(name, dataset, detector, reference):
            raise UserError(f"metric {name!r} {reason}", status=2)
    if names:
        return list(names)
    left_out = {*ON_DEMAND, *(("neighbours",) if dataset.kind == "points" else ())}
    if detector:
        left_out |= {"energy", "sliced"}
    return [name for name in METRICS if name not in left_out and not _why_not(name, dataset, detector, reference)]


def _why_not(name: str, dataset: Dataset, detector: metrics.Detector | None, reference: bool) -> str:
    """Word why a metric does not apply; the answer is empty where it does."""
    if reference and name not in OF_REFERENCE:
        return "compares pairs of samples, and a reference holds none: leave out the metric, or --reference"
    if name in ("manifold", "density") and len(dataset) < FEWEST_REAL:
        return f"needs {FEWEST_REAL} real samples, and there are {len(dataset)}: leave it out"
    if name not in NEEDS_DETECTOR:
        return ""
    if detector is None:
        return f"needs a detector for samples of shape {dataset.shape}: name one with --detector"
    if name == "words" and detector.classes != "attributes":
        return "needs captions and a detector of what they tell, as the data shapes have: leave it out"
    if name == "inception" and detector.classes in ("none", "attributes"):
        return f"needs a detector that knows classes, as {detector.name} does not: take --detector inception"
    if name == "accuracy" and detector.classes != "the data's":
        return f"needs a detector that knows the classes of the data, as {detector.name} does not: leave it out"
    return ""


def _moments(features: Tensor) -> list[Moments]:
    accumulator = metrics.Accumulator()
    accumulator.update(features)
    return accumulator.groups()


def score(real: Samples, fake: Samples, names: Sequence[str]) -> Scores:
    """Compute these metrics."""
    scores: Scores = {}
    for name in names:
        scores |= METRICS[name](real, fake)
    return scores


def between_halves(real: Samples, names: Sequence[str], splits: int = 5) -> dict[str, float]:
    """Compute the same scores with one random half as real and the other as fake, mean over `splits`.

    Distances to the nearest neighbour depend on how many there are to choose from, so each of them is from a real
    sample to all other ones.
    """
    sums: dict[str, float] = {}
    whole = _neighbours(real, real) if "neighbours" in names else {}
    names = [name for name in names if name != "neighbours"]
    for k in range(splits):
        order = torch.randperm(min(real.count, KEPT), generator=seeded("halves", k))
        half = len(order) // 2
        scores = score(real.rows(order[:half]), real.rows(order[half : 2 * half]), names)
        sums = {name: sums.get(name, 0.0) + estimate.value / splits for name, estimate in scores.items()}
    return sums | {name: estimate.value for name, estimate in whole.items()}
