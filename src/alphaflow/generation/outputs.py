"""Files of samples, written while they are drawn.

Memory does not grow with their number. A file takes the place of the one before only when it is whole; a folder
that holds something is left alone; what breaks off leaves nothing.
"""

import contextlib
import math
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ..errors import UserError
from ..files import beside
from .pictures import RUNTIME, cannot_write, enlargement, image_grid, noted, save_image, scatter
from .png import PNG

ENDINGS = (".npz", ".png")
VIDEO_ENDINGS = (".npz", ".gif", ".mp4", ".png")

MOST_PIXELS = 89_478_485
"""Of a grid: as many as Pillow opens without a warning."""

MOST_POINTS = 1_000_000
"""In a picture of points."""

IMAGES = "images"
"""The name of the array of images in a file of samples."""
_BLOCK = 1 << 16  # bytes that are copied at once

Write = Callable[[NDArray[Any]], None]
"""Takes the next samples, (B, …), as they are shown."""


def ending_of(out: str | Path, endings: Sequence[str] = VIDEO_ENDINGS, *, what: str = "samples") -> str:
    """Return the ending of a file that is to hold `what`; "" of a folder, which ends in / or has no ending.

    Raises:
        UserError: another ending, no name at all, or something else is there under that name.
    """
    path, ending = Path(out), Path(out).suffix.lower()
    if not str(out).strip("/"):
        raise UserError(f"{str(out)!r} names no file or folder of one's own: is a variable unset?", status=2)
    if str(out).startswith("~"):
        raise UserError(
            f"cannot write to {out}: the shell left its ~ as it is, write the folder's name out", status=2
        )
    if str(out).endswith("/") or path.is_dir():
        ending = "" if ending not in endings or str(out).endswith("/") else ending
    if ending and ending not in endings:
        raise UserError(
            f"cannot write {what} to {out}: end its name in {_listed(endings, what)}, or name a folder, "
            "with / at its end",
            status=2,
        )
    if ending and path.is_dir():
        raise UserError(
            f"{out} is a folder: name a file, or end it with / to write single pictures there", status=2
        )
    if not ending and path.exists() and not path.is_dir():
        raise UserError(f"{out} is a file: name a folder, or end its name in {_listed(endings, what)}", status=2)
    return ending


def _listed(endings: Sequence[str], what: str) -> str:
    if what == "videos":
        return ", ".join(endings)
    return f"{' or '.join(ENDINGS)}{' (of videos also .gif and .mp4)' if '.gif' in endings else ''}"


# ------------------------------------------------------------------------------------------- places on the disk


@contextlib.contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """Give a path beside `out` to write. It takes the place of `out` after the block, or vanishes if that fails.

    Raises:
        UserError: it cannot be written; what was at `out` is still there.
    """
    final = Path(os.path.realpath(out))
    with made_folder(final.parent, out), beside(final) as temporary:
        yield temporary


@contextlib.contextmanager
def made_folder(folder: Path, out: Path) -> Iterator[None]:
    """Make the folder and those above it; what was made vanishes if the block fails and leaves it empty.

    Raises:
        UserError: for any error of the system within the block: `out` cannot be written.
    """
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException as error:
        for one in made:
            with contextlib.suppress(OSError):
                one.rmdir()
        if isinstance(error, OSError):
            raise cannot_write(out, error) from None
        raise


def check_empty(out: Path) -> None:
    """Raise `UserError` where the folder `out` is there and holds something."""
    try:
        first = min((one.name for one in out.iterdir()), default=None) if out.is_dir() else None
    except OSError as error:
        raise cannot_write(out, error) from None
    if first is not None:
        raise UserError(f"{out} holds {first}: samples of two draws would mix; empty it, or name another folder")


@contextlib.contextmanager
def single_files(
    out: Path,
    labels: NDArray[np.int64],
    save: Callable[[NDArray[Any], Path], None],
    ending: str,
    prompts: Sequence[str] = (),
) -> Iterator[Write]:
    """Write a folder with a file of each sample, named by its number and class: `000012-class7.png`, or by its
    prompt: `000012-a-red-circle.png`.

    Raises:
        UserError: the folder holds something, or cannot be written; what was written by then is removed.
    """
    check_empty(out)
    begun = 0

    def path(k: int) -> Path:
        told = f"class{labels[k]}"
        if prompts:
            told = re.sub(r"[^\w]+", "-", prompts[k].lower()).strip("-")[:60] or "no-words"
        return out / f"{k:06d}-{told}{ending}"

    def write(samples: NDArray[Any]) -> None:
        nonlocal begun
        for sample in samples:
            begun += 1
            save(sample, path(begun - 1))

    with made_folder(out, out):
        try:
            yield write
        except BaseException:
            for k in range(begun):
                with contextlib.suppress(OSError):
                    path(k).unlink(missing_ok=True)
            raise


