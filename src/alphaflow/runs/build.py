"""From settings to objects: data set, network, objective."""

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import models
from ..data import (
    TOYS,
    CaptionedShapes,
    Dataset,
    Digits,
    Fashion,
    Images,
    Latents,
    MovingDigits,
    Told,
    Toy,
    VideoClips,
    Vocabulary,
    told_in,
)
from ..data.captioned import CaptionedImages
from ..data.images import IN_MEMORY
from ..data.sources import Source, open_source
from ..data.videos.latents import ClipLatents
from ..data.vocabulary import BLANK
from ..derivatives.total import METHODS
from ..errors import UserError, choose
from ..method import schedules, times
from ..method.alpha import StepSize
from ..method.family import as_it_runs, member, statement
from ..method.guidance import Guidance
from ..method.objective import AlphaFlow
from ..method.self_steering import STATE, SelfSteering
from ..method.trajectories import Trajectories
from ..method.weighting import Weight
from ..rng import hash_key
from . import adapted
from .combinations import check_told
from .config import Config, DataConfig, ModelConfig, from_dict

log = logging.getLogger("alphaflow")


def build_dataset(config: DataConfig, class_names: Sequence[str] | None = None) -> Dataset:
    """Return the data set that the settings name. class_names: of images, the order of the classes that a run
    recorded."""
    if config.name == "toy":
        choose("toy", config.toy, TOYS, status=2)
        return Toy(config.toy)
    if config.name == "folder":
        return _images(config, class_names)
    if config.name == "clips":
        if not config.path:
            raise UserError("no videos given: add --data.path DIR, or a list of them", status=2)
        return VideoClips(
            config.path, frames=config.frames, rate=config.rate, size=config.size, tolerance=config.tolerance
        )
    if config.name == "fashion":
        return Fashion(config.path)
    if config.name == "shapes":
        return CaptionedShapes()
    if config.name == "moving-digits":
        return MovingDigits(config.frames, config.size)
    if config.name in ("latents", "clip-latents"):
        if not config.path:
            raise UserError("no latents given: add --data.path DST, as `alphaflow encode` made it", status=2)
        latents = Latents(config.path)
        return latents if config.name == "latents" else ClipLatents(latents, config.frames)
    return Digits()


def _images(config: DataConfig, class_names: Sequence[str] | None) -> Images:
    alone = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) == 1  # on its machine; others share a file of the cache
    settings: dict[str, Any] = {
        "crop": config.crop,
        "tolerance": config.tolerance,
        "memory": IN_MEMORY if alone else 0,
        "grey": config.grey,
    }
    source = image_source(config)
    if config.captions:
        return CaptionedImages(source, config.size, config.captions, **settings)
    return Images(source, config.size, class_names=class_names, **settings)


def image_source(config: DataConfig) -> Source:
    """Return the images that the settings of `folder` name, before any is decoded; of captioned ones without
    labels.

    Raises:
        UserError: no address is given, or no images lie there.
    """
    if not config.path:
        raise UserError("no images given: add --data.path DIR, or another address of images", status=2)
    return open_source(config.path, labels="none" if config.captions else config.labels or None)


