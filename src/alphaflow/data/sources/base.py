"""Every source of images offers the same: images by number, not yet decoded.

A source knows names, sizes and labels, and hands out one encoded file (or one array of pixels) at a time. What is
done with it, decoding into memory, into a cache file or through a VAE, is not its business.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp")
"""Endings of the files in a folder or an archive that count as images."""

Labels = NDArray[np.int64]


class Source(Protocol):
    """A finite sequence of images, in an order that depends on nothing but the data. `read` may be called from
    many threads at once."""

    @property
    def address(self) -> str:
        """The address, as the user typed it."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name for each class, in the order of the labels; empty without classes."""

    @property
    def labels(self) -> Labels | None:
        """Classes, int64 (N,), each in [0, len(class_names)); `None` without classes."""

    @property
    def digest(self) -> str:
        """16 hexadecimal digits of names, sizes, labels and class names. No pixels are read for it."""

    @property
    def stamp(self) -> str:
        """A word that changes when the files on this machine do, even where the digest cannot tell. Caches are
        kept by it."""

    def __len__(self) -> int:
        """Return the number of images N, broken ones included."""

    def name(self, index: int) -> str:
        """Return what a message calls an image: a path, `archive.zip!cats/1.png`, `row 17 of table.parquet`."""

    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        """Return one image: an encoded file, or pixels, uint8 (H, W, 3) or (H, W, 1).

        Raises:
            OSError: the image cannot be read.
        """


class Names(Sequence[str]):
    """Many strings in one block of memory, a tenth of what a list of `str` takes."""

    def __init__(self, names: Iterable[str]) -> None:
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        self.blob = b"".join(encoded)
        self.ends = np.cumsum([len(part) for part in encoded], dtype=np.int64)

    @classmethod
    def packed(cls, blob: bytes, ends: NDArray[np.int64]) -> "Names":
        """Build the names from the two fields of another `Names`."""
        names = cls(())
        names.blob, names.ends = blob, ends
        return names

    def __len__(self) -> int:
        return len(self.ends)

    def __iter__(self) -> Iterator[str]:
        start = 0
        for end in self.ends.tolist():
            yield self.blob[start:end].decode("utf-8", "surrogateescape")
            start = end

    def __getitem__(self, index):
        if isinstance(index, slice):
            return list(self)[index]
        if not -len(self) <= index < len(self):
            raise IndexError(f"name {index} of {len(self)}")
        index %= len(self)
        start = int(self.ends[index - 1]) if index else 0
        return self.blob[start : int(self.ends[index])].decode("utf-8", "surrogateescape")


def digest_of(
    names: Names, sizes: NDArray[np.int64] | None, labels: Labels | None, class_names: Sequence[str]
) -> str:
    """Return 16 hexadecimal digits that change with any name, size, label or class name, and with their order."""
    digest = hashlib.sha256(b"source 1")
    for part in (names.ends, sizes, labels):
        digest.update(b"|-" if part is None else b"|" + np.ascontiguousarray(part, dtype="<i8").tobytes())
    digest.update(b"|" + names.blob + b"|" + "\0".join(class_names).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]
