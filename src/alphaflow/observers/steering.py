"""An α that steers itself, in a run: measured on a batch of its own, the same for any number of processes."""

from collections.abc import Mapping
from typing import Any

import torch

from ..data import Batches
from ..devices import autocast
from ..method.self_steering import STATE, SelfSteering
from ..rng import KeyedRandom, hash_key
from ..runs.data_record import batches_of
from .base import Observer, RunView


class Steering(Observer):
    """Tells the objective's α what the network's trajectories look like; unlike other observers it means to leave
    a trace, in the steps that follow.

    Says `steering_curvature`, κ as a share of E‖u - v‖² (see `self_steering`), until α begins to fall. Takes
    a whole batch, in the parts that a step takes, each process its own.
    """

    name = STATE

    def __init__(self, alpha: SelfSteering) -> None:
        self.alpha, self.every = alpha, alpha.every
        self._stream: Batches | None = None

    def observe(self, run: RunView) -> Mapping[str, float]:
        if run.step % self.every or self.alpha.begun is not None:  # the end of a run that may be lengthened
            return {}
        config = run.config
        seed = hash_key(run.seed, "steering")
        if self._stream is None:
            self._stream = batches_of(run.dataset, config.data, config.batch_size, seed)
        measured = []
        for part in run.parallel.parts(config.accumulate):
            x, y, ids = self._stream(run.step, part.rows)
            x, y = x.to(run.device), None if y is None else y.to(run.device)
            random = KeyedRandom(seed, ids, run.step)
            with autocast(config.precision, run.device), torch.no_grad():
                points = run.objective.draw(run.net, x, y, step=run.step, generator=random, flow_rows=0)
                measured.append(torch.stack(self.alpha.measure(run.net, points)).double())
        curvature, residual = run.parallel.mean(torch.stack(measured).mean(0))
        self.alpha.follow(run.step, curvature, residual)
        return {"steering_curvature": float(curvature / residual)}

    def state(self) -> dict[str, Any]:
        return self.alpha.state()

    def load(self, state: Mapping[str, Any]) -> None:
        self.alpha.load(state)
