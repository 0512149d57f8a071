"""What a setting may be, declared beside it: the range of a number, what a word names, and whom it concerns.

A declaration is metadata of the field's type: `lr: Annotated[float, Range(above=0)]`. `check_values` holds a
config to all of them, `check_said` refuses what a person asks for and nothing would heed, and `Setting.words` puts
both into words for `--help`. Nothing here loads torch.
"""

import dataclasses
import math
import operator
import typing
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import UserError, choose
from ..method import schedules, times
from ..method.self_steering import SelfSteering

Where = Any
"""A whole config, of which an `Only` looks at other settings."""
BEYOND = 1e9
"""Bounds above this keep nonsense out and are not told beforehand."""


@dataclass(frozen=True)
class Range:
    """The numbers that a setting may be, or each of a list of them; always finite.

    low, high: the least and the largest. above, below: bounds that are not reached themselves.
    unit: of the numbers. note: what an end of the range means. Both for `--help` and for errors.
    """

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    unit: str = ""
    note: str = ""

    def words(self) -> str:
        """`at least 0 and below 1`; bounds that no work comes near are left out."""
        bounds = (one for one in self._bounds() if abs(one[1]) < BEYOND)
        return " and ".join(f"{how} {self._number(bound)}" for how, bound, _ in bounds)

    def check(self, name: str, value: Any, config: Where) -> None:
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, float) and not math.isfinite(one):
                must = f"finite{', and ' * bool(self.words())}{self.words()}"
                raise UserError(f"{name} {number(one)} must be {must}{self._said()}", status=2)
            for how, bound, holds in self._bounds():
                if not holds(one, bound):
                    must = f"{how} {self._number(bound)}{self._said()}"
                    raise UserError(f"{name} {number(one)} must be {must}", status=2)

    def _number(self, bound: float) -> str:
        return f"{number(bound)} {self.unit}".strip()

    def _said(self) -> str:
        return f": {self.note}" if self.note else ""

    def _bounds(self) -> list[tuple[str, float, Callable[[float, float], bool]]]:
        bounds = (
            ("at least", self.low, operator.ge),
            ("above", self.above, operator.gt),
            ("at most", self.high, operator.le),
            ("below", self.below, operator.lt),
        )
        return [(how, bound, holds) for how, bound, holds in bounds if bound is not None]


@dataclass(frozen=True)
class OneOf:
    """A word of a list; empty stands for none where `or_none`."""

    names: tuple[str, ...]
    or_none: bool = False

    def words(self) -> str:
        return ", ".join(self.names)

    def check(self, name: str, value: str, config: Where) -> None:
        if value or not self.or_none:
            choose(name, value, self.names, status=2)


@dataclass(frozen=True)
class Schedule:
    """A number or a curve over the steps, between two values.

    steering: `self` names one as well, an α that steers itself.
    """

    low: float
    high: float = math.inf
    steering: bool = False

    def words(self) -> str:
        return f"from {number(self.low)}" + (f" to {number(self.high)}" if math.isfinite(self.high) else " up")

    def check(self, name: str, value: str, config: Where) -> None:
        horizon = config.schedule_steps or config.steps
        try:
            schedule = schedules.parse(value, horizon, further={"self": SelfSteering} if self.steering else {})
        except UserError as error:
            raise UserError(f"{name}: {error}", status=2) from None
        for one in schedules.extremes(schedule):
            if not self.low <= one <= self.high:
                said = name if value.strip() == number(one) else f"{name} {value!r}:"
                bounds = f"lies outside [{number(self.low)}, {number(self.high)}]"
                if not math.isfinite(self.high):
                    bounds = f"must be at least {number(self.low)}"
                raise UserError(f"{said} {number(one)} {bounds}", status=2)


@dataclass(frozen=True)
class Law:
    """A distribution of times in [0, 1]."""

    def words(self) -> str:
        return f"times in [0, 1]: {', '.join(times.DISTRIBUTIONS)}"

    def check(self, name: str, value: str, config: Where) -> None:
        try:
            times.parse(value)
        except UserError as error:
            raise UserError(f"{name}: {error}", status=2) from None


