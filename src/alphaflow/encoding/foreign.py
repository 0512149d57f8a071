"""Latents that others made, by number: zips and folders of files with one sample each, LMDB, and shards."""

import hashlib
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from ..data.safe_pickles import load_plain
from ..data.sources.archive_members import members_of
from ..data.sources.lmdb_images import is_lmdb, open_environment
from ..errors import UserError, choose, one_line
from .foreign_shards import Shards, own_scale, shards_in
from .forms import LABEL_KEYS, LARGEST, class_of, moments_of, parse
from .kinds import Convention
from .listing import (
    DATASET,
    SUFFIXES,
    by_dataset_json,
    by_folders,
    is_statistics,
    json_beside,
    label_files,
    label_in,
    samples_among,
)
from .plan import probe

__all__ = ["SUFFIXES", "Foreign", "moments_of", "open_foreign", "parse"]

LabelsFrom = Literal["auto", "none", "folders", "samples"]
_PROBED = 64  # samples whose bytes tell one source from another with the same names and sizes
DIT = 0.18215
"""What DiT's `extract_features.py` multiplies latents by."""
_OF_DIT = re.compile("(^|/)imagenet[0-9]*_features/")
_SIDE = 1 << 20  # bytes of a file with one label


class Foreign(Protocol):
    """A finite sequence of samples, each an array or a dictionary of arrays and numbers."""

    address: str
    digest: str
    class_names: tuple[str, ...]
    labels: NDArray[np.int64] | None
    labels_from: str
    """The place of the labels, in words."""
    owned: bool
    """Whether the samples' own labels count."""
    passed_over: str
    """Sentences about what is beside the samples and not read."""
    second: str | None
    """The second half of an array's channels in this format: logvar, std or none; `None` if that is not known."""
    multiplied: float | None
    """The factor by which this format's code multiplies latents before it stores them; `None`: none is known."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Return what a message calls a sample."""

    def read(self, index: int) -> Any:
        """Return one sample as it was written."""

    def beside(self, index: int) -> int | None:
        """Return the class that a file beside the sample gives."""

    def own_scale(self) -> tuple[Convention | None, str]:
        """Return the scale that statistics beside the samples state, and the name of their file.

        `None` and "": there are none.
        """

    def probe(self) -> str:
        """Return 16 hexadecimal digits of what some of the samples hold."""


def open_foreign(address: str, labels: str = "auto") -> Foreign:
    """Open a .zip or a folder of files with one sample each (`SUFFIXES`), an LMDB environment, or shards.

    Shards are safetensors files with many samples each; see `Shards`.

    Args:
        labels: "auto": from dataset.json, else from files beside the samples, else from the folders, else from the
            samples; "folders"; "samples" (and files beside them); or "none".

    Raises:
        UserError: nothing there that could be read; folders that are no classes; a label that is no class.
    """
    choose("labels of latents", labels, get_args(LabelsFrom), status=2)
    path = Path(address)
    if is_lmdb(path) or path.suffix == ".lmdb":
        if labels == "folders":
            raise UserError("--labels folders is for files, and this is an LMDB: samples, or none", status=2)
        return Lmdb(address, labels)
    if path.is_dir() and (shards := shards_in(path)):
        return Shards(address, shards, labels)
    if path.is_dir() or (path.suffix.lower() == ".zip" and path.is_file()):
        return Files(address, labels)
    raise UserError(f"no latents at {address}: give a folder or a zip of {', '.join(SUFFIXES)} files, or an LMDB")


