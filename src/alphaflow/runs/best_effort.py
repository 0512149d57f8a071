"""What is written beside a run that training can do without: a full disk or a lost folder must not end it."""

import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

from ..errors import UserError

log = logging.getLogger("alphaflow")


class BestEffort:
    """Tries to write, and reports each thing that cannot be written once; the next time it is tried again."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def attempt(self, what: str, write: Callable[[], object]) -> bool:
        """Write, and return whether that went well. `what` names it to people: "the sample grid"."""
        try:
            write()
        except (OSError, UserError) as error:
            self.tell(what, error)
            return False
        return True

    def tell(self, what: str, error: Exception) -> None:
        """Say that it could not be written, unless that was said before."""
        if what not in self._told:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            log.warning("cannot write %s (%s): training goes on, and tries again", what, reason)
        self._told.add(what)


class AppendOnlyFile:
    """A file that only grows. What cannot be written now waits until it can.

    Nothing is left of an entry that was written in part, or the next one would be lost with it.

    Args:
        makes_folder: make the folder that it lies in, but not the one around that.
    """

    def __init__(self, path: Path, *, makes_folder: bool = False) -> None:
        self.path, self._makes_folder = path, makes_folder
        self._waiting = b""

    def add(self, entry: bytes) -> None:
        """Append. A folder that has gone away, as a network's does, is not made anew.

        Raises:
            OSError: it could not be written, and waits.
        """
        self._waiting += entry
        self.flush()

    def flush(self) -> None:
        """Write what waits; see `add`."""
        if not self._waiting:
            return
        if self._makes_folder:
            self.path.parent.mkdir(exist_ok=True)
        with self.path.open("ab", buffering=0) as file:  # anew each time: a network's folder may go and come back
            size = os.fstat(file.fileno()).st_size
            try:
                left = memoryview(self._waiting)
                while left:
                    left = left[file.write(left) :]
            except OSError:
                with contextlib.suppress(OSError):
                    os.truncate(self.path, size)
                raise
        self._waiting = b""
