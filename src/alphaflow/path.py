"""The time convention. This is the one place that states it.

Noise sits at t = 1 and data at t = 0, joined by a straight line:

    z_t = (1 - t) x + t noise,        v = dz/dt = noise - x.

A network `net(z, r, t, y)` predicts u, the **average velocity** over [r, t] with 0 <= r <= t <= 1, so that

    z_r = z_t - (t - r) u(z_t, r, t),

and u(z, t, t) is the instantaneous velocity. s, where it appears, lies between: r <= s <= t.
Source: MeanFlow (arXiv 2505.13447), section 4; α-Flow (arXiv 2510.20771), section 2.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from .rng import send

Network: TypeAlias = Callable[..., Tensor]
"""net(z, r, t, y=None) -> u. z and u: (B, *shape) float; r, t: (B,) in [0, 1], r <= t; y: (B,) int64 or None, or
(B, 4) as `tell` makes it for networks that take guidance as an input."""


def expand(values: Tensor, like: Tensor) -> Tensor:
    """View per-row `values` (B,) so that they broadcast over `like` (B, *shape)."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def interpolate(x: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Points on the straight paths between data and noise, and the velocities along them.

    Args:
        x: data (B, *shape).
        noise: standard normal noise of the same shape.
        t: times (B,) in [0, 1].

    Returns:
        z (B, *shape) = (1 - t) x + t noise, and v (B, *shape) = noise - x.

    Raises:
        ValueError: x and noise differ in shape, or t is not one time per row.
    """
    if x.shape != noise.shape:
        raise ValueError(f"noise has shape {tuple(noise.shape)}, data {tuple(x.shape)}: they must be equal")
    if t.shape != x.shape[:1]:
        raise ValueError(f"t has shape {tuple(t.shape)}: give one time for each of the {x.shape[0]} rows")
    times = expand(t, x)
    return (1 - times) * x + times * noise, noise - x


def tell(
    y: Tensor,
    scale: float | Tensor,
    start: float | Tensor = 0.0,
    end: float | Tensor = 1.0,
    *,
    null: int,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Classes with what a network is told of guidance: (B, 4), each row a class, a scale, an interval of t.

    One tensor, so that it is cut and joined like the classes alone. Classes stay exact: `dtype` is raised to at
    least float32. No class is led towards nothing: such rows are told scale 1 and all of [0, 1], which is also
    what classes alone, (B,), mean to such a network.

    Args:
        y: classes (B,) int64. scale, start, end: numbers, or (B,) row by row.
        null: the class index that means "no class".
    """
    columns = [y.to(torch.promote_types(dtype, torch.float32))]
    for value, unguided in ((scale, 1.0), (start, 0.0), (end, 1.0)):
        told = send(value, columns[0]) if isinstance(value, Tensor) else torch.full_like(columns[0], value)
        columns.append(torch.where(y == null, unguided, told))
    return torch.stack(columns, dim=1)


def move(z: Tensor, velocity: Tensor, t: Tensor, r: Tensor) -> Tensor:
    """Go from time t to time r along `velocity`: z_r = z_t - (t - r) velocity. All (B, ...), r and t (B,)."""
    return z - expand(t - r, z) * velocity
