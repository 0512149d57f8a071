"""Averages of any length, made after training from those that the run stored."""

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError
from ..models.ema import PowerEMA, StoredAverage, combine, gamma_of
from . import checkpoint
from .checkpoint import Checkpoint
from .folder import RunFolder

log = logging.getLogger("alphaflow")

FAR = 0.05
"""Distance of a profile, relative to its norm, beyond which the user is told."""


@dataclass(frozen=True)
class Average:
    """Weights averaged over a share of a run.

    weights: by the names of the network's state. step: the last step that counts. count: how many stored averages
    were combined. distance: of the profile made from the wanted one, relative; the weights are nearer still.
    """

    weights: dict[str, Tensor]
    step: int
    count: int
    distance: float


def part_name(std: float) -> str:
    """Return the file of the average with this width."""
    return f"std-{std:g}"


def tensors_of(averages: list[PowerEMA]) -> dict[str, dict[str, Tensor]]:
    """Return the averages by the names of their files."""
    return {part_name(one.std): dict(one.weights) for one in averages}


def make_average(folder: RunFolder, std: float, step: int | None = None) -> Average:
    """Return the average of width `std` (a share of the run) as of `step`, by default the last stored one.

    Raises:
        UserError: the run stored no averages, none up to `step`, or `std` is no width.
    """
    found = _stored(folder)
    if not found:
        raise UserError(f"{folder.path} stored no averages: train with --ema.profiles 0.05 0.1")
    newest = max(one.step for one in found)
    last = newest if step is None else step
    if last > newest:
        raise UserError(
            f"step {step} is after the last stored average, of step {newest}: give at most that", status=2
        )
    sources = [(one, width) for one in found for width in one.state["profiles"]]
    try:
        wanted = StoredAverage(gamma_of(std), last)
        coefficients, distance = combine(
            [StoredAverage(gamma_of(width), one.step) for one, width in sources], wanted
        )
    except ValueError as error:
        raise UserError(str(error), status=2) from None
    if distance > FAR:
        log.warning(
            "the profile made is off by %.0f %%: too few averages are stored for this width, see ema.store_every",
            100 * distance,
        )
    parts = [(float(share), one, part_name(width)) for share, (one, width) in zip(coefficients, sources) if share]
    weights = checkpoint.newest(folder.checkpoints).whole("ema")  # for the buffers, which are not averaged
    for name in parts[0][1].names(parts[0][2]):
        total = sum(share * one.read(part, name).double() for share, one, part in parts)
        weights[name] = torch.as_tensor(total).to(weights[name].dtype)
    return Average(weights, last, len(parts), distance)


def forget_after(folder: RunFolder, step: int) -> None:
    """Remove what was stored after `step`: training is going back there and may take another way."""
    checkpoint.remove(folder.averages, [one for one in checkpoint.steps_in(folder.averages) if one > step])


def _stored(folder: RunFolder) -> list[Checkpoint]:
    """All whole ones; a damaged one is named and done without."""
    whole = []
    for step in checkpoint.steps_in(folder.averages):
        path = folder.averages / f"step-{step:08d}"
        damage = checkpoint.inspect(path)
        if damage is None:
            whole.append(Checkpoint(path))
        else:
            log.warning("stored average %s is damaged (%s): done without it", path, damage)
    return whole
