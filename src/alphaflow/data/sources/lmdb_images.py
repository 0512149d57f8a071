"""LMDB environments of encoded images by key, as LSUN is published: `bedroom_train_lmdb`."""

from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from alphaflow.errors import UserError, missing

from .base import Names, digest_of
from .cache import key_of, stamp_of
from .classes import NONE, Labelled, few
from .label_files import by_file, is_label_file
from .splits import of_one_split

_OPEN: WeakValueDictionary[str, Any] = WeakValueDictionary()
"""Environments by their paths: the library refuses to open one twice in a process."""
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF")


class LmdbImages:
    """The images of an LMDB environment, by the order of their keys.

    Args:
        path: its folder, or its file.
        address: what messages call it.
        labels: FILE.csv with the keys (see `by_file`); `None` or "none" for no labels.

    Raises:
        UserError: it cannot be read, or its entries are no encoded images.
    """

    def __init__(self, path: Path, *, address: str, labels: str | None = None) -> None:
        self.address = address
        self._env = open_environment(path, address)
        keys: list[bytes] = []
        sizes: list[int] = []
        with self._env.begin(buffers=True) as transaction:
            for key, value in transaction.cursor():
                if not keys and not bytes(value[:4]).startswith(_MAGIC):
                    raise UserError(
                        f"{address} is an LMDB whose entries are no JPEG, PNG or WebP files (the first, "
                        f"{bytes(key)[:40]!r}, is none): latents go to `alphaflow encode --from latents`"
                    )
                keys.append(bytes(key))
                sizes.append(len(value))
        if not keys:
            raise UserError(f"{address} holds no images: it is an LMDB without entries")
        self._keys = keys
        names = [key.decode("utf-8", "surrogateescape") for key in keys]
        labelled = _labelled(names, address, labels)
        self.labels, self.class_names, self.origin, self.passed_over = labelled
        self.digest = digest_of(Names(names), np.array(sizes, np.int64), self.labels, self.class_names)
        self.stamp = key_of(*stamp_of(path / "data.mdb" if path.is_dir() else path))

    def __len__(self) -> int:
        return len(self._keys)

    def name(self, index: int) -> str:
        return f"{self.address}!{self._keys[index].decode('utf-8', 'surrogateescape')}"

    def read(self, index: int) -> bytes:
        with self._env.begin() as transaction:
            value = transaction.get(self._keys[index])
        if value is None:
            raise OSError("the entry is gone")
        return value


def _labelled(names: list[str], address: str, labels: str | None) -> Labelled:
    if labels in (None, NONE):
        return Labelled()
    if labels is None or not is_label_file(labels):
        raise UserError(
            f"{address} is an LMDB, which holds no labels {labels!r}: give FILE.csv with its keys, or none"
        )
    return by_file(names, address, labels)


def is_lmdb(path: Path) -> bool:
    """Return whether a path is an LMDB environment: a folder with data.mdb in it, or a file with that ending."""
    return (path / "data.mdb").is_file() or (path.suffix.lower() in (".lmdb", ".mdb") and path.is_file())


def open_lmdbs(path: Path, part: str, *, address: str, labels: str | None) -> LmdbImages | None:
    """Open the LMDB of a split in a folder of several, as LSUN's bedroom_train_lmdb and bedroom_val_lmdb;
    `None` if it holds none.

    Args:
        path: the folder.
        part: the split; "" for the training one.
        address: what messages call it.
        labels: see `LmdbImages`.

    Raises:
        UserError: there is no such split, or several of them.
    """
    held = [inner for inner in sorted(path.iterdir()) if is_lmdb(inner)] if path.is_dir() else []
    if not held:
        return None
    kept, rest = of_one_split(held, part, address)
    if len(kept) > 1:
        raise UserError(
            f"{address} holds several LMDBs ({few([one.name for one in kept])}): give one, such as {kept[0]}"
        )
    source = LmdbImages(kept[0], address=address, labels=labels)
    source.passed_over = (*rest, *source.passed_over)
    return source


def open_environment(path: Path, address: str) -> Any:
    """Open an LMDB environment to read it.

    Raises:
        UserError: the package is missing, or the environment is damaged: reading beyond a file that is cut off
            would end the process.
    """
    try:
        import lmdb
    except ImportError:
        raise missing("LMDB needs its package", "lmdb") from None
    key = str(path.resolve())
    if key in _OPEN:
        return _OPEN[key]
    try:
        inside = path.is_dir()
        env = lmdb.open(str(path), readonly=True, lock=False, readahead=False, subdir=inside)
        pages, size = env.info()["last_pgno"], (path / "data.mdb" if inside else path).stat().st_size
        if size < (pages + 1) * env.stat()["psize"]:
            raise ValueError(f"it has {size} bytes, fewer than its {pages + 1} pages: it is cut off")
    except (lmdb.Error, OSError, ValueError) as error:
        raise UserError(f"cannot read {address} as an LMDB ({error})") from None
    _OPEN[key] = env
    return env
