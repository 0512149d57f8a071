"""Video files: which there are, and a number of frames of each at a given rate and size."""

import csv
import logging
import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alphaflow.data.shown import square
from alphaflow.data.sources.base import Labels
from alphaflow.data.sources.classes import by_value
from alphaflow.data.sources.splits import folder_meant, refuse_splits
from alphaflow.errors import UserError, missing

from .found import SUFFIXES, ClipFiles, frame_folders, videos_in
from .pictures import ANIMATED, read_pictures
from .published import is_kinetics, is_ucf, list_in, of_kinetics, of_ucf, text_of

log = logging.getLogger("alphaflow")


def find_clips(address: str | os.PathLike[str]) -> ClipFiles:
    """List the clips at an address.

    Args:
        address: a folder with one sub-folder a class, or with clips directly inside (no classes), or one with the
            lists of Kinetics or UCF-101, with `#SPLIT` for others than train; or a list: a `.txt` with one path a
            line, a `.csv` with the columns `path` and, if there are classes, `label`, or one of Kinetics' or
            UCF-101's. Paths in a list are relative to it. Clips are videos or, in a folder without any, animated
            WebP and PNG files or folders of frames. Classes that are numbers are in their order, others in the
            alphabet's.

    Raises:
        UserError: there are no clips, clips lie beside class folders, folders are train, val or test, or a list
            cannot be read.
    """
    place, part = os.fspath(address), ""
    if "#" in place and not Path(place).exists():
        place, _, part = place.partition("#")
    root = Path(place)
    if root.is_dir():
        listed = list_in(root, part)
        if listed is not None:
            return of_ucf(listed) if is_ucf(listed) else of_kinetics(listed, root, part)
        return _in_folder(_part_of(root, part) if part else root)
    if not root.exists() or part:
        raise UserError(f"no videos at {address}: it does not exist")
    if root.suffix not in (".txt", ".csv"):
        raise UserError(f"{root} is no list of videos: give a folder, a .txt with a path a line, or a .csv")
    if is_ucf(root):
        return of_ucf(root)
    return of_kinetics(root, _above(root)) if is_kinetics(root) else _in_list(root)


def _above(file: Path) -> Path:
    """Return the folder that holds the clips of a table: its own, or the one above a folder of tables alone."""
    return file.parent if videos_in(file.parent) else file.parent.parent


def _part_of(root: Path, part: str) -> Path:
    inner = sorted(path.name for path in root.iterdir() if path.is_dir())
    meant = part if (root / part).is_dir() else folder_meant(inner, part)
    if meant is None:
        raise UserError(f"{root} has no folder that {part!r} means: it has {_some(inner) or 'none'}")
    return root / meant


def _in_folder(root: Path) -> ClipFiles:
    direct = videos_in(root, "*")
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    by_class = {folder.name: files for folder in folders if (files := videos_in(folder))}
    if direct and by_class:
        raise UserError(
            f"{root} holds videos (such as {direct[0].name}) beside class folders (such as "
            f"{next(iter(by_class))}): put every video into a class folder, or all of them directly inside"
        )
    if not direct and not by_class:
        by_class = frame_folders(root)
        direct = by_class.pop("", [])
        if direct and by_class:
            raise UserError(
                f"{root} holds folders of frames (such as {direct[0].name}) beside folders of such (such as "
                f"{next(iter(by_class))}): put every clip into a class folder, or all of them directly inside"
            )
    if not direct and not by_class:
        raise UserError(
            f"{root} holds no videos: put {', '.join(SUFFIXES)} files into it, animated WebP or PNG files, or "
            "folders of frames"
        )
    if direct:
        _refuse_folders(root, direct)
        return ClipFiles(tuple(direct), np.zeros(len(direct), np.int64), ())
    _refuse_splits(root, by_class)
    if empty := [folder.name for folder in folders if folder.name not in by_class]:
        log.warning("%s: passed over %d folders without videos (%s)", root, len(empty), _some(empty))
    if len(by_class) == 1:
        _tell_lone_class(root, *by_class.items())
    paths = [path for files in by_class.values() for path in files]
    labels, names = by_value([name for name, files in by_class.items() for _ in files])
    return _with_classes(paths, labels, names)


