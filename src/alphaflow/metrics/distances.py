"""Distances between two sets of samples that fit no model to either."""

import torch
from torch import Tensor

from alphaflow.metrics._checks import ArrayLike, sample_pair
from alphaflow.metrics._pairwise import distance_blocks

_PROJECTIONS_AT_ONCE = 16


def energy_distance(a: ArrayLike, b: ArrayLike) -> float:
    """Return 2 E|X - Y| - E|X - X'| - E|Y - Y'|, in units of the samples.

    This is the V-statistic: the energy distance between the two empirical distributions, pairs of a sample with
    itself included. It is never negative and 0 for equal sets; for two sets drawn from one distribution it
    is E|X - X'| (1/N + 1/M) on average. Source: G. J. Székely, M. L. Rizzo, Energy statistics, Journal of
    Statistical Planning and Inference 143, 2013.

    Args:
        a: (N, D).
        b: (M, D).

    Raises:
        ValueError: the shapes do not fit, or values are not finite.
    """
    return EnergyTo(b)(a)


class EnergyTo:
    """The energy distance to one set (M, D), prepared once for many others: see `energy_distance`."""

    def __init__(self, b: ArrayLike) -> None:
        self._set, _ = sample_pair("b", b, "b", b)
        self._own = _mean_distance(self._set, self._set)

    def __call__(self, a: ArrayLike) -> float:
        """Return the distance of samples (N, D)."""
        x, y = sample_pair("a", a, "b", self._set)
        return max(2 * _mean_distance(x, y) - _mean_distance(x, x) - self._own, 0.0)


def sliced_wasserstein(a: ArrayLike, b: ArrayLike, projections: int = 256, seed: int = 0) -> float:
    """Return the sliced 2-Wasserstein distance, in units of the samples.

    It is the root of the mean, over random directions, of the squared W₂ between the projected samples; each is
    exact, also for N other than M. A shift by δ counts |δ| / √D on average. Source: N. Bonneel et al., Sliced
    and Radon Wasserstein barycenters of measures, Journal of Mathematical Imaging and Vision 51, 2015.

    Args:
        a: (N, D).
        b: (M, D).
        projections: number of directions, at least 1.
        seed: fixes the directions.

    Raises:
        ValueError: the shapes do not fit, values are not finite, or there are no projections.
    """
    x, y = sample_pair("a", a, "b", b)
    if projections < 1:
        raise ValueError(f"projections = {projections} is not positive: at least 1 direction is needed")
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(projections, x.shape[1], generator=generator, dtype=torch.float64)
    directions /= directions.norm(dim=1, keepdim=True)
    # The quantile functions are steps at i/N and j/M; in units of 1/(N M) all of these are integers.
    n, m = len(x), len(y)
    edges = torch.cat([torch.arange(n + 1) * m, torch.arange(m + 1) * n]).unique()
    left, width = edges[:-1], edges.diff().double() / (n * m)
    total = 0.0
    for some in directions.split(_PROJECTIONS_AT_ONCE):
        u, v = (some @ x.T).sort(dim=1).values, (some @ y.T).sort(dim=1).values
        total += float((u[:, left // m] - v[:, left // n]).square().matmul(width).sum())
    return (total / projections) ** 0.5


def _mean_distance(a: Tensor, b: Tensor) -> float:
    return sum(float(distances.sum()) for _, distances in distance_blocks(a, b)) / (len(a) * len(b))
