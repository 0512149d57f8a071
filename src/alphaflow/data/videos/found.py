"""The files of clips: what they are, and which there are below a folder."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .pictures import ANIMATED, frames_in, is_animated

SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".mpg", ".mpeg", ".ts"),
    *(".flv", ".wmv", ".3gp"),
)


@dataclass(frozen=True)
class ClipFiles:
    """Clips in a fixed order: files, or folders of frames."""

    paths: tuple[Path, ...]
    labels: NDArray[np.int64]
    """Int64 (N,), zeros without classes."""
    class_names: tuple[str, ...]
    """One name for each class, in the order of the labels."""
    passed_over: tuple[str, ...] = ()
    """Sentences about what was seen, or listed, and not used."""

    @property
    def digest(self) -> str:
        """16 hexadecimal digits of names, sizes and labels. Nothing is decoded for it."""
        return self._digest(lambda path: "")

    @property
    def stamp(self) -> str:
        """16 hexadecimal digits as `digest`, and of places and times of change: caches are kept by it."""
        return self._digest(lambda path: f"{path}|{max(file.stat().st_mtime_ns for file in _files_of(path))}")

    def _digest(self, more: Callable[[Path], str]) -> str:
        digest = hashlib.sha256(repr(self.class_names).encode("utf-8", "surrogateescape"))
        for path, label in zip(self.paths, self.labels.tolist()):
            size = sum(file.stat().st_size for file in _files_of(path))
            line = f"{path.name}|{size}|{more(path)}|{label}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()[:16]


def _files_of(path: Path) -> list[Path]:
    return frames_in(path) if path.is_dir() else [path]


def videos_in(folder: Path, pattern: str = "**/*") -> list[Path]:
    """Return the videos that match a pattern below a folder, in order.

    Where there are none, they are animated WebP and PNG files; hidden files count in neither.
    """
    shown = [
        path
        for path in sorted(folder.glob(pattern))
        if path.suffix.lower() in (*SUFFIXES, *ANIMATED)
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    ]
    videos = [path for path in shown if path.suffix.lower() in SUFFIXES]
    return videos or [path for path in shown if is_animated(path)]


def frame_folders(folder: Path) -> dict[str, list[Path]]:
    """Return folders of frames by the class that they lie in, or by "" where they lie in the folder itself.

    They are those that hold several images and no folders: `class/clip/00001.jpg` or `clip/00001.jpg`.
    """
    inner = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    direct = [path for path in inner if len(frames_in(path)) > 1]
    found = {"": direct} if direct else {}
    for one in (path for path in inner if path not in direct):
        clips = sorted(path for path in one.iterdir() if path.is_dir() and not path.name.startswith("."))
        if clips := [path for path in clips if len(frames_in(path)) > 1]:
            found[one.name] = clips
    return found