class Files:
    """Files of one sample each, in a zip or below a folder. For labels see `open_foreign`."""

    def __init__(self, address: str, labels: str = "auto") -> None:
        self.address, self._zipped = address, not Path(address).is_dir()
        self._sizes, self._read, checks = _opened(Path(address))
        names, self.passed_over = samples_among(address, self._sizes, self._describe)
        pairs = label_files(names)
        of_labels = set(pairs.values())
        self._names = [name for name in names if name not in of_labels]
        self._beside = pairs or json_beside(self._names, self._sizes)
        edm = self._dataset_json() if DATASET in self._sizes else None
        self.second = "std" if edm is not None else "none" if pairs else None
        self.multiplied = DIT if pairs and all(_OF_DIT.search(name) for name in pairs) else None
        self.owned = labels in ("auto", "samples")
        self.labels: NDArray[np.int64] | None = None
        self.class_names: tuple[str, ...] = ()
        self.labels_from = "the samples" if self.owned else ""
        if labels == "auto" and edm is not None:
            self.labels, self.class_names = by_dataset_json(address, self._names, edm)
            self.labels_from = DATASET
        elif self._beside and self.owned:
            self.labels_from = "label files" if pairs else "the .json beside each"
        elif labels in ("auto", "folders"):
            self.labels, self.class_names = by_folders(address, self._names, wanted=labels == "folders")
            self.labels_from = "folders" if self.class_names else self.labels_from
        listing = [(name, self._sizes[name]) for name in self._names]
        listed = None if self.labels is None else self.labels.tolist()
        self.digest = hashlib.sha256(json.dumps([listing, listed]).encode()).hexdigest()[:16]
        self._checks = [checks[name] for name in self._names] if checks else None

    def _dataset_json(self) -> bytes:
        declared, most = self._sizes[DATASET], (1 << 20) + 256 * len(self._sizes)
        if declared > most:
            raise UserError(f"{self.address}: {DATASET} takes {declared} bytes, too many for {len(self)} labels")
        try:
            return self._read(DATASET)
        except OSError as error:
            raise UserError(f"{self.address}: cannot read {DATASET} ({error.strerror or error})") from None

    def _describe(self, name: str) -> str:
        """Return in words the tensors of a safetensors file."""
        if self._zipped or not name.lower().endswith(".safetensors"):
            return "many samples"
        with (Path(self.address) / name).open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            try:
                head = json.loads(file.read(min(length, _SIDE)))
                tensors = {key: entry["shape"] for key, entry in head.items() if key != "__metadata__"}
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                return "no readable head"
        return ", ".join(f"{key} {shape}" for key, shape in list(tensors.items())[:4])

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        return f"{self.address}{'!' if self._zipped else '/'}{self._names[index]}"

    def read(self, index: int) -> Any:
        return self._parsed(self._names[index], LARGEST)

    def beside(self, index: int) -> int | None:
        side = self._beside.get(self._names[index]) if self.owned else None
        if side is None:
            return None
        if not side.endswith(".json"):
            return class_of(label_in(self._parsed(side, _SIDE), LABEL_KEYS))
        self._check_size(side, _SIDE)
        try:
            return class_of(label_in(json.loads(self._read(side)), LABEL_KEYS) if side else None)
        except (ValueError, RecursionError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"its {side} cannot be read ({one_line(error, 80)})") from None

    def own_scale(self) -> tuple[Convention | None, str]:
        alone = [name for name in sorted(self._sizes) if "/" not in name and is_statistics(name)]
        figures = [name for name in alone if name.lower().endswith(SUFFIXES) and name not in self._names]
        return own_scale(self.address, ((name, partial(self._read, name)) for name in figures))

    def probe(self) -> str:
        if self._checks is not None:  # a zip tells of all its members
            return hashlib.sha256(repr(self._checks).encode()).hexdigest()[:16]
        return probe(len(self), lambda index: self._read(self._names[index]), _PROBED)

    def _parsed(self, name: str, most: int) -> Any:
        self._check_size(name, most)
        return parse(self._read(name), Path(name).suffix.lower())

    def _check_size(self, name: str, most: int) -> None:
        if self._sizes[name] > most:
            raise UserError(f"{name} takes {self._sizes[name]} bytes, too many for a sample")


def _opened(path: Path) -> tuple[dict[str, int], Callable[[str], bytes], dict[str, int]]:
    """Return the sizes of the files of a folder or a zip, a function that reads one, and the checksums that a zip
    has."""
    if path.is_dir():
        files = (file for file in path.rglob("*") if file.is_file())
        sizes = {file.relative_to(path).as_posix(): file.stat().st_size for file in files}
        return sizes, lambda name: (path / name).read_bytes(), {}
    members = members_of(path)
    names, reader = list(members.names), members.opened()
    numbers = {name: k for k, name in enumerate(names)}
    sizes = dict(zip(names, members.sizes.tolist()))
    return sizes, lambda name: reader(numbers[name]), dict(zip(names, members.checks.tolist()))


class Lmdb:
    """An LMDB whose entry `num_samples` counts the samples, and whose entries `0`, `1`, … hold a pickle each."""

    second: str | None = None
    multiplied: float | None = None
    class_names: tuple[str, ...] = ()
    labels: NDArray[np.int64] | None = None
    passed_over = ""

    def __init__(self, address: str, labels: str = "auto") -> None:
        self.address, self.owned = address, labels != "none"
        self.labels_from = "the samples" if self.owned else ""
        self._env = open_environment(Path(address), address)
        entries, pages = self._env.stat()["entries"], self._env.info()["last_pgno"]
        with self._env.begin() as transaction:
            stored = transaction.get(b"num_samples") or b""
        self._count = int(stored) if stored.isdigit() else 0
        if not 0 < self._count <= entries:
            raise UserError(
                f"cannot read {address} as an LMDB with an entry num_samples (it is {stored[:20]!r}, of "
                f"{entries} entries)"
            )
        about = [self._count, entries, pages]
        self.digest = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return self._count

    def name(self, index: int) -> str:
        return f"{self.address}, entry {index}"

    def read(self, index: int) -> Any:
        data = self._bytes(index)
        if data is None:
            raise UserError("there is no such entry")
        if len(data) > LARGEST:
            raise UserError(f"it takes {len(data)} bytes, too many for a sample")
        return load_plain(data)

    def beside(self, index: int) -> int | None:
        return None

    def own_scale(self) -> tuple[Convention | None, str]:
        return None, ""

    def probe(self) -> str:
        return probe(len(self), self._bytes, _PROBED)

    def _bytes(self, index: int) -> bytes | None:
        with self._env.begin() as transaction:
            return transaction.get(str(index).encode())
