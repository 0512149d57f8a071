"""Checkpoints that hold other people's objects, read without running any of their code.

`pickles.load_plain` refuses a pickle that names anything foreign. A checkpoint often must name it: its weights lie
in a module of a package that is not installed, its settings in an OmegaConf. Here whatever is not an array or a
plain value becomes a `Stranger`, an inert record of the name and of what was handed to it; nothing foreign is
looked up, imported or called, and the names are listed. Tensors stay where they are in the file until they are
asked for.
"""

import io
import pickle
import warnings
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from .pickles import KNOWN

Buffer = memoryview
"""Bytes of a file, mapped or in memory."""


@dataclass(frozen=True)
class Stored:
    """A tensor that is still in its file."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]
    """The tensor, without a copy where that is possible."""


class Stranger:
    """Stands for an object of a foreign class, or for what a foreign function would have returned.

    origin: its dotted name. args: what it was called with. state: what it would have restored itself from.
    entries, members: what was put into it as into a dictionary or a list.
    """

    origin = ""
    args: tuple[Any, ...]
    state: Any
    entries: dict[Any, Any]
    members: list[Any]

    def __new__(cls, *args: Any, **named: Any) -> "Stranger":
        made = super().__new__(cls)
        made.args, made.state, made.entries, made.members = (*args, *named.values()), None, {}, []
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.entries[key] = value

    def append(self, value: Any) -> None:
        self.members.append(value)

    def extend(self, values: Any) -> None:
        self.members.extend(values)


class Reader(pickle.Unpickler):
    """Unpickles arrays, tensors and plain values; all else becomes a `Stranger`.

    Args:
        file: the pickle. storage: where the bytes of a storage are, by its key and length in elements.

    Attributes:
        met: how often each foreign name was met.
    """

    def __init__(
        self, file: Any, storage: Callable[[str, torch.dtype, int], "Storage"], met: Counter[str] | None = None
    ) -> None:
        super().__init__(file, encoding="latin1")
        self.met: Counter[str] = Counter() if met is None else met
        self._storage = storage
        self._strangers: dict[str, type[Stranger]] = {}

    def find_class(self, module: str, name: str) -> Any:
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))  # Python 2's
        key = (module.replace("numpy._core", "numpy.core"), name)
        if key == ("torch.storage", "_load_from_bytes"):
            return lambda data: nested_storage(data, self.met)
        found = TORCH.get(key) or KNOWN.get(key)
        if isinstance(found, FunctionType):  # as a new function: a pickle may set attributes of what it is given
            return lambda *args: found(*args)
        if found is not None:
            return found
        origin = f"{module}.{name}"
        self.met[origin] += 1
        if origin not in self._strangers:
            self._strangers[origin] = type("Stranger", (Stranger,), {"origin": origin})
        return self._strangers[origin]

    def persistent_load(self, pid: Any) -> Any:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], Kind):
            raise UserError("it refers to something outside of it: not read")
        return self._storage(str(pid[2]), pid[1].dtype, int(pid[4]))


@dataclass(frozen=True)
class Kind:
    """Stands for a class of torch's storages."""

    dtype: torch.dtype


class Storage:
    """A run of numbers in a file, whose place may become known only later."""

    def __init__(self, dtype: torch.dtype, count: int, data: Buffer | None = None) -> None:
        self.dtype, self.count, self.data = dtype, count, data

    def numbers(self, dtype: torch.dtype) -> Tensor:
        """All of them, (N,), as `dtype`, which differs from the own one where the storage is untyped."""
        if self.data is None:
            raise UserError("a tensor's numbers are missing: the file is cut short")
        size = self.count * self.dtype.itemsize
        if len(self.data) < size:
            raise UserError("a tensor's numbers are missing: the file is cut short")
        return from_buffer(self.data, dtype, size // dtype.itemsize)


def from_buffer(data: Buffer, dtype: torch.dtype, count: int) -> Tensor:
    """(count,) over the bytes themselves. Nobody may write into it: the bytes may be a file's."""
    if count == 0:
        return torch.empty(0, dtype=dtype)
    array = np.frombuffer(data, np.uint8, count * dtype.itemsize)
    with warnings.catch_warnings():  # torch warns of memory that it might write to; this is only read
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array).view(dtype)


