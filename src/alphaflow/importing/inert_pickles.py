"""Checkpoints that hold other people's objects, read without running any of their code.

`safe_pickles.load_plain` refuses a pickle that names anything foreign. A checkpoint often must name it: its
weights lie in a module of a package that is not installed, its settings in an OmegaConf. Here whatever is not an
array or a plain value becomes an `InertObject`, a record of the name and of what was handed to it; nothing foreign
is looked up, imported or called, and the names are listed. Tensors stay where they are in the file until they are
asked for.

`torch.load` would take an Unpickler of ours, too, but looks at some forms of files before it is asked, and cannot
map the older form (torch 2.13).
"""

import io
import math
import pickle
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from ..data.opcodes import check_opcodes
from ..data.safe_pickles import KNOWN
from ..errors import UserError, one_line
from .foreign_arrays import NumpyArray, NumpyDtype, jax_array, numpy_buffer, numpy_scalar
from .stored import DTYPES, Buffer, StoredTensor, from_buffer

ROOM = 1 << 28
"""Bytes that a pickle may have copied, beside what it holds."""


class InertObject:
    """A stand-in for an object of a foreign class, or for what a foreign function would have returned.

    origin: the dotted name of the class or function.
    """

    origin = ""
    args: tuple[Any, ...]
    """The arguments of the call."""
    state: Any
    """What the object would have restored itself from."""
    entries: dict[Any, Any]
    members: list[Any]
    """What was put into it as into a dictionary or a list."""

    def __new__(cls, *args: Any, **named: Any) -> "InertObject":
        built = super().__new__(cls)
        built.args, built.state, built.entries, built.members = (*args, *named.values()), None, {}, []
        return built

    def __call__(self, *args: Any, **named: Any) -> "InertObject":
        """Keep the call of what a foreign function made, such as cloudpickle's functions."""
        return type(self)(self, *args, **named)

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.entries[key] = value

    def add(self, value: Any) -> None:
        self.members.append(value)

    def append(self, value: Any) -> None:
        self.members.append(value)

    def extend(self, values: Any) -> None:
        self.members.extend(values)


