"""Runs whose network is one that `alphaflow adapt` made: which it is, where it comes from, and how it is built."""

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import models
from ..data import Told, Vocabulary
from ..encoding.vae import weights_hash
from ..errors import UserError, one_line
from ..models.adapted import build_adapted
from ..models.lora import add_lora
from . import model_folder
from .config import Config, ModelConfig
from .folder import RunFolder

log = logging.getLogger("alphaflow")

NAME = "adapted"
_KEPT = ("class_name", "network", "adapter")
"""Settings of the network that the data do not decide."""


def adopt(config: Config) -> Config:
    """Return the settings with the network of the folder that `init` names, where that is an adapted one.

    Raises:
        UserError: the folder holds no readable record; the network's settings ask for an adapted one, and it is
            another.
    """
    path = Path(config.init)
    model = _adapted_in(path) if config.init and path.is_dir() and not config.model.adapted else None
    if model is None:
        if config.model.name == NAME and not config.model.adapted:
            raise UserError(
                "model.name adapted is the network of a folder: make one with `alphaflow adapt MODEL DIR`, and "
                "add --init DIR",
                status=2,
            )
        return config
    if config.compile_blocks:
        raise UserError(
            "compile_blocks is for this package's own blocks, and the network is an adapted one: leave it out",
            status=2,
        )
    settings = json.loads(model.adapted)
    log.info(
        "the network is that of %s, and model.* of the recipe is left aside: %s", config.init, in_words(settings)
    )
    return dataclasses.replace(config, model=model)


def in_words(settings: Mapping[str, Any]) -> str:
    """Return what an adapted network is, in a few words."""
    rank = settings.get("lora", 0)
    how = f"LoRA of rank {rank}" if rank else "all weights train"
    return f"{settings['class_name']}, adapter {settings['adapter']}, {how}"


def _adapted_in(path: Path) -> ModelConfig | None:
    """Return the network of a model's or a run's folder as settings, where it is adapted."""
    if model_folder.is_model(path):
        record = model_folder.read_record(path)
        if record.network["name"] != NAME:
            return None
        kept = {name: record.network["settings"][name] for name in _KEPT}
        rank = record.origin.get("lora", 0)
        if not rank:
            return ModelConfig(name="adapted", adapted=json.dumps(kept))
        base = weights_hash(model_folder.load_network(path, record))
        settings = json.dumps(kept | {"lora": rank, "base": base})
        return ModelConfig(name="adapted", adapted=settings, base=str(path.absolute()))
    run = RunFolder(path)
    model = run.read_config().model if run.holds_run() else None
    return model if model and model.name == NAME else None


def build(config: ModelConfig, shape: Sequence[int], told: Told) -> models.AdaptedFlow:
    """Build the network that a run's settings note; where only LoRA trains, with the weights that do not.

    Raises:
        UserError: the record cannot be read, or the frozen weights are not there or are others.
        ValueError: samples of this shape do not fit the network.
    """
    try:
        settings = json.loads(config.adapted)
        kept = {name: settings[name] for name in _KEPT}
        rank = int(settings.get("lora", 0))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"model.adapted is no record of an adapted network ({one_line(error)})") from None
    if isinstance(told, Vocabulary):
        flow = build_adapted(**kept, shape=shape, vocabulary=told.size, length=told.length)
    else:
        flow = build_adapted(**kept, shape=shape, num_classes=told)
    if not rank:
        return flow
    if next(flow.parameters()).device.type == "cpu":  # not where a run is only planned
        _take_base(flow, Path(config.base), settings.get("base", ""))
    return add_lora(flow, rank)


def _take_base(flow: models.AdaptedFlow, path: Path, wanted: str) -> None:
    """Give a network the weights that do not train.

    Raises:
        UserError: they are not there, or are others than the run began with.
    """
    if not model_folder.is_model(path):
        raise UserError(
            f"{path} holds the weights that do not train, and is not there: put it back, or say in config.yaml "
            "under model.base where it is now"
        )
    record = model_folder.read_record(path)
    base = model_folder.load_network(path, record)
    if (found := weights_hash(base)) != wanted:
        raise UserError(
            f"{path} holds other weights ({found}) than those that this run began with ({wanted}): put them back"
        )
    theirs = base.state_dict()
    weights = {name: tensor for name, tensor in theirs.items() if not name.startswith("condition.")}
    flow.load_state_dict(weights, strict=False, assign=True)
    flow.requires_grad_(True)


def lacks_condition(record: model_folder.ModelRecord) -> bool:
    """Whether a model's folder holds an adapted network that is told nothing yet: training gives it what the data
    tell."""
    settings = record.network["settings"]
    return record.network["name"] == NAME and not (settings["num_classes"] or settings["vocabulary"])


def taken_from(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return those of a network's own tensors that an adapted folder's weights fill: not its condition, nor LoRA.

    Raises:
        UserError: another tensor is missing there.
    """
    lacking = [
        name for name in wanted.keys() - weights.keys() if not (name.startswith("condition.") or ".lora_" in name)
    ]
    if lacking:
        raise UserError(f"the weights of {sorted(lacking)[0]} are missing there: run `alphaflow adapt` again")
    return {name: tensor for name, tensor in wanted.items() if name in weights}
