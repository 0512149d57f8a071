"""Sets in the files that their authors publish: MNIST and its like, CIFAR, small ImageNet, SVHN, STL-10.

They are known by what is in the files, not by what the set is called: each `_…_subsets` looks at the files of a
folder or an archive and returns the subsets (train, test, …) that it can read there, without reading them yet.
"""

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alphaflow.data.safe_pickles import load_plain
from alphaflow.errors import UserError, choose

from .archive import ENDINGS
from .arrays import arrays_in
from .base import Names, digest_of
from .classes import NONE, Labelled, from_values
from .held_files import HeldFiles, files_beside, files_of_archive, files_of_folder
from .splits import kind_of_file

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Content:
    """What a subset's files hold."""

    pixels: Sequence[Pixels]
    """Blocks of images, (N, H, W, 1 or 3) each."""
    labels: Mapping[str, NDArray[np.int64]]
    """Labels of all blocks together, by what they are called; the first ones are taken unless others are named."""
    class_names: Mapping[str, Sequence[str]]
    """The published names of classes 0, 1, …, by what the labels are called; those without have numbers alone."""


@dataclass(frozen=True)
class Subset:
    """A part of a published set."""

    name: str
    """Its split: "train", "test", "validation", "unlabeled"; or what its files are called."""
    files: tuple[str, ...]
    """The files that hold its images."""
    load: Callable[[], Content]


class Published:
    """The images of a subset of a published set, in memory.

    Args:
        held: the files. subset: which of them. address: what messages call the set.
        labels: which labels to take, by name; `None`: the first ones; "none" for none.
        passed_over: what else is there, in words.

    Raises:
        UserError: a file is damaged, or there are no such labels.
    """

    def __init__(
        self, held: HeldFiles, subset: Subset, *, address: str, labels: str | None, passed_over: Sequence[str]
    ) -> None:
        self.address = address
        content = subset.load()
        self._blocks = content.pixels
        self._ends = np.cumsum([len(block) for block in self._blocks])
        labelled = self._labelled(content, labels)
        self.labels, self.class_names, self.origin = labelled[:3]
        self.passed_over = (*passed_over, *labelled.passed_over)
        sizes = np.array([block.shape for block in self._blocks], np.int64)
        self.digest = digest_of(Names(subset.files), sizes, self.labels, self.class_names)
        self.stamp = f"{held.stamp}-{subset.name}"

    def __len__(self) -> int:
        return int(self._ends[-1])

    def name(self, index: int) -> str:
        return f"image {index} of {self.address}"

    def read(self, index: int) -> Pixels:
        block = int(np.searchsorted(self._ends, index, side="right"))
        return np.array(self._blocks[block][index - (int(self._ends[block - 1]) if block else 0)])

    def _labelled(self, content: Content, asked: str | None) -> Labelled:
        if asked == NONE or (not content.labels and asked is None):
            return Labelled()
        name = choose(f"labels of {self.address}", asked, content.labels) if asked else next(iter(content.labels))
        values, names = content.labels[name], tuple(content.class_names.get(name, ()))
        if len(values) != len(self):
            raise UserError(
                f"{self.address}: {len(values):,} labels in {name} for {len(self):,} images: fetch it anew"
            )
        others = [f"the labels {other} (--data.labels {other})" for other in content.labels if other != name]
        if not names:
            found = from_values(values.tolist(), self.address, name, self.name)
            return found._replace(origin=f"labels from {name}", passed_over=tuple(others))
        if len(values) and not 0 <= values.min() <= values.max() < len(names):
            raise UserError(
                f"{self.address}: {name} go from {values.min()} to {values.max()}, and {len(names)} classes have "
                "names: fetch it anew"
            )
        return Labelled(values, names, f"labels from {name}", tuple(others))


