"""A folder of images on disk, one sub-folder for each class.

Listing a million files takes long, so the listing is kept in the cache. Of a kept listing only the folders' times
of change are checked, and only folders that have changed are read again. A file that is rewritten in place,
without its folder changing, is not noticed.
"""

import hashlib
import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alphaflow.errors import UserError

from .base import SUFFIXES, Names, digest_of
from .cache import Arrays, key_of, load_index, store_index
from .captions import captions_beside
from .classes import Beside, in_order, is_hidden, is_image
from .labels import TABLES, labels_of, nothing_in, passed_over, unread
from .notes import holding
from .splits import split_of
from .words import READABLE

_RACY = 2_000_000_000
"""Nanoseconds. A folder that changed so shortly before it was read may have changed again within the same tick of
the file system's clock, so it is read once more.
"""


class Tree:
    """The images below `root`: one folder a class with images at any depth below it, or all of them directly
    inside, without classes. Hidden files and folders are passed over, and so are files with other suffixes.

    Args:
        root: the folder. Links to files and folders are followed.
        labels: see `labels_of`.

    Raises:
        UserError: there is no such folder, it holds no images, or images lie both beside and in class folders.
    """

    def __init__(self, root: str | os.PathLike[str], *, labels: str | None = None) -> None:
        self.root, self.address = Path(root), str(root)
        if not self.root.is_dir():
            wrong = "is of no kind that can be read" if self.root.exists() else "does not exist"
            raise UserError(f"{self.root} {wrong}: give {READABLE}")
        listed = list_tree(self.root)
        self._names, where = listed.names, f"image folder {self.root}"
        others = listed.others_by_folder()
        if not len(self._names):
            raise nothing_in(where, others)
        names = self._names[:]
        near = [self.root / f"{folder}{name}" for folder in set(holding(names)) for name in TABLES]
        tables = {file.relative_to(self.root).as_posix(): file.stat().st_size for file in near if file.is_file()}
        beside = Beside(
            notes=listed.notes, read=self._note, tables=tables, inside=self._inside, place=self._inside
        )
        labelled = labels_of(names, where, labels, beside)
        self.labels, self.class_names, self.origin = labelled[:3]
        folders = [folder for folder in listed.folders if folder and "/" not in folder]
        above = self._tables_above() if labels is None and self.labels is None and not self.origin else ()
        self.passed_over = (*labelled.passed_over, *above, *passed_over(names, folders, others))
        self.digest = digest_of(self._names, listed.sizes, self.labels, self.class_names)
        self.stamp = key_of(self.digest, hashlib.sha256(listed.times.tobytes()).hexdigest())

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        return str(self.root / self._names[index])

    def read(self, index: int) -> bytes:
        with open(f"{self.root}/{self._names[index]}", "rb", buffering=0) as file:  # noqa: PTH123  # half the time
            return file.readall()

    def captions(self) -> list[str] | None:
        """Return the captions that lie beside the images; see `captions_of`."""

        def size(path: str) -> int | None:
            file = self.root / path
            return file.stat().st_size if file.is_file() else None

        return captions_beside(self._names[:], size, self._note, called=self._inside)

    def _tables_above(self) -> tuple[str, ...]:
        """Return what to say of tables of labels that lie beside the folder, if it is a split."""
        place = self.root.absolute()
        if not split_of(place.name):
            return ()
        return tuple(unread(str(file)) for name in TABLES if (file := self.root.parent / name).is_file())

    def _inside(self, path: str) -> str:
        return str(self.root / path)

    def _note(self, path: str) -> bytes:
        return (self.root / path).read_bytes()


class Listed(NamedTuple):
    """What lies below a folder."""

    names: Names
    """Relative paths of the images, in order."""
    sizes: NDArray[np.int64]
    """Bytes of each image."""
    times: NDArray[np.int64]
    """Time of change of each image, in nanoseconds."""
    notes: dict[str, int]
    """Bytes of each .json file, by its relative path."""
    folders: list[str]
    """Relative paths of the folders; "" is the root."""
    others: dict[str, dict[str, int]]
    """How many files of each ending a folder holds that are neither images nor .json."""

    def others_by_folder(self) -> dict[str, Counter[str]]:
        """Return `others` for each folder in the root, with all below it."""
        counted: dict[str, Counter[str]] = {}
        for folder, endings in self.others.items():
            counted.setdefault(folder.partition("/")[0], Counter()).update(endings)
        return counted


def list_tree(root: Path) -> Listed:
    """Return the images below `root`, and what lies beside them, from the cache where that is fresh."""
    kept = _Listing.load(root)
    listing = kept.refreshed() if kept else _Listing(root, {}).refreshed()
    if listing is not kept:
        listing.store()
    rows = [True]
    if b".json" in listing.names.blob.lower():
        rows = [is_image(name) for name in listing.names]
    if all(rows):
        names, sizes, times, notes = listing.names, listing.sizes, listing.times, {}
    else:
        which = np.array(rows, bool)
        names = Names(name for name, chosen in zip(listing.names, rows) if chosen)
        sizes, times = listing.sizes[which], listing.times[which]
        notes = {
            name: size for name, size, chosen in zip(listing.names, listing.sizes.tolist(), rows) if not chosen
        }
    return Listed(names, sizes, times, notes, list(listing.mtimes), listing.others)


