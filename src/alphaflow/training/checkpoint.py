"""Checkpoints: folders of safetensors and one JSON, written whole or not at all.

    checkpoints/step-00000600/{model,ema,optimizer}.safetensors, state.json
    checkpoints/latest -> step-00000600

A checkpoint is written beside its place and renamed into it; `latest` moves only after that. `state.json`
holds the files' hashes, so that a truncated file is noticed, named, and the checkpoint before it used. Nothing
is pickled.
"""

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import UserError

log = logging.getLogger("alphaflow")


def save(folder: Path, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any], keep: int) -> Path:
    """Write a checkpoint atomically, point `latest` at it and remove all but the newest `keep`.

    tensors: name of the file without its ending -> tensors by name.
    """
    name = f"step-{step:08d}"
    temporary, final = folder / f".{name}.tmp", folder / name
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    hashes = {}
    for part, content in tensors.items():
        path = temporary / f"{part}.safetensors"
        save_file({key: value.detach().cpu().contiguous() for key, value in content.items()}, path)
        hashes[path.name] = _digest(path)
        _flush(path)
    record = temporary / "state.json"
    record.write_text(json.dumps({"step": step, **state, "sha256": hashes}, indent=2) + "\n")
    _flush(record)
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    _point(folder / "latest", name)
    for old in steps_in(folder)[:-keep]:
        shutil.rmtree(folder / f"step-{old:08d}")
    return final


def newest(folder: Path) -> tuple[int, Path]:
    """Step and folder of the newest whole checkpoint; damaged ones are named and passed over.

    Raises:
        UserError: there is none.
    """
    for step in reversed(steps_in(folder)):
        path = folder / f"step-{step:08d}"
        damage = inspect(path)
        if damage is None:
            return step, path
        log.warning("checkpoint %s is damaged (%s): using the one before it", path, damage)
    raise UserError(f"{folder} holds no whole checkpoint: train the run first, or start it anew")


def load(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Tensors by file and name, and state, of the newest whole checkpoint in `folder`."""
    _, path = newest(folder)
    state = json.loads((path / "state.json").read_text())
    return {Path(name).stem: load_file(path / name) for name in state["sha256"]}, state


def inspect(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        hashes = json.loads((path / "state.json").read_text())["sha256"]
        for name, digest in hashes.items():
            if _digest(path / name) != digest:
                return f"{name} differs from its recorded hash"
    except (OSError, ValueError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def steps_in(folder: Path) -> list[int]:
    """The steps of the checkpoints in `folder`, rising."""
    return sorted(int(p.name[5:]) for p in folder.glob("step-*") if p.name[5:].isdigit())


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state, by `<name of the weight>/<name of the moment>`."""
    states = optimizer.state
    return {
        f"{name}/{key}": torch.as_tensor(value)
        for name, weight in model.named_parameters()
        for key, value in states.get(weight, {}).items()
    }


def restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`."""
    from .parallel import sharded_like  # half a second of torch.distributed, which sampling can do without

    weights = dict(model.named_parameters())
    for key, value in tensors.items():
        name, moment = key.rsplit("/", 1)
        weight = weights[name]
        optimizer.state[weight][moment] = value.clone() if moment == "step" else sharded_like(value, weight)


def _point(link: Path, target: str) -> None:
    temporary = link.with_name(".latest.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