def open_published(path: Path, part: str, *, address: str, labels: str | None) -> Published | None:
    """Open a published set: a folder, an archive, or one of its files; `None` if it is none.

    Args:
        path: where it lies.
        part: the subset, such as "test"; "" for the training one where there are several.
        address: what messages call it.
        labels: which of its labels, by name; "none" for none.

    Raises:
        UserError: it is one, but damaged, or without such a part.
    """
    bare = address.rpartition("#")[0] if part else address
    if path.is_dir():
        held = files_of_folder(path)
    elif path.name.lower().endswith(ENDINGS):
        held = files_of_archive(path, bare)
    else:
        held = files_beside(path)
    subsets = _subsets(held) if held else []
    if held and path.is_file() and path.name in held.sizes:  # that one alone, with what describes it
        others = {name for subset in subsets for name in subset.files} - {path.name}
        held = held.only(held.sizes.keys() - others)
        subsets = [subset for subset in _subsets(held) if path.name in subset.files]
    if not held or not subsets:
        return None
    subset = _choose(subsets, part, bare)
    splits = [other.name for other in subsets if other is not subset]
    passed = [f"the split{'s' * (len(splits) > 1)} {', '.join(splits)}"] if splits else []
    return Published(held, subset, address=address, labels=labels, passed_over=passed)


def _subsets(held: HeldFiles) -> list[Subset]:
    kinds = (_idx_subsets, _cifar_subsets, _binary_subsets, _svhn_subsets)
    return [subset for find in kinds for subset in find(held)]


def _choose(subsets: Sequence[Subset], part: str, address: str) -> Subset:
    if part:
        name = choose(f"split of {address}", part, [subset.name for subset in subsets])
        return next(subset for subset in subsets if subset.name == name)
    if len(subsets) == 1:
        return subsets[0]
    training = [subset for subset in subsets if subset.name == "train"]
    if len(training) != 1:
        raise UserError(
            f"{address} holds several sets ({', '.join(subset.name for subset in subsets)}): give one, such as "
            f"{address}#{subsets[0].name}"
        )
    return training[0]


def _named(splits: Mapping[str, str | None]) -> dict[str, str]:
    """Return what to call subsets, from the split of each: by the split where it is one subset's alone."""
    kinds = list(splits.values())
    return {key: kind if kind and kinds.count(kind) == 1 else key for key, kind in splits.items()}


# ----------------------------------------------------------------------- IDX: MNIST, Fashion-MNIST, KMNIST, EMNIST


def _idx_subsets(held: HeldFiles) -> list[Subset]:
    """Find arrays of uint8 in IDX (yann.lecun.com/exdb/mnist): magic number, dimensions in 4 bytes each, data."""
    shapes = {}
    for name in held.sizes:
        if not re.search(r"\.(gz|idx|bin|ubyte)$|ubyte|idx[134]", name.lower()):
            continue
        head = held.head(name, 20)
        if head[:3] == b"\0\0\x08" and len(head) >= 8 and 1 <= head[3] <= 4:
            shapes[name] = tuple(int.from_bytes(head[4 + 4 * k : 8 + 4 * k], "big") for k in range(head[3]))
    pictures = {name: shape for name, shape in shapes.items() if len(shape) >= 3}
    named = _named({name: kind_of_file(name) for name in pictures})
    subsets = []
    for name, shape in pictures.items():
        fitting = [one for one, other in shapes.items() if other == shape[:1] and _goes_with(name, one)]
        labels = fitting[0] if len(fitting) == 1 else None
        subsets.append(Subset(named[name], (name,), _idx_loader(held, name, shape, labels)))
    return subsets


def _goes_with(pictures: str, labels: str) -> bool:
    """Return whether two names differ in the words for images and labels alone."""

    def stem(name: str) -> str:
        return re.sub(r"(images?|labels?|idx[0-9])", "", name.lower().removesuffix(".gz"))

    return stem(pictures) == stem(labels)


def _idx_loader(held: HeldFiles, name: str, shape: tuple[int, ...], labels: str | None) -> Callable[[], Content]:
    def load() -> Content:
        start = 4 + 4 * len(shape)
        content = held.read(name, start + math.prod(shape))
        pixels = np.frombuffer(content, np.uint8, offset=start).reshape(*shape, *([1] if len(shape) == 3 else []))
        if labels is None:
            return Content([pixels], {}, {})
        values = np.frombuffer(held.read(labels, 8 + shape[0]), np.uint8, offset=8)
        return Content([pixels], {Path(labels).name: values.astype(np.int64)}, {})

    return load


