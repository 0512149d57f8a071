"""A zip or a tar of a class-per-folder tree, read where it lies."""

import bz2
import gzip
import lzma
import os
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

from alphaflow.errors import UserError
from alphaflow.files import beside, cache_folder, locked

from .archive_members import RATIO, Members, members_of, refuse_large
from .base import digest_of
from .cache import key_of, stamp_of
from .captions import captions_beside
from .classes import Beside, in_order, is_hidden, is_image
from .labels import is_table, labels_of, nothing_in, passed_over
from .splits import folder_meant

_PACKERS: dict[str, Callable[[str], Any]] = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}
COMPRESSED = {f".tar.{end}": end for end in _PACKERS} | {".tgz": "gz", ".tbz2": "bz2", ".txz": "xz"}
"""Endings of compressed tars, which have no random access: each is unpacked into the cache once, as a tar."""
ENDINGS = (".zip", ".tar", *COMPRESSED)


class Archive:
    """The images of a zip or a tar, compressed or not: what `Tree` would find in it when unpacked.

    A folder that holds all the images is passed over when it is named like the archive, or when all of them lie in
    folders inside it: both `zip -r photos.zip photos` and `zip -r ../photos.zip .` give the same set.

    Args:
        path: the archive.
        part: the folder to take, such as "photos/train", or its split; "" for the whole archive.
        address: what messages call the archive.
        labels: see `labels_of`.

    Raises:
        UserError: the file is no archive, has an unsafe member (see `members_of`), or holds no images.
    """

    def __init__(
        self, path: Path, part: str = "", *, address: str | None = None, labels: str | None = None
    ) -> None:
        self.address = address or str(path)
        place = self.address.rpartition("#")[0] if part else self.address
        every = members_of(plain(path), None, self.address)
        self._every, self._read_any = every, every.opened()
        part = f"{part.strip('/')}/" if part.strip("/") else ""
        names = every.names[:]
        if part and not any(name.startswith(part) for name in names):
            folders = {
                name[:k] for name in names for k in (name.find("/"), name.find("/", name.find("/") + 1)) if k > 0
            }
            part = f"{folder_meant(sorted(folders), part.rstrip('/')) or part.rstrip('/')}/"
        inside = [k for k, name in enumerate(names) if name.startswith(part)]
        pictures = [k for k in inside if is_image(names[k][len(part) :])]
        chosen = set(pictures)
        rest = [names[k][len(part) :] for k in inside if k not in chosen]
        where = f"archive {self.address}"
        if not pictures:
            raise nothing_in(where, _others(rest))
        images = every.chosen(pictures)
        if part:
            images = images.renamed([names[k][len(part) :] for k in pictures])
        refuse_large(images, self.address)
        self._members = _without_lone_folder(images, part.strip("/") or place)
        self._read = self._members.opened()
        root = part + _lost(images, self._members)
        near = [k for k in inside if k not in chosen and is_table(names[k].rpartition("/")[2])]
        tables = {names[k]: int(every.sizes[k]) for k in near if not is_hidden(names[k])}
        self._number = {
            name: k for k, name in enumerate(names) if name.lower().endswith(".json") or name in tables
        }
        self._root, self._place = root, place
        names = self._members.names[:]
        beside = Beside(
            root=root,
            notes={
                name: int(every.sizes[k])
                for name, k in self._number.items()
                if not is_hidden(name) and name not in tables
            },
            read=self._note,
            tables=tables,
            inside=lambda folder: f"{place}#{root}{folder}",
            place=lambda name: f"{place}!{name}",
        )
        labelled = labels_of(names, where, labels, beside)
        self.labels, self.class_names, self.origin = labelled[:3]
        lost = root[len(part) :]
        below = _others(name[len(lost) :] for name in rest if name.startswith(lost))
        bare = {folder[len(root) :].partition("/")[0] for folder in every.folders if folder.startswith(root)}
        self.passed_over = (*labelled.passed_over, *passed_over(names, sorted(bare), below))
        self.digest = digest_of(self._members.names, self._members.sizes, self.labels, self.class_names)
        self.stamp = key_of(self.digest, *stamp_of(path))

    def __len__(self) -> int:
        return len(self._members.names)

    def name(self, index: int) -> str:
        return f"{self.address}!{self._members.names[index]}"

    def read(self, index: int) -> bytes:
        return self._read(index)

    def captions(self) -> list[str] | None:
        """Return the captions that lie beside the images; see `captions_of`."""
        number = {name: k for k, name in enumerate(self._every.names)}

        def size(path: str) -> int | None:
            return int(self._every.sizes[number[path]]) if path in number else None

        def read(path: str) -> bytes:
            return self._read_any(number[path])

        return captions_beside(
            self._members.names[:], size, read, self._root, lambda name: f"{self._place}!{name}"
        )

    def _note(self, name: str) -> bytes:
        return self._read_any(self._number[name])


def _others(names: Iterable[str]) -> dict[str, Counter[str]]:
    """Return the endings of the files that are neither images nor notes, by the folder in the root that they lie
    in."""
    endings: dict[str, Counter[str]] = {}
    for name in names:
        if not is_image(name) and not is_hidden(name):
            folder = name.partition("/")[0] if "/" in name else ""
            endings.setdefault(folder, Counter())[os.path.splitext(name)[1].lower()] += 1  # noqa: PTH122
    return endings


def _lost(images: Members, kept: Members) -> str:
    """Return the folder that holds everything and was passed over, with a slash; "" if none was."""
    shortest = min(images.names[:], key=lambda name: name.replace("/", "\0"))
    return shortest[: len(shortest) - len(kept.names[0])]


def _without_lone_folder(members: Members, address: str) -> Members:
    """Return the members in order, without the folder that holds everything."""
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
    """Return the archive itself, or the tar that a compressed tar unpacks to, in the cache.

    Raises:
        UserError: the archive is damaged, grows more than images can, or there is no room for it.
    """
    packer = next((packer for end, packer in COMPRESSED.items() if path.name.lower().endswith(end)), None)
    return path if packer is None else unpacked_file(path, packer, ".tar")


def unpacked_file(path: Path, packer: str, ending: str) -> Path:
    """Return the file that a packed one unpacks to, in the cache; `packer` is gz, bz2 or xz.

    Raises:
        UserError: it is damaged, grows more than images can, or there is no room for it.
    """
    try:
        folder = cache_folder("unpacked") / key_of(path.resolve(), *stamp_of(path))
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): give a zip or tar of images") from None
    unpacked = folder / (path.name.partition(".")[0] + ending)
    with locked(folder / "lock"):
        if not unpacked.exists():
            try:
                with (
                    _PACKERS[packer](os.fspath(path)) as source,
                    beside(unpacked) as temporary,
                    temporary.open("wb") as target,
                ):
                    _copy(source, target, path)
            except (OSError, EOFError, lzma.LZMAError) as error:
                raise UserError(f"cannot unpack {path} into {folder}: {error}") from None
    return unpacked


def _copy(source: IO[bytes], target: IO[bytes], path: Path) -> None:
    left = RATIO * path.stat().st_size + (1 << 20)
    while block := source.read(1 << 20):
        left -= len(block)
        if left < 0:
            raise UserError(
                f"{path} is refused: it unpacks to more than {RATIO} times its size, which images cannot"
            )
        target.write(block)
