"""An α that steers itself, in a run: measured on a batch of its own, the same for any number of processes."""

from collections.abc import Mapping
from typing import Any

import torch

from ..data import Batches
from ..objectives import AlphaFlow
from ..rng import KeyedRandom, hash_key
from ..steering import SelfSteering
from .config import Config
from .data import batches_of
from .loss import autocast
from .observers import Observer, RunView


class Steering(Observer):
    """Tells the objective's α what the network's trajectories look like; unlike other observers it means to leave
    a trace, in the steps that follow.

    Says `steering_curvature`, κ as a share of E‖u - v‖² (see `alphaflow.steering`), until α begins to fall. Takes
    a whole batch, in the parts that a step takes, each process its own.
    """

    name = "steering"

    def __init__(self, alpha: SelfSteering) -> None:
        self.alpha, self.every = alpha, alpha.every
        self._stream: Batches | None = None

    def observe(self, run: RunView) -> Mapping[str, float]:
        if run.step % self.every or self.alpha.begun is not None:  # the end of a run that may be lengthened
            return {}
        config = run.config
        seed = hash_key(run.seed, "steering")
        if self._stream is None:
            self._stream = batches_of(run.dataset, config, seed)
        measured = []
        for part in run.parallel.parts(config.accumulate):
            x, y, ids = self._stream(run.step, part.rows)
            x, y = x.to(run.device), None if y is None else y.to(run.device)
            random = KeyedRandom(seed, ids, run.step)
            with autocast(config, run.device), torch.no_grad():
                draw = run.objective.draw(run.net, x, y, step=run.step, generator=random, flow_rows=0)
                measured.append(torch.stack(self.alpha.measure(run.net, draw)).double())
        curvature, residual = run.parallel.mean(torch.stack(measured).mean(0))
        self.alpha.follow(run.step, curvature, residual)
        return {"steering_curvature": float(curvature / residual)}

    def state(self) -> dict[str, Any]:
        return self.alpha.state()

    def load(self, state: Mapping[str, Any]) -> None:
        self.alpha.load(state)


def steering_of(objective: AlphaFlow) -> list[Observer]:
    """What an objective's α needs to steer itself, if it does."""
    return [Steering(objective.alpha)] if isinstance(objective.alpha, SelfSteering) else []


def load_steering(objective: AlphaFlow, state: Mapping[str, Any]) -> None:
    """Bring an α that steers itself to where a checkpoint's `state` says it was; nothing to any other."""
    if isinstance(objective.alpha, SelfSteering):
        objective.alpha.load(state.get("observers", {}).get(Steering.name, {}))


def may_differentiate(objective: AlphaFlow, config: Config) -> bool:
    """Whether α is 0 at some step of the run, or may come to it."""
    horizon = config.steps
    steered = isinstance(objective.alpha, SelfSteering)
    return steered or 0.0 in {objective.alpha_at(k) for k in (0, horizon // 2, horizon)}
