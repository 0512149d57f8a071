"""The observers that a run's settings ask for."""

import torch

from ..data import Dataset
from ..method.objective import AlphaFlow
from ..method.self_steering import SelfSteering
from ..parallel.parallel import Parallel
from ..runs.config import Config
from .base import Observer
from .diagnosis import Diagnoser
from .monitor import Monitor
from .snapshots import Snapshots
from .steering import Steering


def observers_of(
    config: Config, dataset: Dataset, objective: AlphaFlow, device: torch.device, parallel: Parallel
) -> list[Observer]:
    """Make them in the order in which they look at a step.

    Raises:
        UserError: one of them needs what cannot be had.
    """
    observers: list[Observer] = [Snapshots(config.sample_every)]
    if isinstance(objective.alpha, SelfSteering):
        observers.append(Steering(objective.alpha))
    if config.monitor.every:
        observers.append(Monitor(config.monitor, dataset, device, parallel))
    if config.diagnosis.every:
        observers.append(Diagnoser(config.diagnosis.every, config.diagnosis.batches))
    return observers
