"""Files elsewhere, by URL, through fsspec: fetched into the cache once, each whole, and local from then on.

Training visits images in a random order, epoch after epoch: fetching a file once costs less than one epoch of
requests. The processes of a machine share the files.
"""

import re
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from alphaflow.errors import UserError

from .cache import cache_folder, key_of, locked

_AT_ONCE = 8  # files fetched at the same time
_TELLING = ("size", "ETag", "etag", "LastModified", "last_modified", "mtime", "created")


def is_remote(address: str) -> bool:
    """Whether an address is a URL."""
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
    """Where the files of URLs lie in the cache, once fetched; of those with `*`, all that match.

    Raises:
        UserError: an unknown protocol or one whose package is missing, no such file, or a failure on the way.
    """
    urls: list[str] = []
    for address in addresses:
        fs, path = _system(address)
        if "*" not in address:
            urls.append(address)
            continue
        found = _asked(address, lambda fs=fs, path=path: sorted(fs.glob(path)))
        if not found:
            raise UserError(f"nothing matches {address}: give an address of images")
        urls += [fs.unstrip_protocol(one) for one in found]
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
            with tempfile.NamedTemporaryFile(dir=folder, suffix=".tmp", delete=False) as file:
                temporary = Path(file.name)
            try:
                _asked(url, lambda: fs.get_file(path, str(temporary)))
                size = temporary.stat().st_size
                if info.get("size") not in (None, size):
                    raise UserError(f"{url} broke off after {size} of {info['size']} bytes: try again")
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
    return target


def _system(url: str) -> Any:
    """The file system of a URL, and the path in it."""
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise UserError(
            f"cannot open {url}: {error}; pip install 'alphaflow[remote]' brings http and s3"
        ) from None


def _asked(url: str, ask: Any) -> Any:
    """What a file system answers, with its failures in one line."""
    try:
        return ask()
    except Exception as error:  # each file system has exceptions of its own
        if isinstance(error, UserError):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"cannot fetch {url}: {reason}") from None
