"""Euclidean distances between two sets of samples, a block of rows at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor

_BLOCK = 2**18  # distances held at once: 2 MiB in float64, which stays in the cache
_DIRECT_UP_TO = 16  # dimensions up to which summing the differences is faster than a matrix product
_SAME = 1e-13  # squared distances below this share of the squared norms are rounding errors of zero


def distance_blocks(a: Tensor, b: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield (rows, distances) with distances (len(rows), M) from a[rows] to all of b.

    In more than 16 dimensions |x - y|² is expanded into products. Points closer than 3e-7 of their distance
    from the centre of b then count as equal, which is what the expansion can resolve in float64.

    Args:
        a: float64 (N, D).
        b: float64 (M, D).
    """
    centre = b.mean(0)
    a, b = a - centre, b - centre
    norms = b.square().sum(1)
    size = max(1, _BLOCK // len(b))
    for start in range(0, len(a), size):
        rows = slice(start, min(start + size, len(a)))
        if a.shape[1] <= _DIRECT_UP_TO:
            yield rows, torch.cdist(a[rows], b, compute_mode="donot_use_mm_for_euclid_dist")
        else:
            yield rows, _expanded(a[rows], b, norms)


def _expanded(a: Tensor, b: Tensor, b_norms: Tensor) -> Tensor:
    norms = a.square().sum(1, keepdim=True) + b_norms
    squared = torch.addmm(norms, a, b.T, alpha=-2.0)
    return squared.masked_fill_(squared < _SAME * norms, 0.0).sqrt_()
