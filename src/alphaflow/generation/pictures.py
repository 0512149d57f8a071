"""Pictures of samples: grids of images, scatters of points, and the files that hold either."""

import io
import json
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ..data.sources import Source, open_source
from ..data.sources.classes import NONE
from ..data.sources.decoding import open_rgb, reason_of
from ..data.sources.splits import split_of
from ..data.sources.tree import Tree
from ..errors import UserError
from ..files import write_bytes
from ..rng import seeded

log = logging.getLogger("alphaflow")

RUNTIME = "Runtime"
"""The keyword in a PNG of what drew it."""


def image_grid(
    images: NDArray[np.uint8], columns: int | None = None, *, gap: int = 1, scale: int | None = None
) -> Image.Image:
    """Lay images uint8 (N, H, W, C) out in rows; small ones are enlarged by whole factors, to be seen."""
    count, height, width, channels = images.shape
    scale = scale or enlargement(height, width)
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    height, width, gap = height * scale, width * scale, gap * scale
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255, np.uint8)
    for k, image in enumerate(images):
        top, left = gap + k // columns * (height + gap), gap + k % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return Image.fromarray(sheet[..., 0] if channels == 1 else sheet)


def enlargement(height: int, width: int) -> int:
    """How many times an image is enlarged to be seen."""
    return max(1, 48 // max(height, width))


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
    """Write a figure of matplotlib as PNG, with folders as needed. Raises `UserError` if it can't."""
    memory = io.BytesIO()
    figure.savefig(memory, format="png")
    write_bytes(path, memory.getvalue())
    return path


def picture(samples: NDArray[Any], columns: int | None = None) -> Image.Image:
    """Return the picture that suits images uint8 (N, H, W, C), videos (N, T, H, W, C), or points (N, 2)."""
    if samples.ndim == 5:
        return film_strips(samples)
    return image_grid(samples, columns) if samples.ndim == 4 else scatter(samples)


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
            raise cannot_write(self.folder, error) from None
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
            raise cannot_write(self.folder, error) from None

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
            raise cannot_write(self._file, error) from None


def _slug(protocol: Mapping[str, Any]) -> str:
    """Of a setting, as a name of a folder."""
    times = "-t" + "-".join(f"{t:g}" for t in protocol["times"]) if protocol["times"] else ""
    scale = f"-guidance{protocol['guidance']:g}" if protocol["guidance"] != 1 else ""
    words = f"{protocol['weights']}-{protocol['method']}-{protocol['nfe']}nfe{times}{scale}"
    return words.replace(" ", "").replace(",", "+")


def _image(image: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)


def save_image(image: NDArray[np.uint8], path: Path, runtime: str = "") -> None:
    """Write an image uint8 (H, W, C) as PNG, with what drew it, where that is given."""
    _image(image).save(path, format="png", pnginfo=noted(runtime))


def noted(runtime: str) -> PngInfo | None:
    """Return what goes into a PNG beside its pixels."""
    if not runtime:
        return None
    info = PngInfo()
    info.add_text(RUNTIME, runtime)
    return info


def cannot_write(path: Path, error: OSError) -> UserError:
    """Return the error of a file that cannot be written."""
    return UserError(f"cannot write {path} ({error.strerror or error}): choose another place")


_CLASS = re.compile(r"-class(\d+)\.\w+$")


def read_images(
    folder: Path, shape: Sequence[int], firsts: Callable[[int], Sequence[int]] | None = None
) -> tuple[Iterator[tuple[int, NDArray[np.uint8]]], Tensor | None]:
    """Images of anybody's, uint8 (B, H, W, C), 64 at a time, as they are, each block with the number of its first.

    They come in a fixed random order: intervals compare groups of samples that follow each other, and names are
    often sorted by class.

    Args:
        folder: PNG, JPEG or WebP files, also in folders within, as training finds and decodes them; or an archive
            of one, or what else `open_source` reads. shape: (C, H, W) that they must have.
        firsts: which blocks are wanted of so many images, by their first; None: all.

    Returns:
        The blocks, and the classes, int64 (N,), if all names end in `-class3` as those of `alphaflow sample` do.

    Raises:
        UserError: nothing there, or no images in it; while reading: a file that is no image, or of another size.
    """
    if len(shape) != 3:
        raise UserError(f"images cannot be compared with samples of shape {tuple(shape)}: give a run on images")
    source = Tree(folder, labels=NONE) if folder.is_dir() else open_source(str(folder), labels=NONE)
    count = len(source)
    if count < 8:
        raise UserError(f"{folder} holds {count} images, too few to measure anything: give at least 8")
    order = torch.randperm(count, generator=seeded("images of a folder")).tolist()
    wanted = firsts(count) if firsts else range(0, count, 64)
    _tell_splits(source)
    coloured: list[str] = []
    blocks = ((k, np.stack([_read_image(source, n, shape, coloured) for n in order[k : k + 64]])) for k in wanted)
    return blocks, _classes_in_names(source, order)


def _tell_splits(source: Source) -> None:
    """Warn that splits of a data set are mixed where the folder above them is named."""
    paths = (source.name(k).removeprefix(source.address).lstrip("/!") for k in range(len(source)))
    splits = sorted(name for name in {path.partition("/")[0] for path in paths if "/" in path} if split_of(name))
    if len(splits) > 1:
        log.warning(
            "%s holds splits of a data set (%s): all are scored together", source.address, ", ".join(splits)
        )


def _classes_in_names(source: Source, order: Sequence[int]) -> Tensor | None:
    found = [_CLASS.search(source.name(k)) for k in order]
    named = sum(map(bool, found))
    if 0 < named < len(found):
        log.warning(
            "%s: %d of its %d images have names that end in a class, as in -class3: no accuracy is measured, for "
            "which all need one",
            source.address,
            named,
            len(found),
        )
    return torch.tensor([int(one[1]) for one in found if one]) if named == len(found) else None


def _read_image(source: Source, number: int, shape: Sequence[int], coloured: list[str]) -> NDArray[np.uint8]:
    """One image as it is. `coloured` gets the first that is in colour where it is to be grey."""
    channels, height, width = shape
    file = source.name(number)
    try:
        data = source.read(number)
        if len(data) == 0:
            raise OSError("the file is empty")
        image = (
            open_rgb(data)
            if isinstance(data, bytes)
            else Image.fromarray(data.squeeze(2) if data.shape[2] == 1 else data)
        )
    except Exception as error:  # a damaged file can make a decoder raise nearly anything
        words = reason_of(error)
        raise UserError(f"cannot read {file} ({words}): remove it, or save it again") from None
    pixels = np.asarray(image.convert("RGB"))
    if channels == 1:
        if not coloured and (pixels != pixels[..., :1]).any():
            coloured.append(file)
            log.warning("%s is in colour, and the run's data are grey: such images are scored as grey", file)
        pixels = np.asarray(image.convert("L"))
    if pixels.shape[:2] != (height, width):
        raise UserError(
            f"{file} is {pixels.shape[0]} × {pixels.shape[1]}, the run's data {height} × {width}: "
            "bring the images to that size first; how they are resized changes the figures"
        )
    return pixels.reshape(height, width, channels)
