"""A curriculum of α without a beginning and an end to choose.

What consistency is to teach is how the velocity changes along a trajectory. At first the network knows no such
change; while it learns the flow at α = 1 the change grows, and when the flow is known it stands still. So

    κ = E‖u(z_s, r, s) - u(z_t, r, t)‖²,    s = (r + t) / 2,    z_s = z_t - (t - s) v,

is measured now and then, and α stays at 1 until κ grows by less than a fifth while the steps double. Then α falls
along the paper's sigmoid, over half as many steps as were taken. Numbers of steps enter only as ratios of each
other. How it fares against schedules chosen by hand is in docs/claims.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from . import schedules
from .schedules import Schedule

if TYPE_CHECKING:  # its numbers are read and checked before torch is loaded
    from torch import Tensor

    from ..path import Network, Points


STATE = "steering"
"""The word under which a checkpoint keeps what an α that steers itself has seen."""


@dataclass
class SelfSteering:
    """A schedule of α, step -> value, that follows what `measure` sees of a network every `every` steps.

    In a loop of one's own:

        alpha = SelfSteering()
        objective = AlphaFlow(alpha=alpha)
        …  # after each `alpha.every` steps, on another batch:
        alpha.follow(step, *alpha.measure(net, objective.draw(net, x, y, step=step, flow_rows=0)))

    every: steps between measurements. growth: of κ over a doubling of the steps, below which α begins to fall.
    stretch: α is 0 before the step at which it began to fall, times this. least: of κ, as a share of E‖u - v‖²;
        below it there is no curvature to speak of, and none to settle.
    begun: the step at which α began to fall; None: it has not. seen: what was measured so far.

    Raises:
        ValueError: a setting out of its range.
    """

    every: int = 20
    growth: float = 1.2
    stretch: float = 1.5
    least: float = 0.01
    begun: int | None = field(default=None, init=False)
    seen: list[tuple[float, float]] = field(default_factory=list, init=False, repr=False)

    def __str__(self) -> str:
        return "steers itself"

    def __post_init__(self) -> None:
        if self.every < 1 or self.every != int(self.every):
            raise ValueError(f"every {self.every:g} must be a whole number of steps, at least 1")
        if self.growth < 1 or self.stretch <= 1 or self.least < 0:
            raise ValueError(
                f"growth {self.growth:g} must be at least 1, stretch {self.stretch:g} above 1 and least "
                f"{self.least:g} at least 0"
            )
        self.every = int(self.every)

    def __call__(self, step: int) -> float:
        return 1.0 if self.begun is None else self._fall(step)

    def measure(self, net: Network, points: Points) -> tuple[Tensor, Tensor]:
        """κ and E‖u - v‖² at points that all have r < t, scalars without gradient; two evaluations."""
        import torch

        from ..path import move

        with torch.no_grad():
            u = net(points.z, points.r, points.t, points.y)
            s = (points.r + points.t) / 2
            change = net(move(points.z, points.v, points.t, s), points.r, s, points.y) - u
            return change.square().mean(), (u - points.v).square().mean()

    def follow(self, step: int, curvature: float | Tensor, residual: float | Tensor) -> None:
        """Take in what `measure` gave after `step` steps, and let α fall where it is time."""
        if self.begun is not None:
            return
        self.seen.append((float(curvature), float(residual)))
        count = len(self.seen)
        before, lately = self.seen[count // 4 : count // 2], self.seen[count // 2 :]
        if count < 4:
            return
        (then, _), (now, scale) = (_mean(part) for part in (before, lately))
        if now >= self.least * scale and now <= self.growth * then:
            self.begun = step

    def state(self) -> dict[str, Any]:
        """Return what goes on from here depends on, in JSON's values."""
        return {"begun": self.begun, "seen": [list(pair) for pair in self.seen]}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`; an empty one is that of a start."""
        self.begun = state.get("begun")
        self.seen = [(one, other) for one, other in state.get("seen", [])]

    @property
    def _fall(self) -> Schedule:
        assert self.begun is not None
        return schedules.sigmoid(self.begun, self.stretch * self.begun)


def _mean(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    return sum(one for one, _ in pairs) / len(pairs), sum(other for _, other in pairs) / len(pairs)
