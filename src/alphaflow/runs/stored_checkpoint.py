"""Checkpoints as they lie on the disk: which are there, whether they are whole, and what they hold."""

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ..errors import UserError
from . import latest_link

log = logging.getLogger("alphaflow")


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
        """Return the names of the parts: model, ema, optimizer and others."""
        if "index" in self.state:
            return list(self.state["index"])
        return [Path(file).stem for file in self.state["sha256"]]

    def names(self, part: str) -> list[str]:
        """Return the names of the tensors of a part; none if there is no such part."""
        if part not in self.parts():
            return []
        if "index" in self.state:
            return list(self.state["index"][part])
        return list(self._open(f"{part}.safetensors").keys())

    def read(self, part: str, name: str, rows: slice | None = None) -> Tensor:
        """Return a tensor on the CPU, or only these of its rows (a range without a step), whoever wrote them."""
        if "index" not in self.state:
            return _rows_of(self._open(f"{part}.safetensors"), name, rows)
        entry = self.state["index"][part][name]
        shape, places = entry["shape"], sorted(entry["at"], key=lambda place: place[1])
        if not shape:
            return self._open(places[0][0]).get_tensor(name)
        first, stop, _ = (rows or slice(None)).indices(shape[0])
        pieces = []
        for file, start in places:
            stored = self._open(file)
            length = stored.get_slice(name).get_shape()[0]
            low, high = max(first, start), min(stop, start + length)
            if low < high:
                pieces.append(_rows_of(stored, name, slice(low - start, high - start)))
        if sum(len(piece) for piece in pieces) != max(stop - first, 0):
            raise UserError(f"{self.path}: rows {first} to {stop} of {part}/{name} are not all there")
        return torch.cat(pieces) if pieces else _rows_of(self._open(places[0][0]), name, slice(0, 0))

    def whole(self, part: str) -> dict[str, Tensor]:
        """All tensors of a part."""
        return {name: self.read(part, name) for name in self.names(part)}

    def not_finite(self) -> str | None:
        """Return the first tensor with a number that is not finite, in words, or None. Reads all of them."""
        return not_finite({part: self.whole(part) for part in self.parts()})

    def _open(self, file: str) -> Any:
        if file not in self._files:
            self._files[file] = _opened(self.path / file)
        return self._files[file]


def _opened(path: Path) -> Any:
    """Return a file of safetensors; also one in a folder whose name is no UTF-8, which the library refuses."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with path.open("rb") as file:
            return safe_open(f"/proc/self/fd/{file.fileno()}", framework="pt")
    return safe_open(path, framework="pt")


def not_finite(parts: Mapping[str, Mapping[str, Tensor]]) -> str | None:
    """Name the first of these tensors with a number that is not finite, or None; waits for the device."""
    named = [
        (f"{name} of the {part}", tensor.detach())
        for part, tensors in parts.items()
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and tensor.numel()
    ]
    if not named:
        return None
    device = max((tensor.device for _, tensor in named), key=lambda device: device.type == "cuda")
    # the largest absolute value is NaN if any is: nothing as large as the tensors is made
    sound = [torch.linalg.vector_norm(tensor, math.inf).isfinite().to(device) for _, tensor in named]
    bad = torch.stack(sound).logical_not().nonzero().flatten().tolist()
    return f"{named[bad[0]][0]} is not finite" if bad else None


def _rows_of(stored: Any, name: str, rows: slice | None) -> Tensor:
    if rows is None or not stored.get_slice(name).get_shape():
        return stored.get_tensor(name)
    return stored.get_slice(name)[rows]


def newest(folder: Path, *, before: float = math.inf, finite: bool = False) -> Checkpoint:
    """Return the newest whole checkpoint; damaged ones are named and passed over.

    Args:
        before: only of earlier steps. finite: pass over those with a number that is not finite, too.

    Raises:
        UserError: there is none.
    """
    seen: set[Path] = set()
    while places := [path for path in _places(folder) if path not in seen]:
        path = places[0]
        seen.add(path)
        damage = inspect(path)
        if damage is None:
            stored = Checkpoint(path)
            if stored.step >= before:
                continue
            damage = stored.not_finite() if finite else None
            if damage is None:
                return stored
        if path.exists():  # else it was rotated away meanwhile, by a run that goes on: look again
            log.warning("checkpoint %s is damaged (%s): using the one before it", path, damage)
    raise UserError(f"{folder} holds no whole checkpoint: train the run first, or start it anew")


def _places(folder: Path) -> list[Path]:
    """Where checkpoints lie, the newest first; `latest` where it is no link, see `latest_link.place_of_copy`."""
    places = [folder / f"step-{step:08d}" for step in reversed(steps_in(folder))]
    copy = latest_link.place_of_copy(folder)
    step = step_of(copy) if copy else None
    if copy is None or step is None:
        return places
    newer = sum(int(path.name[5:]) >= step for path in places)
    return [*places[:newer], copy, *places[newer:]]


def step_of(path: Path) -> int | None:
    """Return the step of a whole checkpoint; None if there is none."""
    return Checkpoint(path).step if inspect(path) is None else None


def last_step(folder: Path) -> int | None:
    """Return the step of the newest checkpoint, whole or not; None without any."""
    places = _places(folder)
    if not places:
        return None
    return Checkpoint(places[0]).step if places[0].name == latest_link.NAME else int(places[0].name[5:])


def inspect(path: Path) -> str | None:
    """Say what is wrong with a checkpoint; None if nothing is."""
    try:
        state = json.loads((path / "state.json").read_text())
        damage = _misshapen(path, state)
        if damage:
            return damage
        for name, digest in state["sha256"].items():
            if _digest(path / name) != digest:
                return f"{name} differs from its recorded hash"
    except (OSError, ValueError, KeyError, RecursionError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _misshapen(path: Path, state: Any) -> str | None:
    """Whether `state.json` says what it must: the step, and a hash of each file."""
    if not isinstance(state, dict) or type(state.get("step")) is not int:
        return "state.json does not tell the step"
    if path.name.startswith("step-") and path.name[5:].isdigit() and int(path.name[5:]) != state["step"]:
        return f"state.json is that of step {state['step']}"
    hashes = state.get("sha256")
    if not isinstance(hashes, dict) or not hashes:
        return "state.json holds no hashes of the files"
    present = {file.name for file in path.glob("*.safetensors")}
    unknown = sorted(present ^ hashes.keys())
    if unknown:
        return f"{unknown[0]} is missing" if unknown[0] in hashes else f"state.json holds no hash of {unknown[0]}"
    if not isinstance(state.get("index", {}), dict):
        return "state.json holds no layout of the tensors"
    return None


def steps_in(folder: Path) -> list[int]:
    """Return the steps of the checkpoints in `folder`, rising."""
    return sorted(int(p.name[5:]) for p in folder.glob("step-*") if p.name[5:].isdigit())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
