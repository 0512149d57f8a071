"""Where things lie that can be made or fetched again, and the lock by which processes take turns there."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from .errors import UserError


def cache_folder(kind: str) -> Path:
    """Where things of a kind are kept: below $ALPHAFLOW_CACHE, or else `alphaflow` below $XDG_CACHE_HOME or
    ~/.cache. The folder need not exist."""
    own = os.environ.get("ALPHAFLOW_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alphaflow"
    return (Path(own) if own else base) / kind


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