def _refuse_folders(root: Path, clips: Sequence[Path]) -> None:
    """Refuse folders of frames that are named like splits, which are folders of single pictures."""
    if clips[0].is_dir():
        refuse_splits(
            [clip.name for clip in clips], str(root), lambda name: str(root / name), option="", otherwise=""
        )


def _refuse_splits(root: Path, by_class: Mapping[str, Sequence[Path]]) -> None:
    """Refuse folders that are splits of a data set, or that a lone folder keeps."""
    refuse_splits(by_class, str(root), lambda name: str(root / name), option="", otherwise="")
    if len(by_class) > 1:
        return
    ((lone, files),) = by_class.items()
    lone = str(root / lone)
    inner = {path.relative_to(lone).parts[0] for path in files if str(path.parent) != lone}
    refuse_splits(inner, lone, lambda name: f"{lone}/{name}", option="", otherwise="")


def _with_classes(paths: Sequence[Path], labels: Labels | None, names: tuple[str, ...]) -> ClipFiles:
    """Return the files class by class, in the order of the classes."""
    assert labels is not None
    order = np.argsort(labels, kind="stable")
    return ClipFiles(tuple(paths[k] for k in order), labels[order], names)


def _tell_lone_class(root: Path, lone: tuple[str, list[Path]]) -> None:
    """Warn if the only class has folders of its own, which may be the classes that were meant."""
    name, files = lone
    inner = sorted({path.relative_to(root / name).parts[0] for path in files if path.parent != root / name})
    if inner:
        log.warning(
            "%s: one class, %s, holds all videos; if the classes are its folders (%s), give %s",
            root,
            name,
            _some(inner),
            root / name,
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")


def _in_list(file: Path) -> ClipFiles:
    text = text_of(file)
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
    labels, names = by_value(words)
    assert labels is not None
    return ClipFiles(paths, labels, names)


def require_av(what: str) -> Any:
    """Return PyAV; raise a `UserError` with the command that installs it if it is missing."""
    try:
        import av
    except ImportError:
        raise missing(f"{what} needs PyAV", "video") from None
    return av


def needs_av(files: ClipFiles) -> bool:
    """Return whether there are videos among clips, rather than animated pictures and folders of frames alone."""
    return any(path.suffix.lower() in SUFFIXES for path in files.paths)


def check_clip(frames: int, rate: float, size: int) -> None:
    """Raise a `UserError` for clips that cannot be: `frames` of `size` pixels, `rate` a second."""
    if frames < 1 or size < 1 or not 0 < rate < float("inf"):
        raise UserError(
            f"clips of {frames} frames, {rate:g} a second, of {size} pixels: give each above 0", status=2
        )


def read_clip(path: Path, frames: int, rate: float, size: int) -> NDArray[np.uint8]:
    """Return the middle of a video: RGB frames uint8 (frames, size, size, 3), `rate` a second.

    Each is the frame that a viewer would see at its time, as it would see it: within the file's edit list, turned
    and mirrored as its display matrix says, with square pixels, transparency over white. The central square is cut
    out and resized by Lanczos (`shown.square`). For animated WebP and PNG files and folders of frames see
    `pictures.read_pictures`.

    Raises:
        UserError: PyAV is not installed.
        OSError: the file is no video or a damaged one, or ends before the last frame.
    """
    if path.is_dir() or path.suffix.lower() in ANIMATED:
        return read_pictures(path, frames, rate, size)
    av = require_av(f"reading {path}")
    try:
        with av.open(str(path)) as container:
            stream = _video(container)
            timeline = _Timeline.of(container, stream)
            numbers = timeline.middle(frames, rate)
            start = timeline.times[numbers[0]]
            if timeline.told:
                container.seek(start, stream=stream, backward=True)
                collected = _collect(_in_step(container.decode(stream), timeline.times), numbers, size, stream)
                if collected is not None:
                    return collected
        with av.open(str(path)) as container:  # seeking went too far, or the times say nothing of the order
            seen = [frame.pts for frame in container.decode(_video(container))]
        with av.open(str(path)) as container:
            stream = _video(container)
            collected = _collect(_from_the_start(container.decode(stream), seen, timeline), numbers, size, stream)
    except av.FFmpegError as error:
        raise OSError(getattr(error, "strerror", None) or str(error)) from None
    if collected is None:
        first, last = (timeline.second(number) for number in (numbers[0], numbers[-1]))
        raise OSError(f"a frame between {first:.2f} and {last:.2f} s is damaged")
    return collected


def _video(container: Any) -> Any:
    if not container.streams.video:
        raise OSError("no video in it")
    return container.streams.video[0]


@dataclass(frozen=True)
class _Timeline:
    """The times of the frames that are shown."""

    times: list[int]
    """In units of `unit` seconds, in order."""
    unit: Fraction
    rate: float
    told: bool
    """Whether the file has them; else they are equally far apart."""

    @classmethod
    def of(cls, container: Any, stream: Any) -> "_Timeline":
        packets = container.demux(stream)
        times = [packet.pts for packet in packets if packet.size and not packet.is_discard]
        if not times:
            raise OSError("no frames in it")
        rate = stream.average_rate or Fraction(25)
        if None in times:
            return cls(list(range(len(times))), 1 / rate, float(rate), False)
        return cls(sorted(times), stream.time_base, float(rate), True)

    def second(self, number: int) -> float:
        return float(self.times[number] * self.unit)

    def middle(self, frames: int, rate: float) -> list[int]:
        """Return the numbers of the frames that are seen in the middle, which never fall."""
        length, first = (frames - 1) / rate, self.second(0)
        lasts = self.second(-1) - first + 1 / self.rate  # headers may promise more
        if lasts + 1e-6 < length:
            raise OSError(f"it lasts {lasts:.2f} s, and {frames} frames at {rate:g} a second take {length:.2f}")
        first += max(0.0, lasts - length) / 2
        shown = [self.second(number) for number in range(len(self.times))]
        return [max(0, bisect_right(shown, first + k / rate + 1e-6) - 1) for k in range(frames)]


def _in_step(decoded: Iterable[Any], times: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """Yield decoded frames with their numbers, as long as each is the one that follows by its time."""
    expected: int | None = None
    for frame in decoded:
        if expected is None and frame.pts is not None:
            expected = bisect_left(times, frame.pts)
        if expected is None or expected >= len(times) or frame.pts != times[expected]:
            return
        yield expected, frame
        expected += 1


def _from_the_start(
    decoded: Iterable[Any], seen: Sequence[int | None], timeline: _Timeline
) -> Iterator[tuple[int, Any]]:
    """Yield all decoded frames with their numbers: by their times `seen` where these rise, else as they come."""
    told = timeline.told and None not in seen and all(one < other for one, other in pairwise(seen))  # type: ignore[operator]
    numbers = {time: number for number, time in enumerate(timeline.times)}
    for number, frame in enumerate(decoded):
        number = numbers.get(frame.pts, -1) if told else number
        if number >= 0:
            yield number, frame


def _collect(
    numbered: Iterable[tuple[int, Any]], numbers: Sequence[int], size: int, stream: Any
) -> NDArray[np.uint8] | None:
    """Return the frames with these numbers, which never fall; None if one of them does not come."""
    clip, done = np.empty((len(numbers), size, size, 3), np.uint8), 0
    for number, frame in numbered:
        if number < numbers[done]:
            continue
        if number > numbers[done]:
            return None
        clip[done] = square(frame, size, stream.sample_aspect_ratio or Fraction(1))
        done += 1
        while done < len(numbers) and numbers[done] == numbers[done - 1]:  # a slow video shows a frame for longer
            clip[done] = clip[done - 1]
            done += 1
        if done == len(numbers):
            return clip
    return None
