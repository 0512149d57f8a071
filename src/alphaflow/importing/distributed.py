"""Folders by torch.distributed.checkpoint (DCP), in which tensors lie in pieces: FSDP's, FastGen's, accelerate's.

`.metadata` is a pickle of what there is and where; each piece is a torch.save of its own, at its place in one of
the `.distcp` files. Both are read as all pickles are here, without running anything in them. Source: torch's
`distributed/checkpoint/metadata.py` and `filesystem.py` (2.13).
"""

import io
import math
import mmap
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import UserError, one_line
from .inert_pickles import ROOM, InertObject, Reader, Storage, plain
from .read_checkpoint import RATIO, SMALL, Content, read_zip
from .stored import StoredTensor

METADATA = ".metadata"
_LARGEST = 1 << 28  # bytes of the metadata
_VALUE = 1 << 16  # bytes of what is no tensor, such as a number of steps


class _Piece(NamedTuple):
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    content: memoryview


def read_distributed(folder: Path, command: str) -> Content:
    """Read the checkpoint whose `.metadata` lies in `folder`. Its tensors stay there until they are asked for.

    Args:
        folder: the folder.
        command: what else puts the pieces together, for messages.

    Raises:
        UserError: the metadata or a piece is damaged, missing, or of another kind.
    """
    met: Counter[str] = Counter()
    try:
        tree = _tree(folder, met)
    except UserError as error:
        raise UserError(f"{folder}: {error}: it is {command}") from None
    except Exception as error:  # a damaged pickle can make its reader raise nearly anything
        what = f"{type(error).__name__}: {one_line(error, 120)}"
        raise UserError(f"{folder}: its {METADATA} cannot be understood ({what}): it is {command}") from None
    return Content("distributed", tree, met)


def _tree(folder: Path, met: Counter[str]) -> dict[str, Any]:
    data = (folder / METADATA).read_bytes()
    if len(data) > _LARGEST:
        raise UserError(f"its {METADATA} takes {len(data):,} bytes: not read")
    record = _state(Reader(io.BytesIO(data), _no_storage, Counter(), ROOM + 2 * len(data)).load())
    files: dict[str, memoryview] = {}
    places: dict[tuple[str, tuple[int, ...] | None], memoryview] = {}
    for index, where in record["storage_data"].items():
        index, where = _state(index), _state(where)
        offset = index.get("offset")
        places[index["fqn"], None if offset is None else tuple(offset)] = _slice(folder, files, where)
    tree: dict[str, Any] = {}
    for name, about in record["state_dict_metadata"].items():
        held = _state(about)
        if "chunks" in held:
            chunks = [_state(chunk) for chunk in held["chunks"]]
            spans = [(tuple(chunk["offsets"]), tuple(chunk["sizes"])) for chunk in chunks]
            tree[name] = _tensor(held, [_Piece(*span, places[name, span[0]]) for span in spans])
        elif len(content := places[name, None]) <= _VALUE:
            tree[name] = plain(_opened(content, met))
    declared = sum(
        math.prod(one.shape) * one.dtype.itemsize for one in tree.values() if isinstance(one, StoredTensor)
    )
    if declared > SMALL + RATIO * sum(map(len, files.values())):
        raise UserError(f"it unpacks to {declared:,} bytes: not read")
    return tree


def _state(inert: Any) -> Mapping[str, Any]:
    """Return the fields of an object of torch's."""
    state = inert.state if isinstance(inert, InertObject) else None
    return state if isinstance(state, Mapping) else {}


def _slice(folder: Path, files: dict[str, memoryview], where: Mapping[str, Any]) -> memoryview:
    """Return the bytes of one piece, in the mapped file."""
    name, offset, length = where["relative_path"], int(where["offset"]), int(where["length"])
    if not isinstance(name, str) or Path(name).name != name:
        raise UserError(f"it names {name!r}, which is no file beside its {METADATA}: not read")
    if where.get("transform_descriptors"):
        raise UserError("its pieces are packed by an extension of torch's")
    if name not in files:
        try:
            with (folder / name).open("rb") as file:
                files[name] = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read its {name} ({error}), is all of it there?") from None
    if offset < 0 or length < 0 or offset + length > len(files[name]):
        raise UserError(f"its {name} is cut short")
    return files[name][offset : offset + length]


def _opened(content: memoryview, met: Counter[str]) -> Any:
    """Return what torch.save wrote into a piece."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return read_zip(archive, content, met)


def _tensor(about: Mapping[str, Any], pieces: Sequence[_Piece]) -> StoredTensor | str:
    size = tuple(about["size"])
    properties = about["properties"].state
    dtype = properties[0] if isinstance(properties, tuple) else _state(about["properties"]).get("dtype")
    if not isinstance(dtype, torch.dtype):
        return f"<tensor of {dtype}>"
    return StoredTensor(size, dtype, partial(_read, size, dtype, pieces))


def _read(size: tuple[int, ...], dtype: torch.dtype, pieces: Sequence[_Piece]) -> Tensor:
    """Return the tensor that the pieces make.

    Raises:
        UserError: a piece is damaged, or some are missing.
    """
    if sum(math.prod(piece.sizes) for piece in pieces) != math.prod(size):
        raise UserError("pieces of a tensor are missing")
    whole = torch.empty(size, dtype=dtype)
    for piece in pieces:
        try:
            part = _opened(piece.content, Counter()).read()
            view = whole
            for axis, (start, length) in enumerate(zip(piece.offsets, piece.sizes)):
                view = view.narrow(axis, start, length)
            if len(pieces) == 1 and part.dtype == dtype and part.shape == whole.shape:
                return part
            view.copy_(part.reshape(piece.sizes))
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"a piece of a tensor is damaged ({one_line(error, 120)})") from None
    return whole


def _no_storage(key: str, dtype: torch.dtype, count: int) -> Storage:
    raise UserError("it refers to something outside of it: not read")
