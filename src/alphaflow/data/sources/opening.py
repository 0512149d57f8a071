"""From an address to a source."""

import os
from collections.abc import Sequence
from pathlib import Path

from alphaflow.errors import UserError

from . import table
from .archive import COMPRESSED, ENDINGS, Archive, plain
from .arrays import Arrays
from .base import Source
from .classes import NONE, is_image
from .hub import PREFIX, is_saved, open_hub
from .members import members_of
from .remote import expand, fetch, is_remote
from .shards import Shards, is_shard
from .tree import Tree

_TABLES = (*table.PARQUET, *table.ARROW)
_TARS = (".tar", *COMPRESSED)
_ARRAYS = (".npy", ".npz")


def open_source(address: str, *, labels: str | None = None) -> Source:
    """Open the images at an address.

    Args:
        address: one of
            a folder with one sub-folder for each class, or with images directly inside;
            a .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz of one;
            .parquet or .arrow files, or a folder of them;
            tars in WebDataset's layout, or a folder of them;
            a .npy or .npz;
            a folder that `datasets` has saved, or `hf://OWNER/NAME`, with `#SPLIT`.
            Several files are named by a pattern (`data/*.parquet`) or by braces (`shard-{000..123}.tar`), files
            elsewhere by a URL that fsspec knows (http, https, s3, …).
        labels: where the labels come from; `None`: from the data's own, that is folders, .cls members, the
        column or
            array named label. Otherwise FILE.csv, a column, an array, FILE.npy for arrays, a value in the .json
            members of shards, or "none" for no labels.

    Raises:
        UserError: nothing there that could be read, and what to give instead.
    """
    if address.startswith(PREFIX) or is_saved(Path(address.partition("#")[0])):
        return open_hub(address, labels=labels)
    paths = fetch(_urls(address)) if is_remote(address) else _files(address)
    if _all(paths, table.PARQUET) or _all(paths, table.ARROW):
        return table.open_tables(paths, address=address, labels=labels)
    if _all(paths, _TARS) and (len(paths) > 1 or _wants_shards(paths[0], address, labels)):
        return Shards(paths, address=address, labels=labels)
    if len(paths) > 1:
        raise UserError(f"{address} names {len(paths)} files: several may be tars, or tables of one kind")
    if _all(paths, ENDINGS):
        return Archive(paths[0], address=address, labels=labels)
    if _all(paths, _ARRAYS):
        return Arrays(paths[0], address=address, labels=labels)
    return Tree(address, labels=labels)


def _all(paths: Sequence[Path], endings: Sequence[str]) -> bool:
    return all(path.name.lower().endswith(tuple(endings)) for path in paths)


def _wants_shards(path: Path, address: str, labels: str | None) -> bool:
    """Whether one tar is a shard rather than a tree: by its members, or because labels name a value of a .json."""
    named = labels is not None and labels != NONE and not labels.lower().endswith((".csv", ".tsv", ".txt"))
    return named or is_shard(members_of(plain(path), called=address))


def _urls(address: str) -> list[str]:
    urls, known = expand(address), (*ENDINGS, *_TABLES, *_ARRAYS)
    if not _all([Path(url.partition("?")[0]) for url in urls], known):
        raise UserError(f"{address} is of no kind that can be read: it must end in {', '.join(known)}")
    return urls


def _files(address: str) -> list[Path]:
    """The files that an address names: one, those of a pattern, or the tables or tars of a folder."""
    path = Path(address)
    if path.is_dir():
        return _held(path) or [path]
    if path.exists():
        return [path]
    found: list[Path] = []
    for one in map(Path, expand(address)):
        root = Path(one.anchor)
        matching = sorted(root.glob(str(one.relative_to(root)))) if any(c in str(one) for c in "*?[") else [one]
        if not matching:
            raise UserError(f"nothing matches {one}: give an address of images")
        found += matching
    return found


def _held(folder: Path) -> list[Path]:
    """The tables or tars of a folder that holds neither images nor folders beside them."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        shown = [entry for entry in entries if not entry.name.startswith(".")]
        if any(is_image(entry.name) or entry.is_dir() for entry in shown):
            return []
    for endings in (table.PARQUET, table.ARROW, _TARS):
        found = sorted(folder / entry.name for entry in shown if entry.name.lower().endswith(tuple(endings)))
        if found:
            return found
    return []
