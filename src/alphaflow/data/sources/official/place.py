"""The images and the lists of a folder or an archive, and of the archives that lie in it."""

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alphaflow.errors import UserError

from ..archive import ENDINGS, plain
from ..archive_members import Members, members_of
from ..base import Names
from ..cache import key_of, stamp_of
from ..classes import in_order, is_hidden, is_image
from ..tree import list_tree

_DEPTH = 6
_FOLDERS = 16  # the most sub-folders that are looked into: where there are more, they are classes
_MOST = 512  # folders that are looked into
_IMAGES = 1 << 18  # images beside which no list is looked for
_FILES = 4096
LARGEST = 1 << 28
"""Bytes that a list may have."""
_JOINED = re.compile(
    r"(.*devkit.*|annotations|images|lists|jpg|102flowers|img_align_celeba|ILSVRC2012_img_(train|val|test)|"
    r"imagenet_object_localization.*)"
    r"\.(zip|tar|tar\.gz|tgz)",
    re.IGNORECASE,
)
"""Archives that are taken for a part of the folder that they lie in, where lists lie beside them or in one."""
BESIDE = re.compile(
    r".*devkit.*|annotations(\.tar\.gz|\.tgz|\.zip|\.tar)?|(list_.*|identity_)celeba.*|list_eval_partition\.\w+|"
    r"(imagelabels|setid|meta)\.mat|LOC_.*|ILSVRC2012_validation_ground_truth\.txt|Anno|Eval",
    re.IGNORECASE,
)
"""Lists, and folders and archives of lists, that describe an archive which they lie beside."""


class Packed:
    """An archive, as a part of a place."""

    def __init__(self, path: Path, address: str, joint: str) -> None:
        self.path, self.address, self.joint = path, address, joint
        self.members: Members = members_of(plain(path), called=address)

    @cached_property
    def read(self) -> Callable[[int], bytes]:
        """Reads one of its members by number."""
        return self.members.opened()

    @cached_property
    def images(self) -> list[tuple[str, int]]:
        return [(name, k) for k, name in enumerate(self.members.names) if is_image(name)]

    @cached_property
    def lists(self) -> list[tuple[str, int]]:
        every = ((name, k) for k, name in enumerate(self.members.names) if not is_image(name))
        return list(_bounded((name, k) for name, k in every if not is_hidden(name) and _may_be_list(name)))

    def called(self, index: int) -> str:
        return f"{self.address}{self.joint}{self.members.names[index]}"


@dataclass(frozen=True)
class Pictures:
    """Images in an order that depends on their names alone."""

    names: Names
    """Paths within the place."""
    sizes: NDArray[np.int64]
    """Bytes of each."""
    root: Path
    """The folder that they lie in, but for those in archives."""
    packs: Sequence[Packed]
    places: NDArray[np.int64]
    """(N, 2): which of the archives each is in, and which of its members it is; -1 for a file."""
    stamp: str
    """A word that changes when the files do."""

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> bytes:
        """Return one image, as it is encoded."""
        pack, member = self.places[index].tolist()
        return self.packs[pack].read(member) if pack >= 0 else (self.root / self.names[index]).read_bytes()

    def called(self, index: int) -> str:
        """Return what messages call one image."""
        pack, member = self.places[index].tolist()
        return self.packs[pack].called(member) if pack >= 0 else str(self.root / self.names[index])


