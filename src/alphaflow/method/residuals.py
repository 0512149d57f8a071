"""Residuals, un-weighted: what tells how training goes."""

import torch
from torch import Tensor

BINS = 5
"""Residuals are reported in this many equal bins of t and of t - r."""


def measure(u: Tensor, v: Tensor, target: Tensor, r: Tensor, t: Tensor) -> dict[str, Tensor | float]:
    """Return the numbers that tell how training goes, un-weighted, as means over dimensions and rows.

    residual: ‖u - target‖².  tfm: ‖u - v‖².  tc: 2 (v - target)·u.  residual - (tfm + tc) has no gradient.
    residual_t<k>, residual_d<k>: the residual of rows with t, or t - r > 0, in the k-th fifth of [0, 1]; NaN
    where there is none.
    """
    error = (u - target).square().flatten(1).mean(1)
    metrics: dict[str, Tensor | float] = {
        "residual": error.mean(),
        "tfm": (u - v).square().mean(),
        "tc": (2 * (v - target) * u).mean(),
    }
    return metrics | binned(error, r, t)


def binned(error: Tensor, r: Tensor, t: Tensor) -> dict[str, Tensor]:
    """`residual_t<k>` and `residual_d<k>` of `measure`, from the rows' errors and times (B,)."""
    metrics, gap = {}, t - r
    for name, place, counted in (("t", t, torch.ones_like(t)), ("d", gap, (gap > 0).to(t))):
        bins = (place * BINS).long().clamp(0, BINS - 1)
        zeros = torch.zeros(BINS, dtype=error.dtype, device=error.device)
        means = zeros.index_add(0, bins, error * counted) / zeros.index_add(0, bins, counted)
        for k in range(BINS):
            metrics[f"residual_{name}{k}"] = means[k]
    return metrics
