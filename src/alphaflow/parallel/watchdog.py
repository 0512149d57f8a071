"""Ends a group of processes in which one hangs, and says which.

A collective that waits for a hung process ends, if at all, with a timeout that names nobody. So every process
posts where it is, a thread of each reads what the others post, and when a process has stood at one place for too
long, the one furthest behind is named and all end, so that torchrun can start the group again.
"""

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

log = logging.getLogger("alphaflow")

STAGES = ("fetching data", "computing", "observing", "logging", "saving")
"""What a process does in a step, in this order."""


class Board(Protocol):
    """Where processes post lines to each other without waiting."""

    rank: int

    def post(self, line: str) -> None: ...

    def read(self) -> list[str | None]:
        """Return the newest line of each process; None where there is none yet."""


class Watchdog:
    """Watches while it is entered. Tell it by `at` where this process is.

    Args:
        board: None for a process without others: then nothing is watched.
        timeout: seconds at one place after which a process counts as hung.
        end: what ends this process; the main thread cannot, it waits.
    """

    def __init__(
        self,
        board: Board | None,
        timeout: float,
        end: Callable[[int], object] = os._exit,
        period: float | None = None,
    ) -> None:
        self._board, self._timeout, self._end = board, timeout, end
        self._period = period or min(5.0, timeout / 5)
        self._place: tuple[int, int, int] = (0, 0, 0)
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Watchdog":
        if self._board is not None:
            self._over.clear()
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def at(self, stage: str, step: int, attempt: int = 0) -> None:
        """Post that a stage of a step begins; `attempt` counts roll-backs, after which steps come again."""
        self._place = (attempt, step, STAGES.index(stage))

    def _watch(self) -> None:
        assert self._board is not None
        seen: dict[int, ProcessView] = {}
        beat = 0
        who = f"pid {os.getpid()} on {socket.gethostname()}"
        while True:  # the first post at once: who hangs before it could not be told from who waits
            beat += 1
            try:
                self._board.post(json.dumps([beat, list(self._place), who]))
                lines = self._board.read()
            except Exception as error:  # the store went with its process: torchrun ends the others
                log.warning("the watchdog lost its store (%s) and watches no more", error)
                return
            now = time.monotonic()
            for rank, line in enumerate(lines):
                view = seen.setdefault(rank, ProcessView(now))
                if line is not None:
                    view.look(json.loads(line), now)
            blame = self._blame(seen, now)
            if blame is not None:
                log.error("%s", blame)
                self._end(1)
                return
            if self._over.wait(self._period):
                return

    def _blame(self, seen: "dict[int, ProcessView]", now: float) -> str | None:
        """Say who hangs; None while nobody does. The silent come first, then those that are furthest behind."""
        patience = max(3 * self._period, self._timeout / 2)
        silent = [rank for rank, view in seen.items() if now - view.beaten > patience]
        last = min(view.place for view in seen.values())
        ranks = silent or [rank for rank, view in seen.items() if view.place == last]
        if any(now - seen[rank].moved <= self._timeout for rank in ranks):
            return None
        sign = "no sign of life" if silent else "no progress"
        words = [
            f"rank {k} ({seen[k].who}) hangs: {sign} for {now - seen[k].moved:.0f} s, {seen[k]}" for k in ranks
        ]
        others = "" if len(ranks) == len(seen) else "; the others wait for it"
        return "; ".join(words) + others + "; if it only takes long, raise parallel.timeout"


class ProcessView:
    """What one process sees of another: where it is, and since when on this process's own clock."""

    def __init__(self, now: float) -> None:
        self.beat, self.place, self.who = 0, (-1, -1, -1), "not heard of yet"
        self.moved = self.beaten = now

    def look(self, line: tuple[int, list[int], str], now: float) -> None:
        beat, place, who = line
        if beat != self.beat:
            self.beat, self.beaten = beat, now
        if (here := (place[0], place[1], place[2])) != self.place:
            self.place, self.moved, self.who = here, now, who

    def __str__(self) -> str:
        _, step, stage = self.place
        return "before its first step" if step < 0 else f"{STAGES[stage]} at step {step + 1}"
