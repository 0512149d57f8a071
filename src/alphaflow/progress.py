"""Progress of long work on a terminal: rate and time left."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any


class ProgressBar:
    """Steps, rate, time left and the residual, on stderr if that is a terminal; nothing otherwise."""

    def __init__(self, label: str, done: int, total: int, unit: str = "steps", *, shown: bool = True) -> None:
        self._bar: Any = None
        self.done, self._total = done, total
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

    @property
    def shown(self) -> bool:
        """Whether there is a terminal to show it on."""
        return self._bar is not None

    def less(self, count: int) -> None:
        """So many need not be done after all."""
        self._total -= count
        if self._bar:
            self._bar.update(self._task, total=self._total)

    def update(self, done: int, note: str = "") -> None:
        self.done = done
        if self._bar:
            rate = (done - self._first) / max(time.monotonic() - self._start, 1e-9)
            fields = {"rate": f"{rate:.1f}/s", **({"note": note} if note else {})}
            self._draw(lambda: self._bar.update(self._task, completed=done, **fields))
