"""The members of zip and tar archives: found without unpacking, refused when unsafe, read at random.

Nothing is ever written to where a member's name points, so a hostile name could do no harm here. It is refused
all the same: whoever unpacks the same archive elsewhere is harmed, and a link would read what the archive's
maker chose.
"""

import os
import stat
import struct
import tarfile
import weakref
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from alphaflow.errors import UserError

from .base import SUFFIXES, Names
from .cache import Arrays, load_index, stamp_of, store_index

LARGEST = 1 << 28
"""Bytes that one encoded image may take."""
RATIO = 200
"""How many times a member may grow when unpacked; images are compressed already, so that 1 is usual."""
_ALLOWED = 1 << 20  # what any member may grow to, however well it packs
_RECENT: "weakref.WeakValueDictionary[str, Members]" = weakref.WeakValueDictionary()
"""The members of archives that are in use, by path and stamp: an archive is looked at in several ways."""
_LOCAL = struct.Struct("<4s5H3I2H")  # a zip member's own header


@dataclass(frozen=True)
class Members:
    """The regular files of an archive in its order, and how to read them."""

    path: Path
    names: Names
    """Relative paths with slashes."""
    offsets: NDArray[np.int64]
    """In a tar, where a member's bytes begin; in a zip, where its header does."""
    sizes: NDArray[np.int64]
    """Bytes of each member when unpacked."""
    packed: NDArray[np.int64]
    """In a zip, bytes of each member when packed; -1 for members that are stored as they are."""
    checks: NDArray[np.int64]
    """In a zip, CRC-32 of each member; -1 in a tar."""
    folders: tuple[str, ...] = ()
    """Relative paths of the folders that the archive names, empty ones among them."""

    def chosen(self, which: Sequence[int]) -> "Members":
        """Return the members of these numbers, in that order."""
        rows, names = np.array(which, np.int64), self.names[:]
        offsets, sizes, packed, checks = (
            column[rows] for column in (self.offsets, self.sizes, self.packed, self.checks)
        )
        chosen = Names(names[k] for k in which)
        return Members(self.path, chosen, offsets, sizes, packed, checks, self.folders)

    def renamed(self, names: Sequence[str]) -> "Members":
        """Return the same members by other names."""
        return replace(self, names=Names(names))

    def opened(self) -> Callable[[int], bytes]:
        """Return a function that reads one member by number, from any number of threads.

        It raises an `OSError` where the archive does not hold what its table says.
        """
        read, fd = self._read_zip if is_zip(self.path) else self._read_tar, os.open(self.path, os.O_RDONLY)

        def reader(index: int) -> bytes:
            return read(fd, index)

        weakref.finalize(reader, os.close, fd)
        return reader

    def _read_tar(self, fd: int, index: int) -> bytes:
        size = int(self.sizes[index])
        data = os.pread(fd, size, int(self.offsets[index]))
        if len(data) != size:
            raise OSError("the archive is truncated")
        return data

    def _read_zip(self, fd: int, index: int) -> bytes:
        offset, size, packed = int(self.offsets[index]), int(self.sizes[index]), int(self.packed[index])
        header = os.pread(fd, _LOCAL.size, offset)
        if len(header) < _LOCAL.size or header[:4] != b"PK\3\4":
            raise OSError("the archive is damaged: no member where its table says")
        *_, name, extra = _LOCAL.unpack(header)
        data = os.pread(fd, size if packed < 0 else packed, offset + _LOCAL.size + name + extra)
        if packed >= 0:
            try:
                data = zlib.decompressobj(-15).decompress(data, size + 1)
            except zlib.error as error:
                raise OSError(f"the archive is damaged: {error}") from None
        if len(data) > size:
            raise OSError(f"it unpacks to more than the {size} bytes that it declares")
        if len(data) < size or zlib.crc32(data) != int(self.checks[index]):
            raise OSError("the archive is damaged: its bytes do not match their checksum")
        return data


def is_zip(path: Path) -> bool:
    """Return whether a file's name is that of a zip."""
    return path.suffix.lower() in (".zip", ".npz")


def members_of(path: Path, keep: Callable[[str], bool] | None = None, called: str | None = None) -> Members:
    """Find the regular files of a zip or an uncompressed tar. The list of a tar is kept in the cache.

    Args:
        path: the archive.
        keep: which members are wanted, by name. The others are checked for safety all the same.
        called: what messages call the archive; `None`: its path.

    Raises:
        UserError: the file is missing, no archive or damaged, or has an unsafe member, which is named.
    """
    called = called or str(path)
    try:
        key, stamp = f"members 3 {path.resolve()}", stamp_of(path)
        recent = f"{key} {stamp.tolist()}"
        known = _RECENT.get(recent)
        if known is not None:
            members = known
        elif is_zip(path):
            members = _zip_members(path, called)
        else:
            arrays = load_index(key, stamp)
            members = _from_arrays(path, arrays) if arrays else _tar_members(path, called)
            if arrays is None:
                store_index(key, {"stamp": stamp, **_to_arrays(members)})
        _RECENT[recent] = members
    except OSError as error:
        raise UserError(f"cannot read {called} ({error.strerror or error}): give a zip or tar of images") from None
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{called} is no whole archive ({error}): fetch or pack it anew") from None
    if keep is None:
        return members
    kept = members.chosen([k for k, name in enumerate(members.names) if keep(name)])
    refuse_large(kept, called)
    return kept


