"""What may be asked of the demo. Everything has a bound, for strangers may ask."""

import difflib
import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..errors import UserError
from ..sampling import METHODS

MOST_PICTURES = 64
MOST_STEPS = 64
MOST_SEED = 2**31 - 1
MOST_GUIDANCE = 10.0
NO_CLASS = -1
IN_TURN = "in turn"


@dataclass(frozen=True, kw_only=True)
class Wish:
    """One grid.

    label: a class, "in turn" for each class in turn, or -1 for no class, where a model was trained for that.
    count: pictures. nfe: intervals of time; heun evaluates the network twice in each. seed: of the noise.
    method: see `alphaflow.sampling`. guidance: scale of classifier-free guidance; 1 is none.
    model: which of the models shown.
    """

    label: int | str = IN_TURN
    count: int = MOST_PICTURES
    nfe: int = 1
    seed: int = 0
    method: str = "ode"
    guidance: float = 1.0
    model: int = 0


@dataclass(frozen=True)
class Bounds:
    """What the models allow: numbers of classes and of models, whether there is a class for none, and the least
    and largest scale of guidance."""

    num_classes: int
    guidable: bool
    models: int = 1
    scales: tuple[float, float] = (0, MOST_GUIDANCE)

    def read(self, asked: Any) -> Wish:
        """The wish in what somebody sent: a mapping of names to values, any of them missing.

        Raises:
            UserError: something in it is unknown, of the wrong type, or out of bounds.
        """
        if not isinstance(asked, Mapping):
            raise UserError(f"a wish is an object with names and values, not {brief(asked)}")
        known = {one.name for one in fields(Wish)}
        for name in asked:
            if name not in known:
                near = difflib.get_close_matches(str(name)[:40], known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known))}"
                raise UserError(f"unknown name {brief(name)}: {hint}")
        usual = Wish()
        method = asked.get("method", usual.method)
        if not isinstance(method, str) or method not in METHODS:
            raise UserError(f"method {brief(method)} is unknown: choose one of {', '.join(METHODS)}")
        guidance = number("guidance", asked.get("guidance", usual.guidance), *self.scales)
        label = self._label(asked.get("label", usual.label))
        if guidance != 1 and not self.guidable:
            raise UserError("guidance needs a model that was trained with some labels dropped: leave it at 1")
        if guidance != 1 and label == NO_CLASS:
            raise UserError("guidance leads towards a class: choose one, or leave it at 1")
        return Wish(
            label=label,
            count=whole("count", asked.get("count", usual.count), 1, MOST_PICTURES),
            nfe=whole("nfe", asked.get("nfe", usual.nfe), 1, MOST_STEPS),
            seed=whole("seed", asked.get("seed", usual.seed), 0, MOST_SEED),
            method=method,
            guidance=guidance,
            model=whole("model", asked.get("model", usual.model), 0, self.models - 1),
        )

    def _label(self, label: Any) -> int | str:
        if label == IN_TURN:
            return IN_TURN
        if isinstance(label, str):
            raise UserError(f"label {brief(label)}: give the number of a class, or {IN_TURN!r}")
        if self.num_classes == 0:
            raise UserError(f"label {brief(label)}: this model has no classes, leave it out")
        return whole("label", label, NO_CLASS if self.guidable else 0, self.num_classes - 1)


def labels_of(wish: Wish, num_classes: int) -> Sequence[int] | None:
    """A class for each picture; `num_classes` means none. None where the model has no classes."""
    if num_classes == 0:
        return None
    if wish.label == IN_TURN:
        return [k % num_classes for k in range(wish.count)]
    return [num_classes if wish.label == NO_CLASS else int(wish.label)] * wish.count


def whole(name: str, value: Any, low: int, high: int) -> int:
    """A whole number between the bounds; 3.0 will do, True will not.

    Raises:
        UserError: it is something else.
    """
    return int(number(name, value, low, high, whole=True))


def number(name: str, value: Any, low: float, high: float, *, whole: bool = False) -> float:
    """A number between the bounds.

    Raises:
        UserError: it is none, or beyond them.
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
    """A value as a message shows it: on one line, and short whatever was sent."""
    if isinstance(value, int) and abs(value) >= 10**18:  # Python refuses to write very long ones
        return "a number of more than 18 digits"
    return reprlib.repr(value)[:60]