@dataclass(frozen=True)
class Name:
    """What may be called anything but holds none of these characters, nor blanks; empty stands for none where
    `or_none`."""

    without: str
    longest: int
    or_none: bool = False

    def words(self) -> str:
        return f"without blanks and {self.without}"

    def check(self, name: str, value: str, config: Where) -> None:
        if len(value) > self.longest or any(one.isspace() or one in self.without for one in value):
            raise UserError(
                f"{name} {value!r} is no name there: give one without blanks and {self.without}, of at most "
                f"{self.longest} characters",
                status=2,
            )


@dataclass(frozen=True)
class Anything:
    """Any words: an address, a folder or a list of names, which shows whether it is good when it is looked up.

    or_none: empty is a way to say none; of the others it is the default, and no answer for who gives it.
    """

    or_none: bool = False

    def words(self) -> str:
        return ""

    def check(self, name: str, value: str, config: Where) -> None:
        if "\0" in value:
            raise UserError(f"{name} {value!r} holds a character that no place or name has", status=2)


@dataclass(frozen=True)
class Only:
    """Whom a setting concerns: for all others it says nothing, and is refused where a person gives it.

    words: `data.name folder or clips`. test: whether that is so of a whole config.
    """

    where: str
    test: Callable[[Where], bool]


Check = Range | OneOf | Schedule | Law | Name | Anything


@dataclass(frozen=True)
class Setting:
    """One setting: its dotted name, its type without what is declared of it, and that."""

    name: str
    hint: Any
    check: Check | None
    only: tuple[Only, ...]

    def value(self, config: Where) -> Any:
        """Return the value of the setting in this config."""
        for part in self.name.split("."):
            config = getattr(config, part)
        return config

    def words(self) -> str:
        """Return what is declared, for `--help`."""
        check = self.check.words() if self.check else ""
        note = getattr(self.check, "note", "")
        range_ = "; ".join(filter(None, (check, note))) if isinstance(self.check, Range | Schedule | Name) else ""
        return "; ".join(filter(None, (range_, *(f"only with {one.where}" for one in self.only))))


def settings_of(kind: type, prefix: str = "") -> Iterator[Setting]:
    """All settings of a config's class and of its groups, in their order."""
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint, name = hints[field.name], prefix + field.name
        if dataclasses.is_dataclass(hint):
            yield from settings_of(typing.cast(type, hint), name + ".")
            continue
        declared = typing.get_args(hint)[1:] if typing.get_origin(hint) is typing.Annotated else ()
        plain = typing.get_args(hint)[0] if declared else hint
        checks = [one for one in declared if isinstance(one, Check)]
        only = tuple(one for one in declared if isinstance(one, Only))
        yield Setting(name, plain, checks[0] if checks else None, only)


def check_values(config: Where) -> None:
    """Hold every setting to what is declared beside it.

    Raises:
        UserError: with status 2: the setting by its dotted name, its value, and what it may be.
    """
    for setting in _settings(type(config)):
        value = setting.value(config)
        if setting.check is None or value is None:
            continue
        setting.check.check(setting.name, value, config)


def check_said(config: Where, said: Collection[str]) -> None:
    """Refuse settings, by their dotted names, that a person gave and that nothing in this config would heed, or
    that are empty where that says nothing.

    Raises:
        UserError: with status 2: the setting, and whom it concerns.
    """
    for setting in _settings(type(config)):
        value = setting.value(config) if setting.name in said else None
        if isinstance(value, str) and not value.strip() and not getattr(setting.check, "or_none", False):
            raise UserError(f"{setting.name} is empty here: is a variable not set?", status=2)
        for only in setting.only if setting.name in said else ():
            if not only.test(config):
                raise UserError(
                    f"{setting.name} says nothing here: it goes with {only.where}; set that, or leave it out",
                    status=2,
                )


_FOUND: dict[type, tuple[Setting, ...]] = {}


def _settings(kind: type) -> tuple[Setting, ...]:
    if kind not in _FOUND:
        _FOUND[kind] = tuple(settings_of(kind))
    return _FOUND[kind]


def number(value: float) -> str:
    """As a person would write it: 16, 0.05, 1e+12, nan."""
    if isinstance(value, int) and abs(value) < 10**24:
        return str(value)
    return f"{value:g}" if abs(value) < 10**300 or isinstance(value, float) else "of hundreds of digits"
