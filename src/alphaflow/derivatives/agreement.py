"""The check of a derivative against central differences, with an estimate of their own error.

A right derivative agrees with the differences as closely as their own error allows. In float64 they show seven
digits, so that nothing gets lost in a small part of a network; for one that rounds, they say how far they can be
trusted.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..path import expand
from .ways import Function, quotient, usual_step

CEILING = 2e-2
"""The largest relative error that any derivative may have."""
LOWERED = 1e-1
"""The largest relative error under autocast or in half precision."""
_TRUST = 10
"""How many times the differences' own error a derivative may be off."""


class DerivativeError(RuntimeError):
    """The derivative in use disagrees with central differences; the message holds the numbers."""


@dataclass(frozen=True)
class Finding:
    """The relative error of a derivative, and the largest that is allowed."""

    off: float
    allowed: float
    ours: float
    """The norm of the derivative."""
    size: float
    """The norm of the differences."""
    worst: int
    """The row with the largest error."""

    @property
    def agrees(self) -> bool:
        """Whether the error is allowed."""
        return self.off <= self.allowed


def compare(
    ours: Tensor,
    value: Tensor,
    u: Function,
    z: Tensor,
    v: Tensor,
    t: Tensor,
    *,
    start: int = 0,
    floor: float | None = None,
    ceiling: float = CEILING,
) -> Finding:
    """Compare a derivative with differences by steps each a quarter of another, extrapolated (Richardson).

    The difference between two such steps says how far they are to be trusted. Usual steps come first, then finer
    ones, for networks that multiply their times by 1000, and wider ones, for those that round.

    Args:
        ours: du/dt along (v, 1) of u(z, t), rows `start` and later.
        value: u(z, t) itself.
        u, z, v, t: the function, and where its derivative is taken.
        start: the first row that `ours` covers.
        floor, ceiling: the least and the most relative error that may be allowed; None: by the precision.

    Returns:
        The finding by the first two steps that leave no doubt, or else by the two that agree best.
    """
    double, usual = z.dtype == torch.float64, usual_step(z.dtype)
    floor = floor if floor is not None else 1e-6 if double else 2e-3
    ours, slopes, candidates = ours.double(), {}, []
    # A slope below this is as good as zero: it is lost in the rounding of u.
    noise = 1e3 * torch.finfo(z.dtype).eps * max(value[start:].double().norm().item(), 1e-3)
    for power in (1, 0, -1, -2, 2, 3, 4, 5) if double else (0, -1, -2, -3, -4, 1):
        slopes[power] = quotient(u, z, v, t, usual * 4.0**power)[start:].double()
        for wide in (power, power + 1):
            if wide not in slopes or wide - 1 not in slopes:
                continue
            best = slopes[wide - 1] + (slopes[wide - 1] - slopes[wide]) / 15
            doubt = (slopes[wide - 1] - slopes[wide]).norm().item()
            finding = _finding(ours, best, doubt, noise, floor, ceiling)
            if finding.agrees and finding.size > noise and finding.allowed <= _TRUST * floor:
                return finding
            if math.isfinite(doubt):
                candidates.append((doubt / max(finding.size, noise), finding))
    if not candidates:
        return Finding(math.inf, ceiling, ours.norm().item(), math.nan, start)
    # Steps whose slope is far smaller than that of others are too fine for a network that rounds.
    largest = max(finding.size for _, finding in candidates)
    return min(
        (candidate for candidate in candidates if candidate[1].size >= 0.01 * largest),
        key=lambda candidate: candidate[0],
    )[1]


def _finding(ours: Tensor, best: Tensor, doubt: float, noise: float, floor: float, ceiling: float) -> Finding:
    gaps = (ours - best).flatten(1).norm(dim=1)
    size, own, gap = best.norm().item(), ours.norm().item(), gaps.norm().item()
    off = 0.0 if max(size, gap) <= noise else gap / max(size, noise)
    allowed = min(max(_TRUST * doubt / max(size, noise), floor), ceiling)
    worst = int(gaps.nan_to_num(math.inf).argmax())
    return Finding(off if math.isfinite(off) else math.inf, allowed, own, size, worst)


def along_z(u: Function, t: Tensor) -> Function:
    """Return u with t held, whose derivative is v·∂u/∂z alone."""
    return lambda z, _: u(z, t) + 0 * z


def along_t(u: Function, z: Tensor) -> Function:
    """Return u with z held, whose derivative is ∂u/∂t alone."""
    return lambda moved, t: u(z, t) + 0 * moved + 0 * expand(t, z)
