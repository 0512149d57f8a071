"""Checkpoints: folders of safetensors and one JSON, written whole or not at all.

    checkpoints/step-00000600/{model,ema,optimizer}.safetensors, state.json
    checkpoints/latest -> step-00000600

A checkpoint is written beside its place and renamed into it; `latest` moves only after that. `state.json`
holds the files' hashes, so that a truncated file is noticed, named, and the checkpoint before it used. Nothing
is pickled, which is why this is not torch.distributed.checkpoint: its metadata is.

Several processes each write what they hold, `model-00002-of-00004.safetensors`, into the same folder, and the
first one makes it a checkpoint when all have. An index in `state.json` says which rows of which tensor lie where,
so any number of processes reads it back, each only what it needs.
"""

import contextlib
import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..files import flush
from ..processes import Processes
from . import latest_link
from .stored_checkpoint import Checkpoint, inspect, last_step, newest, not_finite, step_of, steps_in

__all__ = ["Checkpoint", "inspect", "last_step", "newest", "not_finite", "step_of", "steps_in"]


class Piece(NamedTuple):
    """What one process holds of a tensor: rows `start`, `start` + 1, … of one of shape `shape`."""

    tensor: Tensor
    shape: tuple[int, ...]
    start: int = 0


_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_CHUNK = 1 << 20

Parts = Mapping[str, Mapping[str, Piece]]
"""Name of the file without its ending -> tensors by name."""


class NotWrittenError(OSError):
    """A checkpoint could not be written; those before it are untouched."""


def write(
    folder: Path,
    step: int,
    parts: Parts,
    state: Mapping[str, Any],
    *,
    keep: int | None = None,
    processes: Processes | None = None,
) -> Path:
    """Write a checkpoint atomically, point `latest` at it and remove old ones; all processes must call.

    Args:
        folder: its parent must exist: a folder that has gone away, as a network's does, is not made anew.
        parts: what this process holds, on any device.
        state: plain values, the same from every process.
        keep: how many of the newest stay; None: all.

    Raises:
        NotWrittenError: some process could not write. Nothing of this checkpoint is left.
    """
    processes = processes or Processes()
    name = f"step-{step:08d}"
    temporary, final = folder / f".{name}.tmp", folder / name
    try:
        _together(processes, lambda: _begin(folder, temporary) if processes.main else None)
        reports = _together(processes, lambda: _write_parts(temporary, parts, processes))
        _together(processes, lambda: _commit(temporary, final, step, state, reports) if processes.main else None)
    except NotWrittenError:
        if processes.main:
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    if processes.main:
        remove(folder, [] if keep is None else steps_in(folder)[:-keep])
    return final


def _together(processes: Processes, work: Callable[[], Any]) -> list[Any]:
    """Do one's own share of a stage; fail alike if anyone fails, so that nobody waits for somebody who gave up."""
    try:
        said = {"done": work()}
    except Exception as error:  # safetensors' own errors, a full disk's, a lost folder's
        said = {"error": f"{type(error).__name__}: {error}"}
    everyone = processes.exchange(said)
    for rank, one in enumerate(everyone):
        if "error" in one:
            raise NotWrittenError(f"rank {rank}: {one['error']}" if processes.world > 1 else one["error"])
    return [one["done"] for one in everyone]


def _begin(folder: Path, temporary: Path) -> None:
    folder.mkdir(exist_ok=True)
    clear(folder)
    temporary.mkdir()


def clear(folder: Path) -> None:
    """Remove what a process that was killed while it wrote has left; only who holds the run may call."""
    for left in folder.glob(".step-*"):
        shutil.rmtree(left, ignore_errors=True)
    with contextlib.suppress(OSError):
        (folder / ".latest.tmp").unlink(missing_ok=True)


def _write_parts(temporary: Path, parts: Parts, processes: Processes) -> dict[str, Any]:
    """Write this process's files; returns their hashes, and where each tensor's rows lie."""
    hashes: dict[str, str] = {}
    index: dict[str, dict[str, Any]] = {}
    of = f"-{processes.rank + 1:05d}-of-{processes.world:05d}" if processes.world > 1 else ""
    for part, pieces in parts.items():
        path = temporary / f"{part}{of}.safetensors"
        hashes[path.name] = write_tensors(
            path, {key: piece.tensor.detach().cpu() for key, piece in pieces.items()}
        )
        flush(path)
        index[part] = {key: [path.name, piece.start, list(piece.shape)] for key, piece in pieces.items()}
    return {"sha256": hashes, "index": index}


def write_tensors(path: Path, tensors: Mapping[str, Tensor], remarks: Mapping[str, str] | None = None) -> str:
    """Write a safetensors file with these `remarks` in its header; returns its SHA-256, taken on the way.

    The library copies every tensor into bytes first, with the interpreter locked: four times the time of this,
    taken from training beside it.
    """
    header: dict[str, Any] = {"__metadata__": dict(remarks)} if remarks else {}
    end = 0
    for name, tensor in sorted(tensors.items()):
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the format wants data aligned to 8 bytes
    digest = hashlib.sha256()
    with path.open("wb") as file:
        first = memoryview(len(text).to_bytes(8, "little") + text)
        bodies = (tensors[name].detach().cpu().contiguous().reshape(-1) for name in sorted(tensors))
        for piece in itertools.chain([first], (body.view(torch.uint8).numpy().data for body in bodies)):
            for start in range(0, len(piece), _CHUNK):  # small enough that it is still in cache when it is hashed
                digest.update(piece[start : start + _CHUNK])
                file.write(piece[start : start + _CHUNK])
    return digest.hexdigest()


def _commit(temporary: Path, final: Path, step: int, state: Mapping[str, Any], reports: list[Any]) -> None:
    record: dict[str, Any] = {"step": step, **state, "sha256": {}}
    index: dict[str, dict[str, Any]] = {}
    for report in reports:
        record["sha256"] |= report["sha256"]
        for part, tensors in report["index"].items():
            for key, (file, start, shape) in tensors.items():
                entry = index.setdefault(part, {}).setdefault(key, {"shape": shape, "at": []})
                entry["at"].append([file, start])
    if len(reports) > 1:
        record["index"] = index
    path = temporary / "state.json"
    path.write_text(json.dumps(record, indent=None if len(reports) > 1 else 2) + "\n")
    flush(path)
    flush(temporary)
    old = final.with_name(f".{final.name}.old")
    if final.exists():  # a damaged one, trained past again
        final.rename(old)
    temporary.rename(final)
    latest_link.point(final.parent, final.name)
    flush(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def remove(folder: Path, steps: Sequence[int]) -> None:
    """Remove the checkpoints of these steps."""
    for step in steps:
        shutil.rmtree(folder / f"step-{step:08d}", ignore_errors=True)


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state, by `<name of the weight>/<name of the moment>`."""
    states = optimizer.state
    return {
        f"{name}/{key}": torch.as_tensor(value)
        for name, weight in model.named_parameters()
        for key, value in states.get(weight, {}).items()
    }
