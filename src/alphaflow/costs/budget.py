"""How long a run may take: the words for it, and the number of steps that it holds."""

import re
from dataclasses import dataclass

from ..errors import UserError

LONGEST = 10_000 * 3600.0
"""Seconds of the longest budget; more is a slip of the finger."""
_FORM = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m?)?")


def read_budget(word: str) -> float:
    """Return the seconds that a word such as 30m, 1h, 2h30m, 1.5h or 90, which are minutes, stands for.

    Raises:
        UserError: with status 2: it is no length of time, or one below a minute or above 10,000 hours.
    """
    found = _FORM.fullmatch(word.strip().lower())
    if not found or not any(found.groups()):
        raise UserError(f"{word[:40]!r} is no length of time: give 30m, 1h, 2h30m, or minutes alone, 90", status=2)
    hours, minutes = (float(part or 0) for part in found.groups())
    seconds = 3600 * hours + 60 * minutes
    if not 60 <= seconds <= LONGEST:
        raise UserError(f"{word[:40]} must be from 1m to {LONGEST / 3600:.0f}h", status=2)
    return seconds


def budget_word(seconds: float) -> str:
    """Return a length of time as `read_budget` reads it: rounded up to minutes, beyond ten hours to hours."""
    minutes = max(1, -int(-seconds // 60))
    if minutes >= 600:
        minutes = -(-minutes // 60) * 60
    hours, rest = divmod(minutes, 60)
    return f"{hours}h" * bool(hours) + f"{rest}m" * bool(rest)


@dataclass(frozen=True, kw_only=True)
class Overhead:
    """The time of a run beside its steps: in seconds, and in steps' worth of a network's work."""

    seconds: float
    """Seconds however many steps there are: reading the data, writing at the twentieths of a run."""
    steps: float
    """Steps' worth of work however many there are: the look at the first batch, drawing pictures."""
    seconds_each: float = 0.0
    """Seconds beside each step, of what is done every so many steps."""
    steps_each: float = 0.0
    """Steps' worth of work beside each step."""


def seconds_for(steps: int, step: float, overhead: Overhead) -> float:
    """Return the seconds of a run of so many steps, of which one takes `step`."""
    once = overhead.seconds + overhead.steps * step
    return once + steps * (step * (1 + overhead.steps_each) + overhead.seconds_each)


def steps_within(seconds: float, step: float, overhead: Overhead) -> int:
    """Return how many steps fit into so many seconds: `seconds_for` undone; 0 where none does."""
    once = seconds_for(0, step, overhead)
    return max(0, int((seconds - once) / (seconds_for(1, step, overhead) - once)))
