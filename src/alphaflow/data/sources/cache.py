"""A folder of files that can be made again: listings, unpacked archives, decoded pixels."""

import contextlib
import hashlib
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alphaflow.files import beside, cache_folder

Arrays = dict[str, NDArray[np.generic]]


def key_of(*parts: object) -> str:
    """Return a file name for what depends on these parts."""
    return hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "surrogateescape")).hexdigest()[:24]


def stamp_of(path: Path) -> NDArray[np.int64]:
    """Return a file's size in bytes and its time of change in nanoseconds, by which it is compared."""
    state = path.stat()
    return np.array([state.st_size, state.st_mtime_ns], np.int64)


def load_index(path: str, stamp: NDArray[np.int64] | None = None) -> Arrays | None:
    """Return what `store_index` kept for a path; `None` if there is nothing, it is damaged, or the stamp is
    another."""
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
        with beside(folder / f"{key_of(path)}.npz") as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
