"""A PNG that is written while its rows come."""

import struct
import zlib
from typing import BinaryIO, ClassVar

import numpy as np
from numpy.typing import NDArray


class PNG:
    """A PNG, row after row: each is told by its difference to the one above it, and deflated.

    Source: PNG specification, third edition (W3C, 2025), 9.2 (filter type 2) and 11.2 (chunks).
    """

    COLOURS: ClassVar = {1: 0, 2: 4, 3: 2, 4: 6}
    """Channels -> colour type."""

    def __init__(self, file: BinaryIO, width: int, height: int, channels: int) -> None:
        self._file, self._packer = file, zlib.compressobj(6)
        self._above = np.zeros(width * channels, np.uint8)
        file.write(b"\x89PNG\r\n\x1a\n")
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, self.COLOURS[channels], 0, 0, 0))

    def text(self, keyword: str, words: str) -> None:
        """Write a text that viewers show beside the picture, before its rows; nothing where it is empty."""
        self._chunk(b"tEXt", f"{keyword}\0{words}".encode("latin-1") if words else b"")

    def rows(self, pixels: NDArray[np.uint8]) -> None:
        """Write the next rows, uint8 (rows, width, channels) or (rows, width)."""
        flat = pixels.reshape(len(pixels), -1)
        told = np.empty((len(flat), flat.shape[1] + 1), np.uint8)
        told[:, 0] = 2
        np.subtract(flat, np.concatenate([self._above[None], flat[:-1]]), out=told[:, 1:])
        self._above = flat[-1].copy()
        self._chunk(b"IDAT", self._packer.compress(told.tobytes()))

    def end(self) -> None:
        """No more rows come."""
        self._chunk(b"IDAT", self._packer.flush())
        self._chunk(b"IEND", b"")

    def _chunk(self, kind: bytes, content: bytes) -> None:
        if content or kind == b"IEND":
            check = zlib.crc32(content, zlib.crc32(kind))
            self._file.write(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check))
