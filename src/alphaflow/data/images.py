"""A folder of images as a data set: one class a sub-folder, decoded once and held in memory."""

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alphaflow.data.dataset import fingerprint
from alphaflow.data.sources import decode
from alphaflow.errors import UserError
from alphaflow.pixels import mirror, scale_pixels

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_NAMED_AT_MOST = 10
_FILES_PER_ROUND = 4096  # bounds the number of decoding tasks that wait at once


class ImageFolder:
    """The images below `root`, as RGB of `size` x `size` pixels in [-1, 1].

    `root` holds one folder a class, with images at any depth below it; the classes are sorted by name. A
    root that holds images and no such folder is one unlabelled set. Hidden files and folders (those whose
    name starts with a dot) are passed over, and so are files that are not PNG, JPEG or WebP by suffix.

    Each image is turned as its EXIF orientation says, brought to 8-bit RGB (transparency over white),
    resized with the Lanczos filter so that its short side is `size`, and cropped about its centre. All of
    them are decoded once into 3 · size² bytes an image. Files that cannot be decoded are named on stderr
    and left out.

    Args:
        root: the folder.
        size: side of the images in pixels, at least 1.
        tolerance: the largest share of undecodable files, in [0, 1], that is not an error.

    Raises:
        UserError: no such folder, no images in it, images both beside and in class folders, a bad `size`
            or `tolerance`, too many undecodable files, or a class left with none.
    """

    kind: Literal["image", "points"] = "image"

    def __init__(self, root: str | os.PathLike[str], size: int, *, tolerance: float = 0.1) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise UserError(f"image size {size!r} is not a positive whole number: give pixels, such as 64")
        if not 0 <= tolerance <= 1:
            raise UserError(f"tolerance {tolerance!r} is not a share: give a number from 0 to 1")
        self.root = Path(root)
        paths, labels, self.class_names = _find(self.root)
        pixels, self.skipped = _decode_all(paths, size)
        broken = {path for path, _ in self.skipped}
        kept = np.array([path not in broken for path in paths])
        _report(self.skipped)
        _check(self.root, self.skipped, len(paths), tolerance)
        labels = labels[kept]
        for label, name in enumerate(self.class_names):
            if not np.any(labels == label):
                raise UserError(f"class folder {self.root / name}: none of its images can be read: remove it")
        self.shape: tuple[int, ...] = (3, size, size)
        self.num_classes: int = len(self.class_names)
        settings = f"folder {size} lanczos centre {self.class_names}"
        self.fingerprint: str = fingerprint(settings, pixels, labels)
        self._pixels = torch.from_numpy(pixels)
        self._y = torch.from_numpy(labels) if self.num_classes else None

    def __len__(self) -> int:
        return self._pixels.shape[0]

    def batch(self, indices: Tensor, flip: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return x, float32 (B, 3, size, size) in [-1, 1], and y, int64 (B,), or `None`; see `Dataset`."""
        y = None if self._y is None else self._y[indices]
        return mirror(scale_pixels(self._pixels[indices]), flip), y


def load_image(path: str | os.PathLike[str], size: int) -> NDArray[np.uint8]:
    """Decode one image file as `ImageFolder` does: RGB uint8 (3, size, size); see `sources.decode`."""
    return decode(path, size)


def _images_in(folder: Path, pattern: str) -> list[Path]:
    return sorted(
        path
        for path in folder.glob(pattern)
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def _find(root: Path) -> tuple[list[Path], NDArray[np.int64], tuple[str, ...]]:
    """List the image files with their labels, and the class names; no names when there are no classes."""
    if not root.is_dir():
        wrong = "is not a folder" if root.exists() else "does not exist"
        raise UserError(f"image folder {root} {wrong}: give a folder with one sub-folder of images a class")
    direct = _images_in(root, "*")
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    by_class = {folder.name: found for folder in folders if (found := _images_in(folder, "**/*"))}
    if direct and by_class:
        raise UserError(
            f"image folder {root} holds images (such as {direct[0].name}) beside class folders (such as "
            f"{next(iter(by_class))}): put every image into a class folder, or all of them directly inside"
        )
    if not direct and not by_class:
        raise UserError(f"image folder {root} holds no images: put {', '.join(SUFFIXES)} files into it")
    if direct:
        return direct, np.zeros(len(direct), np.int64), ()
    paths = [path for found in by_class.values() for path in found]
    labels = np.repeat(np.arange(len(by_class)), [len(found) for found in by_class.values()])
    return paths, labels.astype(np.int64), tuple(by_class)


def _decode_all(paths: Sequence[Path], size: int) -> tuple[NDArray[np.uint8], list[tuple[Path, str]]]:
    """Decode the files in order into uint8 (N, 3, size, size), leaving out those listed with a reason."""
    from rich.console import Console
    from rich.progress import Progress

    pixels = np.empty((len(paths), 3, size, size), np.uint8)
    skipped: list[tuple[Path, str]] = []
    count = 0
    bar = Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True)
    with bar, ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        task = bar.add_task("decoding images", total=len(paths))
        for start in range(0, len(paths), _FILES_PER_ROUND):
            some = paths[start : start + _FILES_PER_ROUND]
            for path, outcome in zip(some, pool.map(lambda path: _try(path, size), some)):
                if isinstance(outcome, str):
                    skipped.append((path, outcome))
                else:
                    pixels[count] = outcome
                    count += 1
                bar.advance(task)
    return pixels[:count], skipped


def _try(path: Path, size: int) -> NDArray[np.uint8] | str:
    """Decode one file, or say why it cannot be."""
    from PIL import UnidentifiedImageError

    try:
        if path.stat().st_size == 0:
            return "the file is empty"
        return load_image(path, size)
    except UnidentifiedImageError:
        return "not a PNG, JPEG or WebP image"
    except Exception as error:  # a damaged file can make a decoder raise nearly anything
        return " ".join(str(error).split()) or type(error).__name__


def _report(skipped: Sequence[tuple[Path, str]]) -> None:
    for path, reason in skipped[:_NAMED_AT_MOST]:
        print(f"skipped {path}: {reason}", file=sys.stderr)
    if len(skipped) > _NAMED_AT_MOST:
        print(f"skipped {len(skipped) - _NAMED_AT_MOST} more unreadable images", file=sys.stderr)


def _check(root: Path, skipped: Sequence[tuple[Path, str]], total: int, tolerance: float) -> None:
    if len(skipped) == total or len(skipped) > tolerance * total:
        path, reason = skipped[0]
        raise UserError(
            f"image folder {root}: {len(skipped)} of {total} images cannot be read, more than the tolerated "
            f"{tolerance:.0%} (first {path}: {reason}): repair or remove them, or raise the tolerance"
        )
