"""What watches over a run: steps that are not finite, residuals that leap, signals that ask it to end."""

import contextlib
import logging
import math
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..method.objective import Output
from ..path import regime_of

log = logging.getLogger("alphaflow")

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
"""What schedulers send before they take a machine away, Ctrl-C, and a terminal that closes: each ends a run after
its step, with a checkpoint."""


class PendingStep(NamedTuple):
    """A step that was taken, and whose gradient the host has not looked at yet."""

    step: int
    """How many steps there are with this one."""
    outs: Sequence[Output]
    """The objective's outputs on this process's parts of the batch."""
    grad_norm: Tensor
    """(); it may still be under way on the device."""


def step_if_finite(optimizer: torch.optim.AdamW, grad_norm: Tensor) -> None:
    """Take a step, which changes no weight and no moment if the gradient's norm, (), is not finite.

    That is decided where the norm is: the host need not wait for it. The optimizer must be `fused`: it reads
    `found_inf`, which torch's gradient scaler sets in the same way.
    """
    optimizer.found_inf = grad_norm.isfinite().logical_not().float()  # type: ignore[attr-defined]
    optimizer.step()


class Guard:
    """Judges steps by numbers that are the same on every process, so that all judge alike.

    A step with a non-finite gradient is not taken. `max_bad` of them in a row call for a roll-back, once; a run
    that needs a second one is not sound, and stops. A leap of the residual is told, and changes nothing.

    bad: non-finite steps in a row up to now. rolled_back: how often the run has gone back to a checkpoint.
    reason: why it should now, in words; empty while all is well.
    """

    def __init__(self, max_bad: int, spike_factor: float = 0.0) -> None:
        self.max_bad = max_bad
        self.bad = self.rolled_back = 0
        self.reason = ""
        self._back_at: int | None = None
        self._spikes = SpikeWatch(spike_factor)

    def accepts(self, grad_norm: float) -> bool:
        """Return whether the step counts; note it among the bad ones otherwise."""
        if math.isfinite(grad_norm):  # a non-finite loss has a non-finite gradient
            self.bad = 0
            return True
        self.bad += 1
        if self.bad >= self.max_bad:
            self.reason = f"{self.bad} steps in a row had a non-finite loss or gradient"
        return False

    def watch(self, step: int, residual: float, alpha: float) -> None:
        """Look at a logged step's residual, and log a leap."""
        usual = self._spikes.leap(residual, alpha)
        if usual is not None:
            log.warning(
                "the residual leapt to %.4g at step %d; nine in ten lately were below %.4g", residual, step, usual
            )

    def condemn(self, reason: str) -> None:
        """Note that the run is in no state that may be kept, and must go back for `reason`, or an earlier one."""
        self.reason = self.reason or reason

    def bound(self, step: int) -> float | None:
        """Return before which step the checkpoint must lie that a run at `step` goes back to; None: there is none.

        A run may go back once; and once more if not one step from that checkpoint was finite: it may hold ruined
        weights, though each of them is finite.
        """
        if self.rolled_back == 0:
            return math.inf
        return self._back_at if self.rolled_back == 1 and step - self.bad == self._back_at else None

    def note_rollback(self, at: int | None = None, before: int = 0) -> None:
        """Note that the run has gone back to step `at`, after `before` earlier times: begin anew."""
        self.rolled_back, self._back_at = max(self.rolled_back, before) + 1, at
        self.bad, self.reason = 0, ""
        self._spikes.forget()

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold, so that a resumed run judges as an undisturbed one."""
        return {"bad_steps": self.bad, "rolled_back": self.rolled_back, "spikes": self._spikes.state()}

    def load(self, state: dict[str, Any]) -> None:
        """Load what `state` returned; what older checkpoints lack is as at the start."""
        self.bad, self.rolled_back = int(state["bad_steps"]), int(state.get("rolled_back", 0))
        self._spikes.load(state.get("spikes", {}))


class SpikeWatch:
    """Finds residuals that lie `factor` times above what nine in ten of the last `WINDOW` were; with 0 none.

    Residuals at α = 0, at 0 < α < 1 and at α = 1 differ by orders of magnitude, so a passage from one to another
    begins a new window. Within 0 < α < 1 they fall with α, which is no leap.
    """

    WINDOW, LEAST = 64, 16

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self._recent: deque[float] = deque(maxlen=self.WINDOW)
        self._regime: str = ""

    def leap(self, residual: float, alpha: float) -> float | None:
        """Return the nine-in-ten bound that this residual leaps over, or None. Leaps do not enter the window."""
        regime = regime_of(alpha)
        if regime != self._regime:
            self.forget()
            self._regime = regime
        if not self.factor or not math.isfinite(residual):
            return None
        usual = sorted(self._recent)[int(0.9 * len(self._recent))] if len(self._recent) >= self.LEAST else math.inf
        if residual > self.factor * usual:
            return usual
        self._recent.append(residual)
        return None

    def forget(self) -> None:
        self._recent.clear()

    def state(self) -> dict[str, Any]:
        return {"kind": self._regime, "recent": list(self._recent)}

    def load(self, state: dict[str, Any]) -> None:
        self._regime = str(state.get("kind", ""))
        self._recent = deque(map(float, state.get("recent", ())), maxlen=self.WINDOW)


def status_of(caught: Sequence[int]) -> int:
    """Return the exit status: 130 after SIGINT, 129 after SIGHUP, else 143, as after SIGTERM."""
    return 128 + (caught[0] if caught and caught[0] in (signal.SIGINT, signal.SIGHUP) else signal.SIGTERM)


@contextlib.contextmanager
def on_signal(event: threading.Event) -> Iterator[list[int]]:
    """Within this block `SIGNALS` set `event` and let the step end; those that came are in the list that it gives.

    A second Ctrl-C ends at once. One that the process was told to ignore (nohup, jobs in the background) stays so.
    """
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        again = number == signal.SIGINT and number in caught
        caught.append(number)
        event.set()
        if again:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    optional = (signal.SIGINT, signal.SIGHUP)
    handled = [n for n in SIGNALS if n not in optional or signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in handled}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
