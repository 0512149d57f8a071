"""The time convention. This is the one place that states it.

Noise sits at t = 1 and data at t = 0, joined by a straight line:

    z_t = (1 - t) x + t noise,        v = dz/dt = noise - x.

A network `net(z, r, t, y)` predicts u, the **average velocity** over [r, t] with 0 <= r <= t <= 1, so that

    z_r = z_t - (t - r) u(z_t, r, t),

and u(z, t, t) is the instantaneous velocity. s, where it appears, lies between: r <= s <= t.
Source: MeanFlow (arXiv 2505.13447), section 4; α-Flow (arXiv 2510.20771), section 2.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from torch import Tensor

from .condition import Condition, map_condition
from .errors import UserError

Network: TypeAlias = Callable[..., Tensor]
"""net(z, r, t, y=None) -> u. z and u: (B, *shape) float; r, t: (B,) in [0, 1], r <= t; y: a condition of B rows
(see `condition`) such as classes, (B,) int64, or None; or (B, 4) as `method.guidance.with_guidance` makes it for
networks that take guidance as an input."""


Regime = Literal["flow", "between", "derivative"]
"""What α asks for: v alone (1), a second evaluation at s (0 < α < 1), or du/dt (0)."""


def regime_of(alpha: float | Tensor) -> Regime:
    """Return the regime of an α; a tensor of values lies between."""
    if isinstance(alpha, Tensor):
        return "between"
    return "derivative" if alpha == 0 else "flow" if alpha == 1 else "between"


@dataclass(frozen=True)
class Points:
    """The points at which a network is trained or looked at: the rows of a batch on their paths.

    z, v: points on the paths and velocities there (B, *shape), the samples' or the teacher's, guided or not.
    r, t: times (B,), r <= t. y: classes (B,), (B, 4), or another condition of B rows, or None.
    alpha: a number, or a tensor: () for all rows or (B,) row by row. At 0, as here, du/dt is what is asked for.
    flow_rows: the number of first rows that were drawn to have r = t.
    trust: a number or a tensor (): targets are v + trust (target - v).
    """

    z: Tensor
    v: Tensor
    r: Tensor
    t: Tensor
    y: Condition | None = None
    alpha: float | Tensor = 0.0
    flow_rows: int = 0
    trust: float | Tensor = 1.0

    @property
    def regime(self) -> Regime:
        """What α asks for: known on the host, wherever the tensors are."""
        return regime_of(self.alpha)

    @property
    def by_row(self) -> bool:
        """Whether each row has an α of its own."""
        return isinstance(self.alpha, Tensor) and self.alpha.ndim > 0

    def map(self, change: Callable[[Tensor], Tensor]) -> "Points":
        """Return the points with each tensor of rows changed."""
        z, v, r, t = (change(part) for part in (self.z, self.v, self.r, self.t))
        alpha = change(self.alpha) if isinstance(self.alpha, Tensor) and self.by_row else self.alpha
        y = None if self.y is None else map_condition(self.y, change)
        return replace(self, z=z, v=v, r=r, t=t, y=y, alpha=alpha)

    def rows(self, start: int, end: int | None = None) -> "Points":
        """Return the rows from `start` on, up to `end`."""
        return replace(self.map(lambda part: part[start:end]), flow_rows=max(0, self.flow_rows - start))


def predict(net: Network, z: Tensor, r: Tensor, t: Tensor, y: Condition | None = None) -> Tensor:
    """u(z, r, t, y), (B, *shape), once it is seen to be what was asked for.

    Raises:
        UserError: (a ValueError) the network gives no tensor, or one of another shape, which would broadcast.
    """
    return checked(net(z, r, t, y), z)


def checked(u: object, z: Tensor) -> Tensor:
    """`u` itself, if it is a tensor like z."""
    if not isinstance(u, Tensor):
        raise UserError(
            f"the network returns {_named(u)}, where u is one tensor like z: hand in what takes it out, as "
            "lambda z, r, t, y: net(z, r, t, y)[0]"
        )
    if u.shape != z.shape:
        raise UserError(
            f"the network returns shape {tuple(u.shape)} for z of shape {tuple(z.shape)}: u must be like z"
        )
    return u


def _named(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


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
