"""Samples of anybody's in one file: ADM's `samples_50000x256x256x3.npz`, and what `alphaflow sample` writes."""

import logging
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.sources.classes import few
from ..errors import UserError, one_line
from ..npy import read_header
from ..rng import seeded

log = logging.getLogger("alphaflow")

IMAGES, LABELS = ("arr_0", "images"), ("arr_1", "labels")
"""What ADM's files and ours call them."""
LARGEST = 1 << 34
"""Bytes of a compressed array, which must be unpacked as a whole; others stay in the file."""


def read_archive(
    path: Path,
    shape: Sequence[int],
    firsts: Callable[[int], Sequence[int]] | None = None,
    class_names: Sequence[str] = (),
) -> tuple[Iterator[tuple[int, NDArray[np.uint8]]], Tensor | None]:
    """Images uint8 (B, H, W, C), 64 at a time, each block with the number of its first, as `figures.read_images`
    gives those of a folder: in a fixed random order.

    Args:
        path: an .npz with images uint8 (N, H, W, C) as `arr_0` or `images`, and maybe classes (N,) as `arr_1` or
            `labels`. shape: (C, H, W) that they must have.
        firsts: which blocks are wanted of so many images, by their first; None: all.
        class_names: of the run's data, where classes are words.

    Returns:
        The blocks, and the classes, int64 (N,), where there are any.

    Raises:
        UserError: it cannot be read, holds no such images, or some of another size; a class that is unknown.
    """
    if len(shape) != 3:
        raise UserError(f"images cannot be compared with samples of shape {tuple(shape)}: give a run on images")
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.removesuffix(".npy"): name for name in archive.namelist()}
            images = next((_open(path, archive, names[one]) for one in IMAGES if one in names), None)
            classes = next((_open(path, archive, names[one]) for one in LABELS if one in names), None)
            same = len({archive.getinfo(names[one]).CRC for one in IMAGES if one in names}) == 1
    except UserError:
        raise
    except Exception as error:  # a damaged file can make numpy raise nearly anything
        what = one_line(error)
        raise UserError(f"cannot read {path} ({what}): give an .npz with images, or a folder of them") from None
    channels, height, width = shape
    both = [name for name in IMAGES if name in names]
    if len(both) > 1 and not same:
        log.warning("%s holds %s: the first is scored", path, " and ".join(both))
    if images is None:
        raise UserError(f"{path} holds {', '.join(names) or 'nothing'}, not arr_0 or images: it holds no samples")
    if images.dtype != np.uint8 or images.ndim != 4:
        raise UserError(f"{path}: its images are {images.dtype} {images.shape}, not uint8 (N, H, W, C)")
    if images.shape[1:] != (height, width, channels):
        raise UserError(
            f"{path}: its images are {images.shape[1:]}, and the run's data {(height, width, channels)}: bring "
            "them to that size first; how they are resized changes the figures"
        )
    if len(images) < 8:
        raise UserError(f"{path} holds {len(images)} images, too few to measure anything: give at least 8")
    order = torch.randperm(len(images), generator=seeded("images of a folder")).numpy()
    labels = None if classes is None else _classes(path, classes, len(images), class_names)
    labels = None if labels is None else labels[order]
    wanted = firsts(len(images)) if firsts else range(0, len(images), 64)
    return ((k, np.ascontiguousarray(images[order[k : k + 64]])) for k in wanted), labels


def _classes(path: Path, found: NDArray[np.generic], count: int, names: Sequence[str]) -> Tensor | None:
    """One class for each image, by number or, of words, by name; `None`, and a warning, where that is none."""
    flat = found.reshape(-1) if found.shape in ((count,), (count, 1)) else None
    if flat is not None and flat.dtype.kind in "SU" and names:
        words = [word.decode("utf-8", "replace") if isinstance(word, bytes) else word for word in flat.tolist()]
        strange = next((word for word in words if word not in names), None)
        if strange is not None:
            raise UserError(
                f"{path} has images of class {strange!r}, which the run's data do not have ({few(names)}): they "
                "are of another run; or leave the labels out of the file"
            )
        return torch.tensor([names.index(word) for word in words])
    if flat is not None and flat.dtype.kind in "iuf" and bool((np.abs(flat) < 2.0**62).all()):  # NaN is not
        whole = flat.astype(np.int64)
        if bool((whole == flat).all()):
            return torch.from_numpy(whole)
    log.warning(
        "%s: its labels are %s %s, not %d numbers of classes: no accuracy is measured",
        path,
        found.dtype,
        found.shape,
        count,
    )
    return None


def _open(path: Path, archive: zipfile.ZipFile, name: str) -> NDArray[np.generic]:
    """Return an array of the archive: mapped where it lies there as it is, unpacked where it is compressed."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED:
        if info.file_size > LARGEST:
            raise UserError(
                f"{path}: {name} unpacks to {info.file_size:,} bytes: save it by numpy.savez, as it is"
            )
        with archive.open(name) as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    with archive.open(name) as entry:
        shape, columns_first, dtype = read_header(entry)
        header = entry.tell()
    if dtype.hasobject:
        raise UserError(f"{path}: {name} holds Python objects: not read")
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)
        lengths = file.read(4)
    start = info.header_offset + 30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
    if int(np.prod(shape, dtype=object)) * dtype.itemsize > info.file_size - header:
        raise UserError(f"{path} is cut short: {name} says that it holds more")
    if 0 in shape:
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", start + header, shape, "F" if columns_first else "C")