class _Listing:
    """The images and .json files of a tree by the folders that they lie in; other files are counted by endings."""

    def __init__(self, root: Path, mtimes: dict[str, int]) -> None:
        self.root = root
        self.mtimes = mtimes  # folders by relative path ("" is the root); 0: to be read again
        self.names = Names(())
        self.sizes = self.times = np.zeros(0, np.int64)
        self.folder_of = np.zeros(0, np.int64)  # positions in the order of `mtimes`
        self.others: dict[str, dict[str, int]] = {}

    @classmethod
    def load(cls, root: Path) -> "_Listing | None":
        arrays = load_index(_key(root))
        if arrays is None or "folders" not in arrays:
            return None
        folders = Names.packed(arrays["folders"].tobytes(), arrays["folder_ends"].astype(np.int64))
        listing = cls(root, dict(zip(folders, arrays["mtimes"].tolist())))
        listing.names = Names.packed(arrays["names"].tobytes(), arrays["name_ends"].astype(np.int64))
        listing.sizes, listing.times = arrays["sizes"].astype(np.int64), arrays["times"].astype(np.int64)
        listing.folder_of = arrays["folder_of"].astype(np.int64)
        listing.others = json.loads(arrays["others"].tobytes())
        return listing

    def store(self) -> None:
        folders = Names(self.mtimes)
        arrays: Arrays = {
            "folders": np.frombuffer(folders.blob, np.uint8),
            "folder_ends": folders.ends,
            "mtimes": np.array(list(self.mtimes.values()), np.int64),
            "names": np.frombuffer(self.names.blob, np.uint8),
            "name_ends": self.names.ends,
            "sizes": self.sizes,
            "times": self.times,
            "folder_of": self.folder_of,
            "others": np.frombuffer(json.dumps(self.others).encode(), np.uint8),
        }
        store_index(_key(self.root), arrays)

    def refreshed(self) -> "_Listing":
        """Return the listing itself if no folder has changed, else one in which those that have are read again."""
        stale = {path for path, mtime in self.mtimes.items() if _mtime(self.root / path) != mtime}
        if not stale and self.mtimes:
            return self
        kept = {path: mtime for path, mtime in self.mtimes.items() if path not in stale}
        waiting = [path for path in stale if (self.root / path).is_dir()] or [""] * (not self.mtimes)
        files: dict[str, list[tuple[str, int, int]]] = {}
        others: dict[str, dict[str, int]] = {}
        while waiting:
            path = waiting.pop()
            if path in kept:
                continue
            kept[path], inner, files[path], others[path] = _scan(self.root, path)
            waiting += inner
        listing = _Listing(self.root, kept)
        listing._fill(self, files)
        listing.others = {
            path: found for path, found in {**self.others, **others}.items() if found and path in kept
        }
        return listing

    def _fill(self, old: "_Listing", files: dict[str, list[tuple[str, int, int]]]) -> None:
        number = {path: k for k, path in enumerate(self.mtimes)}
        folders = list(old.mtimes)
        kept = [folders[k] in number and folders[k] not in files for k in range(len(folders))]
        old_rows = zip(old.names, old.sizes.tolist(), old.times.tolist(), old.folder_of.tolist())
        rows = [(*row[:3], number[folders[row[3]]]) for row in old_rows if kept[row[3]]]
        rows += [(*file, number[path]) for path, found in files.items() for file in found]
        order = in_order([row[0] for row in rows])
        self.names = Names(rows[k][0] for k in order)
        numbers = np.array([row[1:] for row in rows], np.int64).reshape(-1, 3)[order]
        self.sizes, self.times, self.folder_of = numbers.T.copy()


def _key(root: Path) -> str:
    return f"tree 3 {root.resolve()}"


def _returns(root: Path, path: str, link: Path) -> bool:
    """Return whether a link in folder `path` leads back to a folder on the way to it: following it would never
    end."""
    way = [root, *(root / part for part in (Path(path), *Path(path).parents))]
    return link.resolve() in {folder.resolve() for folder in way}


def _mtime(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return -1


def _scan(root: Path, path: str) -> tuple[int, list[str], list[tuple[str, int, int]], dict[str, int]]:
    """Read one folder: its time of change (0 if too recent to be trusted), its folders, its images and .json files
    with their sizes and times of change, and how many other files have each ending.
    """
    folder = root / path
    before = folder.stat().st_mtime_ns
    mtime = before if before < time.time_ns() - _RACY else 0
    inner, files = [], []
    others: Counter[str] = Counter()
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_hidden(entry.name):
                continue
            relative = f"{path}/{entry.name}" if path else entry.name
            if entry.is_dir():
                if not (entry.is_symlink() and _returns(root, path, Path(entry.path))):
                    inner.append(relative)
            elif entry.is_file():
                ending = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122  # for each of a million files
                if ending in SUFFIXES or ending == ".json":
                    state = entry.stat()
                    files.append((relative, state.st_size, state.st_mtime_ns))
                else:
                    others[ending] += 1
    return mtime, inner, files, dict(others)
