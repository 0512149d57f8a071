"""The requests that the demo answers. Everything has a bound, for strangers may ask."""

import difflib
import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..errors import UserError
from ..generation.sampler import Sampler
from ..method.sampling import METHODS

MOST_PICTURES = 64
MOST_STEPS = 64
MOST_SEED = 2**31 - 1
MOST_GUIDANCE = 10.0
NO_CLASS = -1
IN_TURN = "in turn"
MOST_LETTERS = 400


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request for one grid of pictures. The fields are the names that a client sends."""

    label: int | str = IN_TURN
    """A class, "in turn" for each class in turn, or -1 for no class, where a model was trained for that."""
    prompt: str = ""
    """What the pictures show, for models that are told in words; empty for their examples in turn."""
    count: int = MOST_PICTURES
    """The number of pictures."""
    nfe: int = 1
    """The number of intervals of time; heun evaluates the network twice in each."""
    seed: int = 0
    """The noise follows from it."""
    method: str = "ode"
    """One of `METHODS`, for all intervals."""
    guidance: float = 1.0
    """The scale of classifier-free guidance; 1 guides nothing."""
    model: int = 0
    """Which of the models shown is asked."""

    @property
    def sampler(self) -> Sampler:
        """The sampler that draws the pictures."""
        return Sampler(nfe=self.nfe, seed=self.seed, method=self.method, guidance=self.guidance)


@dataclass(frozen=True)
class Bounds:
    """The bounds of a request to these models."""

    num_classes: int
    """The number of classes; 0 without classes."""
    guidable: bool
    """Whether the models know samples of no class, which guidance needs."""
    models: int = 1
    """The number of models shown."""
    scales: tuple[float, float] = (0, MOST_GUIDANCE)
    """The least and the largest scale of guidance."""
    words: bool = False
    """Whether the models are told in words."""

    def read(self, asked: Any) -> Request:
        """Read the request that somebody sent: a mapping of names to values, any of them missing.

        Raises:
            UserError: something in it is unknown, of the wrong type, or out of bounds.
        """
        if not isinstance(asked, Mapping):
            raise UserError(f"a request is an object with names and values, not {brief(asked)}")
        names = {field.name for field in fields(Request)}
        for name in asked:
            if name not in names:
                near = difflib.get_close_matches(str(name)[:40], names, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(names))}"
                raise UserError(f"unknown name {brief(name)}: {hint}")
        default = Request()
        method = asked.get("method", default.method)
        if not isinstance(method, str) or method not in METHODS:
            raise UserError(f"method {brief(method)} is unknown: choose one of {', '.join(METHODS)}")
        guidance = number("guidance", asked.get("guidance", default.guidance), *self.scales)
        label = self._label(asked.get("label", default.label))
        if guidance != 1 and not self.guidable:
            raise UserError("guidance needs a model that was trained with some labels dropped: leave it at 1")
        if guidance != 1 and label == NO_CLASS:
            raise UserError("guidance leads towards a class: choose one, or leave it at 1")
        return Request(
            label=label,
            prompt=self._prompt(asked.get("prompt", default.prompt)),
            count=whole("count", asked.get("count", default.count), 1, MOST_PICTURES),
            nfe=whole("nfe", asked.get("nfe", default.nfe), 1, MOST_STEPS),
            seed=whole("seed", asked.get("seed", default.seed), 0, MOST_SEED),
            method=method,
            guidance=guidance,
            model=whole("model", asked.get("model", default.model), 0, self.models - 1),
        )

    def _label(self, label: Any) -> int | str:
        if label == IN_TURN:
            return IN_TURN
        if isinstance(label, str):
            raise UserError(f"label {brief(label)}: give the number of a class, or {IN_TURN!r}")
        if self.num_classes == 0:
            raise UserError(f"label {brief(label)}: this model has no classes, leave it out")
        return whole("label", label, NO_CLASS if self.guidable else 0, self.num_classes - 1)

    def _prompt(self, prompt: Any) -> str:
        if not isinstance(prompt, str):
            raise UserError(f"prompt {brief(prompt)}: give words")
        if len(prompt) > MOST_LETTERS:
            raise UserError(f"prompt {brief(prompt)} has {len(prompt)} letters: give {MOST_LETTERS} at most")
        if prompt and not self.words:
            raise UserError(f"prompt {brief(prompt)}: this model is not told in words, leave it out")
        return " ".join(prompt.split())


def labels_of(request: Request, num_classes: int) -> Sequence[int] | None:
    """Choose a class for each picture, where `num_classes` means no class. Without classes the result is None."""
    if num_classes == 0:
        return None
    if request.label == IN_TURN:
        return [k % num_classes for k in range(request.count)]
    return [num_classes if request.label == NO_CLASS else int(request.label)] * request.count


def whole(name: str, value: Any, low: int, high: int) -> int:
    """Check that a value is a whole number between the bounds; 3.0 will do, True will not.

    Raises:
        UserError: the value is something else.
    """
    return int(number(name, value, low, high, whole=True))


def number(name: str, value: Any, low: float, high: float, *, whole: bool = False) -> float:
    """Check that a value is a number between the bounds.

    Raises:
        UserError: the value is no number, or out of bounds.
    """
    fits = (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and low <= value <= high  # no NaN; and compares integers of any length exactly
        and math.isfinite(value)
        and (not whole or value == int(value))
    )
    if not fits:
        kind = "whole number" if whole else "number"
        raise UserError(f"{name} {brief(value)}: give a {kind} from {low:g} to {high:g}")
    return value


def brief(value: Any) -> str:
    """Word a value as a message shows it: on one line, short whatever was sent, and never a path."""
    if isinstance(value, int) and abs(value) >= 10**18:  # Python refuses to write very long ones
        return "a number of more than 18 digits"
    words = reprlib.repr(value)[:60]
    return "(something with a slash in it)" if "/" in words or "\\" in words else words