class Place:
    """A folder or an archive, seen as one tree of images and lists.

    An archive within a folder stands for a folder of its name. Paths go by slashes; those of what lies beside an
    archive begin with `../`.

    Args:
        path: the folder or the archive.
        address: what messages call it.

    Raises:
        UserError: an archive is damaged or unsafe.
    """

    def __init__(self, path: Path, address: str) -> None:
        self.path, self.address = path, address
        self.unpacked: list[str] = []  # archives that are passed over for the folders beside them
        self._archives: dict[str, Packed] = {}
        self._files: dict[str, Path | tuple[Packed, int]] = {}
        self._folders: set[str] = set()
        if path.is_dir():
            self._walk(path, "")
        else:
            self._add("", Packed(path, address, "!"))
            with contextlib.suppress(OSError):  # the folder about it may be closed to us
                self._add_beside()
        self._by_name: dict[str, list[str]] = {}
        for name in self._files:
            self._by_name.setdefault(name.rpartition("/")[2].lower(), []).append(name)

    def find(self, name: str) -> list[str]:
        """Return the paths of the lists with a name, whatever its case, the least deep first."""
        return sorted(self._by_name.get(name.lower(), ()), key=lambda path: (path.count("/"), path))

    def first(self, *names: str) -> str | None:
        """Return the path of the first of several lists that is there."""
        return next((found[0] for name in names if (found := self.find(name))), None)

    def near(self, path: str, name: str) -> str | None:
        """Return the path of a list in the folder of another one, whatever its case; `None` if there is none."""
        wanted = path[: path.rfind("/") + 1] + name
        alike = self._by_name.get(name.rpartition("/")[2].lower(), ())
        return wanted if wanted in alike else next((one for one in alike if one.lower() == wanted.lower()), None)

    def called(self, name: str) -> str:
        """Return what messages call a list."""
        held = self._files[name]
        return str(held) if isinstance(held, Path) else held[0].called(held[1])

    def read(self, name: str, most: int = LARGEST) -> bytes:
        """Return the bytes of a list.

        Raises:
            UserError: it cannot be read, or is too large for what it should be.
        """
        held = self._files[name]
        size = held.stat().st_size if isinstance(held, Path) else int(held[0].members.sizes[held[1]])
        if size > most:
            raise UserError(f"{self.called(name)} is refused: {size:,} bytes are too many for such a list")
        try:
            return held.read_bytes() if isinstance(held, Path) else held[0].read(held[1])
        except OSError as error:
            raise UserError(f"cannot read {self.called(name)} ({error.strerror or error})") from None

    def lines(self, name: str) -> list[str]:
        """Return the lines of a list that hold something.

        Raises:
            UserError: it is no UTF-8 text.
        """
        try:
            text = self.read(name).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise UserError(f"{self.called(name)} is no UTF-8 text: fetch it anew") from None
        return [line.strip() for line in text.splitlines() if line.strip()]

    def maybe_lines(self, name: str) -> list[str]:
        """Return the lines of a file that need be no list; nothing of one that is none."""
        try:
            return self.lines(name)
        except UserError:
            return []

    def holds(self, folder: str) -> bool:
        """Return whether there may be a folder of this name: a quick look, before `folders` is made."""
        part = f"/{folder}/".encode()
        return any(f"/{name}/".endswith(f"/{folder}/") for name in self._folders) or any(
            part in packed.members.names.blob for packed in self._archives.values()
        )

    @cached_property
    def folders(self) -> set[str]:
        """The paths of folders: those that were looked into, and in archives all that hold images."""
        found = set(self._folders)
        for prefix, packed in self._archives.items():
            for folder in {name.rpartition("/")[0] for name, _ in packed.images}:
                parts = folder.split("/") if folder else []
                found.update(prefix + "/".join(parts[: k + 1]) for k in range(len(parts)))
        return found

    def pictures(self, base: str = "", keep: Callable[[str], bool] | None = None) -> Pictures:
        """Return the images below a folder, or all of them; or of these the ones that `keep` takes by their
        paths."""
        names: list[str] = []
        sizes: list[int] = []
        keys: list[tuple[int, int]] = []
        stamps: list[object] = []
        packs = list(self._archives.items())
        if self.path.is_dir() and (self.path / base).is_dir():
            listed = list_tree(self.path / base)
            start = f"{base.rstrip('/')}/" if base else ""
            names += [start + name for name in listed.names]
            sizes += listed.sizes.tolist()
            keys += [(-1, -1)] * len(names)
            stamps.append(hashlib.sha256(listed.times.tobytes()).hexdigest())
        for number, (prefix, packed) in enumerate(packs):
            found = [(prefix + name, k) for name, k in packed.images if (prefix + name).startswith(base)]
            names += [name for name, _ in found]
            sizes += packed.members.sizes[[k for _, k in found]].tolist()
            keys += [(number, k) for _, k in found]
            stamps += stamp_of(packed.path).tolist() if found else []
        order = [k for k in in_order(names) if keep is None or keep(names[k])]
        places = np.array([keys[k] for k in order], np.int64).reshape(-1, 2)
        return Pictures(
            Names(names[k] for k in order),
            np.array([sizes[k] for k in order], np.int64),
            self.path,
            [packed for _, packed in packs],
            places,
            key_of(*stamps),
        )

    def _walk(self, folder: Path, prefix: str, told: bool = False) -> None:
        files, inner = _scan(folder)
        for name in files:
            self._files[prefix + name] = folder / name
        told = told or any(BESIDE.fullmatch(name) for name in (*files, *inner))
        if told:
            for name in filter(_JOINED.fullmatch, files):
                packed = Packed(folder / name, str(folder / name), "!")
                if _is_unpacked(packed, folder, inner):
                    self.unpacked.append(prefix + name)
                else:
                    self._add(f"{prefix}{name}!/", packed)
        self._folders.update(prefix + name for name in inner)
        if len(inner) <= _FOLDERS and prefix.count("/") < _DEPTH and len(self._folders) < _MOST:
            for name in sorted(inner):
                self._walk(folder / name, f"{prefix}{name}/", told)

    def _add(self, prefix: str, packed: Packed) -> None:
        self._archives[prefix] = packed
        for name, k in packed.lists:
            self._files[prefix + name] = (packed, k)

    def _add_beside(self) -> None:
        """Add the lists that lie beside an archive which holds none."""
        if any(BESIDE.fullmatch(part) for name in self._files for part in name.split("/")):
            return
        files, inner = _scan(self.path.parent)
        for name in filter(BESIDE.fullmatch, files):
            path = self.path.parent / name
            if name.lower().endswith(ENDINGS) and path != self.path:
                packed = Packed(path, str(path), "!")
                self._files |= {f"../{name}!/{below}": (packed, k) for below, k in packed.lists}
            else:
                self._files[f"../{name}"] = path
        for folder in filter(BESIDE.fullmatch, inner):
            for below in ("", "data/"):  # the devkit's lists are in its folder of that name
                if (within := self.path.parent / folder / below).is_dir():
                    self._files |= {f"../{folder}/{below}{name}": within / name for name in _scan(within)[0]}


