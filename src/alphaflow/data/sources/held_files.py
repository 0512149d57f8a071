"""The files of a folder or of an archive alike, by name, for sets that are published in few large files."""

import os
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from alphaflow.errors import UserError

from .archive import plain
from .archive_members import RATIO, members_of
from .cache import key_of, stamp_of
from .classes import is_hidden, is_image

MOST = 200
"""Files beyond which a folder is no such set, and is not looked at further."""
START = 1 << 16
"""Bytes that are read of a file to know it by its beginning."""
_LARGE = 1 << 28
_ALLOWED = 1 << 20  # what any file may unpack to, however well it packs


@dataclass(frozen=True)
class HeldFiles:
    """Files that can be read by name."""

    where: str
    """What messages call the place that they lie in."""
    sizes: dict[str, int]
    """Their sizes in bytes as they lie there, by their paths within the place."""
    read_raw: Callable[[str], bytes]
    """Reads one of them, as it lies there."""
    read_start: Callable[[str], bytes]
    """Reads the first `START` bytes of one of them; nothing of a large member of an archive."""
    stamp: str
    """A word that changes when the place does."""
    joint: str = "/"
    """What stands between the place and a file's path in messages."""

    def called(self, name: str) -> str:
        """Return what messages call a file."""
        return f"{self.where}{self.joint}{name}"

    def only(self, names: Iterable[str]) -> "HeldFiles":
        """Return the same place with these files alone."""
        return replace(self, sizes={name: self.sizes[name] for name in names})

    def head(self, name: str, count: int) -> bytes:
        """Return a file's first bytes, unpacked if it is packed by gzip; b"" if it is damaged there."""
        try:
            return _unpacked(self.read_start(name), count)
        except (OSError, EOFError, zlib.error):
            return b""

    def read(self, name: str, size: int) -> bytes:
        """Return a file of a size that is known, unpacked if it is packed by gzip.

        Raises:
            UserError: it has another size, or is damaged.
        """
        raw = self.read_raw(name)
        if size > max(_ALLOWED, RATIO * len(raw)):
            raise UserError(
                f"{self.called(name)} is damaged: it declares {size:,} bytes in {len(raw):,}: fetch it anew"
            )
        try:
            content = _unpacked(raw, size + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{self.called(name)} is damaged ({error}): fetch it anew") from None
        if len(content) != size:
            more = "more than " * (len(content) > size)
            raise UserError(
                f"{self.called(name)} is damaged: it should have {size:,} bytes and has {more}"
                f"{min(len(content), size):,}: fetch it anew"
            )
        return content


def _unpacked(raw: bytes, most: int) -> bytes:
    """Return the first bytes of a file, unpacked if it is packed by gzip."""
    if raw[:2] != b"\x1f\x8b":
        return raw[:most]
    unpack = zlib.decompressobj(16 + zlib.MAX_WBITS)
    content = unpack.decompress(raw, most)
    if len(content) < most and not unpack.eof:
        raise EOFError("it is cut short")
    return content


def files_of_folder(folder: Path) -> HeldFiles | None:
    """Return the files of a folder and of the folders in it, if they are few and none is an image."""
    names: list[str] = []
    for place, inner, files in os.walk(folder):
        below = Path(place).relative_to(folder)
        inner[:] = sorted(name for name in inner if not is_hidden(name)) if len(below.parts) < 2 else []
        names += [(below / name).as_posix() for name in files if not is_hidden(name)]
        if any(map(is_image, names)) or len(names) > MOST:
            return None
    return _in_folder(folder, names)


def files_beside(path: Path) -> HeldFiles | None:
    """Return a file and those beside it, whatever else lies there; `None` if there is no such file."""
    if not path.is_file():
        return None
    with os.scandir(path.parent) as entries:
        names = [entry.name for entry in entries if not is_hidden(entry.name) and not is_image(entry.name)]
    return _in_folder(path.parent, names)


def _in_folder(folder: Path, names: Iterable[str]) -> HeldFiles:
    sizes = {name: (folder / name).stat().st_size for name in names if (folder / name).is_file()}
    stamps = [stamp_of(folder / name).tolist() for name in sorted(sizes)]

    def start(name: str) -> bytes:
        with (folder / name).open("rb") as file:
            return file.read(START)

    return HeldFiles(str(folder), sizes, lambda name: (folder / name).read_bytes(), start, key_of(*stamps))


def files_of_archive(path: Path, address: str) -> HeldFiles | None:
    """Return the files of a zip or tar, if they are few and none is an image."""
    members = members_of(plain(path), None, address)
    if len(members.names) > MOST:
        return None
    names, read = members.names[:], members.opened()
    shown = {name: k for k, name in enumerate(names) if not is_hidden(name)}
    if any(map(is_image, shown)):
        return None
    sizes = {name: int(members.sizes[k]) for name, k in shown.items()}

    def start(name: str) -> bytes:
        return read(shown[name])[:START] if sizes[name] <= _LARGE else b""

    return HeldFiles(address, sizes, lambda name: read(shown[name]), start, key_of(*stamp_of(path)), joint="!")
