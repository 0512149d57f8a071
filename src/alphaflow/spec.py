"""Schedules and distributions as words: `sigmoid(0%, 100%)`, `logit-normal(-0.4, 1)`, `0.25`.

The form in which config files and the command line name them. Percentages are shares of the run's steps.
"""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from .errors import UserError, choose

_CALL = re.compile(r"\s*([A-Za-z][\w-]*)\s*(?:\((.*)\))?\s*")


def _number(word: str, text: str, whole: int | None) -> float:
    word = word.strip()
    try:
        if word.endswith("%"):
            if whole is None:
                raise ValueError
            return float(word[:-1]) / 100 * whole
        return float(word)
    except ValueError:
        raise UserError(f"{text!r}: {word!r} is not a number", status=2) from None


def parse(
    text: str,
    kind: str,
    makers: Mapping[str, Callable[..., Any]],
    whole: int | None = None,
    values: Collection[str] = (),
) -> Any:
    """Build what `text` names.

    Args:
        text: `name`, `name(1, 2, key=3)`, or a bare number, which means `constant(number)`.
        kind: what is being named, for messages: "alpha schedule".
        makers: the constructors by name.
        whole: what 100 % stands for; None refuses percentages.
        values: constructors and keywords whose numbers are values, not steps: there 100 % is 1.

    Raises:
        UserError: the name is unknown (the nearest is suggested), or its arguments don't fit.
    """
    positional, named = [], {}
    match = _CALL.fullmatch(text)
    if match is None:
        name, inside = "constant", ""
        positional.append(_number(text, text, 1 if name in values else None))
    else:
        name, inside = match[1], match[2] or ""
    choose(kind, name, makers, status=2)
    for word in filter(str.strip, inside.split(",")):
        key, equals, value = word.rpartition("=")
        number = _number(value, text, 1 if {name, key.strip()} & set(values) else whole)
        if equals:
            named[key.strip()] = number
        else:
            positional.append(number)
    try:
        return makers[name](*positional, **named)
    except TypeError as error:
        raise UserError(f"{kind} {text!r}: {str(error).split(') ')[-1]}", status=2) from None
    except ValueError as error:
        raise UserError(f"{kind} {text!r}: {error}", status=2) from None
