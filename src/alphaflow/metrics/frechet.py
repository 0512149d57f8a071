"""The Fréchet distance between Gaussians, which is FID when the features are a detector's.

Source: D. C. Dowson, B. V. Landau, The Fréchet distance between multivariate normal distributions, Journal
of Multivariate Analysis 12, 1982; as a metric of generators M. Heusel et al., arXiv:1706.08500.
"""

import numpy as np
import torch
from scipy.linalg import lapack
from torch import Tensor

from alphaflow.metrics._checks import ArrayLike, as_float64
from alphaflow.metrics.statistics import statistics_of


def frechet_distance(mean_a: ArrayLike, cov_a: ArrayLike, mean_b: ArrayLike, cov_b: ArrayLike) -> float:
    """Return |μ_a - μ_b|² + tr(Σ_a + Σ_b - 2 (Σ_a^½ Σ_b Σ_a^½)^½), in squared units of the features.

    The last trace is the sum of the singular values of F_aᵀ F_b, for any factors with Σ = F Fᵀ: this needs no
    matrix square root of a product, and stays accurate when covariances are rank-deficient, since the factors
    then have as many columns as the rank.

    Args:
        mean_a, mean_b: (D,).
        cov_a, cov_b: (D, D), symmetric and positive semi-definite up to rounding.

    Raises:
        ValueError: shapes that do not fit, an asymmetric covariance, NaN or infinities.
    """
    return FrechetTo(mean_a, cov_a, "a")(mean_b, cov_b, "b")


class FrechetTo:
    """The Fréchet distance to one Gaussian, factored once for many others: see `frechet_distance`."""

    def __init__(self, mean: ArrayLike, cov: ArrayLike, name: str = "reference") -> None:
        self.name = name
        self._mean, self._cov = _gaussian(name, mean, cov)
        self._factor = _factor(self._cov)

    def __call__(self, mean: ArrayLike, cov: ArrayLike, name: str = "other") -> float:
        """Return the distance to the Gaussian with mean (D,) and covariance (D, D), called `name` in errors."""
        m, s = _gaussian(name, mean, cov)
        if len(m) != len(self._mean):
            raise ValueError(
                f"mean_{self.name} has {len(self._mean)} dimensions and mean_{name} {len(m)}: they must agree"
            )
        cross = _sum_of_singular_values(self._factor.T @ _factor(s))
        squared = (self._mean - m).square().sum() + self._cov.trace() + s.trace() - 2 * cross
        return max(float(squared), 0.0)


def frechet_from_features(a: ArrayLike, b: ArrayLike) -> float:
    """Return the Fréchet distance between Gaussians fitted to features a (N, D) and b (M, D).

    Raises:
        ValueError: as `frechet_distance`, or fewer than two rows.
    """
    first, second = statistics_of(a), statistics_of(b)
    return frechet_distance(first.mean, first.cov, second.mean, second.cov)


def _gaussian(which: str, mean: ArrayLike, cov: ArrayLike) -> tuple[Tensor, Tensor]:
    m, s = as_float64(f"mean_{which}", mean, 1), as_float64(f"cov_{which}", cov, 2)
    if s.shape != (len(m), len(m)):
        raise ValueError(f"cov_{which} has shape {tuple(s.shape)}; mean_{which} asks for {(len(m), len(m))}")
    if not torch.allclose(s, s.T, rtol=1e-6, atol=1e-6 * float(s.abs().max())):
        raise ValueError(f"cov_{which} is not symmetric, so it is no covariance")
    return m, (s + s.T) / 2


def _factor(cov: Tensor) -> Tensor:
    """Return F (D, rank) with F Fᵀ = cov: Cholesky's with pivots, which ends where only rounding errors are
    left."""
    packed, pivots, rank, _ = lapack.dpstrf(cov.numpy(), lower=1)
    factor = np.empty((len(cov), rank))
    factor[pivots - 1] = np.tril(packed)[:, :rank]
    return torch.from_numpy(factor)


def _sum_of_singular_values(matrix: Tensor) -> Tensor:
    """Return the sum by the eigenvalues of the smaller Gram matrix, in a fifth of the time of a singular value
    decomposition.

    Squaring costs digits of the smallest ones alone, which count least.
    """
    gram = matrix.T @ matrix if matrix.shape[0] > matrix.shape[1] else matrix @ matrix.T
    return torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().sum()
