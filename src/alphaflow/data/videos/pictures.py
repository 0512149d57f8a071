"""Clips that are pictures: animated WebP and PNG files, and folders of frames."""

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alphaflow.data.sources.classes import is_image
from alphaflow.data.sources.decoding import decode, reason_of

ANIMATED = (".webp", ".png", ".apng")
"""Endings of files that may be animated; GIF goes with the videos."""
_HEAD = 1 << 16  # bytes in which a file says whether it is animated
_MOST = 1 << 14  # frames of a clip


def is_animated(path: Path) -> bool:
    """Return whether a file is a WebP or PNG of several frames, by its beginning."""
    if path.suffix.lower() not in ANIMATED:
        return False
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head.startswith(b"\x89PNG"):
        return b"acTL" in head.partition(b"IDAT")[0]
    return head.startswith(b"RIFF") and head[8:16] == b"WEBPVP8X" and bool(head[20:21] and head[20] & 2)


def frames_in(folder: Path) -> list[Path]:
    """Return the frames in a folder, in the order of the numbers in their names.

    Where there are several series of the same numbers, they are those called img or the like: img_00001.jpg beside
    flow_x_00001.jpg.
    """
    frames = [path for path in folder.iterdir() if is_image(path.name) and path.is_file()]
    series = _series(frames)
    pictures = [kind for kind in series if re.match(r"(img|image|rgb|frame)s?([-_.]|#|$)", kind.lower())]
    kept = series[pictures[0]] if len(series) > 1 and len(pictures) == 1 else frames
    return sorted(kept, key=lambda path: (_numbers(path.stem), path.name))


def _series(frames: Sequence[Path]) -> dict[str, list[Path]]:
    """Return frames by their names without numbers; all in one where no number is there twice."""
    found: dict[str, list[Path]] = {}
    for path in frames:
        found.setdefault(re.sub(r"\d+", "#", path.stem), []).append(path)
    count = len({tuple(_numbers(path.stem)) for path in frames})
    return found if count < len(frames) else {"": list(frames)}


def _numbers(stem: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d{1,18}", stem)]


def read_pictures(path: Path, frames: int, rate: float, size: int) -> NDArray[np.uint8]:
    """Return the middle of an animated file or of a folder of frames: RGB uint8 (frames, size, size, 3).

    An animated file is seen at `rate` a second, by its own times. Frames in a folder have no times: they are taken
    one after the other.

    Raises:
        OSError: a frame cannot be read, or there are too few.
    """
    try:
        if path.is_dir():
            held = frames_in(path)
            if len(kinds := _series(held)) > 1:
                raise OSError(f"it holds several series of frames ({', '.join(sorted(kinds)[:4])})")
            if len(held) < frames:
                raise OSError(f"it has {len(held)} frames, and a clip takes {frames}")
            first = (len(held) - frames) // 2
            return _stacked([_decoded(file, size) for file in held[first : first + frames]])
        return _of_animation(path, frames, rate, size)
    except OSError:
        raise
    except Exception as error:  # a damaged file can make a decoder raise nearly anything
        raise OSError(reason_of(error)) from None


def _decoded(file: Path, size: int) -> NDArray[np.uint8]:
    try:
        return decode(file.read_bytes(), size)
    except Exception as error:
        raise OSError(f"{file.name}: {reason_of(error)}") from None


def _of_animation(path: Path, frames: int, rate: float, size: int) -> NDArray[np.uint8]:
    from PIL import Image

    with Image.open(path, formats=("PNG", "WEBP")) as image:
        count = min(getattr(image, "n_frames", 1), _MOST)
        ends: list[float] = []
        for number in range(count):
            image.seek(number)
            image.load()
            ends.append(float(image.info.get("duration", 0) or 100) / 1000)  # as browsers show what has no time
        ends = list(accumulate(ends))
        length = (frames - 1) / rate
        if ends[-1] + 1e-6 < length:
            raise OSError(f"it lasts {ends[-1]:.2f} s, and {frames} frames at {rate:g} a second take {length:.2f}")
        start = max(0.0, ends[-1] - length) / 2
        wanted = [min(bisect_right(ends, start + k / rate + 1e-6), count - 1) for k in range(frames)]
        seen: dict[int, NDArray[np.uint8]] = {}
        for number in range(count):  # in order: each frame is drawn over those before
            image.seek(number)
            image.load()
            if number in wanted:
                rgba = image.convert("RGBA")
                flat = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
                seen[number] = decode(np.asarray(flat), size)
    return _stacked([seen[number] for number in wanted])


def _stacked(clip: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return frames (3, size, size) as one array (T, size, size, 3)."""
    return np.ascontiguousarray(np.stack(clip).transpose(0, 2, 3, 1))
