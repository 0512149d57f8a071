"""Checkpoint files of every kind as trees of tensors and plain values, with nothing in them executed."""

import io
import mmap
import re
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

from ..errors import UserError, one_line
from ..npy import read_header
from .inert_pickles import ROOM, Reader, Storage, plain, read_pickle
from .msgpack import read_msgpack
from .stored import DTYPES, StoredTensor, type_of

_SAFETENSORS = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "C64": "complex64",
    "BOOL": "bool",
    **{
        f"{kind}{bits}": f"{word}{bits}"
        for kind, word in (("I", "int"), ("U", "uint"))
        for bits in (8, 16, 32, 64)
    },
}


SMALL, RATIO = 1 << 28, 200
"""The most bytes that an archive may unpack to, and the most times what it has when packed."""


@dataclass(frozen=True)
class Content:
    """The contents of a checkpoint file."""

    form: str
    """The file's form: torch zip, pickle, safetensors, npz or msgpack."""
    tree: dict[str, Any]
    """Nested dictionaries, lists and plain values, with `StoredTensor` for every tensor."""
    foreign: Mapping[str, int] = field(default_factory=dict)
    """How often the file mentions each name of foreign code, none of which was run."""


def read_checkpoint(path: str | Path) -> Content:
    """Open a checkpoint: torch.save's zip or older form, a pickle, .safetensors, .npz, or Flax's msgpack.

    Tensors stay in the file, which must not change while they are used.

    Raises:
        UserError: there is no such file, or it is of no such form or damaged.
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
        what = one_line(error, 160)
        raise UserError(f"{path} is damaged, or no checkpoint ({type(error).__name__}: {what})") from None


def _read(path: Path, head: bytes, data: memoryview) -> Content:
    met: Counter[str] = Counter()
    if head.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            _check_sizes(archive, len(data))
            if any(name.endswith(".npy") for name in names):
                return Content("npz", _nested(_from_npz(path, names)))
            return Content("torch zip", _tree(read_zip(archive, data, met)), met)
    if head[8:9] == b"{":
        return Content("safetensors", _nested(_from_safetensors(path)))
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":  # every pickle since protocol 2
        return Content("pickle", _tree(read_pickle(data, met)), met)
    if 0x80 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF):
        return Content("msgpack", _tree(read_msgpack(data)))
    raise UserError("not a checkpoint of a kind known here (torch.save, pickle, safetensors, npz, msgpack)")


def read_zip(archive: zipfile.ZipFile, data: memoryview, met: Counter[str]) -> Any:
    """Return what torch.save wrote into an archive, whose bytes are `data`; `met` counts foreign names.

    Raises:
        UserError: it is no such archive, or of a machine with another order of bytes.
    """
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

    return Reader(io.BytesIO(archive.read(inside)), storage, met, ROOM + 2 * len(data)).load()


def _check_sizes(archive: zipfile.ZipFile, size: int) -> None:
    """Refuse an archive that says of itself that it unpacks to more than any checkpoint of its size would."""
    for info in archive.infolist():
        if info.compress_type != zipfile.ZIP_STORED and info.file_size > SMALL + RATIO * info.compress_size:
            raise UserError(f"its entry {info.filename[:80]} unpacks to {info.file_size:,} bytes: not read")
    whole = sum(info.file_size for info in archive.infolist())
    if whole > SMALL + RATIO * size:
        raise UserError(f"it unpacks to {whole:,} bytes and is {size:,}: not read")


def _record(archive: zipfile.ZipFile, data: memoryview, name: str) -> memoryview:
    """Return the bytes of an uncompressed entry of the archive, in the mapped file."""
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


def _from_npz(path: Path, names: list[str]) -> Iterator[tuple[str, StoredTensor | str]]:
    for name in names:
        key = name.removesuffix(".npy")
        with zipfile.ZipFile(path) as archive, archive.open(name) as file:
            shape, _, dtype = read_header(file)
        torch_type = None if dtype.hasobject or dtype.names else type_of(dtype.str)
        if torch_type is None:
            yield key, f"<array of {'Python objects' if dtype.hasobject else dtype.str}>"
        else:
            yield key, StoredTensor(shape, torch_type[0], partial(_npz_entry, path, key, torch_type[0]))


def _npz_entry(path: Path, key: str, dtype: torch.dtype) -> Tensor:
    with np.load(path, allow_pickle=False) as arrays:
        read = np.asarray(arrays[key])
    if dtype == torch.bfloat16:
        return torch.from_numpy(read.view(np.int16)).view(dtype)
    return torch.from_numpy(read.astype(read.dtype.newbyteorder("="), copy=False))


def _from_safetensors(path: Path) -> Iterator[tuple[str, StoredTensor | str]]:
    file = safe_open(path, framework="pt")
    for name in file.keys():  # noqa: SIM118
        about = file.get_slice(name)
        kind = about.get_dtype()
        if kind not in _SAFETENSORS:
            yield name, f"<tensor of {kind}>"
            continue
        read = partial(file.get_tensor, name)
        yield name, StoredTensor(tuple(about.get_shape()), DTYPES[_SAFETENSORS[kind]], read)


def _nested(entries: Iterator[tuple[str, StoredTensor | str]]) -> dict[str, Any]:
    """Return the entries by their flat names, in which slashes stay: `flatten` takes them for dots."""
    return dict(entries)


def _tree(read: Any) -> dict[str, Any]:
    tree = plain(read)
    return tree if isinstance(tree, dict) else {"": tree}


LONGEST = 1_000
"""The most characters of a tensor's name, with all that the tensor lies in."""
_KEYS = re.compile(r"""\[<?(?:flat index )?['"]?([^]'">]+)['"]?>?\]""")


def flatten(tree: Any) -> dict[str, Any]:
    """Return the leaves of a tree by their dotted names.

    Slashes in names become dots, too, and so do the brackets of `jax.tree_util.keystr` and of flattened
    dictionaries' tuples.

    Raises:
        UserError: a name is longer than any network's.
    """
    flat: dict[str, Any] = {}
    waiting: list[tuple[str, Any]] = [("", tree)]
    while waiting:
        above, value = waiting.pop()
        if isinstance(value, Mapping):
            inside = [(_dotted(key), one) for key, one in value.items()]
        elif isinstance(value, list):
            inside = [(str(key), one) for key, one in enumerate(value)]
        else:
            flat[above] = value
            continue
        if any(len(above) + len(key) > LONGEST for key, _ in inside):
            raise UserError(f"it holds a name of more than {LONGEST} characters: no network has that")
        waiting += [(f"{above}.{key}" if above else key, one) for key, one in reversed(inside)]
    return flat


def _dotted(key: Any) -> str:
    if isinstance(key, tuple):
        return ".".join(map(_dotted, key))
    text = str(key).replace("/", ".")
    if "[" in text:
        text = _KEYS.sub(r".\1", text)
    elif text.startswith("('"):
        text = ".".join(word.strip(" '\",") for word in text[1:-1].split(","))
    return text.strip(".") if text.strip(".") else text
