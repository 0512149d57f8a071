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

from torch import Tensor

Network: TypeAlias = Callable[..., Tensor]
"""net(z, r, t, y=None) -> u. z and u: (B, *shape) float; r, t: (B,) in [0, 1], r <= t; y: (B,) int64 or None."""


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


def move(z: Tensor, velocity: Tensor, t: Tensor, r: Tensor) -> Tensor:
    """Go from time t to time r along `velocity`: z_r = z_t - (t - r) velocity. All (B, ...), r and t (B,)."""
    return z - expand(t - r, z) * velocity
