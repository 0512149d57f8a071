"""What looks at a run every so many steps, and must leave no trace in it.

A run with observers takes the same steps, to the bit, as one without. So each looks under random numbers of its
own, finds the network as it pleases and leaves it as it was, and its time counts neither as training's speed nor
as waiting. What it says is written into metrics.jsonl and on the boards with the step's own line.
"""

import contextlib
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..data import Dataset
from ..objectives import AlphaFlow
from .config import Config
from .meter import Meter
from .parallel import Parallel
from .run import RunFolder


@dataclass(frozen=True)
class RunView:
    """A run after a step, as an observer sees it, on every process.

    step: how many are done. net, ema: the network in training and its average, u(z, r, t, y), on `device`; with
    `parallel.sharded` every evaluation of them is a collective, so all processes must make as many. objective: as
    trained with; `objective.alpha_at(step)` is α here. seed: the run's, to derive one's own from with
    `rng.hash_key(seed, "a name of one's own", …)`.
    """

    step: int
    net: nn.Module
    ema: nn.Module
    objective: AlphaFlow
    dataset: Dataset
    config: Config
    parallel: Parallel
    device: torch.device
    folder: RunFolder

    @property
    def seed(self) -> int:
        return self.config.seed


class Observer(ABC):
    """Looks at the run after each `every` steps (at least 1) and after the last.

    name: a word of its own, under which a checkpoint keeps its state. What it needs and cannot have it refuses
    with a `UserError` when it is made, before the run's folder appears; while a run goes on it must not fail for
    what the run does: a figure that cannot be had is NaN.
    """

    name: str
    every: int

    @abstractmethod
    def observe(self, run: RunView) -> Mapping[str, float]:
        """What to log of this step, by names that nobody else uses; NaN becomes null.

        Called on all processes, at the same steps; the answer of the first one counts. An observer may call
        `backward` on the network and read its gradients, which are cleared before and after, but not change
        weights or buffers. It must end within `parallel.timeout` minutes.
        """

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold for a resumed run to say the same as an undisturbed one; JSON's values."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:  # noqa: B027 most have no state
        """The inverse of `state`; of a checkpoint without this observer: an empty mapping."""


def observe(observers: Sequence[Observer], run: RunView, meter: Meter) -> dict[str, float]:
    """What those observers say whose turn it is; all processes must call."""
    due = [one for one in observers if run.step % one.every == 0 or run.step == run.config.steps]
    found: dict[str, float] = {}
    if due:
        with meter.paused():
            for one in due:
                with undisturbed(run.net, run.ema):
                    found |= one.observe(run)
    return found


def states_of(observers: Sequence[Observer]) -> dict[str, Any]:
    """For a checkpoint."""
    return {one.name: one.state() for one in observers}


def load_states(observers: Sequence[Observer], states: Mapping[str, Any]) -> None:
    """The inverse of `states_of`."""
    for one in observers:
        one.load(states.get(one.name, {}))


@contextlib.contextmanager
def undisturbed(net: nn.Module, *others: nn.Module) -> Iterator[None]:
    """Within this block random numbers and the modules' modes may change, and `net` may have gradients."""
    modes = [(part, part.training) for module in (net, *others) for part in module.modules()]
    drawn, drawn_by_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 what libraries draw from
    device = next(net.parameters()).device
    net.zero_grad(set_to_none=True)
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(drawn)
        np.random.set_state(drawn_by_numpy)  # noqa: NPY002
        net.zero_grad(set_to_none=True)
        for part, training in modes:
            part.training = training