def _is_unpacked(packed: Packed, folder: Path, inner: Sequence[str]) -> bool:
    """Return whether what an archive holds lies unpacked in a folder beside it, as torchvision leaves both."""
    if not packed.images:
        return False
    name, low = packed.path.name, packed.path.name.lower()
    stem = name[: -len(next(ending for ending in sorted(ENDINGS, key=len, reverse=True) if low.endswith(ending)))]
    tops = {path.partition("/")[0] for path, _ in packed.images if "/" in path}
    meant = {stem, stem.removeprefix("ILSVRC2012_img_"), *(tops if len(tops) == 1 else ())}
    within = (folder / name for name in inner if name in meant)
    return any(is_image(file) for one in within for _, _, files in os.walk(one) for file in files)


def _may_be_list(name: str) -> bool:
    return name.lower().endswith((".txt", ".csv", ".mat", ".json", ".bin"))


def _bounded(found: Iterator[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    for count, one in enumerate(found):
        if count >= _FILES:
            return
        yield one


def _scan(folder: Path) -> tuple[list[str], list[str]]:
    """Return the files of a folder that are no images, and its folders; of one with many images, nothing."""
    files: list[str] = []
    inner: list[str] = []
    images = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_hidden(entry.name):
                continue
            if entry.is_dir():
                inner.append(entry.name)
            elif is_image(entry.name):
                images += 1
            else:
                files.append(entry.name)
            if images > _IMAGES or len(files) > _FILES:
                return [], []
    return files, inner
