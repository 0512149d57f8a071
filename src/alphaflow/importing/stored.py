"""Tensors that are still in their file, and the types that they may have."""

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError

Buffer = memoryview
"""The bytes of a file, mapped or in memory."""

DTYPES = {str(one).removeprefix("torch."): one for one in vars(torch).values() if isinstance(one, torch.dtype)}
"""All of torch's types by their names, which are numpy's and JAX's as well."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that is still in its file."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]
    """Reads the tensor, without a copy where that is possible."""


def from_buffer(data: Buffer, dtype: torch.dtype, count: int) -> Tensor:
    """Return a tensor (count,) over the bytes themselves. Nobody may write into it: the bytes may be a file's."""
    if count == 0:
        return torch.empty(0, dtype=dtype)
    array = np.frombuffer(data, np.uint8, count * dtype.itemsize)
    with warnings.catch_warnings():  # torch warns of memory that it might write to; this is only read
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array).view(dtype)


def type_of(code: str) -> tuple[torch.dtype, bool] | None:
    """Return torch's type for numpy's word (`<f4`, `float32`, `bfloat16`), and whether the high byte comes first.

    `None`: torch has no such type, or it is that of no number (strings, dates, Python objects).
    """
    if code in DTYPES:
        return DTYPES[code], False
    if code.strip("<>|=") == "V2":  # numpy's word for types that it lacks, of which only bfloat16 has two bytes
        return torch.bfloat16, False
    match = re.fullmatch(r"[<>|=]?([fiubc])(\d+)", code)
    if match is None:
        return None
    bits = int(match[2]) * 8
    name = {"f": f"float{bits}", "i": f"int{bits}", "u": f"uint{bits}", "b": "bool", "c": f"complex{bits}"}[
        match[1]
    ]
    return (DTYPES[name], code.startswith(">")) if name in DTYPES else None


def array(data: Any, shape: Any, code: str, *, columns_first: bool = False) -> "StoredTensor | str":
    """Return an array of numpy's from its bytes; for types that torch does not have, their name in angle brackets.

    Args:
        data: bytes, or Latin-1 as Python 2's pickles spell them.
        shape: the array's shape.
        code: the type, as `type_of` takes it.
        columns_first: whether the numbers are in Fortran's order.

    Raises:
        UserError: the bytes are fewer or more than the shape says.
    """
    torch_type, shape = type_of(code), tuple(shape)
    if torch_type is None or isinstance(data, list):
        return f"<array of {code} {shape}>"
    dtype, swapped = torch_type
    content = memoryview(data.encode("latin1") if isinstance(data, str) else data).cast("B")
    if not all(isinstance(size, int) and size >= 0 for size in shape):
        raise UserError("a damaged array: its shape is none")
    count = int(np.prod([int(size) for size in shape], dtype=object))
    if count * dtype.itemsize != len(content):
        raise UserError("a damaged array: its numbers are fewer or more than its shape says")
    return StoredTensor(shape, dtype, partial(_read, content, dtype, shape, swapped, columns_first))


def _read(
    content: Buffer, dtype: torch.dtype, shape: tuple[int, ...], swapped: bool, columns_first: bool
) -> Tensor:
    count = len(content) // dtype.itemsize
    if swapped:
        kind = str(np.empty(0, str(dtype).removeprefix("torch.")).dtype.str)[1:]
        content = memoryview(np.frombuffer(content, ">" + kind).astype("<" + kind).tobytes())
    numbers = from_buffer(content, dtype, count)
    if columns_first:
        return numbers.reshape(shape[::-1]).permute(*reversed(range(len(shape))))
    return numbers.reshape(shape)
