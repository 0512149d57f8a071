"""Pickles of arrays, read without executing anything.

A pickle is a program that may call whatever it names. Here it may name the few constructors that arrays, tensors
and plain containers need, each checked; anything else is refused by its name, before it is looked up.
"""

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np
import torch

from ..errors import UserError
from .opcodes import check_opcodes

ROOM = 1 << 28
"""Bytes that a pickle may have copied, beside what it holds."""


class UnsafePickle(UserError):
    """A pickle that names something other than arrays and plain values."""


def load_plain(data: bytes, *, encoding: str = "ASCII") -> Any:
    """Return the arrays, tensors, numbers, strings and containers in a pickle.

    Args:
        data: the pickle.
        encoding: that of the strings which Python 2 wrote; "latin1" is what arrays of that time need.

    Raises:
        UnsafePickle: the pickle names anything else, which may be a program.
        UserError: it is no pickle, or a damaged one.
    """
    try:
        file = io.BytesIO(data)
        check_opcodes(file)
        return _Reader(file, len(data), encoding).load()
    except UserError:
        raise
    except Exception as error:  # a damaged pickle can make its reader raise nearly anything
        raise UserError(f"damaged pickle ({type(error).__name__}: {error})") from None


class _Reader(pickle.Unpickler):
    def __init__(self, file: Any, size: int, encoding: str = "ASCII") -> None:
        super().__init__(file, encoding=encoding)
        self._room = ROOM + 2 * size

    def find_class(self, module: str, name: str) -> Any:
        constructor = KNOWN.get((module.replace("numpy._core", "numpy.core"), name))
        if constructor is None:
            raise UnsafePickle(f"it names {module}.{name}, which is neither an array nor a plain value: not read")
        if isinstance(constructor, FunctionType) or constructor is OrderedDict:
            # as a new function: a pickle may set attributes of what it is given
            return lambda *args: self._copied(constructor, args)
        return constructor

    def _copied(self, make: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Call `make(*args)`, which copies its arguments, as often as `ROOM` allows: a pickle may ask for it again
        and again."""
        kinds = (str, bytes, list, tuple, dict)
        sizes = ((len(arg), isinstance(arg, str | bytes)) for arg in args if isinstance(arg, kinds))
        self._room -= sum(size * (1 if text else 64) for size, text in sizes)
        if self._room < 0:
            raise UserError("its pickle copies the same things again and again: not read further")
        return make(*args)

    def persistent_load(self, pid: Any) -> Any:
        raise UnsafePickle("it refers to something outside of it: not read")


class NumpyArrayType:
    """A stand-in for numpy's ndarray where a pickle names it; numpy's own, called, takes memory for nothing."""

    def __new__(cls, *args: Any) -> Any:
        raise UnsafePickle("an array of another kind than numpy makes: not read")


def _empty_array(kind: type, shape: tuple[int, ...], code: bytes | str) -> np.ndarray:
    """Stand in for numpy's `_reconstruct`: make an array that its state will fill."""
    if kind is not NumpyArrayType or shape != (0,):
        raise UnsafePickle("an array of another kind than numpy makes: not read")
    return np.ndarray.__new__(np.ndarray, (0,), "b")


def _from_buffer(buffer: bytes, dtype: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    return np.frombuffer(buffer, dtype=dtype).reshape(shape, order=order)  # type: ignore[call-overload]


def _scalar(dtype: np.dtype, buffer: bytes) -> Any:
    return np.frombuffer(buffer, dtype=dtype)[0]


def _dtype(code: str, align: bool = False, copy: bool = False) -> np.dtype:
    dtype = np.dtype(code)
    if dtype.hasobject:
        raise UnsafePickle("an array of Python objects: not read")
    return dtype


def _bytes(text: str, encoding: str) -> bytes:
    """Stand in for `codecs.encode`, with which old protocols spell bytes."""
    return text.encode("latin1") if encoding == "latin1" else text.encode("utf-8")


def _storage(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")


def _tensor(storage: Any, offset: int, size: tuple, stride: tuple, *rest: Any) -> torch.Tensor:
    return torch._utils._rebuild_tensor_v2(storage, offset, size, stride, False, OrderedDict())


KNOWN: dict[tuple[str, str], Callable[..., Any] | type] = {
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy", "ndarray"): NumpyArrayType,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _bytes,
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.storage", "_load_from_bytes"): _storage,
}
