"""From settings to objects: data set, network, objective."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .. import models, schedules, times
from ..data import TOYS, Dataset, Digits, Images, Latents, MovingDigits, Toy, VideoClips
from ..data.clip_latents import ClipLatents
from ..data.sources import open_source
from ..derivative import METHODS
from ..errors import UserError, choose
from ..guidance import Guidance
from ..members import MEMBERS
from ..objectives import AlphaFlow
from ..rng import hash_key
from ..steering import SelfSteering
from ..weighting import Weight
from .config import Config, DataConfig, ModelConfig


def build_dataset(config: DataConfig) -> Dataset:
    """The data set that the settings name."""
    if config.name == "toy":
        choose("toy", config.toy, TOYS, status=2)
        return Toy(config.toy)
    if config.name == "folder":
        if not config.path:
            raise UserError("no images given: add --data.path DIR, or another address of images", status=2)
        source = open_source(config.path, labels=config.labels or None)
        return Images(source, config.size, crop=config.crop, tolerance=config.tolerance, memory=config.memory)
    if config.name == "clips":
        if not config.path:
            raise UserError("no videos given: add --data.path DIR, or a list of them", status=2)
        return VideoClips(
            config.path, frames=config.frames, rate=config.rate, size=config.size, tolerance=config.tolerance
        )
    if config.name == "moving-digits":
        return MovingDigits(config.frames, config.size)
    if config.name in ("latents", "clip-latents"):
        if not config.path:
            raise UserError("no latents given: add --data.path DST, as `alphaflow encode` made it", status=2)
        latents = Latents(config.path)
        return latents if config.name == "latents" else ClipLatents(latents, config.frames)
    return Digits()


def build_model(config: ModelConfig, shape: Sequence[int], num_classes: int, seed: int = 0) -> nn.Module:
    """The network for samples of `shape`, initialised from `seed` on the CPU."""
    if config.guided and num_classes == 0:
        raise UserError("model.guided needs classes, and this data set has none: leave it out", status=2)
    if len(shape) != _DIMENSIONS[config.name]:
        raise UserError(
            f"a network of kind {config.name!r} does not fit samples of shape {tuple(shape)}", status=2
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(hash_key(seed, "weights"))
        try:
            net = _NETWORKS[config.name](config, shape, num_classes)
        except ValueError as error:
            raise UserError(str(error), status=2) from None
    return models.DataPrediction(net) if config.predicts == "data" else net


def _dit(config: ModelConfig, shape: Sequence[int], num_classes: int) -> nn.Module:
    return models.DiT(
        input_size=(shape[1], shape[2]),
        patch=config.patch,
        channels=shape[0],
        width=config.width,
        depth=config.depth,
        heads=config.heads,
        activation=config.activation,
        num_classes=num_classes,
        guided=config.guided,
    )


def _video_dit(config: ModelConfig, shape: Sequence[int], num_classes: int) -> nn.Module:
    return models.VideoDiT(
        input_size=(shape[2], shape[3]),
        frames=shape[1],
        patch=config.patch,
        channels=shape[0],
        width=config.width,
        depth=config.depth,
        heads=config.heads,
        num_classes=num_classes,
        attention=config.attention,
        activation=config.activation,
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


def build_objective(config: Config, num_classes: int) -> AlphaFlow:
    """The member of the family that the settings name, with the fields that they set."""
    ours, horizon = config.objective, config.schedule_steps or config.steps
    choose("objective", ours.name, MEMBERS, status=2)
    choose("derivative", ours.derivative, METHODS, status=2)
    try:
        member = MEMBERS[ours.name]()
        changes: dict[str, Any] = {"derivative": ours.derivative, "times": _times(config, member.times)}
        if ours.alpha is not None:
            curves = {"self": SelfSteering}
            changes["alpha"] = _plain(schedules.parse(ours.alpha, horizon, "alpha schedule", curves))
        elif callable(member.alpha):  # a curriculum: spread over this run
            changes["alpha"] = schedules.sigmoid(0, horizon)
        if ours.flow_ratio is not None:
            changes["flow_ratio"] = _plain(schedules.parse(ours.flow_ratio, horizon, "flow ratio schedule"))
        if ours.weight is not None:
            changes["weight"] = Weight(kind=ours.weight, power=ours.weight_power, c=ours.weight_c)
        if ours.shift is not None:
            changes["shift"] = ours.shift
        if ours.clip is not None:
            changes["clip"] = ours.clip
        if ours.relaxation is not None:
            changes["relaxation"] = ours.relaxation
        changes["guidance"] = _guidance(config, num_classes)
        return dataclasses.replace(member, **changes)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(str(error), status=2) from None


def _plain(schedule: schedules.Schedule) -> schedules.Schedule | float:
    return schedule.value if isinstance(schedule, schedules.constant) else schedule


def _times(config: Config, prescribed: times.Times) -> times.Times:
    ours = config.objective
    changes: dict[str, Any] = {}
    if ours.coupling is not None:
        changes["coupling"] = ours.coupling
    for name, text in (("t", ours.t_law), ("r", ours.r_law), ("flow", ours.flow_law)):
        if text is not None:
            changes[name] = times.parse(text)
    return dataclasses.replace(prescribed, **changes)


def _guidance(config: Config, num_classes: int) -> Guidance | None:
    ours = config.objective
    _check_told(config)
    if ours.omega == 1 and ours.kappa == 0 and ours.label_drop == 0:
        return None
    if num_classes == 0:
        raise UserError("guidance needs classes, and this data set has none: leave omega, kappa, label_drop alone")
    return Guidance(
        null=num_classes,
        omega=ours.omega,
        kappa=ours.kappa,
        t_min=ours.guide_from,
        t_max=ours.guide_to,
        drop=ours.label_drop,
        scales=(ours.scales[0], ours.scales[1]) if ours.scales else None,
        intervals=ours.intervals,
    )


def _check_told(config: Config) -> None:
    """Refuse a network that is told what nobody draws, or not told what is drawn."""
    ours = config.objective
    if ours.scales and not config.model.guided:
        raise UserError("objective.scales are for networks that are told the scale: add --model.guided", status=2)
    if ours.intervals and not ours.scales:
        raise UserError("objective.intervals goes with objective.scales: add --objective.scales 1 4", status=2)
    if not config.model.guided:
        return
    if not ours.scales:
        raise UserError(
            "model.guided needs objective.scales, between which to draw what it is told: add --objective.scales "
            "1 4",
            status=2,
        )
    if len(ours.scales) != 2 or ours.scales[0] != 1:
        said = " ".join(f"{scale:g}" for scale in ours.scales)
        raise UserError(
            f"objective.scales {said}: give 1, which classes alone mean, and the largest scale: 1 4", status=2
        )
    if ours.label_drop == 0:
        raise UserError(
            "objective.scales lead away from the velocity without a class, which nothing would teach: add "
            "--objective.label-drop 0.1",
            status=2,
        )
