"""To begin a run where another one ended."""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import UserError
from .checkpoint import Checkpoint, newest
from .config import ModelConfig
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

    Args:
        path: the run's folder. model, data: what this run's network and data are, to be compared.
        modules: the network and its averages by the names of their files, "model" and "ema".

    Raises:
        UserError: it is no run, holds no checkpoint, or its network, autoencoder or scale is another.
    """
    run = RunFolder(Path(path))
    _check_same_network(run, model, data)
    found = newest(run.checkpoints).step if parallel.main else None
    stored = Checkpoint(run.checkpoints / f"step-{parallel.exchange(found)[0]:08d}")
    for part, module in modules.items():
        for name, tensor in module.state_dict().items():
            load_into(tensor, partial(stored.read, part, name))
    restore_optimizer(modules["model"], optimizer, stored)
    log.info("begins where %s was at step %d", path, stored.step)


def _check_same_network(run: RunFolder, model: ModelConfig, data: Mapping[str, Any]) -> None:
    mine, record = {**vars(model), **data}, run.read_record()["data"]
    theirs = {**vars(run.read_config().model), "shape": record["shape"], "num_classes": record["num_classes"]}
    for name, value in theirs.items():
        if mine[name] != value:
            raise UserError(
                f"--init {run.path}: its network has {name} {value} and this run's has {mine[name]}: make them "
                "the same, or begin without --init"
            )
    ours, others = data.get("latents", {}), record.get("latents", {})
    for name in (
        "vae",
        "scale",
    ):  # other images are what fine-tuning is for; other numbers for the same image are not
        if ours.get(name) != others.get(name):
            raise UserError(
                f"--init {run.path}: it was trained on latents with {name} {others.get(name)}, and these have "
                f"{ours.get(name)}: encode the images as its were, or begin without --init"
            )
