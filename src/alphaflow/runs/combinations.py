"""Which settings of a run do not go together: every refusal that their values alone decide.

What the samples, the network or the number of processes decide is refused where these are known; a network
that does not suit the samples, by what settings alone say of both, in `network_checks.py`.
"""

import dataclasses
from typing import Any

from ..errors import UserError


def check_together(config: Any) -> None:
    """Refuse settings that do not go together; of single values see `check_values`.

    Raises:
        UserError: with status 2, by the names of the settings and what to change.
    """
    if config.compile and (config.compile_blocks or config.recompute):
        raise UserError("compile does not go with compile_blocks or recompute: choose", status=2)
    if config.batch_size % config.accumulate:
        raise UserError(
            f"batch_size {config.batch_size} does not divide into accumulate = {config.accumulate} equal parts",
            status=2,
        )
    if config.data.captions and config.data.labels:
        raise UserError("data.captions and data.labels both say what a picture is: give one of them", status=2)
    _check_teacher(config.distill)
    if config.stage == "trajectories":
        _check_stage(config)


def _check_stage(config: Any) -> None:
    if not config.distill.teacher:
        raise UserError("stage trajectories learns a teacher's paths: name it by --distill.teacher RUN", status=2)
    ours = config.objective
    if dataclasses.replace(ours, **_LEFT) != dataclasses.replace(ours.of_trajectories(), **_LEFT):
        raise UserError(
            "stage trajectories has no objective of its own but time_shift and the weight: set those of the "
            "member in the run that goes on from it by --init",
            status=2,
        )
    if config.model.guided:
        raise UserError(
            "stage trajectories learns its teacher's guidance (distill.guidance): leave model.guided out", status=2
        )
    if config.diagnosis.every:
        raise UserError("stage trajectories has no TFM and TC to diagnose: leave diagnosis.every out", status=2)


_LEFT: dict[str, Any] = {
    "weight": "uniform",
    "weight_power": 1.0,
    "weight_c": None,
    "weight_by_time": None,
    "time_shift": 1.0,
}
"""What `_check_stage` leaves to choose, with what stands for all of it in the comparison."""


def _check_teacher(distill: Any) -> None:
    interval = (distill.guide_from, distill.guide_to)
    if not distill.teacher and (distill.guidance != 1 or interval != (0, 1)):
        raise UserError("distill.guidance is a teacher's: name it by --distill.teacher DIR", status=2)
    if not distill.guide_from < distill.guide_to:
        raise UserError(
            f"distill.guide_from {distill.guide_from:g} and guide_to {distill.guide_to:g} must rise within 0 … 1",
            status=2,
        )
    if distill.guidance == 1 and interval != (0, 1):
        raise UserError(
            "distill.guide_from and guide_to go with distill.guidance: at scale 1 there is nothing to confine",
            status=2,
        )


def check_told(config: Any) -> None:
    """Refuse a network that is told what nobody draws, or not told what is drawn.

    That is asked after whom settings concern: where there are no classes, none of this does anything.

    Raises:
        UserError: with status 2, by the names of the settings and what to change.
    """
    settings = config.objective
    if settings.scales and not config.model.guided:
        raise UserError("objective.scales are for networks that are told the scale: add --model.guided", status=2)
    if settings.intervals and not settings.scales:
        raise UserError("objective.intervals goes with objective.scales: add --objective.scales 1 4", status=2)
    if not config.model.guided:
        return
    if not settings.scales:
        raise UserError(
            "model.guided needs objective.scales, between which to draw what it is told: add --objective.scales "
            "1 4",
            status=2,
        )
    if len(settings.scales) != 2 or settings.scales[0] != 1:
        said = " ".join(f"{scale:g}" for scale in settings.scales)
        raise UserError(
            f"objective.scales {said}: give 1, which classes alone mean, and the largest scale: 1 4", status=2
        )
    if settings.label_drop == 0:
        raise UserError(
            "objective.scales lead away from the velocity without a class, which nothing would teach: add "
            "--objective.label-drop 0.1",
            status=2,
        )
