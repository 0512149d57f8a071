"""Latents that others made, by number: zips and folders of files with one sample each, and LMDB."""

import hashlib
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import UserError
from ..interop.pickles import load_plain

SUFFIXES = (".npy", ".npz", ".pt", ".pth", ".pkl", ".pickle")


class Foreign(Protocol):
    """A finite sequence of samples, each an array or a dictionary of arrays and numbers."""

    address: str
    digest: str
    class_names: tuple[str, ...]
    labels: NDArray[np.int64] | None
    second: str | None
    """What the second half of the channels is in this format, if that is known."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What to call a sample in a message."""

    def read(self, index: int) -> Any:
        """One sample as it was written."""


def open_foreign(address: str) -> Foreign:
    """Open a .zip or a folder of files with one sample each (`SUFFIXES`), or an LMDB environment.

    Raises:
        UserError: nothing there that could be read.
    """
    path = Path(address)
    if (path / "data.mdb").is_file() or path.suffix == ".lmdb":
        return Lmdb(address)
    if path.suffix.lower() == ".zip" and path.is_file():
        return Files(address, zipfile.ZipFile(path))
    if path.is_dir():
        return Files(address)
    raise UserError(f"no latents at {address}: give a folder or a zip of {', '.join(SUFFIXES)} files, or an LMDB")


class Files:
    """One file a sample: in a zip, or below a folder. Labels come from `dataset.json`, as EDM writes it, or from
    the first folders; else from the samples themselves."""

    def __init__(self, address: str, archive: zipfile.ZipFile | None = None) -> None:
        self.address, self._zip, self._root = address, archive, Path(address)
        if archive is not None:
            sizes = {item.filename: item.file_size for item in archive.infolist() if not item.is_dir()}
        else:
            found = (path for path in self._root.rglob("*") if path.is_file())
            sizes = {path.relative_to(self._root).as_posix(): path.stat().st_size for path in found}
        self._names = sorted(name for name in sizes if name.lower().endswith(SUFFIXES))
        if not self._names:
            raise UserError(f"{address} holds no {', '.join(SUFFIXES)} files")
        edm = json.loads(self._bytes("dataset.json")) if "dataset.json" in sizes else None
        self.second = "std" if edm is not None else None
        self.class_names, self.labels = self._classes(edm)
        listing = [(name, sizes[name]) for name in self._names]
        labels = None if self.labels is None else self.labels.tolist()
        self.digest = hashlib.sha256(json.dumps([listing, labels]).encode()).hexdigest()[:16]

    def _classes(self, edm: Any) -> tuple[tuple[str, ...], NDArray[np.int64] | None]:
        if edm is not None and edm.get("labels"):
            by_name = dict(edm["labels"])
            missing = next((name for name in self._names if name not in by_name), None)
            if missing:
                raise UserError(f"{self.address}: dataset.json has no label for {missing}")
            labels = np.array([by_name[name] for name in self._names], np.int64)
            return numbered(int(labels.max())), labels
        firsts = [name.split("/")[0] if "/" in name else None for name in self._names]
        if edm is not None or None in firsts:
            return (), None
        names = sorted({first for first in firsts if first is not None})
        return tuple(names), np.array([names.index(first) for first in firsts], np.int64)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        return f"{self.address}{'!' if self._zip else '/'}{self._names[index]}"

    def read(self, index: int) -> Any:
        return parse(self._bytes(self._names[index]), Path(self._names[index]).suffix.lower())

    def _bytes(self, name: str) -> bytes:
        return self._zip.read(name) if self._zip is not None else (self._root / name).read_bytes()


class Lmdb:
    """An LMDB whose entry `num_samples` counts the samples, and whose entries `0`, `1`, … hold a pickle each."""

    second: str | None = None
    class_names: tuple[str, ...] = ()
    labels: NDArray[np.int64] | None = None

    def __init__(self, address: str) -> None:
        try:
            import lmdb
        except ImportError:
            raise UserError("LMDB needs its package: pip install 'alphaflow[lmdb]'") from None
        self.address = address
        try:
            self._env = lmdb.open(
                address, readonly=True, lock=False, readahead=False, subdir=Path(address).is_dir()
            )
            with self._env.begin() as transaction:
                self._count = int(transaction.get(b"num_samples") or b"")
        except (lmdb.Error, TypeError, ValueError) as error:
            raise UserError(f"cannot read {address} as an LMDB with an entry num_samples ({error})") from None
        about = [self._count, self._env.stat()["entries"], self._env.info()["last_pgno"]]
        self.digest = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return self._count

    def name(self, index: int) -> str:
        return f"{self.address}, entry {index}"

    def read(self, index: int) -> Any:
        with self._env.begin() as transaction:
            data = transaction.get(str(index).encode())
        if data is None:
            raise UserError("there is no such entry")
        return load_plain(data)


