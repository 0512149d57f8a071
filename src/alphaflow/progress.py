"""Progress of long work: rate and time left, on a terminal or in a log."""

import logging
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

log = logging.getLogger("alphaflow")
LOG_EVERY = 60.0
"""The seconds between two lines of the log, where no terminal shows a bar."""


class ProgressBar:
    """Steps, rate, time left and a note: a bar on stderr if that is a terminal, else a log line a minute."""

    def __init__(self, label: str, done: int, total: int, unit: str = "steps", *, shown: bool = True) -> None:
        self._bar: Any = None
        self.done, self._total = done, total
        self._label, self._unit, self._logs = label, unit, shown
        if shown and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(unit),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(label, total=total, completed=done, rate="", note="")
        self._start, self._first = time.monotonic(), done
        self._logged = self._start

    def __enter__(self) -> "ProgressBar":
        if self._bar:
            self._bar.start()
        return self

    def _draw(self, draw: Callable[[], object]) -> None:
        """On the terminal, while there is one: a closed one takes the bar along, not the work."""
        try:
            draw()
        except OSError:
            self._bar = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._draw(self._bar.stop)

    def less(self, count: int) -> None:
        """So many need not be done after all."""
        self._total -= count
        if self._bar:
            self._bar.update(self._task, total=self._total)

    def update(self, done: int, note: str = "") -> None:
        """Show that so many are done, and a note beside them."""
        self.done, now = done, time.monotonic()
        rate = (done - self._first) / max(now - self._start, 1e-9)
        if self._bar:
            fields = {"rate": f"{rate:.1f}/s", **({"note": note} if note else {})}
            self._draw(lambda: self._bar.update(self._task, completed=done, **fields))
        elif self._logs and rate > 0 and done < self._total and now - self._logged >= LOG_EVERY:
            self._logged = now
            left = duration((self._total - done) / rate)
            words = f"{self._label}: {done:,} of {self._total:,} {self._unit}, {rate:.1f}/s, {left} left"
            log.info("%s%s", words, f"; {note}" if note else "")


def duration(seconds: float) -> str:
    """Return a time in words: 1 h 5 min, 3 min, 20 s."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
