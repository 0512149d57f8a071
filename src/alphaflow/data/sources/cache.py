"""A folder of things that can be made again: listings, unpacked archives, decoded pixels."""

import contextlib
import hashlib
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alphaflow.places import cache_folder, locked

__all__ = ["Arrays", "cache_folder", "key_of", "load_index", "locked", "stamp_of", "store_index"]

Arrays = dict[str, NDArray[np.generic]]


def key_of(*parts: object) -> str:
    """A file name for what depends on these parts."""
    return hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "surrogateescape")).hexdigest()[:24]


def stamp_of(path: Path) -> NDArray[np.int64]:
    """Size and time of change of a file: what it is compared by."""
    state = path.stat()
    return np.array([state.st_size, state.st_mtime_ns], np.int64)


def load_index(path: str, stamp: NDArray[np.int64] | None = None) -> Arrays | None:
    """What `store_index` kept for a path; `None` if there is nothing, it is damaged, or the stamp is another."""
    file = cache_folder("index") / f"{key_of(path)}.npz"
    try:
        with np.load(file, allow_pickle=False) as kept:
            arrays = {name: kept[name] for name in kept.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None
    fresh = stamp is None or np.array_equal(arrays.get("stamp", ()), stamp)
    return arrays if fresh else None


def store_index(path: str, arrays: Arrays) -> None:
    """Keep arrays for a path. A cache that cannot be written costs time, not the run."""
    folder = cache_folder("index")
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
            try:
                np.savez(file, **arrays)  # type: ignore[arg-type]
            except BaseException:
                temporary.unlink()
                raise
        temporary.replace(folder / f"{key_of(path)}.npz")
