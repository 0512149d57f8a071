"""The settings of a sampler in one bundle, so that no two calls take them in another order."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..method.sampling import grid, plan

WHOLE = (0.0, 1.0)
"""All times: guidance is not confined to an interval."""


@dataclass(frozen=True)
class Sampler:
    """How samples are drawn from a network. The fields are named, and stand in order, as `Generator` takes
    them."""

    nfe: int = 1
    """The number of intervals on an even time grid."""
    seed: int = 0
    """The noise follows from it: sample i of a seed is always the same."""
    method: str | Sequence[str] = "ode"
    """One method, or one for each interval; see `alphaflow.method.sampling`."""
    times: Sequence[float] | None = None
    """A time grid that takes the place of the even one."""
    guidance: float = 1.0
    """The scale of guidance; 1 guides nothing."""
    interval: tuple[float, float] = WHOLE
    """The times between which a network that takes them as an input guides."""

    @property
    def grid(self) -> tuple[float, ...]:
        """The times from 1 down to 0.

        Raises:
            ValueError: `nfe` is below 1.
        """
        return tuple(self.times) if self.times is not None else grid(self.nfe)

    @property
    def evaluations(self) -> int:
        """How often the network is evaluated for one sample, without what guidance adds."""
        return sum(2 if name == "heun" else 1 for _, _, name in plan(self.grid, self.method))
