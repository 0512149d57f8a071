"""A folder of arrays, one .npy for each class, as QuickDraw's drawings are published."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alphaflow.errors import UserError

from .arrays import Arrays
from .base import Names, digest_of
from .cache import key_of
from .classes import FOLDERS, NONE, Labelled, few, from_values, is_hidden
from .splits import split_of

_LABELS = {"labels", "label", "y", "targets"}


class ClassArrays:
    """The images of several .npy files, each of which is a class; see `Arrays` for their shapes.

    Args:
        parts: the files' images, with the class of each.
        address: what messages call the folder.
        labels: `None` or "folders": the classes; "none" for no labels.

    Raises:
        UserError: other labels are asked for.
    """

    passed_over: tuple[str, ...] = ()

    def __init__(self, parts: Sequence[tuple[str, Arrays]], *, address: str, labels: str | None) -> None:
        self.address = address
        self._parts = [part for _, part in parts]
        self._ends = np.cumsum([len(part) for part in self._parts])
        words = [word for word, part in parts for _ in range(len(part))]
        labelled = Labelled()
        if labels in (None, FOLDERS):
            labelled = from_values(words, address, "the names of the files", self.name)
        elif labels != NONE:
            raise UserError(f"{address}: the classes are the files, one each: leave --data.labels {labels} away")
        self.labels, self.class_names, self.origin = labelled[:3]
        sizes = np.array([len(part) for part in self._parts], np.int64)
        names = Names(part.address.rpartition("/")[2] for part in self._parts)
        self.digest = digest_of(names, sizes, self.labels, self.class_names)
        self.stamp = key_of(*(part.stamp for part in self._parts))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def name(self, index: int) -> str:
        return self._parts[self._part(index)].name(self._within(index))

    def read(self, index: int) -> NDArray[np.uint8]:
        return self._parts[self._part(index)].read(self._within(index))

    def _part(self, index: int) -> int:
        return int(np.searchsorted(self._ends, index, side="right"))

    def _within(self, index: int) -> int:
        part = self._part(index)
        return index - (int(self._ends[part - 1]) if part else 0)


def open_class_arrays(path: Path, part: str, *, address: str, labels: str | None) -> "ClassArrays | Arrays | None":
    """Open a folder of .npy files, or of one folder of them for each class; `None` if it holds none.

    A folder with a single .npy or .npz is that file.

    Args:
        path: the folder.
        part: an array of the only file, or nothing.
        address: what messages call it.
        labels: see `ClassArrays`, and `Arrays` for a single file.

    Raises:
        UserError: there are several .npz files, or an array holds no images.
    """
    if not path.is_dir() or (part and not _held(path)[0]):
        return None
    files, inner = _held(path)
    npy = [file for file in files if file.suffix.lower() == ".npy"]
    if len(files) == 1:
        return Arrays(files[0], part, address=address, labels=labels)
    bare = [re.sub(r"^(x|y|imgs?|images?|labels?|targets?)[-_]", "", file.stem.lower()) for file in files]
    splits = [kind for stem in bare if (kind := split_of(stem))]
    several = len(splits) == len(files) > 0 or len(set(splits)) > 1  # QuickDraw has a class called train
    if len(npy) < len(files) or several or any(file.stem.lower() in _LABELS for file in files):
        raise UserError(
            f"{address} holds several files of arrays ({few([file.name for file in files])}): give one of them, "
            f"such as {files[0]}"
        )
    if npy:
        shared = _prefix([file.stem for file in npy])
        classes = [(file.stem[len(shared) :], file) for file in npy]
        if labels is None and _are_parts(shared, [word for word, _ in classes]):
            raise UserError(
                f"{address} holds arrays that only are numbered ({few([file.name for file in npy])}), which may "
                "be classes or parts of one set: add --data.labels folders for the former, none for the latter"
            )
    else:
        within = {folder.name: _held(folder)[0] for folder in inner}
        classes = [(name, file) for name, held in within.items() for file in held if file.suffix == ".npy"]
    if not classes:
        return None
    return ClassArrays(
        [(word, Arrays(file, address=str(file), labels=NONE)) for word, file in classes],
        address=address,
        labels=labels,
    )


def _are_parts(shared: str, words: Sequence[str]) -> bool:
    """Return whether files may be parts of one set: images_000, images_001, or part1, part2; not 0, 1, …, 9."""
    numbered = all(re.fullmatch(r"(part|shard|chunk|batch|split)s?[-_]?\d+|\d+", word.lower()) for word in words)
    told = re.search(r"class|label|digit|categor", shared.lower()) is not None
    return numbered and not told and (bool(shared) or not words[0].isdigit())


def _held(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the files of arrays in a folder, and the folders."""
    with os.scandir(folder) as entries:
        shown = sorted((entry.name, entry.is_dir()) for entry in entries if not is_hidden(entry.name))
    arrays = [folder / name for name, inner in shown if not inner and name.lower().endswith((".npy", ".npz"))]
    return arrays, [folder / name for name, inner in shown if inner]


def _prefix(stems: Sequence[str]) -> str:
    """Return what all names begin with, up to a mark: full_numpy_bitmap_ of QuickDraw's."""
    first, last = min(stems), max(stems)
    same = next((k for k, (one, other) in enumerate(zip(first, last)) if one != other), min(len(first), len(last)))
    shared = first[:same]
    while shared and shared[-1].isalnum():
        shared = shared[:-1]
    return shared if all(len(stem) > len(shared) for stem in stems) else ""
