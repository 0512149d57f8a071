"""The Fréchet distance between Gaussians, which is FID when the features are a detector's.

Source: D. C. Dowson, B. V. Landau, The Fréchet distance between multivariate normal distributions, Journal
of Multivariate Analysis 12, 1982; as a metric of generators M. Heusel et al., arXiv:1706.08500.
"""

import torch
from torch import Tensor

from alphaflow.metrics._checks import ArrayLike, as_float64
from alphaflow.metrics.statistics import statistics_of


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
    first, second = statistics_of(a), statistics_of(b)
    return frechet_distance(first.mean, first.cov, second.mean, second.cov)


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