# ------------------------------------------------------------------------------------------------------- formats


@contextlib.contextmanager
def arrays(
    out: Path,
    name: str,
    shape: Sequence[int],
    dtype: Any,
    labels: NDArray[np.int64],
    prompts: Sequence[str] = (),
    runtime: str = "",
) -> Iterator[Write]:
    """`FILE.npz` with an array (N, *shape) under this name, and `labels` (N,), as `numpy.savez` writes them; and
    `prompts` (N,) and `runtime`, a text, where there are any.

    Images lie there a second time as `arr_0`, the only name that ADM's evaluator reads.
    """
    with replacing(out) as temporary, temporary.open("wb") as file:
        archive = zipfile.ZipFile(file, "w")
        try:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                first = file.tell()
                descr = npy.dtype_to_descr(np.dtype(dtype))
                whole = {"descr": descr, "fortran_order": False, "shape": (len(labels), *shape)}
                npy.write_array_header_1_0(member, whole)
                yield lambda samples: _put(member, samples.astype(dtype, copy=False))
                size = file.tell() - first
            with archive.open("labels.npy", "w", force_zip64=True) as member:
                npy.write_array(member, labels, allow_pickle=False)
            if prompts:
                with archive.open("prompts.npy", "w", force_zip64=True) as member:
                    npy.write_array(member, np.array(prompts), allow_pickle=False)
            if runtime:
                with archive.open("runtime.npy", "w") as member:
                    npy.write_array(member, np.array(runtime), allow_pickle=False)
            if name == IMAGES:
                file.flush()
                with archive.open("arr_0.npy", "w", force_zip64=True) as member, temporary.open("rb") as written:
                    written.seek(first)
                    for done in range(0, size, _BLOCK):
                        member.write(written.read(min(_BLOCK, size - done)))
            archive.close()
        except BaseException:
            archive.fp = None  # nothing more is written to it, not even its end
            raise


def _put(member: Any, samples: NDArray[Any]) -> None:
    member.write(np.ascontiguousarray(samples).reshape(-1).view(np.uint8).data)


@contextlib.contextmanager
def grid(
    out: Path, shape: Sequence[int], count: int, columns: int | None = None, runtime: str = ""
) -> Iterator[Write]:
    """`GRID.png`, the picture of `image_grid`, written a row of images at a time.

    shape: (H, W, C) of an image; small ones are enlarged less where the whole would be too large.

    Raises:
        UserError: see `grid_scale`.
    """
    height, width, channels = shape
    scale = grid_scale(out, shape, count, columns)
    columns = columns or math.ceil(math.sqrt(count))
    tall, wide = sheet_size(count, height, width, columns)
    with replacing(out) as temporary, temporary.open("wb") as file:
        png = PNG(file, wide * scale, tall * scale, channels)
        png.text(RUNTIME, runtime)
        held: list[NDArray[np.uint8]] = []

        def band() -> None:
            png.rows(np.asarray(image_grid(np.stack(held[:columns]), columns, scale=scale))[:-scale])
            del held[:columns]

        def write(images: NDArray[np.uint8]) -> None:
            held.extend(images)
            while len(held) >= columns:
                band()

        yield write
        if held:
            band()
        png.rows(np.full((scale, wide * scale * channels), 255, np.uint8))  # the last gap
        png.end()


def grid_scale(out: Path, shape: Sequence[int], count: int, columns: int | None = None) -> int:
    """How many times images (H, W, C) are enlarged in a grid of so many.

    Raises:
        UserError: the grid would have more than `MOST_PIXELS`, or its images have more channels than a PNG.
    """
    height, width, channels = shape
    if channels not in PNG.COLOURS:
        raise UserError(f"a PNG has no {channels} channels: write {out.with_suffix('.npz')} instead", status=2)

    def pixels(many: int, scale: int = 1) -> int:
        return math.prod(sheet_size(many, height, width, columns)) * scale**2

    if pixels(count) > MOST_PIXELS:
        low = most_that_fit(count, lambda many: pixels(many) <= MOST_PIXELS)
        raise UserError(
            f"a grid of {count:,} images of {height} × {width} has {pixels(count):,} pixels, which programs "
            f"refuse to open: at most {low:,} fit; name a file ending in .npz, or a folder",
            status=2,
        )
    return max(k for k in range(1, enlargement(height, width) + 1) if k == 1 or pixels(count, k) <= MOST_PIXELS)


