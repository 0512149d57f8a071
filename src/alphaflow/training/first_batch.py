"""A run's first batch, on which the derivative is chosen and looked at before anything is written."""

import logging

import torch
from torch import nn

from ..data import Batches
from ..derivatives.total import check_derivative, choose_method
from ..devices import autocast
from ..method.objective import AlphaFlow
from ..method.targets import differentiated
from ..path import Points, interpolate
from ..rng import KeyedRandom, hash_key
from ..runs.build import may_differentiate
from ..runs.config import Config

log = logging.getLogger("alphaflow")


def points_of(batches: Batches, objective: AlphaFlow, seed: int, device: torch.device) -> Points:
    """Return the points of the first batch, the same on every process."""
    x, y, ids = batches(0)
    x, y = x.to(device), None if y is None else y.to(device)
    random = KeyedRandom(hash_key(seed, "check"), ids)
    r, t = (time.to(x) for time in objective.times.draw(random))
    z, v = interpolate(x, random.normal("noise", x.shape[1:], device), t)
    return Points(z, v, r, t, y)


def check_first_batch(net: nn.Module, objective: AlphaFlow, batches: Batches, config: Config) -> None:
    """Compare du/dt with central differences on the first batch, if any step will need du/dt.

    A wrong derivative shows in no loss: other projects have trained on one for days.

    Raises:
        DerivativeError: they differ; it says by how much.
    """
    if not may_differentiate(objective, config.steps):
        return
    device = next(net.parameters()).device
    points = points_of(batches, objective, config.seed, device)
    function, points = differentiated(net, points, objective.shift)
    with autocast(config.precision, device):
        method = objective.derivative
        if objective.full_gradient and method == "auto":
            method = choose_method(function, points, graphed=True)
        error = check_derivative(function, points.z, points.v, points.r, points.t, points.y, method=method)
    log.info("%s agrees with central differences to %.1e", "∂u/∂r" if objective.shift == "end" else "du/dt", error)
