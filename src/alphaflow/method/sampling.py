"""Sampling: pure functions of a network, noise and a grid of times.

    ode           z ← z - (t - s) u(z, s, t)                          one jump along the flow map
    consistency   x̂ ← z - t u(z, 0, t);   z ← (1 - s) x̂ + s noise     jump to the data, then re-noise
    euler, heun   steps on the instantaneous velocity u(z, t, t)      for flow matching, or high noise

Source: α-Flow (arXiv 2510.20771), Algorithms 2 and 3. The listing of consistency sampling there omits the factor
(1 - s), a misprint.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ..condition import Condition
from ..errors import choose
from ..path import Network, move, predict
from ..rng import Random, as_random

METHODS = ("ode", "consistency", "euler", "heun")


def sample(
    net: Network,
    noise: Tensor,
    y: Condition | None = None,
    *,
    times: Sequence[float] = (1.0, 0.0),
    method: str | Sequence[str] = "ode",
    generator: torch.Generator | Random | None = None,
) -> Tensor:
    """Generate data from noise.

    Args:
        net: u(z, r, t, y). noise: (B, *shape), where the path begins, at time `times[0]`.
        y: classes (B,) or another condition of B rows (see `condition`), or None.
        times: falling, within [0, 1]. One network evaluation for each interval (heun: two).
        method: one of `METHODS` for all intervals, or one for each: `("heun", "heun", "ode")`.
        generator: the fresh noise of `consistency`.

    Returns:
        z at `times[-1]`, (B, *shape).

    Raises:
        ValueError: times that do not fall or leave [0, 1]; an unknown method, or not one for each interval.
    """
    intervals = plan(times, method)
    random = as_random(generator, len(noise))
    z = noise
    with torch.no_grad():
        for k, (t, s, name) in enumerate(intervals):
            if name == "ode":
                z = jump(net, z, t, s, y)
            elif name == "consistency":
                z = jump(net, z, t, 0.0, y)
                if s > 0:
                    z = (1 - s) * z + s * random.normal(f"sample{k}", z.shape[1:], z.device).to(z)
            else:
                z = _velocity_step(net, z, t, s, y, second_order=name == "heun")
    return z


def plan(times: Sequence[float], method: str | Sequence[str] = "ode") -> list[tuple[float, float, str]]:
    """Return the intervals (t, s) of a grid of times, each with its method.

    Raises:
        ValueError: as `sample`.
    """
    _check_times(times)
    intervals = list(pairwise(times))
    methods = [method] * len(intervals) if isinstance(method, str) else list(method)
    for name in methods:
        choose("sampling method", name, METHODS, status=2)
    if len(methods) != len(intervals):
        raise ValueError(f"{len(methods)} methods for {len(intervals)} intervals: give one, or one for each")
    return [(t, s, name) for (t, s), name in zip(intervals, methods)]


def jump(net: Network, z: Tensor, t: float | Tensor, r: float | Tensor, y: Condition | None = None) -> Tensor:
    """One evaluation from time t to an earlier or equal time r: z_r = z_t - (t - r) u(z_t, r, t).

    Args:
        net: u(z, r, t, y). z: (B, *shape), at time t. y: classes (B,), another condition, or None.
        t, r: numbers or (B,) tensors; rows may go between different times.

    Returns:
        z at time r, (B, *shape), with its graph.

    Raises:
        ValueError: numbers that do not satisfy 0 <= r <= t <= 1 (tensors are not looked at). A network knows u
            only for r <= t; `invert` goes the other way.
    """
    if not isinstance(t, Tensor) and not isinstance(r, Tensor) and not 0 <= r <= t <= 1:
        raise ValueError(
            f"cannot jump from t = {t:g} to r = {r:g}: times must satisfy 0 <= r <= t <= 1 (`invert` adds noise)"
        )
    t, r = _rows(t, z), _rows(r, z)
    return move(z, predict(net, z, r, t, y), t, r)


def invert(
    net: Network,
    z: Tensor,
    r: float,
    t: float,
    y: Condition | None = None,
    *,
    iterations: int = 50,
    tolerance: float = 1e-4,
) -> Tensor:
    """Go from time r up to a later t: the z_t whose jump to r lands on `z`, for inversion and editing.

    Solves z_t = z_r + (t - r) u(z_t, r, t) by fixed-point iteration, one evaluation each, until no row changes by
    more than `tolerance` times its norm. It converges where q = (t - r) times the Lipschitz constant of u in z is
    below 1; the error left is up to q / (1 - q) times that change.

    Args:
        z: (B, *shape), at time r. r, t: 0 <= r <= t <= 1.
        iterations: the most evaluations of the network.

    Returns:
        z at time t, (B, *shape).

    Raises:
        ValueError: not 0 <= r <= t <= 1, or no convergence within `iterations`.
    """
    if not 0 <= r <= t <= 1:
        raise ValueError(f"cannot invert from r = {r:g} to t = {t:g}: times must satisfy 0 <= r <= t <= 1")
    rows_t, rows_r = _rows(t, z), _rows(r, z)
    guess, change = z, float("inf")
    with torch.no_grad():
        for _ in range(iterations):
            following = move(z, predict(net, guess, rows_r, rows_t, y), rows_r, rows_t)
            moved, size = (part.flatten(1).norm(dim=1) for part in (following - guess, following))
            change = (moved / size.clamp(min=torch.finfo(size.dtype).tiny)).max().item()
            guess = following
            if change <= tolerance:
                return guess
    raise ValueError(
        f"inversion from {r:g} to {t:g} still changes a row by {change:.2g} of its norm after {iterations} "
        f"iterations (allowed: {tolerance:g}): go by shorter intervals, or allow more iterations"
    )


def grid(nfe: int, *, start: float = 1.0, midpoint: float | None = None) -> tuple[float, ...]:
    """Return times for `nfe` evaluations: evenly spaced from `start` to 0, or (start, midpoint, 0) for two."""
    if nfe < 1:
        raise ValueError(f"nfe {nfe} must be at least 1")
    if midpoint is not None:
        if nfe != 2:
            raise ValueError(f"a midpoint goes with 2 evaluations, not {nfe}")
        return (start, midpoint, 0.0)
    return (*(start * (1 - k / nfe) for k in range(nfe)), 0.0)


def _velocity_step(
    net: Network, z: Tensor, t: float, s: float, y: Condition | None, *, second_order: bool
) -> Tensor:
    rows_t, rows_s = _rows(t, z), _rows(s, z)
    velocity = predict(net, z, rows_t, rows_t, y)
    if second_order:
        ahead = move(z, velocity, rows_t, rows_s)
        velocity = (velocity + predict(net, ahead, rows_s, rows_s, y)) / 2
    return move(z, velocity, rows_t, rows_s)


def _rows(time: float | Tensor, z: Tensor) -> Tensor:
    return time if isinstance(time, Tensor) else z.new_full((len(z),), time)


def _check_times(times: Sequence[float]) -> None:
    falling = all(t > s for t, s in pairwise(times))
    if len(times) < 2 or not falling or times[0] > 1 or times[-1] < 0:
        raise ValueError(f"times {tuple(times)} must fall, within [0, 1], as in (1.0, 0.5, 0.0)")