def parse(data: bytes, suffix: str) -> Any:
    """What a file of one sample holds. Nothing in it is executed.

    Raises:
        UserError: it is damaged, or holds more than arrays and plain values.
    """
    if suffix in (".pkl", ".pickle"):
        return load_plain(data)
    try:
        if suffix == ".npy":
            return np.load(io.BytesIO(data), allow_pickle=False)
        if suffix == ".npz":
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                return dict(arrays)
        return torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except Exception as error:  # damaged files can make a reader raise nearly anything
        raise UserError(f"cannot be read ({' '.join(str(error).split())[:120]})") from None


def numbered(last: int) -> tuple[str, ...]:
    """Names of classes 0 … last that have none."""
    return tuple(map(str, range(last + 1)))


class Sample(NamedTuple):
    """One sample of foreign latents, as it is stored."""

    moments: NDArray[np.float32]
    """(V, 2C, h, w): means and log-variances; (V, C, h, w) without variance"""
    variance: bool
    label: int | None


def moments_of(sample: Any, second: str | None, multiplied: float = 1.0) -> Sample:
    """Means and log-variances of one sample.

    Args:
        sample: an array (channels, h, w), or a dictionary: `moments` (mean and log-variance) and perhaps
            `moments_flip`; or `mean` and `std` or `logvar`; or `latent` or `latents`; and perhaps `label`.
        second: what the second half of an array's channels is: logvar, std, or none when all are latents.
        multiplied: the factor by which latents were multiplied before they were stored.

    Raises:
        UserError: the sample is of another form, or it is not clear what its channels are.
    """
    label = None
    if isinstance(sample, dict):
        label = next((int(sample[key]) for key in ("label", "labels", "y") if key in sample), None)
        arrays, second = _from_dictionary(sample, second)
    else:
        arrays = [_array(sample)]
        if second is None:
            raise UserError("say what the second half of the channels is: --second logvar, std, or none")
    moments = np.stack(arrays)
    if moments.ndim != 4 or (second != "none" and moments.shape[1] % 2):
        raise UserError(f"latents have the shape {moments.shape[1:]}, not (channels, h, w)")
    if not np.isfinite(moments).all():
        raise UserError("not all numbers are finite")
    if second == "none":
        return Sample(moments / np.float32(multiplied), False, label)
    mean, spread = np.split(moments, 2, axis=1)
    if second == "std":
        if (spread < 0).any():
            raise UserError("a standard deviation is negative: is it --second logvar?")
        spread = 2 * np.log(np.maximum(spread, 1e-10))
    logvar = (spread - 2 * np.log(multiplied)).clip(-30, 20)
    moments = np.concatenate([mean / multiplied, logvar], axis=1).astype(np.float32)
    return Sample(moments, True, label)


def _from_dictionary(sample: dict[str, Any], second: str | None) -> tuple[Sequence[NDArray[np.float32]], str]:
    if "moments" in sample:
        flipped = [_array(sample["moments_flip"])] if "moments_flip" in sample else []
        return [_array(sample["moments"]), *flipped], second or "logvar"
    for kind in ("logvar", "std"):
        if "mean" in sample and kind in sample:
            return [np.concatenate([_array(sample["mean"]), _array(sample[kind])])], kind
    for key in ("latent", "latents", "mean"):
        if key in sample:
            return [_array(sample[key])], second or "none"
    raise UserError(f"keys {', '.join(map(str, sample))} are not understood: moments, mean and std, or latent")


def _array(value: Any) -> NDArray[np.float32]:
    array = value.float().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise UserError(f"an array of {array.dtype}, not of numbers")
    array = array.astype(np.float32)
    return array[0] if array.ndim == 4 and len(array) == 1 else array