def most_that_fit(count: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number of samples that fits; `count` does not."""
    low, high = 0, count
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def sheet_size(count: int, height: int, width: int, columns: int | None = None) -> tuple[int, int]:
    """Height and width of a grid, not enlarged, with a pixel between and around the images."""
    columns = columns or math.ceil(math.sqrt(count))
    return math.ceil(count / columns) * (height + 1) + 1, columns * (width + 1) + 1


@contextlib.contextmanager
def dots(out: Path, count: int, runtime: str = "") -> Iterator[Write]:
    """`FILE.png` of points (N, 2), which are held until all are there."""
    check_dots(out, count)
    held: list[NDArray[Any]] = []
    yield held.append
    with replacing(out) as temporary:
        scatter(np.concatenate(held)).save(temporary, format="png", pnginfo=noted(runtime))


def check_dots(out: Path, count: int) -> None:
    """Raise `UserError` for more points than a picture can show."""
    if count > MOST_POINTS:
        raise UserError(
            f"a picture of {count:,} points shows none of them (at most {MOST_POINTS:,}): write "
            f"{out.with_suffix('.npz')} instead",
            status=2,
        )


def check_room(out: Path, count: int, size: int | None = None) -> None:
    """Raise `UserError` where the disk has no room for `count` samples.

    size: of each, in bytes; None: each becomes a file, which takes a block of the disk at least.
    """
    real = Path(os.path.realpath(out))
    place = next(one for one in (real, *real.parents) if one.is_dir())
    stat = os.statvfs(place)
    if stat.f_blocks == 0:  # of a kind that does not say
        return
    most = stat.f_bavail * stat.f_frsize // (size or stat.f_frsize)
    if size is None and stat.f_files:
        most = min(most, stat.f_favail)
    if count > most:
        what = f"{count * size / 1e9:,.1f} GB as .npz" if size else f"{count:,} files"
        raise UserError(
            f"{count:,} samples take {what}, and {place} has room for {most:,} of them: draw fewer, or choose "
            "another place"
        )


def check_folder(out: Path, count: int) -> None:
    """Raise `UserError` where a folder holds something, or the disk has no room for so many files."""
    check_empty(out)
    check_room(out, count)


# --------------------------------------------------------------------------------------------- images and points


def check_samples(out: str | Path, shape: Sequence[int], count: int, columns: int | None = None) -> None:
    """Whether so many images (H, W, C) or points (D,) can be written there.

    Raises:
        UserError: another ending than .npz, .png or a folder's, a folder of points, a grid that is too large, too
            little room on the disk.
    """
    ending, path = ending_of(out, ENDINGS), Path(out)
    if ending == ".npz":
        check_room(path, count, math.prod(shape) * (2 if len(shape) == 3 else 4))
    elif len(shape) == 3:
        grid_scale(path, shape, count if ending else 1, columns)
    elif ending:
        check_dots(path, count)
    else:
        raise UserError(f"cannot write points as images into {out}: name a file ending in .npz or .png", status=2)
    if not ending:
        check_folder(path, count)


@contextlib.contextmanager
def samples_into(
    out: str | Path,
    shape: Sequence[int],
    labels: NDArray[np.int64],
    columns: int | None = None,
    *,
    prompts: Sequence[str] = (),
    runtime: str = "",
) -> Iterator[Write]:
    """Give what takes images uint8 (B, H, W, C) or points (B, D) until each label has one, and writes them to
    `FILE.npz` (`images`, again as `arr_0`, or `points`; and `labels`), `GRID.png`, or `FOLDER/` with a PNG of each
    image.

    shape: of one, (H, W, C) or (D,). prompts: of a model that is told in words, one for each label. runtime: what
    drew them, which the files then say.

    Raises:
        UserError: see `check_samples`; a place that cannot be written.
    """
    check_samples(out, shape, len(labels), columns)
    ending, path = ending_of(out, ENDINGS), Path(out)
    image = len(shape) == 3
    if ending == ".npz":
        name, kind = (IMAGES, np.uint8) if image else ("points", np.float32)
        opened = arrays(path, name, shape, kind, labels, prompts, runtime)
    elif ending:
        opened = grid(path, shape, len(labels), columns, runtime) if image else dots(path, len(labels), runtime)
    else:
        opened = single_files(path, labels, partial(save_image, runtime=runtime), ".png", prompts)
    with opened as write:
        yield write
