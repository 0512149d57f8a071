"""Curricula: pure functions of the step.

Every curve falls from `first` (1) before `start` to `last` (0) after `end`. For α the paper's choice is
`sigmoid`; the r = t share and the learning rate use the same curves between other values.
Source: α-Flow, section 4.2 and appendix; the other curves are those that its code offers.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from . import parsing

Schedule: TypeAlias = Callable[[int], float]
"""step -> value."""


_USUAL: dict[str, dict[str, float]] = {
    "step": {},
    "linear": {"clamp": 0.0},
    "sigmoid": {"temperature": 25.0, "clamp": 5e-3},
    "exponential": {"temperature": 5.0, "clamp": 0.0},
    "logarithmic": {"temperature": 5.0, "clamp": 0.0},
}
"""What each shape takes besides its ends, with the constructors' defaults below."""


@dataclass(frozen=True)
class Curve:
    """A fall from `first` to `last` between the steps `start` and `end`; `start == end` is a step.

    `temperature` bends the curve; within `clamp` of either end it is exactly there (relative to the fall).
    """

    shape: Literal["linear", "sigmoid", "exponential", "logarithmic"]
    start: float
    end: float
    temperature: float = 1.0
    clamp: float = 0.0
    first: float = 1.0
    last: float = 0.0

    def __post_init__(self) -> None:
        for name in ("start", "end", "first", "last"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} {getattr(self, name):g} must be a finite number")
        if self.end < self.start:
            raise ValueError(f"end {self.end:g} lies before start {self.start:g}")
        if not 1e-6 <= self.temperature <= 1e6:  # beyond, the curves' differences are lost in rounding
            raise ValueError(f"temperature {self.temperature:g} must be positive, between 1e-6 and 1e6")
        if not 0 <= self.clamp < 0.5:
            raise ValueError(f"clamp {self.clamp:g} must lie in [0, 0.5)")

    def __call__(self, step: int) -> float:
        level = self._level(step)
        if level > 1 - self.clamp:
            level = 1.0
        elif level < self.clamp:
            level = 0.0
        return self.last + (self.first - self.last) * level

    def __str__(self) -> str:
        """As `parse` reads it, in steps."""
        name = "step" if self.start == self.end else self.shape
        parts = [parsing.number(at) for at in dict.fromkeys((self.start, self.end))]
        usual = {"first": 1.0, "last": 0.0} | _USUAL[name]
        parts += [f"{key}={getattr(self, key):g}" for key in usual if getattr(self, key) != usual[key]]
        return f"{name}({', '.join(parts)})"

    def _level(self, step: int) -> float:
        if self.start == self.end:
            return 1.0 if step < self.start else 0.0
        done = (step - self.start) / (self.end - self.start)
        bend = self.temperature
        if self.shape == "sigmoid":  # 1 - sigmoid(γ (k - (k_s + k_e)/2) / (k_e - k_s)), not cut at the ends
            return 1 / (1 + math.exp(min(bend * (done - 0.5), 700.0)))
        done = min(max(done, 0.0), 1.0)
        if self.shape == "linear":
            return 1 - done
        if self.shape == "exponential":  # fast first
            return (math.exp(-bend * done) - math.exp(-bend)) / (1 - math.exp(-bend))
        return math.log1p(bend * (1 - done)) / math.log1p(bend)  # logarithmic: slow first


@dataclass(frozen=True)
class constant:  # lower case, for it reads as a function: schedules.constant(0.5)
    """The same value at every step."""

    value: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"{self.value:g} must be a finite number")

    def __call__(self, step: int) -> float:
        return float(self.value)

    def __str__(self) -> str:
        return f"{self.value:g}"


def step(at: float, *, first: float = 1.0, last: float = 0.0) -> Curve:
    """`first` before the step `at`, `last` from it on."""
    return Curve("linear", at, at, first=first, last=last)


def linear(start: float, end: float, *, clamp: float = 0.0, first: float = 1.0, last: float = 0.0) -> Curve:
    """Return a straight line from `first` at `start` to `last` at `end`."""
    return Curve("linear", start, end, clamp=clamp, first=first, last=last)


def sigmoid(
    start: float,
    end: float,
    temperature: float = 25.0,
    clamp: float = 5e-3,
    *,
    first: float = 1.0,
    last: float = 0.0,
) -> Curve:
    """Return the paper's curriculum: 1 - sigmoid(γ (k - (start + end)/2) / (end - start)), clamped by η.

    γ is `temperature`, η is `clamp`. With the defaults the value moves only between 28.8 % and 71.2 % of the
    way from `start` to `end`.
    """
    return Curve("sigmoid", start, end, temperature, clamp, first, last)


def exponential(
    start: float,
    end: float,
    temperature: float = 5.0,
    *,
    clamp: float = 0.0,
    first: float = 1.0,
    last: float = 0.0,
) -> Curve:
    """(e^(-γp) - e^(-γ)) / (1 - e^(-γ)) with p the share of the way done: falls fast, then slowly."""
    return Curve("exponential", start, end, temperature, clamp, first, last)


def logarithmic(
    start: float,
    end: float,
    temperature: float = 5.0,
    *,
    clamp: float = 0.0,
    first: float = 1.0,
    last: float = 0.0,
) -> Curve:
    """log(1 + γ(1 - p)) / log(1 + γ) with p the share of the way done: falls slowly, then fast."""
    return Curve("logarithmic", start, end, temperature, clamp, first, last)


CURVES: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "step": step,
    "linear": linear,
    "sigmoid": sigmoid,
    "exponential": exponential,
    "logarithmic": logarithmic,
}


def parse(
    text: str, steps: int, kind: str = "schedule", further: Mapping[str, Callable[..., Schedule]] | None = None
) -> Schedule:
    """`parse("sigmoid(0%, 80%)", 1000)` is `sigmoid(0, 800)`; a bare number is constant.

    Percentages of `at`, `start` and `end` are of `steps`; where a value is meant (`25%`, `first=75%`), 100 % is 1.
    further: constructors of other schedules by name.

    Raises:
        UserError: an unknown curve (the nearest is suggested), or numbers that don't fit it.
    """
    known = {**CURVES, **(further or {})}
    return parsing.parse(str(text), kind, known, whole=steps, counts=("at", "start", "end"))


def extremes(schedule: Schedule) -> tuple[float, ...]:
    """Return the values between which a schedule of this module stays; nothing for schedules of another kind."""
    if isinstance(schedule, constant):
        return (schedule.value,)
    return (schedule.first, schedule.last) if isinstance(schedule, Curve) else ()


def warmup(steps: int) -> Schedule:
    """Return a rise from 1/steps to 1 over the first `steps` steps, for the learning rate."""
    return lambda k: min(1.0, (k + 1) / max(steps, 1))
