"""Video files: which there are, and a number of frames of each at a given rate and size."""

import csv
import hashlib
import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alphaflow.errors import UserError

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".mpg", ".mpeg", ".ts")


@dataclass(frozen=True)
class ClipFiles:
    """Video files in a fixed order.

    labels: int64 (N,), zeros without classes. class_names: one a class, in the order of the labels.
    """

    paths: tuple[Path, ...]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]

    @property
    def digest(self) -> str:
        """16 hexadecimal digits: of names, sizes, times of change and labels. Nothing is decoded for it."""
        found = hashlib.sha256(repr(self.class_names).encode())
        for path, label in zip(self.paths, self.labels.tolist()):
            state = path.stat()
            found.update(f"{path.name}|{state.st_size}|{state.st_mtime_ns}|{label}\n".encode())
        return found.hexdigest()[:16]


def find_clips(address: str | os.PathLike[str]) -> ClipFiles:
    """List the video files at an address.

    Args:
        address: a folder with one sub-folder a class, or with videos directly inside (no classes); or a list: a
            `.txt` with one path a line, or a `.csv` with the columns `path` and, if there are classes, `label`.
            Paths in a list are relative to it. Classes are sorted by name.

    Raises:
        UserError: nothing there, no videos, videos beside class folders, or a list that cannot be read.
    """
    root = Path(address)
    if root.is_dir():
        return _in_folder(root)
    if not root.exists():
        raise UserError(f"no videos at {root}: it does not exist")
    if root.suffix not in (".txt", ".csv"):
        raise UserError(f"{root} is no list of videos: give a folder, a .txt with a path a line, or a .csv")
    return _in_list(root)


def _in_folder(root: Path) -> ClipFiles:
    direct = _videos_in(root, "*")
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    by_class = {folder.name: found for folder in folders if (found := _videos_in(folder, "**/*"))}
    if direct and by_class:
        raise UserError(
            f"{root} holds videos (such as {direct[0].name}) beside class folders (such as "
            f"{next(iter(by_class))}): put every video into a class folder, or all of them directly inside"
        )
    if not direct and not by_class:
        raise UserError(f"{root} holds no videos: put {', '.join(SUFFIXES)} files into it")
    if direct:
        return ClipFiles(tuple(direct), np.zeros(len(direct), np.int64), ())
    paths = tuple(path for found in by_class.values() for path in found)
    counts = [len(found) for found in by_class.values()]
    return ClipFiles(paths, np.repeat(np.arange(len(counts)), counts).astype(np.int64), tuple(by_class))


def _videos_in(folder: Path, pattern: str) -> list[Path]:
    return sorted(
        path
        for path in folder.glob(pattern)
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def _in_list(file: Path) -> ClipFiles:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the list {file} ({error})") from None
    if file.suffix == ".txt":
        rows = [{"path": line.strip()} for line in text.splitlines() if line.strip()]
    else:
        rows = list(csv.DictReader(text.splitlines()))
    if not rows or any(not row.get("path") for row in rows):
        raise UserError(f"{file} lists no videos: give one a line, in a .csv under the headings path,label")
    paths = tuple(file.parent / row["path"] for row in rows)
    missing = next((path for path in paths if not path.is_file()), None)
    if missing is not None:
        raise UserError(f"{file} lists {missing}, which is not there: its paths are relative to the list")
    words = [row.get("label") for row in rows]
    if not any(words):
        return ClipFiles(paths, np.zeros(len(paths), np.int64), ())
    bare = next((row["path"] for row in rows if not row.get("label")), None)
    if bare is not None:
        raise UserError(f"{file} gives no label for {bare}, and does for others: label all of them, or none")
    names = tuple(sorted({word for word in words if word}))
    return ClipFiles(paths, np.array([names.index(word) for word in words if word], np.int64), names)


def require_av(what: str) -> Any:
    """PyAV, or an error that names the command which installs it."""
    try:
        import av
    except ImportError:
        raise UserError(f"{what} needs PyAV: pip install 'alphaflow[video]'") from None
    return av


def read_clip(path: Path, frames: int, rate: float, size: int) -> NDArray[np.uint8]:
    """The middle of a video: RGB frames uint8 (frames, size, size, 3), `rate` a second.

    Each is the frame that a viewer would see at its time, cut to the central square and resized by Lanczos.

    Raises:
        UserError: PyAV is not installed.
        OSError: the file is no video or a damaged one, or ends before the last frame.
    """
    av = require_av(f"reading {path}")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise OSError("no video in it")
            return _middle(container, container.streams.video[0], frames, rate, size)
    except av.FFmpegError as error:
        raise OSError(getattr(error, "strerror", None) or str(error)) from None


def _middle(container: Any, stream: Any, frames: int, rate: float, size: int) -> NDArray[np.uint8]:
    times = sorted(packet.pts * stream.time_base for packet in container.demux(stream) if packet.pts is not None)
    if not times:
        raise OSError("no frames in it")
    length = (frames - 1) / rate
    lasts = float(times[-1] - times[0]) + float(1 / (stream.average_rate or 25))  # headers may promise more
    if lasts + 1e-6 < length:
        raise OSError(f"it lasts {lasts:.2f} s, and {frames} frames at {rate:g} a second take {length:.2f}")
    first = float(times[0]) + max(0.0, lasts - length) / 2
    shown = [float(time) for time in times]
    wanted = [times[max(0, bisect_right(shown, first + k / rate + 1e-6) - 1)] for k in range(frames)]
    container.seek(int(wanted[0] / stream.time_base), stream=stream, backward=True)
    return _collect(container, stream, wanted, size)


def _collect(container: Any, stream: Any, wanted: Sequence[Any], size: int) -> NDArray[np.uint8]:
    """The frames at the times `wanted`, which do not fall."""
    clip = np.empty((len(wanted), size, size, 3), np.uint8)
    done = 0
    for frame in container.decode(stream):
        if frame.pts is None or frame.pts * stream.time_base < wanted[done]:
            continue
        if frame.pts * stream.time_base > wanted[done]:
            raise OSError(f"the frame at {float(wanted[done]):.2f} s is damaged")
        clip[done] = _square(frame.to_image(), size)
        done += 1
        while done < len(wanted) and wanted[done] == wanted[done - 1]:  # a slow video shows a frame for longer
            clip[done] = clip[done - 1]
            done += 1
        if done == len(wanted):
            return clip
    raise OSError(f"it breaks off after {done} of {len(wanted)} frames")


def _square(image: Image.Image, size: int) -> NDArray[np.uint8]:
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, image.width - left, image.height - top)
    return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.LANCZOS, box=box))
