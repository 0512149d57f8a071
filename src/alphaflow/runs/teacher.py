"""The teacher of a run that distils: a trained network whose velocity takes the place of the samples'."""

import contextlib
import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data import Dataset, told_of
from ..encoding.vae import weights_hash
from ..errors import UserError
from ..generation.generator import Generator
from ..method.guidance import Guided
from ..method.objective import AlphaFlow
from ..path import Network
from . import model_folder
from .build import build_objective
from .config import Config, DistillConfig
from .data_record import check_fits, describe
from .folder import RunFolder
from .loading import load

log = logging.getLogger("alphaflow")


@dataclasses.dataclass(frozen=True, eq=False)
class Teacher:
    """A trained network, frozen and in evaluation mode, under plain guidance or not; called like a network.

    record: what config.yaml says of it: the step it had reached, which weights these are, and their hash.
    """

    net: Network
    record: dict[str, Any]

    def __call__(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self.net(z, r, t, y)


def build_taught(config: Config, dataset: Dataset, device: torch.device, folder: RunFolder) -> AlphaFlow:
    """Build the objective that the settings name, with their teacher, if any, on this process's device.

    It is plain and whole on each process, also where the network in training is sharded.

    Args:
        folder: the run's. If it holds a run already, the teacher must have the weights that it began with.

    Raises:
        UserError: no model where the settings say, one of other samples, or one with other weights than before.
    """
    objective, settings = build_objective(config, told_of(dataset)), config.distill
    if not settings.teacher:
        return objective
    teacher = load_teacher(settings, describe(dataset), device)
    if folder.config_file.exists():
        _check_same(teacher.record, folder.read_record().get("teacher"), settings.teacher, folder)
    return dataclasses.replace(objective, teacher=teacher)


def load_teacher(settings: DistillConfig, data: Mapping[str, Any], device: torch.device) -> Teacher:
    """Open it as sampling does, and compare its samples with the data.

    Args:
        data: what `describe` says of the data.

    Raises:
        UserError: it cannot be opened, is of other samples, or cannot be guided as the settings ask.
    """
    where = f"--distill.teacher {settings.teacher}"
    try:
        model = load(settings.teacher, device)
        theirs = _data_of(settings.teacher)
    except UserError as error:
        raise UserError(f"{where}: {error}; where it has moved, add --distill.teacher PLACE to --resume") from None
    check_fits(where, "choose another teacher", data, theirs)
    if theirs["class_names"] != data["class_names"]:
        log.warning(
            "%s: its classes are named otherwise than the data's (%s … and %s …): they must be the same ones, in "
            "the same order",
            where,
            ", ".join(theirs["class_names"][:3]),
            ", ".join(data["class_names"][:3]),
        )
    record = {"step": model.step, "weights": model.weights, "hash": weights_hash(model.net)}
    return Teacher(_guided(model, settings), record)


def recorded_classes(config: Config, folder: RunFolder) -> list[str] | None:
    """Return the order in which classes were numbered by the run in `folder`, or the one that this run begins from
    or learns from. None where there is none; whether it can be used at all, others find out."""
    if folder.config_file.exists():
        return folder.read_record()["data"]["class_names"]
    for place in filter(None, (config.init, config.distill.teacher)):
        with contextlib.suppress(UserError, KeyError):
            return _data_of(place)["class_names"]
    return None


def record_of(objective: AlphaFlow) -> dict[str, Any] | None:
    """Return what config.yaml says of the objective's teacher."""
    return objective.teacher.record if isinstance(objective.teacher, Teacher) else None


def _check_same(
    teacher: Mapping[str, Any], before: Mapping[str, Any] | None, path: str, folder: RunFolder
) -> None:
    """Refuse a teacher that is not the one with which the run in `folder` began."""
    if before is None:
        raise UserError(
            f"--distill.teacher {path}: {folder.path} has learnt from its data so far: begin a new run from it, "
            f"with --init {folder.path}"
        )
    if teacher["hash"] != before["hash"]:
        raise UserError(
            f"--distill.teacher {path}: its weights ({_words(teacher)}) are not those that this run began with "
            f"({_words(before)}): give these, or begin a new run with --init {folder.path}"
        )


def _guided(model: Generator, settings: DistillConfig) -> Network:
    """Under the guidance of the settings: told of it, or where the model knows samples without a class."""
    try:
        if model.scales is not None:
            return model.guided(settings.guidance, (settings.guide_from, settings.guide_to))
        net = model.guided(settings.guidance)
    except UserError as error:
        raise UserError(f"--distill.guidance: {error}", status=error.status) from None
    if not isinstance(net, Guided):
        return net
    first, last = max(net.t_min, settings.guide_from), min(net.t_max, settings.guide_to)
    if first >= last:
        raise UserError(
            f"distill.guide_from {settings.guide_from:g} and guide_to {settings.guide_to:g} lie outside the times "
            f"in which the teacher's labels were dropped, {net.t_min:g} … {net.t_max:g}: choose others",
            status=2,
        )
    return dataclasses.replace(net, t_min=first, t_max=last)


def _data_of(path: str) -> Mapping[str, Any]:
    """Return what a run's or a model's folder says of its samples."""
    if (Path(path) / "config.yaml").exists():
        return RunFolder(Path(path)).read_record()["data"]
    return model_folder.read_record(model_folder.folder_of(path)).data


def _words(record: Mapping[str, Any]) -> str:
    return f"{record['weights']} of step {record['step']:,}, {record['hash']}"
