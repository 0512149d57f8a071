"""Pictures of samples: grids of images, scatters of points, and the files that hold either."""

import io
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from .errors import UserError
from .rng import seeded


def image_grid(images: NDArray[np.uint8], columns: int | None = None, *, gap: int = 1) -> Image.Image:
    """Lay images uint8 (N, H, W, C) out in rows; small ones are enlarged by whole factors, to be seen."""
    count, height, width, channels = images.shape
    scale = max(1, 48 // max(height, width))
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    height, width, gap = height * scale, width * scale, gap * scale
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255, np.uint8)
    for k, image in enumerate(images):
        top, left = gap + k // columns * (height + gap), gap + k % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return Image.fromarray(sheet[..., 0] if channels == 1 else sheet)


def film_strips(videos: NDArray[np.uint8]) -> Image.Image:
    """Videos uint8 (N, T, H, W, C), one below the other, each as its frames side by side."""
    return image_grid(videos.reshape(-1, *videos.shape[2:]), columns=videos.shape[1])


def scatter(points: NDArray[Any], title: str = "", reference: NDArray[Any] | None = None) -> Image.Image:
    """Points (N, 2) as dots, over those of `reference` in grey."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    for data, color in ((reference, "0.8"), (points, "tab:blue")):
        if data is not None:
            axes.scatter(data[:, 0], data[:, 1], s=2, color=color, linewidths=0)
    axes.set(title=title, aspect="equal", xlim=(-2.6, 2.6), ylim=(-2.6, 2.6))
    memory = io.BytesIO()
    figure.savefig(memory, format="png")
    return Image.open(memory)


def picture(samples: NDArray[Any], columns: int | None = None) -> Image.Image:
    """The picture that suits the samples: images uint8 (N, H, W, C), videos (N, T, H, W, C), or points (N, 2)."""
    if samples.ndim == 5:
        return film_strips(samples)
    return image_grid(samples, columns) if samples.ndim == 4 else scatter(samples)


def write_samples(samples: NDArray[Any], labels: NDArray[np.int64], out: Path, columns: int | None = None) -> None:
    """Write `FILE.npz` (images or points, and labels), `GRID.png`, or `FOLDER/` with one PNG for each image.

    Raises:
        UserError: another ending, a folder of points, or a place that can't be written.
    """
    try:
        if out.suffix == ".npz":
            out.parent.mkdir(parents=True, exist_ok=True)
            name = "images" if samples.ndim == 4 else "points"
            np.savez(out, allow_pickle=False, **{name: samples, "labels": labels})
        elif out.suffix == ".png":
            out.parent.mkdir(parents=True, exist_ok=True)
            picture(samples, columns).save(out)
        elif out.suffix:
            raise UserError(
                f"cannot write samples to {out}: end its name in .npz or .png, or name a folder", status=2
            )
        elif samples.ndim != 4:
            raise UserError(
                f"cannot write points as images into {out}: name a file ending in .npz or .png", status=2
            )
        else:
            out.mkdir(parents=True, exist_ok=True)
            for k, (image, label) in enumerate(zip(samples, labels)):
                one = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
                one.save(out / f"{k:06d}-class{label}.png")
    except OSError as error:
        raise UserError(f"cannot write {out} ({error.strerror or error}): choose another place") from None


_CLASS = re.compile(r"-class(\d+)$")


def read_images(folder: Path, shape: Sequence[int]) -> tuple[Iterator[NDArray[np.uint8]], Tensor | None]:
    """Images of anybody's, uint8 (B, H, W, C), 64 at a time, as they are.

    They come in a fixed random order: intervals compare groups of samples that follow each other, and names are
    often sorted by class.

    Args:
        folder: PNG, JPEG or WebP files. shape: (C, H, W) that they must have.

    Returns:
        The images, and their classes, int64 (N,), if all names end in `-class3` as those of `alphaflow sample` do.

    Raises:
        UserError: no such folder or no images in it; while reading: a file that is no image, or of another size.
    """
    if len(shape) != 3:
        raise UserError(f"images cannot be compared with samples of shape {tuple(shape)}: give a run on images")
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: give one with images")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"))
    if len(files) < 8:
        raise UserError(f"{folder} holds {len(files)} images, too few to measure anything: give at least 8")
    order = torch.randperm(len(files), generator=seeded("images of a folder")).tolist()
    files = [files[k] for k in order]
    found = [_CLASS.search(file.stem) for file in files]
    labels = torch.tensor([int(one[1]) for one in found if one]) if all(found) else None
    chunks = (np.stack([_read_image(file, shape) for file in files[k : k + 64]]) for k in range(0, len(files), 64))
    return chunks, labels


def _read_image(file: Path, shape: Sequence[int]) -> NDArray[np.uint8]:
    channels, height, width = shape
    try:
        with Image.open(file) as opened:
            pixels = np.asarray(opened.convert("L" if channels == 1 else "RGB"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file} ({error}): remove it, or save it again") from None
    if pixels.shape[:2] != (height, width):
        raise UserError(
            f"{file} is {pixels.shape[0]} × {pixels.shape[1]}, the run's data {height} × {width}: "
            "bring the images to that size first; how they are resized changes the figures"
        )
    return pixels.reshape(height, width, channels)
