"""Files of videos: GIF, MP4, arrays."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..data.videos.clip_files import require_av
from ..errors import UserError
from .outputs import (
    MOST_PIXELS,
    VIDEO_ENDINGS,
    Write,
    arrays,
    check_folder,
    check_room,
    ending_of,
    grid,
    grid_scale,
    most_that_fit,
    replacing,
    sheet_size,
    single_files,
)
from .pictures import enlargement, image_grid


def write_videos(
    videos: NDArray[np.uint8],
    labels: NDArray[np.int64],
    out: Path,
    columns: int | None = None,
    *,
    rate: float = 8.0,
) -> None:
    """Write videos uint8 (N, T, H, W, C) as `videos_into` does, all at once."""
    with videos_into(out, videos.shape[1:], labels, columns, rate=rate) as write:
        write(videos)


def check_videos(
    out: str | Path, shape: Sequence[int], count: int, columns: int | None = None, *, rate: float = 8.0
) -> None:
    """Whether so many videos (T, H, W, C) can be written there.

    Raises:
        UserError: another ending, a rate that is not positive, no PyAV for an MP4, a grid that is too large, too
            little room on the disk.
    """
    check_rate(rate)
    ending, path = ending_of(out, VIDEO_ENDINGS, what="videos"), Path(out)
    frames, *image = shape
    if ending == ".npz":
        check_room(path, count, math.prod(shape))
    elif ending == ".png":
        grid_scale(path, image, count * frames, frames)
    elif ending:
        if ending == ".mp4":
            require_av(f"writing {out}")
        _check_moving(path, shape, count, columns)
    else:
        check_folder(path, count)


def check_rate(rate: float) -> None:
    """Raise `UserError` where nobody could see so many frames a second."""
    if not 0 < rate <= 1000:
        raise UserError(f"--rate {rate:g} must be above 0 frames a second, and at most 1000", status=2)


def _check_moving(out: Path, shape: Sequence[int], count: int, columns: int | None) -> None:
    frames, height, width, _ = shape

    def pixels(many: int) -> int:
        return frames * math.prod(sheet_size(many, height, width, columns)) * enlargement(height, width) ** 2

    if pixels(count) > MOST_PIXELS:
        most = most_that_fit(count, lambda many: pixels(many) <= MOST_PIXELS)
        raise UserError(
            f"a moving grid of {count:,} videos is too large to be shown: at most {most:,} fit into {out.suffix}; "
            "name a file ending in .npz, or a folder",
            status=2,
        )


@contextlib.contextmanager
def videos_into(
    out: str | Path,
    shape: Sequence[int],
    labels: NDArray[np.int64],
    columns: int | None = None,
    *,
    rate: float = 8.0,
    runtime: str = "",
) -> Iterator[Write]:
    """Give what takes videos uint8 (B, T, H, W, C) until there is one for each label, and writes them.

    out: `FILE.gif` or `FILE.mp4`, all in one moving grid; `FILE.png`, each as a row of frames; `FILE.npz` with
        `videos` and `labels`; `FOLDER/`, one GIF for each.
    shape: of one, (T, H, W, C). rate: frames a second. runtime: what drew them, which .npz and .png then say.

    Raises:
        UserError: see `check_videos`; a place that cannot be written.
    """
    check_videos(out, shape, len(labels), columns, rate=rate)
    ending, path = ending_of(out, VIDEO_ENDINGS, what="videos"), Path(out)
    if ending == ".npz":
        with arrays(path, "videos", shape, np.uint8, labels, runtime=runtime) as write:
            yield write
    elif ending == ".png":
        with grid(path, shape[1:], len(labels) * shape[0], shape[0], runtime) as write:
            yield lambda videos: write(videos.reshape(-1, *videos.shape[2:]))
    elif ending:
        held: list[NDArray[np.uint8]] = []
        yield held.append
        frames = moving_grid(np.concatenate(held), columns)
        with replacing(path) as temporary:
            (write_gif if ending == ".gif" else write_mp4)(frames, temporary, rate)
    else:

        def save(video: NDArray[np.uint8], file: Path) -> None:
            write_gif(moving_grid(video[None], 1), file, rate)

        with single_files(path, labels, save, ".gif") as write:
            yield write


def moving_grid(videos: NDArray[np.uint8], columns: int | None = None) -> list[Image.Image]:
    """Videos uint8 (N, T, H, W, C) laid out in rows, as T pictures."""
    return [image_grid(frames, columns) for frames in videos.swapaxes(0, 1)]


def write_gif(frames: Sequence[Image.Image], out: Path, rate: float) -> None:
    """Write an endless GIF of RGB or grey frames, with the colours of all of them in one palette.

    GIF counts time in hundredths of a second, and viewers slow down what is quicker than 50 frames a second.
    """
    if frames[0].mode == "RGB":
        sample = np.concatenate([np.asarray(frame).reshape(-1, 3) for frame in frames])
        side = math.isqrt(min(len(sample), 2**20))
        chosen = sample[np.linspace(0, len(sample) - 1, side * side).astype(int)].reshape(side, side, 3)
        palette = Image.fromarray(chosen).quantize(256)
        frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    duration = max(20, round(100 / rate) * 10)
    frames[0].save(
        out, format="gif", save_all=True, append_images=frames[1:], duration=duration, loop=0, optimize=False
    )


def write_mp4(frames: Sequence[Image.Image], out: Path, rate: float) -> None:
    """Write an MP4: H.264 where PyAV was built with it, else MPEG-4; an odd row or column of pixels is doubled.

    Raises:
        UserError: PyAV is not installed.
    """
    av = require_av(f"writing {out}")
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    with av.open(str(out), "w", format="mp4") as container:
        stream: Any = container.add_stream(codec, rate=Fraction(rate).limit_denominator(1000))
        stream.width, stream.height = (side + side % 2 for side in frames[0].size)
        stream.pix_fmt = "yuv420p"  # what browsers play
        for frame in frames:
            pixels = np.asarray(frame.convert("RGB"))
            pixels = np.pad(pixels, [(0, side % 2) for side in pixels.shape[:2]] + [(0, 0)], mode="edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
