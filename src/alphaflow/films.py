"""Files of videos: GIF, MP4, arrays."""

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .data.clips import require_av
from .errors import UserError
from .figures import image_grid, picture

SUFFIXES = (".npz", ".gif", ".mp4", ".png")


def write_videos(
    videos: NDArray[np.uint8],
    labels: NDArray[np.int64],
    out: Path,
    columns: int | None = None,
    *,
    rate: float = 8.0,
) -> None:
    """Write videos uint8 (N, T, H, W, C).

    out: `FILE.gif` or `FILE.mp4`, all in one moving grid; `FILE.png`, each as a row of frames; `FILE.npz` with
        `videos` and `labels`; `FOLDER/`, one GIF for each.
    rate: frames a second.

    Raises:
        UserError: another ending, a rate that is not positive, no PyAV for an MP4, or a place that can't be
            written.
    """
    if not rate > 0:
        raise UserError(f"--rate {rate:g} must be above 0 frames a second", status=2)
    if out.suffix and out.suffix not in SUFFIXES:
        raise UserError(
            f"cannot write videos to {out}: end its name in {', '.join(SUFFIXES)}, or name a folder", status=2
        )
    try:
        (out.parent if out.suffix else out).mkdir(parents=True, exist_ok=True)
        if out.suffix == ".npz":
            np.savez(out, allow_pickle=False, videos=videos, labels=labels)
        elif out.suffix == ".png":
            picture(videos).save(out)
        elif out.suffix == ".gif":
            write_gif(moving_grid(videos, columns), out, rate)
        elif out.suffix == ".mp4":
            write_mp4(moving_grid(videos, columns), out, rate)
        else:
            for k, (video, label) in enumerate(zip(videos, labels)):
                write_gif(moving_grid(video[None], 1), out / f"{k:06d}-class{label}.gif", rate)
    except OSError as error:
        raise UserError(f"cannot write {out} ({error.strerror or error}): choose another place") from None


def moving_grid(videos: NDArray[np.uint8], columns: int | None = None) -> list[Image.Image]:
    """Videos uint8 (N, T, H, W, C) laid out in rows, as T pictures."""
    return [image_grid(frames, columns) for frames in videos.swapaxes(0, 1)]


def write_gif(frames: Sequence[Image.Image], out: Path, rate: float) -> None:
    """An endless GIF of RGB or grey frames, with the colours of all of them in one palette.

    GIF counts time in hundredths of a second, and viewers slow down what is quicker than 50 frames a second.
    """
    if frames[0].mode == "RGB":
        sample = np.concatenate([np.asarray(frame).reshape(-1, 3) for frame in frames])
        side = math.isqrt(min(len(sample), 2**20))
        chosen = sample[np.linspace(0, len(sample) - 1, side * side).astype(int)].reshape(side, side, 3)
        palette = Image.fromarray(chosen).quantize(256)
        frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    duration = max(20, round(100 / rate) * 10)
    frames[0].save(out, save_all=True, append_images=frames[1:], duration=duration, loop=0, optimize=False)


def write_mp4(frames: Sequence[Image.Image], out: Path, rate: float) -> None:
    """An MP4, H.264 where PyAV was built with it, else MPEG-4; an odd row or column of pixels is doubled.

    Raises:
        UserError: PyAV is not installed.
    """
    av = require_av(f"writing {out}")
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    with av.open(str(out), "w") as container:
        stream: Any = container.add_stream(codec, rate=Fraction(rate).limit_denominator(1000))
        stream.width, stream.height = (side + side % 2 for side in frames[0].size)
        stream.pix_fmt = "yuv420p"  # what browsers play
        for frame in frames:
            pixels = np.asarray(frame.convert("RGB"))
            pixels = np.pad(pixels, [(0, side % 2) for side in pixels.shape[:2]] + [(0, 0)], mode="edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
