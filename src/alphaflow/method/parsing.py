"""Schedules and distributions as words: `sigmoid(0%, 100%)`, `logit-normal(-0.4, 1)`, `0.25`.

The form in which config files and the command line name them. Where a step is meant, a percentage is a share of
the run's steps; elsewhere 25% is 0.25.
"""

import dataclasses
import inspect
import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ..errors import UserError, choose

_CALL = re.compile(r"\s*([A-Za-z][\w-]*)\s*(?:\((.*)\))?\s*")


def _number(word: str, text: str, whole: int | None) -> float:
    word = word.strip()
    try:
        if word.endswith("%") and whole is not None:
            value = float(word[:-1]) / 100 * whole
        else:
            value = float(word)
    except ValueError:
        raise UserError(f"{text!r}: {word!r} is not a number", status=2) from None
    if not math.isfinite(value):
        raise UserError(f"{text!r}: {word!r} is not finite: give an ordinary number", status=2)
    return value


def parse(
    text: str,
    kind: str,
    makers: Mapping[str, Callable[..., Any]],
    whole: int | None = None,
    counts: Collection[str] = (),
    together: bool = False,
) -> Any:
    """Build what `text` names.

    Args:
        text: `name`, `name(1, 2, key=3)`, or a bare number, which means `constant(number)`.
        kind: what is being named, for messages: "alpha schedule".
        makers: the constructors by name.
        whole: what 100 % stands for in `counts`; None refuses percentages everywhere.
        counts: the parameters of the constructors that `whole` is for, by name; in others 100 % is 1.
        together: numbers without names are given all or not at all, so that none is taken for another.

    Raises:
        UserError: the name is unknown (the nearest is suggested), a number is not finite, or its arguments don't
            fit.
    """
    positional, named = [], {}
    value_whole = None if whole is None else 1
    match = _CALL.fullmatch(text)
    if match is None:
        name, inside = "constant", ""
        positional.append(_number(text, text, value_whole))
    else:
        name, inside = match[1], match[2] or ""
    choose(kind, name, makers, status=2)
    parameters = list(inspect.signature(makers[name]).parameters)
    for word in filter(str.strip, inside.split(",")):
        key, equals, value = (part.strip() for part in word.rpartition("="))
        meant = [key] if equals else parameters[len(positional) :][:1]
        number = _number(value, text, whole if set(meant) & set(counts) else value_whole)
        if equals:
            named[key] = number
        else:
            positional.append(number)
    if together and positional and not set(parameters) <= {*parameters[: len(positional)], *named}:
        whole_call = f"{name}({', '.join(parameters)})"
        raise UserError(
            f"{kind} {text!r} leaves numbers out: give all of {whole_call}, or none, or name them", status=2
        )
    try:
        return makers[name](*positional, **named)
    except TypeError as error:
        raise UserError(f"{kind} {text!r}: {str(error).split(') ')[-1]}", status=2) from None
    except ValueError as error:
        raise UserError(f"{kind} {text!r}: {error}", status=2) from None


def words(value: Any, makers: Mapping[str, Callable[..., Any]]) -> str:
    """Return the text from which `parse` builds this dataclass, with all numbers; `repr` without a name."""
    name = next((name for name, maker in makers.items() if type(value) is maker), None)
    if name is None or not dataclasses.is_dataclass(value):
        return repr(value)
    parts = [getattr(value, field.name) for field in dataclasses.fields(value)]
    return f"{name}({', '.join(map(number, parts))})"


def number(value: float) -> str:
    """As people write it: 1200000 and 0.25, without an exponent where there is none to save."""
    return str(int(value)) if value == int(value) and abs(value) < 1e12 else f"{value:g}"
