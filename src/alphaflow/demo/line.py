"""The line before the models computes one piece of work at a time, in a thread, while somebody waits for it."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ..errors import UserError

T = TypeVar("T")

MOST_WAITING = 256
MOST_AHEAD = 65_536
"""The most work that may be ahead of what is let in: 16 of the largest grids by a sampler of one evaluation a
step."""


class BusyError(UserError):
    """Too much waits already."""


class LeftError(Exception):
    """Whoever asked has left: what is computed for them can stop."""


@dataclass(eq=False)
class _Turn(Generic[T]):
    """A piece of work that waits for its turn."""

    work: int
    """The size of the work."""
    due: int
    """The sum of its own work and of all that had been begun when it came; the least is next."""
    compute: Callable[[Callable[[], None]], T]
    """The work itself."""
    left: threading.Event = field(default_factory=threading.Event)
    """Set once nobody waits for it any longer."""
    future: "Future[T]" = field(default_factory=Future)
    """The result."""

    def go_on(self) -> None:
        """Raise `LeftError` where nobody waits any longer."""
        if self.left.is_set():
            raise LeftError


class Line:
    """The line of all work. Light work goes before heavy work that came a little earlier: next is whichever
    has the least sum of its own work and of all work begun before it came, so that nothing waits for
    ever."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._turns: list[_Turn[Any]] = []
        self._begun = 0
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="generate", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """The number of those that wait for their turn."""
        return len(self._turns)

    async def run(self, work: int, compute: Callable[[Callable[[], None]], T]) -> T:
        """Return what `compute(go_on)` gives, once it is its turn. Cancelled, it leaves the line.

        work: the size of the work, in any unit. compute: a function that calls `go_on` now and then,
        which raises `LeftError` once this coroutine has been cancelled.

        Raises:
            BusyError: `MOST_WAITING` wait, or more than `MOST_AHEAD` of work would come before it.
        """
        turn = self._join(work, compute)
        try:
            return await asyncio.wrap_future(turn.future)
        finally:
            turn.left.set()
            with self._changed:
                if turn in self._turns:
                    self._turns.remove(turn)

    def _join(self, work: int, compute: Callable[[Callable[[], None]], T]) -> _Turn[T]:
        with self._changed:
            if self._closed:
                raise BusyError("the demo is closing")
            turn = _Turn(work, self._begun + work, compute)
            ahead = sum(other.work for other in self._turns if other.due <= turn.due)
            if len(self._turns) >= MOST_WAITING or ahead > MOST_AHEAD:
                raise BusyError(f"{len(self._turns)} others are waiting: try again in a moment")
            self._turns.append(turn)
            self._changed.notify()
        return turn

    def _serve(self) -> None:
        while (turn := self._next()) is not None:
            if not turn.future.set_running_or_notify_cancel():
                continue
            try:
                turn.future.set_result(turn.compute(turn.go_on))
            except BaseException as error:
                turn.future.set_exception(error)
            del turn  # with its picture, before the next comes

    def _next(self) -> _Turn[Any] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._turns or self._closed)
            if self._closed:
                return None
            turn = min(self._turns, key=lambda turn: turn.due)  # of equal ones the first
            self._turns.remove(turn)
            self._begun += turn.work
            return turn

    def close(self) -> None:
        """Let the thread go; what waits is dropped, what is being computed stops when it next looks."""
        with self._changed:
            self._closed = True
            dropped, self._turns = self._turns, []
            self._changed.notify()
        for turn in dropped:
            turn.future.cancel()
        self._thread.join(timeout=10)
