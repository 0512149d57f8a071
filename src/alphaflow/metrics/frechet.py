"""The Fréchet distance between Gaussians, which is FID when the features are a detector's.

Source: D. C. Dowson, B. V. Landau, The Fréchet distance between multivariate normal distributions, Journal
of Multivariate Analysis 12, 1982; as a metric of generators M. Heusel et al., arXiv:1706.08500.
"""

import torch
from torch import Tensor

from alphaflow.metrics._checks import ArrayLike, as_float64


def frechet_distance(mean_a: ArrayLike, cov_a: ArrayLike, mean_b: ArrayLike, cov_b: ArrayLike) -> float:
    """Return |μ_a - μ_b|² + tr(Σ_a + Σ_b - 2 (Σ_a^½ Σ_b Σ_a^½)^½), in squared units of the features.

    The last trace is the sum of the singular values of Σ_a^½ Σ_b^½, which needs no matrix square root of a
    product and stays accurate when covariances are rank-deficient.

    Args:
        mean_a, mean_b: (D,).
        cov_a, cov_b: (D, D), symmetric and positive semi-definite up to rounding.

    Raises:
        ValueError: shapes that do not fit, an asymmetric covariance, NaN or infinities.
    """
    m_a, s_a = _gaussian("a", mean_a, cov_a)
    m_b, s_b = _gaussian("b", mean_b, cov_b)
    if len(m_a) != len(m_b):
        raise ValueError(f"mean_a has {len(m_a)} dimensions and mean_b {len(m_b)}: they must agree")
    cross = torch.linalg.svdvals(_root(s_a) @ _root(s_b)).sum()
    squared = (m_a - m_b).square().sum() + s_a.trace() + s_b.trace() - 2 * cross
    return max(float(squared), 0.0)


def frechet_from_features(a: ArrayLike, b: ArrayLike) -> float:
    """Return the Fréchet distance between Gaussians fitted to features a (N, D) and b (M, D).

    Raises:
        ValueError: as `frechet_distance`, or fewer than two rows.
    """
    first, second = GaussianStatistics(), GaussianStatistics()
    first.update(a)
    second.update(b)
    return frechet_distance(first.mean, first.cov, second.mean, second.cov)


class GaussianStatistics:
    """Mean and unbiased covariance of features that arrive in batches, accumulated in float64.

    Batches are merged by their deviations from their own means, so nothing cancels when the mean is far
    from zero. Source: T. F. Chan, G. H. Golub, R. J. LeVeque, Updating formulae and a pairwise algorithm for
    computing sample variances, COMPSTAT 1982.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean = torch.zeros(0, dtype=torch.float64)
        self._scatter = torch.zeros(0, 0, dtype=torch.float64)

    def update(self, features: ArrayLike) -> None:
        """Take in features (B, D) of one batch.

        Raises:
            ValueError: not two-dimensional, empty, not finite, or a D other than before.
        """
        x = as_float64("features", features, 2)
        mean = x.mean(0)
        centred = x - mean
        self._add(len(x), mean, centred.T @ centred)

    def merge(self, other: "GaussianStatistics") -> None:
        """Take in all that `other` has seen; `other` stays as it is.

        Raises:
            ValueError: a D other than before.
        """
        if other.count:
            self._add(other.count, other._mean, other._scatter)

    @property
    def mean(self) -> Tensor:
        """float64 (D,). Raises `ValueError` before the first sample."""
        if self.count == 0:
            raise ValueError("no features yet: the mean needs at least 1 sample")
        return self._mean

    @property
    def cov(self) -> Tensor:
        """float64 (D, D), divided by n - 1. Raises `ValueError` before the second sample."""
        if self.count < 2:
            raise ValueError(f"{self.count} samples have no covariance: at least 2 are needed")
        return self._scatter / (self.count - 1)

    def _add(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        if self.count == 0:
            self.count, self._mean, self._scatter = count, mean, scatter
            return
        if len(mean) != len(self._mean):
            raise ValueError(f"features have {len(mean)} dimensions, and earlier ones had {len(self._mean)}")
        total = self.count + count
        shift = mean - self._mean
        self._mean = self._mean + shift * (count / total)
        self._scatter = self._scatter + scatter + torch.outer(shift, shift) * (self.count * count / total)
        self.count = total


def _gaussian(which: str, mean: ArrayLike, cov: ArrayLike) -> tuple[Tensor, Tensor]:
    m, s = as_float64(f"mean_{which}", mean, 1), as_float64(f"cov_{which}", cov, 2)
    if s.shape != (len(m), len(m)):
        raise ValueError(f"cov_{which} has shape {tuple(s.shape)}; mean_{which} asks for {(len(m), len(m))}")
    if not torch.allclose(s, s.T, rtol=1e-6, atol=1e-6 * float(s.abs().max())):
        raise ValueError(f"cov_{which} is not symmetric, so it is no covariance")
    return m, (s + s.T) / 2


def _root(cov: Tensor) -> Tensor:
    """The symmetric square root; eigenvalues that rounding made negative count as 0."""
    values, vectors = torch.linalg.eigh(cov)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
