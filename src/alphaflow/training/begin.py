"""To begin a run where another one ended, or from a model that was exported or imported."""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from .. import portable
from ..errors import UserError
from .checkpoint import Checkpoint, newest
from .config import ModelConfig
from .data import check_fits
from .parallel import Parallel, load_into
from .run import RunFolder
from .state import restore_optimizer

log = logging.getLogger("alphaflow")


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
    network that takes guidance as an input may begin from one that does not: what hears it begins at zero, so that
    at first it says what the other one said.

    Args:
        path: the run's or the model's folder. model, data: what this run's network and data are, to be compared.
        modules: the network and its averages by the names of their files, "model" and "ema".

    Raises:
        UserError: it is neither, holds no checkpoint, or its network, autoencoder or scale is another.
    """
    if portable.is_model(Path(path)):
        _begin_from_model(Path(path), model, data, modules)
        return
    run = RunFolder(Path(path))
    record, theirs = run.read_record()["data"], vars(run.read_config().model)
    _check_same(path, model, data, theirs, record)
    found = newest(run.checkpoints).step if parallel.main else None
    stored = Checkpoint(run.checkpoints / f"step-{parallel.exchange(found)[0]:08d}")
    for part, module in modules.items():
        for name, tensor in _taken_over(module, model, theirs).items():
            load_into(tensor, partial(stored.read, part, name))
    restore_optimizer(modules["model"], optimizer, stored)
    log.info("begins where %s was at step %d", path, stored.step)


def _begin_from_model(
    path: Path, model: ModelConfig, data: Mapping[str, Any], modules: Mapping[str, nn.Module]
) -> None:
    record = portable.read_record(path)
    settings = {**record.network["settings"], **{key: record.network[key] for key in ("name", "predicts")}}
    _check_same(str(path), model, data, {k: v for k, v in settings.items() if k in vars(model)}, record.data)
    try:
        weights = load_file(path / portable.WEIGHTS)  # mapped: each process takes what it needs
    except (OSError, SafetensorError) as error:
        raise UserError(f"--init {path}: cannot read its weights ({' '.join(str(error).split())})") from None
    for module in modules.values():
        wanted = _taken_over(module, model, settings)
        portable.check_names(f"--init {path}", weights, wanted)
        for name, tensor in wanted.items():
            load_into(tensor, partial(_rows, weights[name]))
    log.info("begins from %s (%s)", path, record.origin.get("imported", record.weights))


def _taken_over(module: nn.Module, model: ModelConfig, theirs: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights to take over from a network with the settings `theirs`: all, but for what it cannot hear."""
    weights = module.state_dict()
    if not model.guided or theirs.get("guided", False):
        return weights
    return {name: tensor for name, tensor in weights.items() if "guide_embedder." not in name}


def _rows(tensor: Tensor, rows: slice | None) -> Tensor:
    return tensor if rows is None else tensor[rows]


def _check_same(
    path: str,
    model: ModelConfig,
    data: Mapping[str, Any],
    settings: Mapping[str, Any],
    record: Mapping[str, Any],
) -> None:
    """Refuse a network with other `settings`, or trained on other data than `record` says than these are."""
    for name, value in settings.items():
        if vars(model)[name] != value and (name, model.guided) != ("guided", True):
            raise UserError(
                f"--init {path}: its network has {name} {value} and this run's has {vars(model)[name]}: make them "
                "the same, or begin without --init"
            )
    check_fits(f"--init {path}", "begin without --init", data, record)
