"""Published files: where they are fetched from, and the proof that they are what they claim to be.

A file is read once, its hash is compared, and what was hashed is what is then loaded: TorchScript and pickles can
carry code, so nothing of a file runs before it is known to be the published one.
"""

import gzip
import hashlib
import http.client
import os
import sys
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from alphaflow.errors import UserError
from alphaflow.files import cache_folder, locked

_CHUNK = 2**20
_ATTEMPTS = 5  # in a row that bring nothing new
_TIMEOUT = 30.0  # seconds without a byte


@dataclass(frozen=True)
class PublishedFile:
    """A file that its authors publish at an address."""

    file: str
    """The file's name, in the cache and in folders of the user's."""
    url: str
    sha256: str
    """Hash of the file; of one packed by gzip, whose bytes depend on who packed it, of what is in it."""
    kind: str = "detectors"
    """The folder of the cache."""
    option: str = "--detector-path"
    """The option that names a copy of the user's."""

    def read(self, path: str | os.PathLike[str] | None = None) -> bytes:
        """Return the file's content, checked.

        Args:
            path: the file, or a folder with it, packed by gzip or not; None: the cache, into which it is fetched
                if it is not there.

        Raises:
            UserError: there is no such file, it cannot be fetched, or its hash is another than `sha256`.
        """
        return self._checked(self._fetched() if path is None else self._found(Path(path).expanduser()))

    def _found(self, path: Path) -> Path:
        file = path / self.file if path.is_dir() else path
        if path.is_dir() and not file.is_file() and (path / self.file.removesuffix(".gz")).is_file():
            return path / self.file.removesuffix(".gz")
        if not file.is_file():
            raise UserError(f"no file {file}: give {self.file} from {self.url}, or a folder that holds it")
        return file

    def _checked(self, path: Path) -> bytes:
        try:
            content = self._unpacked(path.read_bytes())
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"cannot read {path} ({reason}): give a file that can be read") from None
        digest = hashlib.sha256(content).hexdigest()
        if digest != self.sha256:
            raise UserError(
                f"{path} has sha256 {digest}, expected {self.sha256}: it is not the published file and was not "
                f"opened; remove it, and fetch {self.url}"
            )
        return content

    def _unpacked(self, content: bytes) -> bytes:
        """Return what is in a file packed by gzip, be it packed still or not.

        Raises:
            OSError: it is damaged.
        """
        if not self.file.endswith(".gz") or content[:2] != b"\x1f\x8b":
            return content
        try:
            return gzip.decompress(content)
        except (EOFError, zlib.error) as error:
            raise OSError(str(error)) from None

    def _fetched(self) -> Path:
        file = cache_folder(self.kind) / self.file
        if file.is_file():
            return file
        with locked(file.with_name(file.name + ".lock")):
            if not file.is_file():  # another process may have fetched it meanwhile
                part = file.with_name(file.name + ".part")
                self._download(part)
                digest = self._hash(part)
                if digest != self.sha256:
                    part.unlink()
                    raise UserError(
                        f"{self.url} gave a file of sha256 {digest}, expected {self.sha256}: it was removed "
                        f"unopened; get {self.file} elsewhere and put it into {file.parent}"
                    )
                part.replace(file)
        return file

    def _hash(self, path: Path) -> str:
        """Return the hash of a large file, of which no more than a chunk is held."""
        try:
            with gzip.open(path) if self.file.endswith(".gz") else path.open("rb") as file:
                digest = hashlib.sha256()
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
                return digest.hexdigest()
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            return f"none ({error})"
        except OSError as error:
            raise UserError(f"cannot read {path} ({error.strerror}): give a file that can be read") from None

    def _download(self, part: Path) -> None:
        """Fetch into `part`, from where an earlier attempt left it."""
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

        columns = (
            "{task.description}",
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        bar = Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True)
        in_vain = 0
        with bar:
            task = bar.add_task(self.file, total=None)

            def tell(done: int, total: int | None) -> None:
                bar.update(task, completed=done, total=total)

            while True:
                before = _size(part)
                try:
                    if _continue(self.url, part, tell):
                        return
                    reason = f"broke off after {_size(part)} bytes"
                except urllib.error.HTTPError as error:
                    raise self._unreachable(f"{error.code} {error.reason}") from None
                except (OSError, http.client.HTTPException) as error:
                    reason = str(getattr(error, "reason", None) or error) or type(error).__name__
                in_vain = 0 if _size(part) > before else in_vain + 1
                if in_vain == _ATTEMPTS or _hopeless(reason):
                    raise self._unreachable(reason)

    def _unreachable(self, reason: str) -> UserError:
        return UserError(
            f"cannot fetch {self.url} ({reason}): try again, which goes on where this ended, or get "
            f"{self.file} on another machine and put it into {cache_folder(self.kind)}, or name it with "
            f"{self.option}"
        )


def _continue(url: str, part: Path, tell: Callable[[int, int | None], None]) -> bool:
    """Append to `part` what is missing of `url`; return whether all of it has come."""
    start = _size(part)
    request = urllib.request.Request(url, headers={"User-Agent": "alphaflow"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # nothing lies beyond `start`: all is here, which the hash will judge
            return True
        raise
    with answer:
        if answer.status != 206:  # the server sends all of it again
            start = 0
        length = answer.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        done = start
        with part.open("ab" if start else "wb") as file:
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                tell(done, total)
    return total is None or done >= total


def _hopeless(reason: str) -> bool:
    """Return whether another attempt at once would end the same way."""
    return any(
        word in reason for word in ("Name or service", "name resolution", "refused", "No space", "unreachable")
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