# ------------------------------------------------------------- pickled batches: CIFAR-10 and -100, small ImageNet


def _cifar_subsets(held: HeldFiles) -> list[Subset]:
    """Find batches as CIFAR's python version has them: a pickled dictionary, or an .npz, of `data`, rows of three
    planes."""
    batches: dict[str, list[str]] = {}
    for name in sorted(held.sizes, key=_by_number):
        base = Path(name).name.removesuffix(".npz")
        if _BATCH.fullmatch(base) and held.head(name, 4).startswith(_BEGINNINGS):
            kind = "validation" if base.startswith("val") else "test" if base.startswith("test") else "train"
            batches.setdefault(kind, []).append(name)
    metas = [name for name in held.sizes if Path(name).name in ("batches.meta", "meta")]
    return [Subset(kind, tuple(names), _cifar_loader(held, names, metas)) for kind, names in batches.items()]


_BEGINNINGS = (b"\x80", b"PK\3\4")  # of a pickle, and of the .npz in which small ImageNet is kept, too
_BATCH = re.compile(r"(train_|val_|test_)?(data|test)_batch(_\d+)?|train|test|val_data")


def _by_number(name: str) -> tuple[str, int]:
    digits = re.search(r"(\d+)$", name.removesuffix(".npz"))
    return (name[: digits.start()], int(digits[1])) if digits else (name, 0)


def _cifar_loader(held: HeldFiles, names: Sequence[str], metas: Sequence[str]) -> Callable[[], Content]:
    def load() -> Content:
        pixels: list[Pixels] = []
        labels: dict[str, list[NDArray[np.int64]]] = {}
        for name in names:
            batch = _unpickled(held, name)
            rows = batch.get("data")
            if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8 or rows.ndim != 2:
                raise UserError(f"{held.called(name)} holds no rows of uint8 named data: fetch it anew")
            pixels.append(_planes(rows, held.called(name)))
            for key in ("labels", "fine_labels", "coarse_labels"):
                if key in batch:
                    labels.setdefault(key, []).append(np.asarray(batch[key], np.int64))
        found = {"labels": "label_names", "fine_labels": "fine_label_names", "coarse_labels": "coarse_label_names"}
        meta = _unpickled(held, metas[0]) if metas else {}
        joined = {key: np.concatenate(values) for key, values in labels.items()}
        return Content(pixels, joined, {key: meta[name] for key, name in found.items() if name in meta})

    return load


def _unpickled(held: HeldFiles, name: str) -> dict[str, Any]:
    try:
        raw = held.read_raw(name)
        content = arrays_in(raw) if raw.startswith(b"PK") else load_plain(raw, encoding="latin1")
    except UserError as error:
        raise UserError(f"{held.called(name)}: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{held.called(name)} holds no dictionary, as CIFAR's batches do: fetch it anew")
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in content.items()}


