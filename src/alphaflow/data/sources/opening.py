"""An address becomes a source of images."""

import os
from collections.abc import Sequence
from pathlib import Path

from alphaflow.errors import UserError

from . import table
from .archive import COMPRESSED, ENDINGS, Archive, plain
from .archive_members import members_of
from .arrays import HDF5, Arrays, is_hdf5
from .base import Source
from .class_arrays import open_class_arrays
from .classes import FOLDERS, NONE, is_hidden, is_image
from .hub import PREFIX, is_saved, open_hub
from .label_files import is_label_file
from .lmdb_images import LmdbImages, is_lmdb, open_lmdbs
from .official.opening import open_official
from .published import open_published
from .remote import expand, fetch, is_remote
from .shards import Shards, is_shard
from .splits import folder_meant, of_one_split, split_of, tell_mixed
from .tfrecords import is_tfrecord, open_records, open_tfrecords
from .tree import Tree

_TABLES = (*table.PARQUET, *table.ARROW)
_TARS = (".tar", *COMPRESSED)
_ARRAYS = (".npy", ".npz", *HDF5)
_FOLDERS = 64  # the most sub-folders among which the one with the tables is looked for


def open_source(address: str, *, labels: str | None = None) -> Source:
    """Open the images at an address.

    Args:
        address: one of
            a folder with one sub-folder for each class, or with images directly inside;
            a .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz of one, with `#FOLDER` for a part of it;
            .parquet or .arrow files, or a folder of them, with `#SPLIT`;
            tars in WebDataset's layout, TFRecords, or a folder of them (tfds), with `#SPLIT`;
            a .npy, .npz or .h5, with `#ARRAY` or `#SPLIT`, or a folder of one .npy for each class;
            the files, folder or archive of MNIST and its like (IDX), CIFAR-10 and -100, small ImageNet, SVHN,
            STL-10, ImageNet, Tiny ImageNet, CelebA, CUB-200-2011, the Oxford pets or flowers, with `#SPLIT`;
            an LMDB of encoded images, as LSUN's;
            a folder that `datasets` has saved, or `hf://OWNER/NAME`, with `#SPLIT`.
            Several files are named by a pattern (`data/*.parquet`) or by braces (`shard-{000..123}.tar`), files
            elsewhere by a URL that fsspec knows (http, https, s3, …). Of several splits train is taken.
        labels: where the labels come from; `None`: from the data's own, that is dataset.json, .json files,
            folders, .cls members, the column or array named label. Otherwise FILE.csv or FILE.csv#COLUMN, a
            column, an array, FILE.npy for arrays, a value in the .json beside each image, "folders", or "none"
            for no labels.

    Raises:
        UserError: nothing there can be read; the message says what to give instead.
    """
    try:
        return _open(address, labels)
    except OSError as error:
        raise UserError(f"cannot read {address} ({error.strerror or error})") from None


def _open(address: str, labels: str | None) -> Source:
    if address.startswith(PREFIX) or is_saved(Path(address.partition("#")[0])):
        return open_hub(address, labels=labels)
    place, part = _parted(address)
    if is_lmdb(Path(place)):
        return LmdbImages(Path(place), address=address, labels=labels)
    fetched = fetch(_urls(place)) if is_remote(place) else None
    if fetched is None or len(fetched) == 1:
        official = open_official(fetched[0] if fetched else Path(place), part, address=address, labels=labels)
        if official is not None:
            return official
    paths = _files(place) if fetched is None else fetched
    many = any(mark in place for mark in "*?[") or Path(place).is_dir()
    if len(paths) > 1 and not (many or part):
        tell_mixed(paths, address)
    if _all(paths, table.PARQUET) or _all(paths, table.ARROW):
        paths, rest = of_one_split(paths, part, address) if many or part else (paths, [])
        return table.open_tables(paths, address=address, labels=labels, passed_over=rest)
    if _all(paths, _TARS) and (len(paths) > 1 or (not part and _wants_shards(paths[0], address, labels))):
        paths, rest = of_one_split(paths, part, address) if many or part else (paths, [])
        return Shards(paths, address=address, labels=labels, passed_over=rest)
    if len(paths) > 1 and all(map(is_tfrecord, paths)):
        return open_records(paths, part, address=address, labels=labels)
    if len(paths) > 1:
        raise UserError(f"{address} names {len(paths)} files: several may be tars, or tables of one kind")
    if _all(paths, _ARRAYS) and not (_all(paths, HDF5) and not is_hdf5(paths[0])):
        return Arrays(paths[0], part, address=address, labels=labels)
    try:
        if _all(paths, ENDINGS):
            return Archive(paths[0], part, address=address, labels=labels)
        return Tree(_below(Path(place), part) if part else place, labels=labels)
    except UserError:
        for other in (open_published, open_tfrecords, open_lmdbs, open_class_arrays):
            source = other(paths[0], part, address=address, labels=labels)
            if source is not None:
                return source
        raise


