"""One run folder, one process: whoever trains in it holds it, and the next one is told who that is.

The lock is the system's (flock on `DIR/.lock`), so it goes with the process that holds it, however that ends. Of
several processes the first one holds it for all. Who only reads a run, or writes beside it (`sample`, `evaluate`,
`ema`, `report`, `export`), needs no lock: checkpoints appear whole, and their files are their own.
"""

import contextlib
import datetime
import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from ..errors import UserError

log = logging.getLogger("alphaflow")

NAME = ".lock"
PATIENCE = 3.0
"""Seconds to wait for a holder that may be about to end, as one that was just killed is."""
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
_held: dict[tuple[int, int], int] = {}
"""The open files of what this process holds, by device and inode."""


class ReadOnlyError(UserError):
    """The folder cannot be written to, so nobody trains in it."""


class Group(Protocol):
    """The processes that train together."""

    @property
    def main(self) -> bool: ...

    def exchange(self, value: Any) -> list[Any]: ...


def acquire_lock(folder: Path) -> None:
    """Hold a run's folder until `release_lock` or the end of this process, which may ask more than once.

    Raises:
        UserError: another process trains in it; says which one, where and since when.
        ReadOnlyError: it cannot be written to.
    """
    end = time.monotonic() + PATIENCE
    while _place(folder) not in _held:
        file = _open(folder)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            words = _words(file)
            os.close(file)
            if time.monotonic() > end:
                raise UserError(_refusal(folder, words)) from None
            time.sleep(0.05)
            continue
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(file)
                raise UserError(f"cannot lock {folder} ({error.strerror}): choose another --out") from None
            log.warning(
                "the file system of %s keeps no locks (%s): see to it that no other process trains there",
                folder,
                error.strerror,
            )
        if _key(os.fstat(file)) == _place(folder):
            _held[_key(os.fstat(file))] = file
            _sign(file)
        else:  # the folder was removed, or made anew, meanwhile
            os.close(file)


def refuse_locked(folder: Path) -> None:
    """Refuse a folder in which another process trains, without locking it."""
    if _place(folder) in _held:
        return
    try:
        file = os.open(folder / NAME, os.O_RDONLY)
    except OSError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(_refusal(folder, _words(file))) from None
    except OSError:
        return
    finally:
        os.close(file)


def release_lock(folder: Path) -> None:
    """Unlock a run's folder, if this process has locked it."""
    place = _place(folder)
    if place in _held:
        os.close(_held.pop(place))


def on_first_process(group: Group, work: Callable[[], object]) -> None:
    """Let the first process do something; all processes must call, and all fail if it does, one of them aloud."""
    words: tuple[str, int, bool] | None = None
    failure: Exception | None = None
    if group.main:
        try:
            work()
        except Exception as error:
            status = error.status if isinstance(error, UserError) else 1
            words, failure = (str(error), status, isinstance(error, ReadOnlyError)), error
    first = group.exchange(words)[0]
    if failure is not None:
        raise failure
    if first is not None:
        message, status, read_only = first
        raise (ReadOnlyError if read_only else UserError)(message, status=status, reported=True)


def _open(folder: Path) -> int:
    try:
        return os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        kind = ReadOnlyError if error.errno in _READ_ONLY else UserError
        raise kind(
            f"cannot write to {folder} ({error.strerror}): a run goes on where it can be written, such as a copy"
        ) from None


def _sign(file: int) -> None:
    """Say who holds it; on a full disk it is held all the same."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    words = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": now}) + "\n"
    with contextlib.suppress(OSError):
        os.ftruncate(file, 0)
        os.pwrite(file, words.encode(), 0)


def _words(file: int) -> str:
    for _ in range(20):  # whoever took it a moment ago is about to sign
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            who = json.loads(os.pread(file, 4096, 0))
            return f"process {who['pid']} on {who['host']}, since {who['since']}"
        time.sleep(0.1)
    return "another process, which could not leave its name"


def _refusal(folder: Path, words: str) -> str:
    return f"{folder} is in training already, by {words}: wait until that has ended, or choose another --out"


def _key(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _place(folder: Path) -> tuple[int, int] | None:
    try:
        return _key((folder / NAME).stat())
    except OSError:
        return None


def _forget() -> None:
    """In a child made by a fork: it shares the lock, which would outlive its parent in it."""
    for file in _held.values():
        with contextlib.suppress(OSError):
            os.close(file)
    _held.clear()


os.register_at_fork(after_in_child=_forget)
