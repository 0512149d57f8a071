"""Flax's checkpoints: msgpack with numpy arrays, of which only plain maps, numbers, strings and arrays are read.

Sources are the msgpack specification (github.com/msgpack/msgpack/blob/master/spec.md) and, for the extension
types, Flax's `flax.serialization` (1: an array, as a triple of shape, type and bytes; 3: a numpy scalar, alike).

The `msgpack` package would copy every array of the file into memory, those of the optimizer as well: its hook for
extension types gets bytes, and no place in the file. Here arrays stay in the mapped file.
"""

import struct
from typing import Any

import torch

from ..errors import UserError
from .stored import StoredTensor, array

_NUMBERS = {
    0xCA: ">f",
    0xCB: ">d",
    0xCC: ">B",
    0xCD: ">H",
    0xCE: ">I",
    0xCF: ">Q",
    0xD0: ">b",
    0xD1: ">h",
    0xD2: ">i",
    0xD3: ">q",
}
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_FIXED = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
MOST = 1_000_000
"""The most values and containers in a file. A checkpoint of the largest has some thousands."""
_CHUNKED = "__msgpack_chunked_array__"


def read_msgpack(data: memoryview) -> Any:
    """Return what a msgpack file holds; arrays stay where they are, as `StoredTensor`.

    Raises:
        UserError: the file is cut short, or holds something else.
    """
    try:
        return _join(_Reader(data).value())
    except (IndexError, struct.error):
        raise UserError("the file is cut short") from None


class _Reader:
    def __init__(self, data: memoryview) -> None:
        self.data, self.at, self.count = data, 0, 0

    def take(self, count: int) -> memoryview:
        if self.at + count > len(self.data):
            raise IndexError
        part = self.data[self.at : self.at + count]
        self.at += count
        return part

    def length(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def value(self) -> Any:
        self.count += 1
        if self.count > MOST:
            raise UserError(f"it holds more than {MOST} things: not read further")
        kind = self.take(1)[0]
        if kind < 0x80 or kind >= 0xE0:
            return kind if kind < 0x80 else kind - 0x100
        if kind in _CONSTANTS:
            return _CONSTANTS[kind]
        if kind in _NUMBERS:
            form = _NUMBERS[kind]
            return struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return self._longer(kind)

    def _longer(self, kind: int) -> Any:
        if kind < 0x90 or kind in (0xDE, 0xDF):
            count = kind & 0x0F if kind < 0x90 else self.length(2 << (kind - 0xDE))
            return {str(self.value()): self.value() for _ in range(count)}
        if kind < 0xA0 or kind in (0xDC, 0xDD):
            count = kind & 0x0F if kind < 0xA0 else self.length(2 << (kind - 0xDC))
            return [self.value() for _ in range(count)]
        if kind < 0xC0 or 0xD9 <= kind <= 0xDB:
            count = kind & 0x1F if kind < 0xC0 else self.length(1 << (kind - 0xD9))
            return bytes(self.take(count)).decode("utf-8", "replace")
        if 0xC4 <= kind <= 0xC6:
            return self.take(self.length(1 << (kind - 0xC4)))
        if kind in _FIXED or 0xC7 <= kind <= 0xC9:
            count = _FIXED[kind] if kind in _FIXED else self.length(1 << (kind - 0xC7))
            return _extension(self.take(1)[0], self.take(count))
        raise UserError(f"no msgpack (a byte 0x{kind:02x} where a value begins)")


def _extension(code: int, data: memoryview) -> Any:
    """Return an array (1) or a number of numpy's (3), and a word for others, such as complex numbers (2)."""
    if code not in (1, 3):
        return f"<extension {code}>"
    shape, name, content = _Reader(data).value()
    name = name if isinstance(name, str) else bytes(name).decode("utf-8", "replace")
    stored = array(content, shape, name)
    return stored.read().item() if code == 3 and isinstance(stored, StoredTensor) else stored


def _join(value: Any) -> Any:
    """Return a tree in which arrays that Flax cut into pieces, because they were too long, are joined."""
    if isinstance(value, list):
        return [_join(item) for item in value]
    if not isinstance(value, dict):
        return value
    if _CHUNKED not in value:
        return {key: _join(item) for key, item in value.items()}
    shape = tuple(value["shape"].values() if isinstance(value["shape"], dict) else value["shape"])
    chunks = value["chunks"]
    parts = list(chunks.values() if isinstance(chunks, dict) else chunks)
    if not parts or not all(isinstance(part, StoredTensor) for part in parts):
        return f"<array of {shape}>"
    return StoredTensor(
        shape, parts[0].dtype, lambda: torch.cat([part.read().reshape(-1) for part in parts]).reshape(shape)
    )