class Reader(pickle.Unpickler):
    """Unpickles arrays, tensors and plain values; all else becomes an `InertObject`.

    Args:
        file: the pickle.
        storage: a function from a storage's key and length in elements to its bytes.
        room: the most bytes that may be made of what the pickle holds, by copying.

    Attributes:
        met: how often each foreign name was met.

    Raises:
        UserError: its instructions ask for more than any checkpoint needs; see `check_opcodes`.
    """

    def __init__(
        self,
        file: Any,
        storage: Callable[[str, torch.dtype, int], "Storage"],
        met: Counter[str] | None = None,
        room: int = ROOM,
    ) -> None:
        check_opcodes(file)
        super().__init__(file, encoding="latin1")
        self.met: Counter[str] = Counter() if met is None else met
        self._storage, self._room = storage, room
        self._inert: dict[str, type[InertObject]] = {}

    def find_class(self, module: str, name: str) -> Any:
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))  # Python 2's
        key = (module.replace("numpy._core", "numpy.core"), name)
        if key == ("torch.storage", "_load_from_bytes"):
            return lambda data: nested_storage(data, self.met)
        if key in COPIES:
            return lambda *args: self._copied(COPIES[key], args)
        stand_in = TORCH.get(key)
        if isinstance(stand_in, FunctionType):  # a new function each time, since a pickle may set attributes of it
            return lambda *args: stand_in(*args)
        if stand_in is not None:
            return stand_in
        origin = f"{module}.{name}"
        self.met[origin] += 1
        if origin not in self._inert:
            self._inert[origin] = type("InertObject", (InertObject,), {"origin": origin})
        return self._inert[origin]

    def _copied(self, make: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Call `make(*args)`, which copies its arguments: a pickle may ask for that until `room` is used up."""
        if not all(isinstance(arg, str | bytes | list | tuple | dict | set | frozenset) for arg in args):
            raise UserError("a container made of something else than another one: not read")
        self._room -= sum(len(arg) * (1 if isinstance(arg, str | bytes) else 64) for arg in args)
        if self._room < 0:
            raise UserError("its pickle copies the same things again and again: not read further")
        return make(*args)

    def persistent_load(self, pid: Any) -> Any:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise UserError("it refers to something outside of it: not read")
        if not isinstance(pid[1], Kind):  # its type is none of numbers, such as a quantised one
            return f"<storage {getattr(pid[1], 'origin', '')}>"
        return self._storage(str(pid[2]), pid[1].dtype, int(pid[4]))


@dataclass(frozen=True)
class Kind:
    """A stand-in for a class of torch's storages."""

    dtype: torch.dtype

    def __setstate__(self, state: Any) -> None:
        raise UserError("it changes a type of torch's: not read")


class Storage:
    """A run of numbers in a file, whose place may become known only later."""

    def __init__(self, dtype: torch.dtype, count: int, data: Buffer | None = None) -> None:
        self.dtype, self.count, self.data = dtype, count, data

    def numbers(self, dtype: torch.dtype) -> Tensor:
        """Return all numbers, (N,), as `dtype`, which differs from the storage's own where that is untyped."""
        if self.data is None:
            raise UserError("a tensor's numbers are missing: the file is cut short")
        size = self.count * self.dtype.itemsize
        if len(self.data) < size:
            raise UserError("a tensor's numbers are missing: the file is cut short")
        return from_buffer(self.data, dtype, size // dtype.itemsize)


def _tensor(storage: Storage, offset: int, size: Any, stride: Any, *rest: Any, dtype: Any = None) -> Any:
    if isinstance(storage, str):
        return f"<tensor of {storage[1:-1]}>"
    if not isinstance(storage, Storage):
        raise UserError("a tensor without a storage: not read")
    dtype = dtype or storage.dtype
    size, stride = tuple(size), tuple(stride)

    def read() -> Tensor:
        try:
            if math.prod(size) > storage.count + SPREAD:  # strides of 0 would be written out in full
                raise ValueError(f"{math.prod(size)} numbers of {storage.count} stored ones")
            return storage.numbers(dtype).as_strided(size, stride, offset)  # raises if it leaves the storage
        except (RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"a damaged tensor ({one_line(error, 120)})") from None

    return StoredTensor(size, dtype, read)


def _typed_tensor(storage: Storage, offset: int, size: Any, stride: Any, *rest: Any) -> Any:
    """Stand in for torch's `_rebuild_tensor_v3`, whose fourth further argument is the type."""
    return _tensor(storage, offset, size, stride, dtype=rest[2])


def _first(value: Any, *rest: Any) -> Any:
    """Stand in for torch's `_rebuild_parameter`: a parameter is its tensor."""
    return value


def _of_type(function: Callable[..., Any], kind: Any, args: tuple[Any, ...], state: Any) -> Any:
    """Stand in for torch's `_rebuild_from_type_v2`.

    What it would call is a stand-in already, or a wrapper's. Of a DTensor its part is taken where that is the
    whole, as with one process.
    """
    built = function(*args)
    if isinstance(built, InertObject) and len(args) > 2:
        held = state if isinstance(state, tuple) else (state,)  # a class with slots has a pair
        parts = (one["_local_tensor"] for one in held if isinstance(one, Mapping) and "_local_tensor" in one)
        part = next(parts, None)
        return part if isinstance(part, StoredTensor) and part.shape == args[2] else built
    return built


_KINDS = {
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Double": "float64",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
    "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
    "QInt8": "qint8",
    "QUInt8": "quint8",
    "QInt32": "qint32",
}
TORCH: dict[tuple[str, str], Any] = {
    **{("torch", f"{name}Storage"): Kind(DTYPES[dtype]) for name, dtype in _KINDS.items()},
    **{("torch", name): dtype for name, dtype in DTYPES.items()},
    ("torch.storage", "UntypedStorage"): Kind(torch.uint8),
    ("torch", "UntypedStorage"): Kind(torch.uint8),
    ("torch", "device"): lambda *words: ":".join(map(str, words)),
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _typed_tensor,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch._utils", "_rebuild_parameter_with_state"): _first,
    ("torch._tensor", "_rebuild_from_type_v2"): _of_type,
    ("torch", "Tensor"): Kind(torch.float32),
    ("torch.nn.parameter", "Parameter"): Kind(torch.float32),
    ("jax._src.array", "_reconstruct_array"): jax_array,
    ("numpy.core.multiarray", "_reconstruct"): lambda *args: NumpyArray(),
    ("numpy.core.multiarray", "scalar"): numpy_scalar,
    ("numpy.core.numeric", "_frombuffer"): numpy_buffer,
    ("numpy", "ndarray"): lambda *args: "<array>",
    ("numpy", "dtype"): lambda *args: NumpyDtype(*args),
    ("builtins", "complex"): lambda *args: str(args),
}
"""Stand-ins for the names that a checkpoint may mention. None is made by the code that is named."""

COPIES: dict[tuple[str, str], Callable[..., Any]] = {
    ("_codecs", "encode"): KNOWN["_codecs", "encode"],
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): lambda *args: defaultdict(None, *args[1:]),
    ("torch", "Size"): tuple,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "bytearray"): lambda data=b"", encoding="latin1": (
        data.encode(encoding) if isinstance(data, str) else bytes(data)
    ),
}
"""Stand-ins that copy what they are given."""

