"""A folder of things that can be made again: listings, unpacked archives, decoded pixels."""

import contextlib
import fcntl
import hashlib
import os
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alphaflow.errors import UserError

Arrays = dict[str, NDArray[np.generic]]


def cache_folder(kind: str) -> Path:
    """Where things of a kind are kept: below $ALPHAFLOW_CACHE, or else `alphaflow` below $XDG_CACHE_HOME or
    ~/.cache. The folder need not exist."""
    own = os.environ.get("ALPHAFLOW_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alphaflow"
    return (Path(own) if own else base) / kind


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


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file at `path`, so that one process makes what the others then find. The system lets go of it
    when the process ends, however it ends."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise UserError(
            f"cannot write to the cache at {path.parent} ({error.strerror}): set ALPHAFLOW_CACHE to a folder "
            "that can be written"
        ) from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
