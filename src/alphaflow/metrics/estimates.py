"""Standard errors of metrics by the delete-a-group jackknife: how far other samples of the generator would move
them.

A metric is computed again without each of the 8 groups of `statistics`; the spread of these values gives its
standard error. It needs no second pass, works where the metric's bias depends on the number of samples (as a
Fréchet distance's does: sub-sets all have the same bias), and gives the same interval for any batches and
processes. The reference set counts as fixed, and so does the trained model: another seed of training is another
matter.

Source: F. M. T. A. Busing, E. Meijer, R. van der Leeden, Delete-m jackknife for unequal m, Statistics and
Computing 9, 1999.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum

import torch
from torch import Tensor

from alphaflow.errors import UserError
from alphaflow.metrics._checks import ArrayLike, as_float64
from alphaflow.metrics.frechet import FrechetTo
from alphaflow.metrics.statistics import GROUPS, Moments, Statistics, groups_of, merged

FEWEST_GROUPS = 4
"""The fewest groups with an interval. With fewer (fewer than 193 samples) three deviations say next to nothing."""


@dataclass(frozen=True)
class Estimate:
    """A metric's value, its standard error, and the ends of its 95 % interval; None with too few samples for
    them."""

    value: float
    error: float | None = None
    low: float | None = None
    high: float | None = None


def group_counts(count: int) -> list[int]:
    """Return how many of samples 0 … count - 1 are in each group."""
    return torch.bincount(groups_of(torch.arange(count)), minlength=GROUPS).tolist()


def jackknife(value: float, without: Sequence[float], counts: Sequence[int]) -> Estimate:
    """Return `value` with its standard error and interval.

    Args:
        value: the metric of all samples.
        without: the metric without each group, in order.
        counts: samples in each group; empty groups do not count.
    """
    pairs = [(left, count) for left, count in zip(without, counts) if count]
    g, n = len(pairs), sum(counts)
    if g < FEWEST_GROUPS:
        return Estimate(value)
    centre = g * value - sum((1 - m / n) * left for left, m in pairs)
    variance = 0.0
    for left, m in pairs:
        h = n / m
        variance += (h * value - (h - 1) * left - centre) ** 2 / (h - 1) / g
    error = variance**0.5
    reach = t_quantile(g - 1) * error
    return Estimate(value, error, value - reach, value + reach)


def t_quantile(freedom: float) -> float:
    """Return Student's t at 97.5 %: how many standard errors a 95 % interval reaches to either side."""
    from scipy.special import stdtrit  # 0.3 s, which a start of training need not wait for

    return float(stdtrit(freedom, 0.975))


def mean_estimate(values: ArrayLike) -> Estimate:
    """Return the estimate of a mean over the samples, from its values (N,), of bool or numbers."""
    x = as_float64("values", values, 1)
    sums = x.new_zeros(GROUPS).index_add_(0, groups_of(torch.arange(len(x))), x)
    return ratio_estimate(sums, group_counts(len(x)))


def ratio_estimate(sums: Tensor, counts: Sequence[int]) -> Estimate:
    """Return the estimate of a mean over the samples, from the sum of each group, float64 (8,), and its number of
    samples."""
    n = sum(counts)
    left = torch.tensor([max(1, n - m) for m in counts])
    return jackknife(float(sums.sum() / n), ((sums.sum() - sums) / left).tolist(), counts)


def median_estimate(values: ArrayLike) -> Estimate:
    """Return the estimate of the median of values (N,); of an even number the lower of the two in the middle."""
    x = as_float64("values", values, 1)
    counts, member = group_counts(len(x)), groups_of(torch.arange(len(x)))
    value = float(x.median())
    if max(counts) == len(x):
        return Estimate(value)
    return jackknife(value, [float(x[member != g].median()) for g in range(GROUPS)], counts)


@dataclass(frozen=True)
class FrechetEstimate:
    """The distance, and what it would tend to with ever more generated samples (None: not asked for)."""

    distance: Estimate
    limit: float | None


def frechet_estimate(reference: Statistics, groups: Sequence[Moments], *, limit: bool = False) -> FrechetEstimate:
    """Return the Fréchet distance of generated samples, in groups, from the `reference`.

    Args:
        reference: statistics of real images.
        groups: moments of each group of generated ones.
        limit: whether to extrapolate to infinitely many samples (FID∞): the bias is proportional to 1/N to first
            order, so a line through the distances of all, of all but a group and of each half, over 1/N, meets 1/N
            = 0 there. The reference is taken as it is. Source: M. J. Chong, D. Forsyth, arXiv:1911.07023; the
            points are not theirs.

    Raises:
        ValueError: there are fewer than two samples, or features have other dimensions than the reference's.
        UserError: there are fewer than 193 samples to extrapolate from.
    """
    distance = FrechetTo(reference.mean, reference.cov)
    counts = [group.count for group in groups]

    def score(members: Sequence[int]) -> float:
        statistics = merged([groups[k] for k in members]).statistics()
        return distance(statistics.mean, statistics.cov)

    filled = [k for k in range(len(groups)) if counts[k]]
    value = score(filled)
    if len(filled) < FEWEST_GROUPS:
        if limit:
            raise UserError(f"{sum(counts)} samples are too few to extrapolate from: draw at least 193")
        return FrechetEstimate(Estimate(value), None)
    without = [score([j for j in filled if j != k]) if counts[k] else value for k in range(len(groups))]
    estimate = jackknife(value, without, counts)
    if not limit:
        return FrechetEstimate(estimate, None)
    total = sum(counts)
    points = [(total, value), *((total - counts[k], without[k]) for k in filled)]
    for half in (filled[::2], filled[1::2]):
        points.append((sum(counts[k] for k in half), score(half)))
    return FrechetEstimate(estimate, _at_zero([1 / n for n, _ in points], [found for _, found in points]))


def _at_zero(x: Sequence[float], y: Sequence[float]) -> float:
    """Return where the line of least squares through the points meets x = 0.

    It is spelt out because LAPACK's answer differs in the last bit from one process to the next.
    """
    middle_x, middle_y = fsum(x) / len(x), fsum(y) / len(y)
    slope = fsum((a - middle_x) * (b - middle_y) for a, b in zip(x, y)) / fsum((a - middle_x) ** 2 for a in x)
    return middle_y - slope * middle_x


def one_hot_groups(count: int) -> Tensor:
    """Return the group of each sample as one-hot rows, float64 (count, 8)."""
    return torch.nn.functional.one_hot(groups_of(torch.arange(count)), GROUPS).double()
