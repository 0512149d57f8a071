"""Where α comes from: a number, a schedule of the step, or a law for each row."""

from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from ..rng import Random
from .schedules import Schedule
from .times import Distribution, words


@dataclass(frozen=True)
class RandomSplit:
    """α drawn row by row: the interval is split at a random point (SplitMeanFlow, arXiv 2507.16884).

    law: of α, cut to at least 1e-3: at 0 the interval is split at t, and the target is u itself.
    """

    law: Distribution

    def __str__(self) -> str:
        return f"drawn by row, {words(self.law)}"

    def rows(self, random: Random, r: Tensor, t: Tensor) -> Tensor:
        """α of each row, (B,) like t."""
        return self.law.quantile(random.uniform("alpha")).clamp(1e-3, 1)


@dataclass(frozen=True)
class StepSize:
    """α = δ / (t - r), at most 1, so that every step t - s has the length δ (discrete consistency training, RCGM).

    delta: δ, in time: the path from noise to data has the length 1.

    Raises:
        ValueError: δ outside (0, 1].
    """

    delta: float

    def __post_init__(self) -> None:
        if not 0 < self.delta <= 1:
            raise ValueError(f"consistency step {self.delta:g} must lie in (0, 1]")

    def __str__(self) -> str:
        return f"{self.delta:g} / (t - r)"

    def rows(self, random: Random, r: Tensor, t: Tensor) -> Tensor:
        """α of each row, (B,) like t; 1 where r = t."""
        return (self.delta / (t - r)).clamp(max=1)


Alpha: TypeAlias = "float | Schedule | RandomSplit | StepSize"


def extremes(value: Alpha) -> tuple[float, ...]:
    """Where a number or a schedule begins and ends; nothing for values per row."""
    if isinstance(value, RandomSplit | StepSize):
        return ()
    return (value(0), value(2**62)) if callable(value) else (value,)
