"""What looks at a run every so many steps, and must leave no trace in it.

A run with observers takes the same steps, to the bit, as one without. So each looks under random numbers of its
own, finds the network as it pleases and leaves it as it was, and its time counts neither as training's speed nor
as waiting. What it says is written into metrics.jsonl and on the boards with the step's own line.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..data import Dataset
from ..method.objective import AlphaFlow
from ..parallel.parallel import Parallel
from ..runs.best_effort import BestEffort
from ..runs.config import Config
from ..runs.folder import RunFolder


@dataclass(frozen=True)
class RunView:
    """A run after a step, as an observer sees it, on every process."""

    step: int
    """How many steps are done."""
    net: nn.Module
    """The network in training, u(z, r, t, y), on `device`; with `parallel.sharded` every evaluation of it is a
    collective, so all processes must make as many."""
    ema: nn.Module
    """The network's average, of which the same holds."""
    objective: AlphaFlow
    """The objective that it is trained with; `objective.alpha_at(step)` is α here."""
    dataset: Dataset
    config: Config
    parallel: Parallel
    device: torch.device
    folder: RunFolder
    notes: BestEffort = field(default_factory=BestEffort)
    """Writes what the run can do without, on the first process: `run.notes.attempt("what it is", write)`."""

    @property
    def seed(self) -> int:
        """The run's seed, to derive one's own from with `rng.hash_key(seed, "a name of one's own", …)`."""
        return self.config.seed


class Observer(ABC):
    """Looks at the run after each `every` steps and after the last.

    What it needs and cannot have it refuses with a `UserError` when it is made, before the run's folder appears;
    while a run goes on it must not fail for what the run does: a value that cannot be had is NaN.
    """

    name: str
    """A word of its own, under which a checkpoint keeps its state."""
    every: int
    """Steps from one look to the next, at least 1."""

    @abstractmethod
    def observe(self, run: RunView) -> Mapping[str, float]:
        """Return what to log of this step, by names that nobody else uses; NaN becomes null.

        Called on all processes, at the same steps; the answer of the first one counts. An observer may call
        `backward` on the network and read its gradients, which are cleared before and after, but not change
        weights or buffers. It must end within `parallel.timeout` minutes.
        """

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold for a resumed run to say the same as an undisturbed one, as JSON."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:  # noqa: B027 most have no state
        """Load what `state` returned; an empty mapping comes of a checkpoint without this observer."""
