"""`tf.train.Example`, the messages in TFRecord files, read without TensorFlow.

An example is a map from names to lists of bytes, floats or whole numbers
(tensorflow/core/example/{example,feature}.proto). Of a message only what is asked for is copied.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MOST_FEATURES = 1024


@dataclass(frozen=True)
class Feature:
    """One list of an example, not read yet."""

    buffer: Any
    start: int
    end: int
    kind: int
    """1: bytes, 2: floats, 3: whole numbers; 0: none."""

    def values(self) -> list[bytes] | list[float] | list[int]:
        """Return the list.

        Raises:
            ValueError: the message is damaged.
        """
        if self.kind == 1:
            return [bytes(self.buffer[a:b]) for _, wire, a, b in _fields(self.buffer, self.start, self.end)]
        packed = [(wire, a, b) for _, wire, a, b in _fields(self.buffer, self.start, self.end)]
        if self.kind == 2:
            return [x for _, a, b in packed for x in np.frombuffer(self.buffer[a:b], "<f4").tolist()]
        numbers: list[int] = []
        for wire, a, b in packed:
            while a < b:
                number, a = _varint(self.buffer, a, b)
                numbers.append(number - (1 << 64) if number >> 63 else number)
            if wire not in (_VARINT, _BYTES):
                raise ValueError("whole numbers of another kind")
        return numbers

    def first(self) -> Any:
        """Return the only value of the list, or `None` if there is none, or more than one."""
        values = self.values()
        return values[0] if len(values) == 1 else None


def features_of(buffer: Any) -> Mapping[str, Feature]:
    """Return the lists of an example by their names.

    Args:
        buffer: the message: bytes, or a memoryview of them.

    Raises:
        ValueError: it is no such message, or a damaged one.
    """
    found: dict[str, Feature] = {}
    for number, _, start, end in _fields(buffer, 0, len(buffer)):
        if number != 1:
            continue
        for inner, _, a, b in _fields(buffer, start, end):
            if inner == 1:
                name, feature = _entry(buffer, a, b)
                found[name] = feature
                if len(found) > _MOST_FEATURES:
                    raise ValueError("too many features")
    return found


def _entry(buffer: Any, start: int, end: int) -> tuple[str, Feature]:
    name, feature = "", Feature(buffer, 0, 0, 0)
    for number, wire, a, b in _fields(buffer, start, end):
        if wire != _BYTES:
            raise ValueError("an entry of another kind")
        if number == 1:
            name = bytes(buffer[a:b]).decode("utf-8", "replace")
        elif number == 2:
            for kind, _, c, d in _fields(buffer, a, b):
                feature = Feature(buffer, c, d, kind)
    return name, feature


def _fields(buffer: Any, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield number, wire type, beginning and end of each field of a message."""
    while start < end:
        tag, start = _varint(buffer, start, end)
        wire = tag & 7
        if wire == _BYTES:
            length, start = _varint(buffer, start, end)
            after = start + length
        elif wire == _VARINT:
            after = _varint(buffer, start, end)[1]
        elif wire in (_FIXED64, _FIXED32):
            after = start + (8 if wire == _FIXED64 else 4)
        else:
            raise ValueError(f"a field of wire type {wire}")
        if after > end or not tag >> 3:
            raise ValueError("a field beyond the message's end")
        yield tag >> 3, wire, start, after
        start = after


def _varint(buffer: Any, start: int, end: int) -> tuple[int, int]:
    number = shift = 0
    while start < end and shift < 64:
        byte = buffer[start]
        start += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number & 0xFFFFFFFFFFFFFFFF, start
        shift += 7
    raise ValueError("a number that is cut short")


LENGTH = struct.Struct("<QI")
"""What stands before each record: its length, and the masked CRC of these 8 bytes. After it comes the CRC of the
record."""
