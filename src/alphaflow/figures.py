"""Pictures of samples: grids of images, scatters of points, and the files that hold either."""

import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
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


def save_figure(figure: Any, path: Path) -> Path:
    """A figure of matplotlib as PNG, with folders as needed. Raises `UserError` where it can't be written."""
    memory = io.BytesIO()
    figure.savefig(memory, format="png")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(memory.getvalue())
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): choose another place") from None
    return path


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
                _image(image).save(out / f"{k:06d}-class{label}.png")
    except OSError as error:
        raise _cannot_write(out, error) from None


class Pictures:
    """A folder for the pictures of one setting of a sweep, by class: `ode-2nfe/7/000012-class7.png`.

    Beside them `protocol.json` says how they were made, and whether all are there. Of videos each picture is a row
    of frames.
    """

    def __init__(
        self, out: Path, protocol: Mapping[str, Any], weights: str, labels: Tensor, num_classes: int
    ) -> None:
        """weights: a hash of them. labels: (N,) int64, by the number of the sample; num_classes: 0 if they mean
        nothing."""
        self.folder = out / _slug(protocol)
        self._record = json.loads(json.dumps({**protocol, "weights_sha256": weights}))
        self._labels, self._width = labels, len(str(num_classes - 1)) if num_classes else 0

    def begin(self) -> bool:
        """Make the folder, unless it is there; whether all its pictures are.

        Raises:
            UserError: something else is in it, or it cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self._file.exists():
                found = json.loads(self._file.read_text())
                complete = found.pop("complete", False)
                if found == self._record:
                    return bool(complete)
            elif not any(self.folder.iterdir()):
                self._tell(complete=False)
                return False
        except OSError as error:
            raise _cannot_write(self.folder, error) from None
        except ValueError:
            pass
        raise UserError(
            f"{self.folder} holds something else than these samples (other weights, seed or labels, it may be): "
            "remove it, or choose another --out"
        )

    def write(self, first: int, images: NDArray[np.uint8]) -> None:
        """Images uint8 (B, H, W, C) or videos (B, T, H, W, C), samples first, first + 1, …."""
        try:
            for k, image in enumerate(images, first):
                folder, name = self.folder, f"{k:06d}"
                if self._width:
                    label = int(self._labels[k])
                    folder, name = folder / f"{label:0{self._width}d}", f"{name}-class{label}"
                    folder.mkdir(exist_ok=True)
                shown = picture(image[None]) if image.ndim == 4 else _image(image)
                shown.save(folder / f"{name}.png")
        except OSError as error:
            raise _cannot_write(self.folder, error) from None

    def end(self) -> None:
        """Say that all are there."""
        self._tell(complete=True)

    @property
    def _file(self) -> Path:
        return self.folder / "protocol.json"

    def _tell(self, *, complete: bool) -> None:
        text = json.dumps({**self._record, "complete": complete}, indent=2)
        try:
            self._file.write_text(text + "\n")
        except OSError as error:
            raise _cannot_write(self._file, error) from None


def _slug(protocol: Mapping[str, Any]) -> str:
    """Of a setting, as a name of a folder."""
    times = "-t" + "-".join(f"{t:g}" for t in protocol["times"]) if protocol["times"] else ""
    scale = f"-guidance{protocol['guidance']:g}" if protocol["guidance"] != 1 else ""
    words = f"{protocol['weights']}-{protocol['method']}-{protocol['nfe']}nfe{times}{scale}"
    return words.replace(" ", "").replace(",", "+")


def _image(image: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)


def _cannot_write(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot write {path} ({error.strerror or error}): choose another place")


_CLASS = re.compile(r"-class(\d+)$")


def read_images(
    folder: Path, shape: Sequence[int], firsts: Callable[[int], Sequence[int]] | None = None
) -> tuple[Iterator[tuple[int, NDArray[np.uint8]]], Tensor | None]:
    """Images of anybody's, uint8 (B, H, W, C), 64 at a time, as they are, each block with the number of its first.

    They come in a fixed random order: intervals compare groups of samples that follow each other, and names are
    often sorted by class.

    Args:
        folder: PNG, JPEG or WebP files, also in folders within. shape: (C, H, W) that they must have.
        firsts: which blocks are wanted of so many images, by their first; None: all.

    Returns:
        The blocks, and the classes, int64 (N,), if all names end in `-class3` as those of `alphaflow sample` do.

    Raises:
        UserError: no such folder or no images in it; while reading: a file that is no image, or of another size.
    """
    if len(shape) != 3:
        raise UserError(f"images cannot be compared with samples of shape {tuple(shape)}: give a run on images")
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: give one with images")
    endings = (".png", ".jpg", ".jpeg", ".webp")
    names = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.suffix.lower() in endings)
    if len(names) < 8:
        raise UserError(f"{folder} holds {len(names)} images, too few to measure anything: give at least 8")
    order = torch.randperm(len(names), generator=seeded("images of a folder")).tolist()
    files = [folder / names[k] for k in order]
    found = [_CLASS.search(file.stem) for file in files]
    labels = torch.tensor([int(one[1]) for one in found if one]) if all(found) else None
    wanted = firsts(len(files)) if firsts else range(0, len(files), 64)
    blocks = ((k, np.stack([_read_image(file, shape) for file in files[k : k + 64]])) for k in wanted)
    return blocks, labels


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
