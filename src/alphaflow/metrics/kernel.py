"""The kernel distance, KID when the features are Inception's. Source: M. Bińkowski et al., arXiv:1801.01401."""

import torch
from torch import Tensor

from alphaflow.metrics._checks import ArrayLike, sample_pair
from alphaflow.metrics.estimates import Estimate, group_counts, jackknife, one_hot_groups
from alphaflow.metrics.statistics import GROUPS

_ROWS = 512


def kernel_distance(real: ArrayLike, fake: ArrayLike) -> Estimate:
    """Return the unbiased squared maximum mean discrepancy with the kernel (x · y / D + 1)³, over all pairs at
    once.

    Since it is unbiased, it can be below 0. Means over small sub-sets, as other programs report, have the same
    expectation.

    Args:
        real: (N, D), N >= 2.
        fake: (M, D), M >= 2.

    Raises:
        ValueError: the shapes do not fit, values are not finite, or there is a single sample.
    """
    x, y = sample_pair("real", real, "fake", fake)
    if min(len(x), len(y)) < 2:
        raise ValueError(f"a kernel distance needs 2 samples of each, not {len(x)} and {len(y)}")
    member = one_hot_groups(len(y))
    within_real = _pair_sums(x, x, x.new_ones(len(x), 1), x.new_ones(len(x), 1), same=True).item()
    within = _pair_sums(y, y, member, member, same=True)  # (8, 8)
    across = _pair_sums(x, y, x.new_ones(len(x), 1), member, same=False)[0]  # (8,)
    counts = group_counts(len(y))

    def figure(chosen: Tensor) -> float:
        m = int((chosen * torch.tensor(counts)).sum())
        if m < 2:
            return float("nan")
        own = float(chosen @ within @ chosen) / (m * (m - 1))
        other = float(chosen @ across) / (len(x) * m)
        return within_real / (len(x) * (len(x) - 1)) + own - 2 * other

    every = torch.ones(GROUPS).double()
    without = [figure(every - one) for one in torch.eye(GROUPS).double()]
    return jackknife(figure(every), without, counts)


def _pair_sums(a: Tensor, b: Tensor, weigh_a: Tensor, weigh_b: Tensor, *, same: bool) -> Tensor:
    """Return weigh_aᵀ K weigh_b, K the kernel of all pairs; of the `same` set, without pairs of a sample with
    itself."""
    total = a.new_zeros(weigh_a.shape[1], weigh_b.shape[1])
    for first in range(0, len(a), _ROWS):
        rows = slice(first, first + _ROWS)
        kernel = (a[rows] @ b.T).div_(a.shape[1]).add_(1).pow_(3)
        if same:
            kernel.diagonal(offset=first).zero_()
        total += weigh_a[rows].T @ (kernel @ weigh_b)
    return total