def build_model(config: ModelConfig, shape: Sequence[int], num_classes: Told, seed: int = 0) -> nn.Module:
    """Return the network for samples of `shape`, initialised from `seed` on the CPU.

    num_classes: how many there are, or the vocabulary of the captions in their place.
    """
    if config.guided and (num_classes == 0 or isinstance(num_classes, Vocabulary)):
        raise UserError("model.guided needs classes, and this data set has none: leave it out", status=2)
    if config.name in _DIMENSIONS and len(shape) != _DIMENSIONS[config.name]:
        raise UserError(
            f"a network of kind {config.name!r} does not fit samples of shape {tuple(shape)}", status=2
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(hash_key(seed, "weights"))
        try:
            if config.name == adapted.NAME:
                return adapted.build(config, shape, num_classes)
            if isinstance(num_classes, Vocabulary):
                net = _worded(config, shape, num_classes)
            else:
                net = _NETWORKS[config.name](config, shape, num_classes)
        except ValueError as error:
            raise UserError(str(error), status=2) from None
    return models.DataPrediction(net) if config.predicts == "data" else net


def _sizes(config: ModelConfig, shape: Sequence[int]) -> dict[str, Any]:
    """Return what all transformers take; of a video the size of a frame."""
    return {
        "input_size": tuple(shape[-2:]),
        "patch": config.patch,
        "channels": shape[0],
        "width": config.width,
        "depth": config.depth,
        "heads": config.heads,
        "activation": config.activation,
    }


def _worded(config: ModelConfig, shape: Sequence[int], vocabulary: Vocabulary) -> nn.Module:
    if config.name != "dit":
        raise UserError(f"a network of kind {config.name!r} reads no captions: choose model.name dit", status=2)
    return models.WordedDiT(
        **_sizes(config, shape),
        vocabulary=vocabulary.size,
        length=vocabulary.length,
        text_width=config.text_width,
        text_depth=config.text_depth,
        position_step=config.position_step,
    )


def _dit(config: ModelConfig, shape: Sequence[int], num_classes: int) -> nn.Module:
    return models.DiT(**_sizes(config, shape), num_classes=num_classes, guided=config.guided)


def _video_dit(config: ModelConfig, shape: Sequence[int], num_classes: int) -> nn.Module:
    return models.VideoDiT(
        **_sizes(config, shape),
        frames=shape[1],
        num_classes=num_classes,
        attention=config.attention,
        guided=config.guided,
    )


def _mlp(config: ModelConfig, shape: Sequence[int], num_classes: int) -> nn.Module:
    return models.MLP(
        shape[0], width=config.width, depth=config.depth, num_classes=num_classes, guided=config.guided
    )


def _unet(config: ModelConfig, shape: Sequence[int], num_classes: int) -> nn.Module:
    multipliers = (1, *(2,) * (config.depth - 1))
    net = models.UNet(
        shape[0],
        width=config.width,
        multipliers=multipliers,
        num_classes=num_classes,
        guided=config.guided,
    )
    if shape[1] % net.divisor or shape[2] % net.divisor:
        raise ValueError(
            f"images of {shape[1]}×{shape[2]} do not halve {config.depth - 1} times: choose a smaller model.depth"
        )
    return net


_NETWORKS = {"dit": _dit, "video-dit": _video_dit, "mlp": _mlp, "unet": _unet}
_DIMENSIONS = {"dit": 3, "video-dit": 4, "mlp": 1, "unet": 3}
"""Of a sample: (C, H, W), (C, T, H, W) or (D,)."""


def build_objective(config: Config, num_classes: Told) -> AlphaFlow:
    """Return the member of the family that the settings name, with the fields that they set.

    num_classes: how many there are, or the vocabulary of the captions in their place.
    """
    settings, horizon = config.objective, config.schedule_steps or config.steps
    choose("derivative", settings.derivative, METHODS, status=2)
    try:
        published = member(settings.name, horizon)
        changes: dict[str, Any] = {"derivative": settings.derivative, "times": _times(config, published.times)}
        if settings.alpha is not None:
            curves = {"self": SelfSteering}
            changes["alpha"] = _plain(schedules.parse(settings.alpha, horizon, "alpha schedule", curves))
        if settings.delta is not None:
            changes["alpha"] = StepSize(_plain(schedules.parse(settings.delta, horizon, "step schedule")))
        if settings.flow_ratio is not None:
            changes["flow_ratio"] = _plain(schedules.parse(settings.flow_ratio, horizon, "flow ratio schedule"))
        if settings.weight is not None:
            changes["weight"] = Weight(
                kind=settings.weight,
                power=settings.weight_power,
                c=settings.weight_c,
                by_time=settings.weight_by_time,
            )
        if settings.shift is not None:
            changes["shift"] = settings.shift
        if settings.blend != 1:
            changes["blend"] = settings.blend
        if settings.trust is not None:
            changes["trust"] = _plain(schedules.parse(settings.trust, horizon, "trust schedule"))
        if settings.clip is not None:
            changes["clip"] = settings.clip
        if settings.relaxation is not None:
            changes["relaxation"] = settings.relaxation
        changes["guidance"] = _guidance(config, num_classes)
        objective = dataclasses.replace(published, **changes)
        return objective if config.stage == "objective" else _trajectories(config, objective)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(str(error), status=2) from None


def _trajectories(config: Config, objective: AlphaFlow) -> Trajectories:
    """Return the regression on a teacher's paths, whose teacher `build_taught` opens."""
    ours = config.trajectories
    return Trajectories(
        times=objective.times,
        weight=objective.weight,
        path_steps=ours.steps,
        solver=ours.solver,
        pairs=ours.pairs,
    )


def state_objective(config: Config, objective: AlphaFlow) -> str:
    """Return the objective of a run in one line, with departures from its member's published definition marked."""
    if isinstance(objective, Trajectories):
        return str(objective) + "; velocities of a teacher" * (objective.teacher is not None)
    return statement(objective, config.objective.name, config.schedule_steps or config.steps)


def stated(record: Mapping[str, Any]) -> str:
    """Return the objective of a run in one line, from its config.yaml; of one without it, as it would go on."""
    if record.get("objective"):
        return str(record["objective"])
    config = from_dict(record["settings"], "config.yaml")
    return state_objective(config, build_objective(config, told_in(record["data"])))


def refuse_other_objective(statement: str, record: Mapping[str, Any], folder: Path) -> None:
    """Refuse a run that began with another objective than its settings now stand for: a member may have changed.

    statement: what they stand for now. record: the run's config.yaml.
    """
    if not record.get("objective"):
        log.warning("%s does not note its objective; it goes on as below", folder)
        return
    began, now = as_it_runs(record["objective"]), as_it_runs(statement)
    if began != now:
        version = record.get("versions", {}).get("alphaflow", "as it was then")
        raise UserError(
            f"{folder} began with the objective {began!r}, and its settings now stand for {now!r}: go on with "
            f"alphaflow {version}, and with config.yaml as it was written"
        )


def _plain(schedule: schedules.Schedule) -> schedules.Schedule | float:
    return schedule.value if isinstance(schedule, schedules.constant) else schedule


def _times(config: Config, prescribed: times.Times) -> times.Times:
    settings = config.objective
    changes: dict[str, Any] = {}
    if settings.coupling is not None:
        changes["coupling"] = settings.coupling
    changes |= {name: getattr(settings, name) for name in ("to_data", "time_shift")}
    for name, text in (("t", settings.t_law), ("r", settings.r_law), ("flow", settings.flow_law)):
        if text is not None:
            changes[name] = times.parse(text)
    if isinstance(prescribed.flow, times.Larger) and "t" in changes and "flow" not in changes:
        changes["flow"] = times.Larger(changes["t"])  # MeanFlow's: t of the pair, whatever its law
    return dataclasses.replace(prescribed, **changes)


def _guidance(config: Config, num_classes: Told) -> Guidance | None:
    settings = config.objective
    check_told(config)
    if settings.omega == 1 and settings.kappa == 0 and settings.label_drop == 0:
        return None
    if num_classes == 0:
        raise UserError("guidance needs classes, and this data set has none: leave omega, kappa, label_drop alone")
    if isinstance(num_classes, Vocabulary) and settings.scales:
        raise UserError("objective.scales need classes, and this data set has captions: leave them out", status=2)
    return Guidance(
        null=BLANK if isinstance(num_classes, Vocabulary) else num_classes,
        omega=settings.omega,
        kappa=settings.kappa,
        t_min=settings.guide_from,
        t_max=settings.guide_to,
        drop=settings.label_drop,
        scales=(settings.scales[0], settings.scales[1]) if settings.scales else None,
        intervals=settings.intervals,
        guide_dropped=settings.guide_dropped,
        drop_where=settings.drop_where,
    )


def load_steering(objective: AlphaFlow, state: Mapping[str, Any]) -> None:
    """Bring an α that steers itself to where a checkpoint's `state` says it was; nothing to any other."""
    if isinstance(objective.alpha, SelfSteering):
        objective.alpha.load(state.get("observers", {}).get(STATE, {}))


def may_differentiate(objective: AlphaFlow, steps: int) -> bool:
    """Whether α is 0 at some step of a run of so many, or may come to it."""
    steered = isinstance(objective.alpha, SelfSteering)
    return steered or 0.0 in {objective.alpha_at(k) for k in (0, steps // 2, steps)}
