"""A zip or a tar of a class-per-folder tree, read where it lies."""

import bz2
import gzip
import lzma
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from alphaflow.errors import UserError

from .base import digest_of
from .cache import cache_folder, key_of, locked, stamp_of
from .classes import classes_of, in_order, is_image
from .members import RATIO, Members, members_of

_PACKERS: dict[str, Callable[[str], Any]] = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}
COMPRESSED = {f".tar.{end}": end for end in _PACKERS} | {".tgz": "gz", ".tbz2": "bz2", ".txz": "xz"}
"""Endings of compressed tars. They have no random access, so they are unpacked into the cache once, as a tar."""
ENDINGS = (".zip", ".tar", *COMPRESSED)


class Archive:
    """The images of a zip or a tar, compressed or not: what `Tree` would find in it when unpacked.

    A folder that holds all the images is passed over when it is named like the archive, or when all of them lie in
    folders inside it: both `zip -r photos.zip photos` and `zip -r ../photos.zip .` give the same set.

    Args:
        path: the archive.
        address: what to call it.
        labels: see `classes_of`.

    Raises:
        UserError: no archive, an unsafe member (see `members_of`), or no images in it.
    """

    def __init__(self, path: Path, *, address: str | None = None, labels: str | None = None) -> None:
        self.address = address or str(path)
        self._members = _without_lone_folder(members_of(plain(path), is_image, self.address), self.address)
        self._read = self._members.opened()
        self.labels, self.class_names = classes_of(self._members.names[:], f"archive {self.address}", labels)
        self.digest = digest_of(self._members.names, self._members.sizes, self.labels, self.class_names)
        self.stamp = key_of(self.digest, *stamp_of(path))

    def __len__(self) -> int:
        return len(self._members.names)

    def name(self, index: int) -> str:
        return f"{self.address}!{self._members.names[index]}"

    def read(self, index: int) -> bytes:
        return self._read(index)


def _without_lone_folder(members: Members, address: str) -> Members:
    """The members in order, without the folder that holds everything."""
    names = members.names[:]
    members = members.chosen(in_order(names))
    firsts = {name.partition("/")[0] for name in names}
    if len(firsts) != 1 or not all("/" in name for name in names):
        return members
    (first,) = firsts
    stem = Path(address).name.partition(".")[0]
    if first == stem or all(name.count("/") >= 2 for name in names):
        return members.renamed([name[len(first) + 1 :] for name in members.names])
    return members


def plain(path: Path) -> Path:
    """The archive itself, or the tar that a compressed tar unpacks to, in the cache.

    Raises:
        UserError: a damaged archive, one that grows more than images can, or no room.
    """
    packer = next((packer for end, packer in COMPRESSED.items() if path.name.lower().endswith(end)), None)
    if packer is None:
        return path
    try:
        folder = cache_folder("unpacked") / key_of(path.resolve(), *stamp_of(path))
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): give a zip or tar of images") from None
    made = folder / (path.name.partition(".")[0] + ".tar")
    with locked(folder / "lock"):
        if not made.exists():
            try:
                with (
                    _PACKERS[packer](os.fspath(path)) as source,
                    tempfile.NamedTemporaryFile(dir=folder, suffix=".tmp", delete=False) as target,
                ):
                    try:
                        _copy(source, target, path)
                    except BaseException:
                        Path(target.name).unlink()
                        raise
            except (OSError, EOFError, lzma.LZMAError) as error:
                raise UserError(f"cannot unpack {path} into {folder}: {error}") from None
            Path(target.name).replace(made)
    return made


def _copy(source: IO[bytes], target: IO[bytes], path: Path) -> None:
    left = RATIO * path.stat().st_size + (1 << 20)
    while block := source.read(1 << 20):
        left -= len(block)
        if left < 0:
            raise UserError(
                f"{path} is refused: it unpacks to more than {RATIO} times its size, which images cannot"
            )
        target.write(block)
