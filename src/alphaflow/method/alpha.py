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

    def rows(self, random: Random, r: Tensor, t: Tensor, step: int = 0) -> Tensor:
        """α of each row, (B,) like t."""
        return self.law.quantile(random.uniform("alpha")).clamp(1e-3, 1)


@dataclass(frozen=True)
class StepSize:
    """α = δ / (t - r), at most 1, so that every step t - s has the length δ (discrete consistency training, RCGM).

    delta: δ, in time: the path from noise to data has the length 1. A number, or a schedule by which it falls over
        the run (iCT, arXiv 2310.14189).

    Raises:
        ValueError: δ outside (0, 1], at either end of a schedule.
    """

    delta: float | Schedule

    def __post_init__(self) -> None:
        for delta in extremes(self.delta):
            if not 0 < delta <= 1:
                raise ValueError(f"consistency step {delta:g} must lie in (0, 1]")

    def __str__(self) -> str:
        return f"{self._words} / (t - r)"

    @property
    def _words(self) -> str:
        return str(self.delta) if callable(self.delta) else f"{self.delta:g}"

    def rows(self, random: Random, r: Tensor, t: Tensor, step: int = 0) -> Tensor:
        """α of each row, (B,) like t; 1 where r = t."""
        delta = self.delta(step) if callable(self.delta) else self.delta
        return (delta / (t - r)).clamp(max=1)


Alpha: TypeAlias = "float | Schedule | RandomSplit | StepSize"


def extremes(value: Alpha) -> tuple[float, ...]:
    """Where a number or a schedule begins and ends; nothing for values per row."""
    if isinstance(value, RandomSplit | StepSize):
        return ()
    return (value(0), value(2**62)) if callable(value) else (value,)
