"""Files written whole or not at all, the cache of what can be made again, and the lock of those who take turns."""

import contextlib
import os
import re
import secrets
import shlex
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

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
        lock = FileLock(path).acquire()  # makes the folder, too
    except OSError as error:
        raise UserError(
            f"cannot write to the cache at {path.parent} ({error.strerror}): set ALPHAFLOW_CACHE to a folder "
            "that can be written"
        ) from None
    with lock:
        yield


def shell_word(path: str) -> str:
    """Return a path as it is typed into a shell: quoted where needed, in `$'…'` where bytes are no UTF-8."""
    if any("\udc80" <= letter <= "\udcff" for letter in path):
        text = path.replace("\\", r"\\").replace("'", r"\'")
        return f"$'{os.fsencode(text).decode(errors='backslashreplace')}'"
    return shlex.quote(path) if re.search(r"[^\w@%+=:,./#-]|^#", path) else path


@contextlib.contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Give a name beside `path`, which takes the place of `path` after the block, or vanishes if that fails."""
    name = f".{path.name[:50]}.{os.getpid()}.{secrets.token_hex(4)}.tmp"  # nobody else has it, on any host
    temporary = path.with_name(name)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole, on the disk, or as it was before. Raises `OSError`."""
    with beside(path) as temporary, temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    flush(path.parent)


def flush(path: Path) -> None:
    """Send a file to the disk; of a folder, its entries."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Atomically, with folders as needed. Raises `UserError` where it can't be written."""
    write_bytes(path, text.encode(errors="backslashreplace"))  # a class of a folder that is not UTF-8


def write_bytes(path: Path, content: bytes) -> None:
    """Atomically, with folders as needed. Raises `UserError` where it can't be written."""
    if not path.name or path.is_dir():
        raise UserError(f"{str(path)!r} is no name of a file: choose another one", status=2)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): choose another place") from None
