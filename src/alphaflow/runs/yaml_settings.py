"""Settings as plain values, as YAML has them, and back."""

import dataclasses
import logging
import reprlib
import types
import typing
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from ..errors import UserError, choose, one_line

log = logging.getLogger("alphaflow")

EARLIER: dict[str, tuple[Any, str]] = {
    "keep_every": (0, "keep_checkpoints says how many stay, and ema.profiles stores averages for good"),
    "spike_rollback": (False, "a leap of the residual is told, and the run goes on"),
    "tf32": (True, "NVIDIA_TF32_OVERRIDE=0 in the environment asks for all 23 bits"),
    "data.memory": (4.0, "several processes on one machine share a file of the cache"),
    "parallel.shard_size": (0, "hsdp shards over the processes that torchrun starts on a machine"),
    "monitor.detector_path": ("", "the file is looked for in the cache, into which it is fetched once"),
}
"""Settings of earlier versions by dotted names, with what all runs have now, and what serves in their place."""

LARGEST = 2**20
"""Bytes of a file of settings; the names of a thousand classes take 20 kB."""

DEEPEST = 32
"""Groups within groups in such a file."""

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict, _SHORT.maxtuple, _SHORT.maxstring = 2, 4, 4, 4, 80


def short(value: Any) -> str:
    """Return a value for an error: a few bytes of YAML can stand for gigabytes of it."""
    return _SHORT.repr(value)


class _Shallow(yaml.SafeLoader):
    """YAML that is not nested without end: that takes minutes, and all of the stack."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > DEEPEST:
            raise yaml.YAMLError(f"nested more than {DEEPEST} deep")
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def load_yaml(file: Path) -> Any:
    """Return what a YAML file holds.

    Raises:
        UserError: it cannot be read, is no YAML, or is larger than settings are.
    """
    try:
        if (size := file.stat().st_size) > LARGEST:
            raise UserError(
                f"{file} has {size:,} bytes, and settings have at most {LARGEST:,}: it is another file"
            )
        return yaml.load(file.read_text(encoding="utf-8"), _Shallow)
    except UserError:
        raise
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {file}: {one_line(error)}") from None


def read(values: Any, where: str, kind: type) -> Any:
    """Build a config of this kind from nested dictionaries.

    Args:
        values: by the settings' names; what is missing is as the class has it. where: names the file, in errors.

    Raises:
        UserError: an unknown name (the nearest is suggested), a value of another type, or one out of its range.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where}: {values!r} is not a group of settings")
    hints = typing.get_type_hints(kind)
    made = {}
    for key, value in values.items():
        choose(f"setting in {where}", key if isinstance(key, str) else short(key), hints)
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, dict):
                raise UserError(f"{where}: {key} is {short(value)}, not a group of settings")
            made[key] = read(value, where, typing.cast(type, hints[key]))
        else:
            made[key] = _convert(value, hints[key], f"{where}: {key}")
    try:
        return kind(**made)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def without_earlier(values: Any, where: str) -> Any:
    """Return settings without those that only earlier versions had; what a run loses by that is told once."""
    if not isinstance(values, dict):
        return values
    kept = {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}
    for name, (usual, instead) in EARLIER.items():
        group, _, key = name.rpartition(".")
        inner = kept.get(group) if group else kept
        if isinstance(inner, dict) and key in inner and (value := inner.pop(key)) != usual:
            _tell(
                f"{where}: {name} {short(value)} was a setting of earlier versions and is passed over: {instead}"
            )
    return kept


@cache
def _tell(line: str) -> None:
    log.warning("%s", line)


def _convert(value: Any, hint: Any, what: str) -> Any:
    origin = typing.get_origin(hint)
    if origin is Literal:
        if not isinstance(value, str) or value not in typing.get_args(hint):
            raise UserError(f"{what} is {short(value)}: choose one of {', '.join(typing.get_args(hint))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{what} is {short(value)}: it must be a list")
        return tuple(_convert(one, typing.get_args(hint)[0], what) for one in value)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _convert(value, next(a for a in typing.get_args(hint) if a is not type(None)), what)
    if isinstance(value, bool) is not (hint is bool):  # to Python True is a 1
        raise UserError(f"{what} is {short(value)}: it must be of type {hint.__name__}")
    if hint is float and isinstance(value, int):
        return _as_float(value, what)
    if not isinstance(value, hint):
        raise UserError(f"{what} is {short(value)}: it must be of type {hint.__name__}{_spelling(value, hint)}")
    return value


def _as_float(value: int, what: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise UserError(f"{what} is a whole number of {len(str(value))} digits: it is too large") from None


def _spelling(value: Any, hint: Any) -> str:
    """YAML takes 1e-4 for a word."""
    if hint is not float or not isinstance(value, str):
        return ""
    try:
        return f" (YAML wants {float(value)!r} with a point and a sign: {float(value):.1e})"
    except ValueError:
        return ""
