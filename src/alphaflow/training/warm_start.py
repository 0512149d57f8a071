"""Beginning a run where another one ended, or from a model that was exported or imported."""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import UserError, one_line
from ..parallel.parallel import Parallel
from ..parallel.sharded import load_into
from ..runs import model_folder
from ..runs.adapted import lacks_condition, taken_from
from ..runs.checkpoint import Checkpoint, last_step, newest
from ..runs.config import ModelConfig
from ..runs.data_record import check_fits
from ..runs.folder import RunFolder
from .optimizer_state import restore_optimizer

log = logging.getLogger("alphaflow")


def check_init(path: str, model: ModelConfig) -> None:
    """Refuse what `begin_from` will, so far as it shows before data are read.

    Raises:
        UserError: it is neither a run nor a model, holds no checkpoint, or its network is another.
    """
    if Path(path).is_file():
        raise UserError(f"--init {path} is a file: `alphaflow import {path} MODEL`, then --init MODEL", status=2)
    if model_folder.is_model(Path(path)):
        _check_network(path, model, _settings_of(model_folder.read_record(Path(path))))
        return
    run = RunFolder(Path(path))
    _check_network(path, model, vars(run.read_config().model))
    if last_step(run.checkpoints) is None:
        newest(run.checkpoints)  # says so


def begin_from(
    path: str,
    model: ModelConfig,
    data: Mapping[str, Any],
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    parallel: Parallel,
) -> None:
    """Take over the network, averages and moments of the run in a folder; all processes must call.

    Of a model's folder, which has one set of weights and no moments, these become both network and averages. A
    network that takes guidance as an input may begin from one that does not: what it adds begins at zero, so that
    at first it computes what the other one did.

    Args:
        path: the run's or the model's folder. model, data: what this run's network and data are, to be compared.
        modules: the network and its averages by the names of their files, "model" and "ema".

    Raises:
        UserError: it is neither, holds no checkpoint, or its network, autoencoder or scale is another.
    """
    check_init(path, model)
    if model_folder.is_model(Path(path)):
        _begin_from_model(Path(path), model, data, modules)
        return
    run = RunFolder(Path(path))
    theirs = vars(run.read_config().model)
    check_fits(f"--init {path}", "begin without --init", data, run.read_record()["data"])
    step = newest(run.checkpoints).step if parallel.main else None
    stored = Checkpoint(run.checkpoints / f"step-{parallel.exchange(step)[0]:08d}")
    for part, module in modules.items():
        for name, tensor in _taken_over(module, model, theirs).items():
            load_into(tensor, partial(stored.read, part, name))
    restore_optimizer(modules["model"], optimizer, stored)
    log.info("begins where %s was at step %d", path, stored.step)


def _begin_from_model(
    path: Path, model: ModelConfig, data: Mapping[str, Any], modules: Mapping[str, nn.Module]
) -> None:
    record = model_folder.read_record(path)
    fresh = lacks_condition(record)
    if not fresh:
        check_fits(f"--init {path}", "begin without --init", data, record.data)
    try:
        weights = load_file(path / model_folder.WEIGHTS)  # mapped: each process takes what it needs
    except (OSError, SafetensorError) as error:
        raise UserError(f"--init {path}: cannot read its weights ({one_line(error)})") from None
    for module in modules.values():
        tensors = _taken_over(module, model, _settings_of(record))
        if record.network["name"] == "adapted":
            tensors = taken_from(weights, tensors)
        else:
            model_folder.check_names(f"--init {path}", weights, tensors)
        for name, tensor in tensors.items():
            load_into(tensor, partial(_rows, weights[name]))
    log.info("begins from %s (%s)", path, record.origin.get("imported", record.weights))


def _taken_over(module: nn.Module, model: ModelConfig, theirs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights to take over from a network with the settings `theirs`: all that it has."""
    weights = module.state_dict()
    if not model.guided or theirs.get("guided", False):
        return weights
    return {name: tensor for name, tensor in weights.items() if "guide_embedder." not in name}


def _rows(tensor: Tensor, rows: slice | None) -> Tensor:
    return tensor if rows is None else tensor[rows]


def _settings_of(record: model_folder.ModelRecord) -> dict[str, Any]:
    """Return the settings of an exported or imported model's network."""
    return {**record.network["settings"], **{key: record.network[key] for key in ("name", "predicts")}}


def _check_network(path: str, model: ModelConfig, settings: Mapping[str, Any]) -> None:
    """Refuse a network with other `settings`, so far as `model` has them."""
    for name, value in settings.items():
        if name in vars(model) and vars(model)[name] != value and (name, model.guided) != ("guided", True):
            raise UserError(
                f"--init {path}: its network has {name} {value} and this run's has {vars(model)[name]}: make them "
                "the same, or begin without --init"
            )
