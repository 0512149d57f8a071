"""Letting observers look at a run: when it is their turn, and so that nothing of the run is changed by it."""

import contextlib
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ..observers.base import Observer, RunView
from .throughput import ThroughputMeter


def observe(observers: Sequence[Observer], run: RunView, meter: ThroughputMeter) -> dict[str, float]:
    """Return what those observers say whose turn it is; all processes must call."""
    due = [observer for observer in observers if run.step % observer.every == 0 or run.step == run.config.steps]
    values: dict[str, float] = {}
    if due:
        with meter.paused():
            for observer in due:
                with undisturbed(run.net, run.ema):
                    values |= observer.observe(run)
    return values


def states_of(observers: Sequence[Observer]) -> dict[str, Any]:
    """Return the observers' states by their names, for a checkpoint."""
    return {observer.name: observer.state() for observer in observers}


def load_states(observers: Sequence[Observer], states: Mapping[str, Any]) -> None:
    """Load what `states_of` returned; an observer that was not there begins anew."""
    for observer in observers:
        observer.load(states.get(observer.name, {}))


@contextlib.contextmanager
def undisturbed(net: nn.Module, *others: nn.Module) -> Iterator[None]:
    """Within this block random numbers and the modules' modes may change, and `net` may have gradients."""
    modes = [(part, part.training) for module in (net, *others) for part in module.modules()]
    state, state_of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 what libraries draw from
    device = next(net.parameters()).device
    net.zero_grad(set_to_none=True)
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(state)
        np.random.set_state(state_of_numpy)  # noqa: NPY002
        net.zero_grad(set_to_none=True)
        for part, training in modes:
            part.training = training