def refuse_large(members: Members, called: str) -> None:
    """Raise a `UserError` if one of the members declares more bytes than an image can have."""
    if len(members.names) and members.sizes.max() > LARGEST:
        large = int(members.sizes.argmax())
        raise _refused(
            called, members.names[large], f"it declares {members.sizes[large]} bytes, too many for an image"
        )


def _build(
    path: Path, called: str, rows: Iterable[tuple[str, int, int, int, int]], folders: Iterable[str]
) -> Members:
    table = list(rows)
    names = [row[0] for row in table]
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise UserError(f"{called}!{twice} is there twice: pack the archive anew")
    numbers = np.array([row[1:] for row in table], np.int64).reshape(-1, 4)
    offsets, sizes, packed, checks = numbers.T.copy()
    return Members(path, Names(names), offsets, sizes, packed, checks, tuple(folders))


def _checked(called: str, name: str) -> str:
    """Return the member's name in the form a/b/c; raise a `UserError` if it leads out of the archive."""
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or (len(name) > 1 and name[1] == ":") or ".." in parts or "\0" in name:
        raise _refused(called, name, "its name leads out of the archive")
    return "/".join(part for part in parts if part not in ("", "."))  # Windows' own packers write backslashes


def _refused(called: str, name: str, why: str) -> UserError:
    return UserError(f"{called}!{name} is refused: {why}; pack the archive anew without it")


def _zip_members(path: Path, called: str) -> Members:
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        start = archive.start_dir
    rows, folders = [], []
    for info in infos:
        name = _checked(called, info.filename)
        kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system == 3 else 0
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _refused(called, info.filename, "it is a link or a device")
        if info.is_dir() or info.filename.endswith("\\"):
            folders.append(name)
            continue
        if info.flag_bits & 1:
            raise _refused(called, info.filename, "it is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _refused(called, info.filename, "it is packed with neither deflate nor nothing")
        stored = info.compress_type == zipfile.ZIP_STORED
        if stored and info.file_size != info.compress_size:
            raise _refused(called, info.filename, "it is stored as it is, but declares two sizes")
        if info.file_size > max(_ALLOWED, RATIO * info.compress_size):
            raise _refused(called, info.filename, f"it declares {info.file_size} bytes in {info.compress_size}")
        rows.append((name, info.header_offset, info.file_size, -1 if stored else info.compress_size, info.CRC))
    _refuse_overlaps(called, infos, start)
    return _build(path, called, rows, folders)


def _refuse_overlaps(called: str, infos: list[zipfile.ZipInfo], start: int) -> None:
    """Refuse members that share bytes: so a small file unpacks to a vast one without any member that looks it."""
    infos = sorted(infos, key=lambda info: info.header_offset)
    for info, end in zip(infos, [*(later.header_offset for later in infos[1:]), start]):
        if info.header_offset + _LOCAL.size + info.compress_size > end:
            raise _refused(called, info.filename, "it overlaps another member")


def _tar_members(path: Path, called: str) -> Members:
    """List a tar. Without images of its own, as ImageNet's is, tars within it stand for folders of their names."""
    with path.open("rb") as file:
        rows, folders = _listed(file, 0, path.stat().st_size, called)
        flat, images = [], any(row[0].lower().endswith(SUFFIXES) for row in rows)
        for row in rows:
            if row[0].lower().endswith(".tar") and not images:
                inner, below = _listed(file, row[1], row[2], f"{called}!{row[0]}", f"{row[0][:-4]}/")
                flat += inner
                folders += below
            else:
                flat.append(row)
    return _build(path, called, flat, folders)


_Row = tuple[str, int, int, int, int]


def _listed(
    file: IO[bytes], start: int, length: int, called: str, prefix: str = ""
) -> tuple[list[_Row], list[str]]:
    """Return the regular files and the folders of a tar that takes these bytes of a file."""
    rows: list[_Row] = []
    folders: list[str] = []
    end = start
    file.seek(start)
    with tarfile.open(fileobj=file, mode="r:") as archive:
        while end < start + length and (member := archive.next()) is not None:
            name = prefix + _checked(called, member.name)
            if not (member.isreg() or member.isdir()) or member.issparse():
                raise _refused(called, member.name, "it is a link, a device or a sparse file")
            if member.isreg():
                rows.append((name, member.offset_data, member.size, -1, -1))
            else:
                folders.append(name)
            end = member.offset_data + (member.size if member.isreg() else 0)
            archive.members = []  # type: ignore[attr-defined]  # else tarfile keeps them all
    last = start + -(-(end - start) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    file.seek(last)
    mark = file.read(tarfile.BLOCKSIZE)  # a tar ends in blocks of zeros
    if end > start + length or mark != bytes(tarfile.BLOCKSIZE):
        raise UserError(f"{called} is damaged or cut after byte {min(end - start, length)}: fetch or pack it anew")
    return rows, folders


def _to_arrays(members: Members) -> Arrays:
    return {
        "names": np.frombuffer(members.names.blob, np.uint8),
        "ends": members.names.ends,
        "offsets": members.offsets,
        "sizes": members.sizes,
        "folders": np.frombuffer("\0".join(members.folders).encode("utf-8", "surrogateescape"), np.uint8),
    }


def _from_arrays(path: Path, arrays: Arrays) -> Members:
    names = Names.packed(arrays["names"].tobytes(), arrays["ends"].astype(np.int64))
    nothing = np.full(len(names), -1, np.int64)
    offsets, sizes = arrays["offsets"].astype(np.int64), arrays["sizes"].astype(np.int64)
    folders = arrays["folders"].tobytes().decode("utf-8", "surrogateescape")
    return Members(path, names, offsets, sizes, nothing, nothing, tuple(filter(None, folders.split("\0"))))
