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

from ..objectives import Output

log = logging.getLogger("alphaflow")

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What schedulers send before they take a machine away: both end a run after its step, with a checkpoint."""


class Taken(NamedTuple):
    """A step that has been taken, as far as the host knows: `grad_norm` () may still be under way on the device.

    step: how many there are with it. outs: of the objective, on this process's parts of the batch.
    """

    step: int
    outs: Sequence[Output]
    grad_norm: Tensor


def step_if_finite(optimizer: torch.optim.AdamW, grad_norm: Tensor) -> None:
    """Take a step, which changes no weight and no moment if the gradient's norm, (), is not finite.

    That is decided where the norm is: the host need not wait for it. The optimizer must be `fused`; gradient
    scalers of mixed precision use the same way in.
    """
    optimizer.found_inf = grad_norm.isfinite().logical_not().float()  # type: ignore[attr-defined]
    optimizer.step()


class Guard:
    """Judges steps by numbers that are the same on every process, so that all judge alike.

    A step with a non-finite gradient is not taken. `max_bad` of them in a row, or with `spike_rollback` a leap of
    the residual, call for a roll-back, once; a run that needs a second one is not sound, and stops.

    bad: non-finite steps in a row up to now. rolled_back: how often the run has gone back to a checkpoint.
    reason: why it should now, in words; empty while all is well. fatal: whether it cannot go on otherwise.
    """

    def __init__(self, max_bad: int, spike_factor: float = 0.0, spike_rollback: bool = False) -> None:
        self.max_bad, self._spike_rollback = max_bad, spike_rollback
        self.bad = self.rolled_back = 0
        self.reason, self.fatal = "", False
        self._spikes = SpikeWatch(spike_factor)

    def accepts(self, grad_norm: float) -> bool:
        """Whether to take the step."""
        if math.isfinite(grad_norm):  # a non-finite loss has a non-finite gradient
            self.bad = 0
            return True
        self.bad += 1
        if self.bad >= self.max_bad:
            self.reason, self.fatal = f"{self.bad} steps in a row had a non-finite loss or gradient", True
        return False

    def watch(self, step: int, residual: float, alpha: float) -> None:
        """Look at a logged step's residual: a leap is told, and with `spike_rollback` calls for a roll-back."""
        usual = self._spikes.leap(residual, alpha)
        if usual is None:
            return
        words = f"the residual leapt to {residual:.4g} at step {step}; nine in ten lately were below {usual:.4g}"
        log.warning("%s", words)
        if self._spike_rollback and self.rolled_back == 0:
            self.reason, self.fatal = words, False

    def note_rollback(self) -> None:
        """The run has gone back: begin anew."""
        self.rolled_back += 1
        self.bad, self.reason = 0, ""
        self._spikes.forget()

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold, so that a resumed run judges as an undisturbed one."""
        return {"bad_steps": self.bad, "rolled_back": self.rolled_back, "spikes": self._spikes.state()}

    def load(self, state: dict[str, Any]) -> None:
        """The inverse of `state`; what older checkpoints lack is as at the start."""
        self.bad, self.rolled_back = state["bad_steps"], state.get("rolled_back", 0)
        self._spikes.load(state.get("spikes", {}))


class SpikeWatch:
    """Tells residuals that lie `factor` times above what nine in ten of the last `WINDOW` were; 0: none.

    Residuals at α = 0, at 0 < α < 1 and at α = 1 differ by orders of magnitude, so a passage from one to another
    begins a new window. Within 0 < α < 1 they fall with α, which is no leap.
    """

    WINDOW, LEAST = 64, 16

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self._recent: deque[float] = deque(maxlen=self.WINDOW)
        self._kind = ""

    def leap(self, residual: float, alpha: float) -> float | None:
        """The nine-in-ten bound that this residual leaps over, or None. Leaps do not enter the window."""
        kind = "derivative" if alpha == 0 else "flow" if alpha == 1 else "between"
        if kind != self._kind:
            self.forget()
            self._kind = kind
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
        return {"kind": self._kind, "recent": list(self._recent)}

    def load(self, state: dict[str, Any]) -> None:
        self._kind = state.get("kind", "")
        self._recent = deque(state.get("recent", ()), maxlen=self.WINDOW)


@contextlib.contextmanager
def on_signal(event: threading.Event) -> Iterator[None]:
    """Within this block `SIGNALS` set `event` and let the step end."""

    def note(number: int, frame: FrameType | None) -> None:
        event.set()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
