"""Standard output and error as they may come: of few signs, closed, full, or with nobody at the other end."""

import contextlib
import io
import os
import shutil
import sys
from collections.abc import Iterator

from ..errors import UserError


def open_closed() -> None:
    """Put the null device where a stream was closed (`2>&-`): or the next file to be opened takes its number, and
    with it whatever libraries print."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123


@contextlib.contextmanager
def as_they_come() -> Iterator[None]:
    """Print a ? for signs that a terminal has not, instead of failing after the work; say so where nothing more
    can be printed."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        yield
        _flush()
    except BrokenPipeError:  # `alphaflow recipes | head -1`
        _silence()


def say(words: str, *, heard: bool = True) -> None:
    """Print a result at once.

    heard: somebody should be there; otherwise it does not matter if nobody is.

    Raises:
        UserError: it cannot be printed, and should be.
    """
    try:
        print(words, flush=True)
    except OSError as error:
        if heard and isinstance(error, BrokenPipeError):
            raise
        _silence()
        if heard:
            raise UserError(f"cannot print the result ({error.strerror}): give standard output room") from None


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _silence()
        raise UserError(f"cannot print the result ({error.strerror}): give standard output room") from None


def _silence() -> None:
    """Send what is left to nowhere, or Python says at its end that it could not be printed."""
    with contextlib.suppress(OSError, ValueError, io.UnsupportedOperation):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def wide_enough(least: int = 60) -> Iterator[None]:
    """Let what is set into boxes have some room, also where a terminal says that it has none."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(max(shutil.get_terminal_size().columns, least))
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