def _tensor(storage: Storage, offset: int, size: Any, stride: Any, *rest: Any, dtype: Any = None) -> Stored:
    if not isinstance(storage, Storage):
        raise UserError("a tensor without a storage: not read")
    dtype = dtype or storage.dtype
    size, stride = tuple(size), tuple(stride)

    def read() -> Tensor:
        try:
            return storage.numbers(dtype).as_strided(size, stride, offset)  # refuses what leaves the storage
        except (RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"a damaged tensor ({' '.join(str(error).split())[:120]})") from None

    return Stored(size, dtype, read)


def _typed_tensor(storage: Storage, offset: int, size: Any, stride: Any, *rest: Any) -> Stored:
    """torch's `_rebuild_tensor_v3`, whose fourth further argument is the type."""
    return _tensor(storage, offset, size, stride, dtype=rest[2])


def _first(value: Any, *rest: Any) -> Any:
    """Stands for torch's `_rebuild_parameter`: a parameter is its tensor."""
    return value


def _of_type(function: Callable[..., Any], kind: Any, args: tuple[Any, ...], state: Any) -> Any:
    """Stands for torch's `_rebuild_from_type_v2`: what it would call is one of ours already."""
    return function(*args)


def _jax_array(function: Callable[..., Any], args: tuple[Any, ...], state: Any, *rest: Any) -> Any:
    """Stands for JAX's `_reconstruct_array`, which fills a numpy array."""
    made = function(*args)
    if not isinstance(made, np.ndarray):
        raise UserError("an array of another kind than numpy makes: not read")
    made.__setstate__(state)
    return made


_KINDS = {
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Double": torch.float64,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}
TORCH: dict[tuple[str, str], Any] = {
    **{("torch", f"{name}Storage"): Kind(dtype) for name, dtype in _KINDS.items()},
    **{("torch", str(dtype).removeprefix("torch.")): dtype for dtype in _KINDS.values()},
    ("torch.storage", "UntypedStorage"): Kind(torch.uint8),
    ("torch", "UntypedStorage"): Kind(torch.uint8),
    ("torch", "Size"): tuple,
    ("torch", "device"): lambda *words: ":".join(map(str, words)),
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _typed_tensor,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch._utils", "_rebuild_parameter_with_state"): _first,
    ("torch._tensor", "_rebuild_from_type_v2"): _of_type,
    ("torch", "Tensor"): Kind(torch.float32),
    ("torch.nn.parameter", "Parameter"): Kind(torch.float32),
    ("jax._src.array", "_reconstruct_array"): _jax_array,
    ("collections", "defaultdict"): lambda *args: defaultdict(None, *args[1:]),
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "bytearray"): bytearray,
    ("builtins", "complex"): complex,
}
"""What a checkpoint may name beside `KNOWN`: each is made here, none by the code that is named."""

MOST = 1_000_000
"""Tensors, values and containers in a checkpoint. A training snapshot of the largest has some thousands."""
_OLD = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
"""How torch.save's older files begin."""