def _planes(rows: NDArray[np.uint8], called: str) -> Pixels:
    side = math.isqrt(rows.shape[1] // 3)
    if not len(rows) or 3 * side**2 != rows.shape[1]:
        raise UserError(f"{called} has rows of {rows.shape[1]} numbers, which are no three planes of S × S")
    return rows.reshape(len(rows), 3, side, side).transpose(0, 2, 3, 1)


# ---------------------------------------------------------- records without a header: CIFAR's binaries and STL-10


def _binary_subsets(held: HeldFiles) -> list[Subset]:
    """Find records of labels and three planes of 32 × 32 (CIFAR), or of planes of 96 × 96 alone (STL-10)."""
    bins = [name for name in sorted(held.sizes, key=_by_number) if name.lower().endswith(".bin")]
    words = {Path(name).name: name for name in held.sizes}
    subsets = []
    for name in bins:
        split = re.fullmatch(r"(train|test|unlabeled)_X\.bin", Path(name).name)
        if split and held.sizes[name] % _STL == 0:
            labels = words.get(f"{split[1]}_y.bin")
            subsets.append(Subset(split[1], (name,), _stl_loader(held, name, labels, words)))
    groups: dict[tuple[str, int], list[str]] = {}
    for name in bins:
        counted = [count for count in (1, 2) if held.sizes[name] and held.sizes[name] % (count + _CIFAR) == 0]
        if len(counted) == 1 and not re.search(r"_[Xy]\.bin$", name):
            groups.setdefault((kind_of_file(name) or "train", counted[0]), []).append(name)
    for (kind, count), names in groups.items():
        subsets.append(Subset(kind, tuple(names), _record_loader(held, names, count, words)))
    return subsets


_CIFAR = 3 * 32 * 32
_STL = 3 * 96 * 96
_RECORDS = {
    1: {"labels": "batches.meta.txt"},
    2: {"fine_labels": "fine_label_names.txt", "coarse_labels": "coarse_label_names.txt"},
}
"""The files with the names of classes, by the number of labels in a record; of two the coarse one comes first."""


def _record_loader(
    held: HeldFiles, names: Sequence[str], count: int, words: Mapping[str, str]
) -> Callable[[], Content]:
    def load() -> Content:
        rows = [np.frombuffer(held.read_raw(name), np.uint8).reshape(-1, count + _CIFAR) for name in names]
        pixels = [_planes(block[:, count:], held.called(name)) for block, name in zip(rows, names)]
        columns = np.concatenate([block[:, :count] for block in rows]).astype(np.int64)
        labels = {key: columns[:, count - 1 - k] for k, key in enumerate(_RECORDS[count])}
        return Content(pixels, labels, _class_names(held, _RECORDS[count], words))

    return load


def _stl_loader(held: HeldFiles, name: str, labels: str | None, words: Mapping[str, str]) -> Callable[[], Content]:
    def load() -> Content:
        planes = np.frombuffer(held.read_raw(name), np.uint8).reshape(-1, 3, 96, 96)
        pixels = planes.transpose(0, 3, 2, 1)  # they lie by columns
        if labels is None:
            return Content([pixels], {}, {})
        values = np.frombuffer(held.read(labels, len(pixels)), np.uint8).astype(np.int64) - 1  # of 1 to 10
        return Content([pixels], {"labels": values}, _class_names(held, {"labels": "class_names.txt"}, words))

    return load


def _class_names(held: HeldFiles, files: Mapping[str, str], words: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the names of classes from files with one in each line, for those that are there."""
    there = {key: words[file] for key, file in files.items() if file in words}
    return {key: held.read_raw(name).decode("utf-8", "replace").split() for key, name in there.items()}


# ---------------------------------------------------------------------------------------------------------- SVHN


def _svhn_subsets(held: HeldFiles) -> list[Subset]:
    """Find MATLAB files of cropped digits: X, uint8 (H, W, 3, N), and y, (N, 1), where 10 stands for 0."""
    mats = [name for name in held.sizes if name.lower().endswith(".mat")]
    mats = [name for name in mats if held.head(name, 6) == b"MATLAB"]
    named = _named({name: kind_of_file(name) for name in mats})
    return [Subset(named[name], (name,), _svhn_loader(held, name)) for name in mats]


def _svhn_loader(held: HeldFiles, name: str) -> Callable[[], Content]:
    def load() -> Content:
        from scipy.io import loadmat

        try:
            arrays = loadmat(io.BytesIO(held.read_raw(name)), variable_names=("X", "y"))
            pixels, values = arrays["X"], arrays["y"].reshape(-1).astype(np.int64)
        except Exception as error:  # a damaged file makes its reader raise nearly anything
            raise UserError(f"{held.called(name)} holds no X and y, as SVHN's files do ({error})") from None
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[2] not in (1, 3):
            raise UserError(f"{held.called(name)}: X is {pixels.dtype} {pixels.shape}, not uint8 (H, W, 3, N)")
        return Content([pixels.transpose(3, 0, 1, 2)], {"y": np.where(values == 10, 0, values)}, {})

    return load
