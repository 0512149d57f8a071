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

import hashlib
import itertools
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ..errors import UserError

log = logging.getLogger("alphaflow")


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


class Peers(Protocol):
    """The processes that write one checkpoint together."""

    @property
    def rank(self) -> int: ...

    @property
    def world(self) -> int: ...

    def exchange(self, value: Any) -> list[Any]:
        """What each process says, in the order of ranks; values must be JSON's."""


class Alone:
    """One process."""

    rank, world = 0, 1

    def exchange(self, value: Any) -> list[Any]:
        return [value]


class NotWrittenError(OSError):
    """A checkpoint could not be written; those before it are untouched."""


def write(
    folder: Path,
    step: int,
    parts: Parts,
    state: Mapping[str, Any],
    *,
    keep: int | None = None,
    keep_every: int = 0,
    peers: Peers | None = None,
) -> Path:
    """Write a checkpoint atomically, point `latest` at it and remove old ones; all peers must call.

    Args:
        folder: its parent must exist: a folder that has gone away, as a network's does, is not made anew.
        parts: what this process holds, on any device.
        state: plain values, the same from every process.
        keep: how many of the newest stay (None: all), besides those whose step is a multiple of `keep_every`.

    Raises:
        NotWrittenError: some process could not write. Nothing of this checkpoint is left.
    """
    peers = peers or Alone()
    name = f"step-{step:08d}"
    temporary, final = folder / f".{name}.tmp", folder / name
    try:
        _together(peers, lambda: _begin(folder, temporary) if peers.rank == 0 else None)
        reports = _together(peers, lambda: _write_parts(temporary, parts, peers))
        _together(peers, lambda: _commit(temporary, final, step, state, reports) if peers.rank == 0 else None)
    except NotWrittenError:
        if peers.rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    if peers.rank == 0:
        _rotate(folder, keep, keep_every)
    return final


def _together(peers: Peers, work: Callable[[], Any]) -> list[Any]:
    """Do one's own share of a stage; fail alike if anyone fails, so that nobody waits for somebody who gave up."""
    try:
        said = {"done": work()}
    except Exception as error:  # safetensors' own errors, a full disk's, a lost folder's
        said = {"error": f"{type(error).__name__}: {error}"}
    everyone = peers.exchange(said)
    for rank, one in enumerate(everyone):
        if "error" in one:
            raise NotWrittenError(f"rank {rank}: {one['error']}" if peers.world > 1 else one["error"])
    return [one["done"] for one in everyone]


def _begin(folder: Path, temporary: Path) -> None:
    folder.mkdir(exist_ok=True)
    for left in folder.glob(".step-*"):  # by a process that was killed while it wrote
        shutil.rmtree(left, ignore_errors=True)
    temporary.mkdir()


def _write_parts(temporary: Path, parts: Parts, peers: Peers) -> dict[str, Any]:
    """Write this process's files; returns their hashes, and where each tensor's rows lie."""
    hashes: dict[str, str] = {}
    index: dict[str, dict[str, Any]] = {}
    of = f"-{peers.rank + 1:05d}-of-{peers.world:05d}" if peers.world > 1 else ""
    for part, pieces in parts.items():
        path = temporary / f"{part}{of}.safetensors"
        hashes[path.name] = write_tensors(
            path, {key: piece.tensor.detach().cpu() for key, piece in pieces.items()}
        )
        _flush(path)
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
    _flush(path)
    _flush(temporary)
    old = final.with_name(f".{final.name}.old")
    if final.exists():  # a damaged one, trained past again
        final.rename(old)
    temporary.rename(final)
    _point(final.with_name("latest"), final.name)
    _flush(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def _rotate(folder: Path, keep: int | None, keep_every: int) -> None:
    old = [] if keep is None else steps_in(folder)[:-keep]
    remove(folder, [step for step in old if keep_every == 0 or step % keep_every])


def remove(folder: Path, steps: Sequence[int]) -> None:
    """Remove the checkpoints of these steps."""
    for step in steps:
        shutil.rmtree(folder / f"step-{step:08d}", ignore_errors=True)


# ---------------------------------------------------------------------- reading


class Checkpoint:
    """One checkpoint, open for reading. `state` is what was written beside the tensors."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state: dict[str, Any] = json.loads((path / "state.json").read_text())
        self._files: dict[str, Any] = {}

    @property
    def step(self) -> int:
        return self.state["step"]

    def parts(self) -> list[str]:
        """The names of the parts: model, ema, optimizer, …"""
        if "index" in self.state:
            return list(self.state["index"])
        return [Path(file).stem for file in self.state["sha256"]]

    def names(self, part: str) -> list[str]:
        """The names of the tensors of a part; none if there is no such part."""
        if part not in self.parts():
            return []
        if "index" in self.state:
            return list(self.state["index"][part])
        return list(self._open(f"{part}.safetensors").keys())

    def read(self, part: str, name: str, rows: slice | None = None) -> Tensor:
        """A tensor on the CPU, or only these of its rows (a range without a step), whoever wrote them."""
        if "index" not in self.state:
            return _rows_of(self._open(f"{part}.safetensors"), name, rows)
        entry = self.state["index"][part][name]
        shape, places = entry["shape"], sorted(entry["at"], key=lambda place: place[1])
        if not shape:
            return self._open(places[0][0]).get_tensor(name)
        first, stop, _ = (rows or slice(None)).indices(shape[0])
        found = []
        for file, start in places:
            stored = self._open(file)
            length = stored.get_slice(name).get_shape()[0]
            low, high = max(first, start), min(stop, start + length)
            if low < high:
                found.append(_rows_of(stored, name, slice(low - start, high - start)))
        if sum(len(one) for one in found) != max(stop - first, 0):
            raise UserError(f"{self.path}: rows {first} to {stop} of {part}/{name} are not all there")
        return torch.cat(found) if found else _rows_of(self._open(places[0][0]), name, slice(0, 0))

    def whole(self, part: str) -> dict[str, Tensor]:
        """All tensors of a part."""
        return {name: self.read(part, name) for name in self.names(part)}

    def _open(self, file: str) -> Any:
        if file not in self._files:
            self._files[file] = safe_open(self.path / file, framework="pt")
        return self._files[file]


def _rows_of(stored: Any, name: str, rows: slice | None) -> Tensor:
    if rows is None or not stored.get_slice(name).get_shape():
        return stored.get_tensor(name)
    return stored.get_slice(name)[rows]


def newest(folder: Path) -> Checkpoint:
    """The newest whole checkpoint; damaged ones are named and passed over.

    Raises:
        UserError: there is none.
    """
    for step in reversed(steps_in(folder)):
        path = folder / f"step-{step:08d}"
        damage = inspect(path)
        if damage is None:
            return Checkpoint(path)
        log.warning("checkpoint %s is damaged (%s): using the one before it", path, damage)
    raise UserError(f"{folder} holds no whole checkpoint: train the run first, or start it anew")


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


def _point(link: Path, target: str) -> None:
    temporary = link.with_name(".latest.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """To the disk; of a folder, its entries."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
