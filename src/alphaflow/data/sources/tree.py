"""A folder of images on disk, one sub-folder for each class.

Listing a million files takes long, so the listing is kept in the cache. Of a kept listing only the folders' times
of change are checked, and only folders that have changed are read again. What that cannot notice is a file that is
rewritten in place, without its folder changing.
"""

import hashlib
import os
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alphaflow.errors import UserError

from .base import Names, digest_of
from .cache import Arrays, key_of, load_index, store_index
from .classes import classes_of, in_order, is_image

_RACY = 2_000_000_000
"""Nanoseconds. A folder that changed so shortly before it was read may have changed again within the same tick of
the file system's clock, so it is read once more."""


class Tree:
    """The images below `root`: one folder a class with images at any depth below it, or all of them directly
    inside, without classes. Hidden files and folders are passed over, and so are files with other suffixes.

    Args:
        root: the folder. Links to files and folders are followed.
        labels: see `classes_of`.

    Raises:
        UserError: no such folder, no images in it, or images both beside and in class folders.
    """

    def __init__(self, root: str | os.PathLike[str], *, labels: str | None = None) -> None:
        self.root, self.address = Path(root), str(root)
        if not self.root.is_dir():
            wrong = "is not a folder" if self.root.exists() else "does not exist"
            raise UserError(
                f"image folder {self.root} {wrong}: give a folder with one sub-folder of images a class"
            )
        self._names, sizes, times = list_tree(self.root)
        self.labels, self.class_names = classes_of(self._names[:], f"image folder {self.root}", labels)
        self.digest = digest_of(self._names, sizes, self.labels, self.class_names)
        self.stamp = key_of(self.digest, hashlib.sha256(times.tobytes()).hexdigest())

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        return str(self.root / self._names[index])

    def read(self, index: int) -> bytes:
        with open(f"{self.root}/{self._names[index]}", "rb", buffering=0) as file:  # noqa: PTH123  # half the time
            return file.readall()


def list_tree(root: Path) -> tuple[Names, NDArray[np.int64], NDArray[np.int64]]:
    """The images below `root`: relative paths in order, sizes in bytes, times of change in nanoseconds. Cached."""
    kept = _Listing.load(root)
    listing = kept.refreshed() if kept else _Listing(root, {}).refreshed()
    if listing is not kept:
        listing.store()
    return listing.names, listing.sizes, listing.times


class _Listing:
    """The files of a tree by the folders that they lie in."""

    def __init__(self, root: Path, mtimes: dict[str, int]) -> None:
        self.root = root
        self.mtimes = mtimes  # folders by relative path ("" is the root); 0: to be read again
        self.names = Names(())
        self.sizes = self.times = np.zeros(0, np.int64)
        self.folder_of = np.zeros(0, np.int64)  # positions in the order of `mtimes`

    @classmethod
    def load(cls, root: Path) -> "_Listing | None":
        arrays = load_index(_key(root))
        if arrays is None or "folders" not in arrays:
            return None
        folders = Names.packed(arrays["folders"].tobytes(), arrays["folder_ends"].astype(np.int64))
        made = cls(root, dict(zip(folders, arrays["mtimes"].tolist())))
        made.names = Names.packed(arrays["names"].tobytes(), arrays["name_ends"].astype(np.int64))
        made.sizes, made.times = arrays["sizes"].astype(np.int64), arrays["times"].astype(np.int64)
        made.folder_of = arrays["folder_of"].astype(np.int64)
        return made

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
        }
        store_index(_key(self.root), arrays)

    def refreshed(self) -> "_Listing":
        """Itself, if no folder has changed; otherwise a listing in which those that have are read again."""
        stale = {path for path, mtime in self.mtimes.items() if _mtime(self.root / path) != mtime}
        if not stale and self.mtimes:
            return self
        kept = {path: mtime for path, mtime in self.mtimes.items() if path not in stale}
        waiting = [path for path in stale if (self.root / path).is_dir()] or [""] * (not self.mtimes)
        files: dict[str, list[tuple[str, int, int]]] = {}
        while waiting:
            path = waiting.pop()
            if path in kept:
                continue
            kept[path], inner, files[path] = _scan(self.root, path)
            waiting += inner
        made = _Listing(self.root, kept)
        made._fill(self, files)
        return made

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
    return f"tree {root.resolve()}"


def _returns(root: Path, path: str, link: Path) -> bool:
    """Whether a link in folder `path` leads back to a folder on the way to it: following it would never end."""
    way = [root, *(root / part for part in (Path(path), *Path(path).parents))]
    return link.resolve() in {folder.resolve() for folder in way}


def _mtime(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return -1


def _scan(root: Path, path: str) -> tuple[int, list[str], list[tuple[str, int, int]]]:
    """One folder: its time of change (0 if too recent to be trusted), its folders, and its images with their sizes
    and times of change."""
    folder = root / path
    before = folder.stat().st_mtime_ns
    mtime = before if before < time.time_ns() - _RACY else 0
    inner, files = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            relative = f"{path}/{entry.name}" if path else entry.name
            if entry.is_dir():
                if not (entry.is_symlink() and _returns(root, path, Path(entry.path))):
                    inner.append(relative)
            elif is_image(relative) and entry.is_file():
                state = entry.stat()
                files.append((relative, state.st_size, state.st_mtime_ns))
    return mtime, inner, files