SPREAD = 1 << 20
"""The most numbers that a tensor may have beyond those of its storage."""
MOST = 1_000_000
"""The most tensors, values and containers in a checkpoint. The largest training snapshots have some thousands."""
_OLD = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
"""The beginning of torch.save's older files."""


def read_old(file: Any, data: Buffer, met: Counter[str]) -> Any:
    """Read what torch.save wrote before it wrote zip files, and still writes within pickles.

    Args:
        file: a file, positioned at the beginning.
        data: the bytes of the same file.
        met: counts the foreign names that are met.

    Raises:
        UserError: the file is cut short or of another form.
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
    content = Reader(file, place, met, ROOM + 2 * len(data)).load()
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
    """Return a storage that is a pickle within a pickle."""
    storage = read_old(io.BytesIO(data), memoryview(data), met)
    if not isinstance(storage, Storage):
        raise UserError("a storage that is none: not read")
    return storage


def plain(value: Any, above: tuple[int, ...] = (), visits: Iterator[int] | None = None) -> Any:
    """Return what was read as a tree of dictionaries, lists and leaves, in which inert objects are opened.

    A module becomes the dictionary of its weights, a settings object that of its settings; of an object whose
    inside means nothing here, the name remains, in angle brackets.

    Args:
        value: what was read.
        above: the objects that this one lies in, by `id`.
        visits: counts what was opened.

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
        return {key: plain(item, inside, visits) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item, inside, visits) for item in value]
    if isinstance(value, NumpyArray):
        return value.content
    if isinstance(value, InertObject):
        content = _content(value)
        return f"<{value.origin}>" if content is None else plain(content, inside, visits)
    return value


def _content(inert: InertObject) -> Any:
    """Return what lies in an inert object; `None` if nothing does."""
    state = inert.state
    if isinstance(state, tuple) and len(state) == 2:  # a class with slots
        state = {**(state[0] or {}), **(state[1] or {})}
    if isinstance(state, Mapping):
        for key in ("_val", "_content"):  # OmegaConf's leaves and branches
            if key in state:
                return state[key]
    if inert.entries or inert.members:
        return inert.entries or inert.members
    if isinstance(state, Mapping):
        return state
    if inert.args and isinstance(inert.args[-1], Mapping | InertObject):  # EDM's persistent classes
        return inert.args[-1]
    return None


def _module(state: Mapping[str, Any], inside: tuple[int, ...], visits: Iterator[int]) -> dict[str, Any]:
    """Return a module as the tree of its parameters, buffers and sub-modules."""
    parts = [dict(state.get(kind) or {}) for kind in ("_parameters", "_buffers", "_modules")]
    return {key: plain(one, inside, visits) for part in parts for key, one in part.items() if one is not None}


def read_pickle(data: Buffer, met: Counter[str]) -> Any:
    """Read a pickle by itself, as pickle.dump wrote it, or an old torch.save, from bytes or a mapped file."""
    file: Any = io.BytesIO(data.obj) if isinstance(data.obj, bytes) else data.obj
    file.seek(0)
    if bytes(data[: len(_OLD)]) == _OLD:
        return read_old(file, data, met)
    return Reader(file, _no_storage, met, ROOM + 2 * len(data)).load()


def _no_storage(key: str, dtype: torch.dtype, count: int) -> Storage:
    raise UserError("it refers to something outside of it: not read")