def _parted(address: str) -> tuple[str, str]:
    """Return the address of files, and the part of them that is meant: `photos.zip#train` is photos.zip and
    train."""
    if "#" not in address or Path(address).exists():
        return address, ""
    place, _, part = address.partition("#")
    return place, part


def _below(folder: Path, part: str) -> Path:
    """Return the folder that a part of an address means: one within, by its name or by its split."""
    if (folder / part).is_dir() or not folder.is_dir():
        return folder / part
    shallow = sorted(path for path in folder.iterdir() if path.is_dir())
    deep = [path for one in shallow[:_FOLDERS] for path in sorted(one.iterdir()) if path.is_dir()]
    meant = folder_meant([path.relative_to(folder).as_posix() for path in (*shallow, *deep)], part)
    return folder / (meant or part)


def _all(paths: Sequence[Path], endings: Sequence[str]) -> bool:
    return all(path.name.lower().endswith(tuple(endings)) for path in paths)


def _wants_shards(path: Path, address: str, labels: str | None) -> bool:
    """Return whether one tar is a shard rather than a tree: by its members, or because labels name a value of a
    .json."""
    named = labels is not None and labels not in (NONE, FOLDERS) and not is_label_file(labels)
    return named or is_shard(members_of(plain(path), called=address))


def _urls(address: str) -> list[str]:
    urls, endings = expand(address), (*ENDINGS, *_TABLES, *_ARRAYS)
    if not _all([Path(url.partition("?")[0]) for url in urls], endings):
        raise UserError(f"{address} is of no kind that can be read: it must end in {', '.join(endings)}")
    return urls


def _files(address: str) -> list[Path]:
    """Return the files that an address names: one, those of a pattern, or the tables or tars of a folder."""
    path = Path(address)
    if path.is_dir():
        return _held(path) or [path]
    if path.exists():
        return [path]
    files: list[Path] = []
    for expanded in map(Path, expand(address)):
        root = Path(expanded.anchor)
        matching = (
            sorted(root.glob(str(expanded.relative_to(root))))
            if any(c in str(expanded) for c in "*?[")
            else [expanded]
        )
        if not matching:
            raise UserError(f"nothing matches {expanded}: give an address of images")
        files += matching
    return files


def _held(folder: Path, depth: int = 3) -> list[Path]:
    """Return the tables or tars of a folder that holds no images.

    If it has none, they are those of the only folder in it that does, as in the clone of a repository of the
    Hugging Face hub.
    """
    with os.scandir(folder) as entries:
        shown = [entry for entry in entries if not is_hidden(entry.name)]
    inner = sorted(entry.name for entry in shown if entry.is_dir())
    if any(is_image(entry.name) for entry in shown):
        return []
    tables = _ending(folder, shown, table.PARQUET) or _ending(folder, shown, table.ARROW)
    tars = _ending(folder, shown, _TARS)
    if (tables or tars) and not any(_holds_images(folder / name) for name in inner):
        others = tars and tables and tables[0].suffix.lower() in table.PARQUET and table.without_images(tables[0])
        return tars if others or not tables else tables  # img2dataset writes such tables beside its tars
    if tables or tars or not depth or len(inner) > _FOLDERS:
        return []
    within = {name: held for name in inner if (held := _held(folder / name, depth - 1))}
    if not within or any(_holds_images(folder / name) for name in inner if name not in within):
        return []
    if len(within) > 1 and not all(split_of(name) for name in within):
        first = next(iter(within))
        raise UserError(
            f"{folder} holds tables in several folders ({', '.join(within)}): give one of them, such as "
            f"{folder / first}"
        )
    return [path for held in within.values() for path in held]


def _ending(folder: Path, entries: Sequence[os.DirEntry[str]], endings: Sequence[str]) -> list[Path]:
    return sorted(folder / entry.name for entry in entries if entry.name.lower().endswith(tuple(endings)))


def _holds_images(folder: Path) -> bool:
    """Return whether there is an image below a folder; the search stops at the first."""
    for _, inner, files in os.walk(folder):
        inner[:] = [name for name in inner if not is_hidden(name)]
        if any(map(is_image, files)):
            return True
    return False
