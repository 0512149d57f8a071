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
    """The time of a run beside its steps, in seconds and in rows that are drawn."""

    fixed: float
    """Seconds that do not depend on the network's speed: reading the data, writing checkpoints and pictures."""
    steps: float
    """Steps' worth of work that is none: the look at the first batch, drawing for pictures and scores."""

    def seconds(self, step: float) -> float:
        """Return the whole, where one step takes so many seconds."""
        return self.fixed + self.steps * step


def steps_within(seconds: float, step: float, overhead: Overhead) -> int:
    """Return how many steps fit into so many seconds, of which one takes `step`; 0 where none does."""
    return max(0, int((seconds - overhead.seconds(step)) / step))


def seconds_for(steps: int, step: float, overhead: Overhead) -> float:
    """Return the seconds of a run of so many steps, of which one takes `step`; `steps_within` undoes it."""
    return steps * step + overhead.seconds(step)
