"""Checkpoint files of every kind as trees of tensors and plain values, with nothing in them executed."""

import mmap
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from ..errors import UserError
from .foreign_pickles import Reader, Storage, Stored, plain, read_pickle
from .msgpack import read_msgpack

_SAFETENSORS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class Content:
    """What a checkpoint file holds."""

    form: str
    """torch zip, pickle, safetensors, npz or msgpack."""
    tree: dict[str, Any]
    """Nested dictionaries, lists, plain values, and `Stored` for every tensor."""
    foreign: Mapping[str, int] = field(default_factory=dict)
    """The names of foreign code that it mentions, none of which was run, and how often."""


def read_checkpoint(path: str | Path) -> Content:
    """Open a checkpoint: torch.save's zip or older form, a pickle, .safetensors, .npz, or Flax's msgpack.

    Tensors stay in the file, which must not change while they are used.

    Raises:
        UserError: no such file, of no such form, or damaged.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(
            f"{path} is a folder: give the file with the weights; Orbax's folders are to be saved as .npz first"
        )
    try:
        with path.open("rb") as file:
            head = file.read(16)
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({error}): give a checkpoint file") from None
    try:
        return _read(path, head, memoryview(mapped))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:  # a damaged file can make its reader raise nearly anything
        what = " ".join(str(error).split())[:160]
        raise UserError(f"{path} is damaged, or no checkpoint ({type(error).__name__}: {what})") from None


def _read(path: Path, head: bytes, data: memoryview) -> Content:
    met: Counter[str] = Counter()
    if head.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if any(name.endswith(".npy") for name in names):
                return Content("npz", _nested(_from_npz(path, names)))
            return Content("torch zip", _tree(_read_zip(archive, data, met)), met)
    if head[8:9] == b"{":
        return Content("safetensors", _nested(_from_safetensors(path)))
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":  # every pickle since protocol 2
        return Content("pickle", _tree(read_pickle(data, met)), met)
    if 0x80 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF):
        return Content("msgpack", _tree(read_msgpack(data)))
    raise UserError("not a checkpoint of a kind known here (torch.save, pickle, safetensors, npz, msgpack)")


def _read_zip(archive: zipfile.ZipFile, data: memoryview, met: Counter[str]) -> Any:
    inside = next((name for name in archive.namelist() if name.endswith("data.pkl")), None)
    if inside is None:
        raise UserError("a zip file without data.pkl: not what torch.save writes")
    root = inside.removesuffix("data.pkl")
    order = f"{root}byteorder"
    if order in archive.namelist() and archive.read(order) != b"little":
        raise UserError("its numbers are stored high byte first: save it on an ordinary machine")
    storages: dict[str, Storage] = {}

    def storage(key: str, dtype: torch.dtype, count: int) -> Storage:
        if key not in storages:
            storages[key] = Storage(dtype, count, _record(archive, data, f"{root}data/{key}"))
        return storages[key]

    with archive.open(inside) as file:
        return Reader(file, storage, met).load()


def _record(archive: zipfile.ZipFile, data: memoryview, name: str) -> memoryview:
    """Where an uncompressed entry of the archive lies in the mapped file."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED:
        return memoryview(archive.read(name))
    at = info.header_offset
    start = (
        at
        + 30
        + int.from_bytes(data[at + 26 : at + 28], "little")
        + int.from_bytes(data[at + 28 : at + 30], "little")
    )
    return data[start : start + info.file_size]


def _from_npz(path: Path, names: list[str]) -> Iterator[tuple[str, Stored]]:
    for name in names:
        key = name.removesuffix(".npy")
        with zipfile.ZipFile(path) as archive, archive.open(name) as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
        if dtype.kind in "fiub":  # others are no weights
            yield key, Stored(shape, torch.from_numpy(np.empty(0, dtype)).dtype, partial(_npz_entry, path, key))


def _npz_entry(path: Path, key: str) -> Tensor:
    with np.load(path, allow_pickle=False) as arrays:
        return torch.from_numpy(arrays[key])


def _from_safetensors(path: Path) -> Iterator[tuple[str, Stored]]:
    file = safe_open(path, framework="pt")
    for name in file.keys():  # noqa: SIM118
        about = file.get_slice(name)
        yield (
            name,
            Stored(tuple(about.get_shape()), _SAFETENSORS[about.get_dtype()], partial(file.get_tensor, name)),
        )


def _nested(entries: Iterator[tuple[str, Stored]]) -> dict[str, Any]:
    """Flat names, with `/` or not, as they are: `flatten` treats both alike."""
    return dict(entries)


def _tree(read: Any) -> dict[str, Any]:
    found = _wrapped(plain(read))
    return found if isinstance(found, dict) else {"": found}


def _wrapped(value: Any) -> Any:
    """The same tree with numpy's arrays as `Stored`."""
    if isinstance(value, dict):
        return {key: _wrapped(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_wrapped(one) for one in value]
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        dtype = torch.from_numpy(np.empty(0, value.dtype)).dtype
        return Stored(value.shape, dtype, partial(_of_array, value))
    return value


def _of_array(array: Any) -> Tensor:
    return torch.from_numpy(array if array.flags.writeable else np.require(array, requirements="W"))


def flatten(tree: Any, above: str = "") -> dict[str, Any]:
    """The leaves of a tree by their dotted names; slashes in names are dots, too."""
    if isinstance(tree, Mapping):
        items = ((str(key).replace("/", "."), value) for key, value in tree.items())
    elif isinstance(tree, list):
        items = ((str(key), value) for key, value in enumerate(tree))
    else:
        return {above: tree}
    flat: dict[str, Any] = {}
    for key, value in items:
        flat |= flatten(value, f"{above}.{key}" if above else key)
    return flat
