"""One run folder, one process: whoever trains in it holds it, and the next one is told who that is.

The lock is the system's (on `DIR/.lock`, by `filelock`), so it goes with the process that holds it, however that
ends, though its children live: a fork closes it in the child. Of several processes the first one holds it for all.
Who only reads a run, or writes beside it (`sample`, `evaluate`, `ema`, `report`, `export`), needs no lock:
checkpoints appear whole, and their files are their own.
"""

import contextlib
import datetime
import errno
import json
import logging
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from ..errors import UserError

log = logging.getLogger("alphaflow")

NAME = ".lock"
PATIENCE = 3.0
"""Seconds to wait for a holder that may be about to end, as one that was just killed is."""
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
_PROBE = 0.1
"""Seconds for which a look at the lock waits for another one that looks."""
_held: dict[tuple[int, int], FileLock] = {}
"""What this process holds, by the device and inode of the lock's file."""


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
    if _place(folder) in _held:
        return
    path = folder / NAME
    lock = FileLock(path, timeout=PATIENCE, thread_local=False, fallback_to_soft=False)
    try:
        folder.stat()  # or the lock would make a folder that has gone
        try:
            lock.acquire()
        except Timeout:
            raise UserError(_refusal(folder)) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            log.warning(
                "the file system of %s keeps no locks (%s): see to it that no other process trains there",
                folder,
                error.strerror,
            )
        _held[_key(path.stat())] = lock
    except OSError as error:
        kind = ReadOnlyError if error.errno in _READ_ONLY else UserError
        raise kind(
            f"cannot write to {folder} ({error.strerror}): a run goes on where it can be written, such as a copy"
        ) from None
    _sign(path)


def refuse_locked(folder: Path) -> None:
    """Refuse a folder in which another process trains, without locking it."""
    if _place(folder) in (None, *_held):
        return
    try:
        with FileLock(folder / NAME, timeout=_PROBE, fallback_to_soft=False):
            pass
    except Timeout:
        raise UserError(_refusal(folder)) from None
    except OSError:
        return


def release_lock(folder: Path) -> None:
    """Unlock a run's folder, if this process has locked it."""
    place = _place(folder)
    if place in _held:
        _held.pop(place).release()


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


def _sign(path: Path) -> None:
    """Say who holds it; on a full disk it is held all the same."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    with contextlib.suppress(OSError):
        path.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": now}) + "\n")


def _refusal(folder: Path) -> str:
    holder = _holder(folder / NAME)
    return f"{folder} is in training already, by {holder}: wait until that has ended, or choose another --out"


def _holder(path: Path) -> str:
    for _ in range(20):  # whoever took it a moment ago is about to sign
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            who = json.loads(path.read_bytes())
            return f"process {who['pid']} on {who['host']}, since {who['since']}"
        time.sleep(0.1)
    return "another process, which could not leave its name"


def _key(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _place(folder: Path) -> tuple[int, int] | None:
    try:
        return _key((folder / NAME).stat())
    except OSError:
        return None
