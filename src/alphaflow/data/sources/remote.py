"""Files elsewhere, by URL, through fsspec: fetched into the cache once, each whole, and local from then on.

Training visits images in a random order, epoch after epoch: fetching a file once costs less than one epoch of
requests. The processes of a machine share the files.
"""

import errno
import re
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from alphaflow.errors import UserError
from alphaflow.files import beside, cache_folder, locked

from .cache import key_of

_HINTS = {401: ": it wants a login", 403: ": it does not give this to you", 404: ": look at the address"}
_AT_ONCE = 8  # files fetched at the same time
_TELLING = ("size", "ETag", "etag", "LastModified", "last_modified", "mtime", "created")


def is_remote(address: str) -> bool:
    """Return whether an address is a URL."""
    return "://" in address


def expand(address: str) -> list[str]:
    """Spell out braces as shells do: `{000..012}` counts, with leading zeros kept, and `{a,b}` lists."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}", address)
    if match is None:
        return [address]
    first, last, words = match.groups()
    if words is None:
        if int(last) < int(first) or int(last) - int(first) > 1_000_000:
            raise UserError(f"{address}: {{{first}..{last}}} counts no files: give the first and the last number")
        parts = [str(k).zfill(len(first)) for k in range(int(first), int(last) + 1)]
    else:
        parts = words.split(",")
    return [text for part in parts for text in expand(address[: match.start()] + part + address[match.end() :])]


def fetch(addresses: Sequence[str]) -> list[Path]:
    """Return where the files of URLs lie in the cache, once fetched; a URL with `*` stands for all that match.

    Raises:
        UserError: the protocol is unknown or its package missing, there is no such file, or fetching fails.
    """
    urls: list[str] = []
    for address in addresses:
        fs, path = _system(address)
        if "*" not in address:
            urls.append(address)
            continue
        matches = _asked(address, lambda fs=fs, path=path: sorted(fs.glob(path)))
        if not matches:
            raise UserError(f"nothing matches {address}: give an address of images")
        urls += [fs.unstrip_protocol(match) for match in matches]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(_fetch, urls))


def _fetch(url: str) -> Path:
    fs, path = _system(url)
    info = _asked(url, lambda: fs.info(path))
    name = path.rstrip("/").rpartition("/")[2].partition("?")[0] or "file"
    folder = cache_folder("fetched") / key_of(url, *(info.get(part) for part in _TELLING))
    target = folder / name
    with locked(folder / "lock"):
        if not target.exists():
            with beside(target) as temporary:
                _asked(url, lambda: fs.get_file(path, str(temporary)))
                size = temporary.stat().st_size
                if info.get("size") not in (None, size):
                    raise UserError(f"{url} broke off after {size} of {info['size']} bytes: try again")
    return target


def _system(url: str) -> Any:
    """Return the file system of a URL, and the path in it."""
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise UserError(
            f"cannot open {url}: {error}; pip install 'alphaflow[remote]' brings http and s3"
        ) from None


def _asked(url: str, ask: Any) -> Any:
    """Return what a file system answers, and turn its failures into a `UserError` of one line."""
    try:
        return ask()
    except Exception as error:  # each file system has exceptions of its own
        if isinstance(error, UserError):
            raise
        raise UserError(f"cannot fetch {url}: {_reason(error, url)}") from None


def _reason(error: BaseException, url: str) -> str:
    """Return in words why a file cannot be fetched: an error's cause often knows more than the error."""
    chain: list[BaseException] = []
    while error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__ or getattr(error, "os_error", None) or error
    for link in reversed(chain):
        status, said = getattr(link, "status", None), getattr(link, "message", "")
        if isinstance(status, int):
            hint = _HINTS.get(status, "")
            return f"the server answers {status} {said}".rstrip() + hint
        if isinstance(link, socket.gaierror) or "DNS" in type(link).__name__:
            return f"there is no host {urlsplit(url).hostname}, or no network: look at the address"
        if isinstance(link, ConnectionRefusedError) or getattr(link, "errno", None) == errno.ECONNREFUSED:
            return f"nothing listens at {urlsplit(url).netloc}: look at the address"
        if isinstance(link, TimeoutError):
            return "it took too long: try again"
    for link in reversed(chain):
        words = " ".join(str(link).split())
        if words and words != url and words not in url:
            return words
    missing = any(isinstance(link, FileNotFoundError) for link in chain)
    return "there is no such file" if missing else type(chain[0]).__name__
