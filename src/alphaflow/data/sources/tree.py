"""A folder of images on disk, one sub-folder for each class."""

import os
from pathlib import Path

import numpy as np

from alphaflow.errors import UserError

from .base import Names, digest_of
from .classes import by_folder, in_order, is_image


class Tree:
    """The images below `root`: one folder a class with images at any depth below it, or all of them directly
    inside, without classes. Hidden files and folders are passed over, and so are files with other suffixes.

    Raises:
        UserError: no such folder, no images in it, or images both beside and in class folders.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root, self.address = Path(root), str(root)
        if not self.root.is_dir():
            wrong = "is not a folder" if self.root.exists() else "does not exist"
            raise UserError(
                f"image folder {self.root} {wrong}: give a folder with one sub-folder of images a class"
            )
        paths, sizes = _walk(self.root)
        order = in_order(paths)
        paths = [paths[k] for k in order]
        self.labels, self.class_names = by_folder(paths, f"image folder {self.root}")
        self._names = Names(paths)
        self.digest = digest_of(self._names, np.array(sizes, np.int64)[order], self.labels, self.class_names)

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        return str(self.root / self._names[index])

    def read(self, index: int) -> bytes:
        return (self.root / self._names[index]).read_bytes()


def _walk(root: Path) -> tuple[list[str], list[int]]:
    paths, sizes = [], []
    for folder, inner, files in os.walk(root):
        inner[:] = [name for name in inner if not name.startswith(".")]
        below = Path(folder).relative_to(root).as_posix()
        for name in files:
            path = name if below == "." else f"{below}/{name}"
            if is_image(path):
                paths.append(path)
                sizes.append((root / path).stat().st_size)
    return paths, sizes