def read_old(file: Any, data: Buffer, met: Counter[str]) -> Any:
    """What torch.save wrote before it wrote zip files, and still writes within pickles.

    Args:
        file: positioned at the beginning. data: the same bytes.

    Raises:
        UserError: it is cut short or of another form.
    """
    places: dict[str, Storage] = {}

    def place(key: str, dtype: torch.dtype, count: int) -> Storage:
        return places.setdefault(key, Storage(dtype, count))

    if bytes(data[: len(_OLD)]) != _OLD:
        raise UserError("a storage that is none: not read")
    file.seek(len(_OLD))
    _next(file, met)  # the version, which never changed
    if not _next(file, met).get("little_endian", True):
        raise UserError("its numbers are stored high byte first: save it on an ordinary machine")
    content = Reader(file, place, met).load()
    for key in _next(file, met):
        start = file.tell()
        storage = places.get(str(key)) or Storage(torch.uint8, 0)
        count = int.from_bytes(data[start : start + 8], "little")
        if count != storage.count:
            raise UserError("a tensor's numbers are missing: the file is cut short")
        end = start + 8 + count * storage.dtype.itemsize
        storage.data = data[start + 8 : end]
        file.seek(end)
    return content


def _next(file: Any, met: Counter[str]) -> Any:
    return Reader(file, lambda *key: Storage(torch.uint8, 0), met).load()


def nested_storage(data: bytes, met: Counter[str]) -> Storage:
    """A storage that is a pickle within a pickle."""
    found = read_old(io.BytesIO(data), memoryview(data), met)
    if not isinstance(found, Storage):
        raise UserError("a storage that is none: not read")
    return found


def plain(value: Any, above: tuple[int, ...] = (), visits: Iterator[int] | None = None) -> Any:
    """A tree of dictionaries, lists and leaves of what was read: strangers are opened.

    A module becomes the dictionary of its weights, a settings object that of its settings; of an object whose
    inside means nothing here, the name remains, in angle brackets.

    above: the objects that this one lies in, by `id`. visits: counts what was opened.

    Raises:
        UserError: there is more than any checkpoint holds: a few objects that each hold another one many times.
    """
    visits = visits or count()
    if next(visits) > MOST:
        raise UserError(f"it holds more than {MOST} things: not read further")
    if id(value) in above:
        return "<itself>"
    inside = (*above, id(value))
    if isinstance(value, Mapping):
        if "_modules" in value and "_parameters" in value:
            return _module(value, inside, visits)
        return {key: plain(one, inside, visits) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one, inside, visits) for one in value]
    if isinstance(value, Stranger):
        content = _content(value)
        return f"<{value.origin}>" if content is None else plain(content, inside, visits)
    return value


def _content(stranger: Stranger) -> Any:
    """What lies in a stranger, or None."""
    state = stranger.state
    if isinstance(state, tuple) and len(state) == 2:  # of a class with slots
        state = {**(state[0] or {}), **(state[1] or {})}
    if isinstance(state, Mapping):
        for key in ("_val", "_content"):  # OmegaConf's leaves and branches
            if key in state:
                return state[key]
    if stranger.entries or stranger.members:
        return stranger.entries or stranger.members
    if isinstance(state, Mapping):
        return state
    if stranger.args and isinstance(stranger.args[-1], Mapping | Stranger):  # EDM's persistent classes
        return stranger.args[-1]
    return None


def _module(state: Mapping[str, Any], inside: tuple[int, ...], visits: Iterator[int]) -> dict[str, Any]:
    """A module as the tree of its parameters, buffers and sub-modules."""
    parts = [dict(state.get(kind) or {}) for kind in ("_parameters", "_buffers", "_modules")]
    return {key: plain(one, inside, visits) for part in parts for key, one in part.items() if one is not None}


def read_pickle(data: Buffer, met: Counter[str]) -> Any:
    """A pickle by itself, as pickle.dump wrote it, or an old torch.save. data: bytes, or a mapped file."""
    file: Any = io.BytesIO(data.obj) if isinstance(data.obj, bytes) else data.obj
    file.seek(0)
    if bytes(data[: len(_OLD)]) == _OLD:
        return read_old(file, data, met)
    return Reader(file, _no_storage, met).load()


def _no_storage(key: str, dtype: torch.dtype, count: int) -> Storage:
    raise UserError("it refers to something outside of it: not read")
