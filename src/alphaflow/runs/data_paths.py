"""Where the files lie that a run depends on: kept by absolute paths, and asked for when they have moved."""

import itertools
import operator
import re
from collections.abc import Sequence
from pathlib import Path

from ..data import Dataset
from ..errors import UserError
from . import hub
from .build import build_dataset
from .config import Config, DataConfig, with_changes

_FILES = ("init", "data.labels", "data.captions", "distill.teacher", "monitor.vae", "monitor.reference")
"""Settings that name a file or a folder, or something else: a column, a model on the hub."""
_MOVED = "where the data have moved, add --data.path PLACE"


def at_home(config: Config) -> Config:
    """Return the settings with absolute paths: a run can be gone on with, and evaluated, from any folder."""
    changes = {"data.path": absolute(config.data.path)}
    for name in _FILES:
        path = operator.attrgetter(name)(config)
        if path and not _is_elsewhere(path) and Path(path).exists():
            changes[name] = absolute(path)
    return with_changes(config, changes)


def find_data(config: DataConfig, class_names: Sequence[str] | None = None, *, moved: bool = True) -> Dataset:
    """Return the data set that the settings name; where it is not there, an error that asks for its place.

    Args:
        class_names: the order of the classes that a run recorded.
        moved: of a run that there is already.
    """
    try:
        return build_dataset(config, class_names)
    except UserError as error:
        if not moved or not is_missing(config.path):
            raise
        raise UserError(f"{error}; {_MOVED}", status=error.status) from None


def refuse_missing_data(config: DataConfig, *, moved: bool) -> None:
    """Refuse settings that name a place where nothing lies; of data elsewhere that is seen on fetching.

    moved: of a run that there is already, whose data may be somewhere else by now.
    """
    if is_missing(config.path):
        find_data(config, moved=moved)  # says what may lie there


def is_missing(path: str) -> bool:
    """Whether an address on this machine names nothing; of a pattern, the folder in which it begins."""
    return bool(path) and not _is_elsewhere(path) and not _root(path).exists()


def refuse_overlap(config: Config, folder: Path) -> None:
    """Refuse a run whose files would become a part of its data, or whose data lie among what it writes."""
    words = overlap(config, folder)
    if words:
        raise UserError(f"{words}: choose another --out", status=2)


def overlap(config: Config, folder: Path) -> str | None:
    """How the run's folder and its data lie in each other, in words; None if they do not."""
    path = config.data.path
    if not path or _is_elsewhere(path):
        return None
    root, out = _root(path).resolve(), folder.resolve()
    if root.is_dir() and (root == out or root in out.parents):
        return f"{folder} lies in the run's own data, {path}, where its samples would become data"
    if out in root.parents:
        return f"the run's data, {path}, lie in {folder}, its own folder"
    return None


def absolute(path: str) -> str:
    """Patterns, braces and `#SPLIT` stay as they are."""
    if not path or _is_elsewhere(path) or path.lstrip("{").startswith("/"):
        return path
    return str(Path.cwd() / path)


def _is_elsewhere(path: str) -> bool:
    return "://" in path or hub.is_address(path)


def _root(path: str) -> Path:
    """Return the file or folder that an address names; of a pattern the folder in which it begins."""
    if Path(path).exists():
        return Path(path)
    path = path.partition("#")[0]
    return Path(*itertools.takewhile(lambda part: not re.search(r"[*?\[{]", part), Path(path).parts))
