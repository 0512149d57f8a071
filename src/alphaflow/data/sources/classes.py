"""Where labels come from: the folders that paths lie in, a CSV, or values that stand beside the images."""

import csv
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alphaflow.errors import UserError

from .base import SUFFIXES, Labels

log = logging.getLogger("alphaflow")

NONE = "none"
"""What to give as `labels` to leave them out."""
_FILE_COLUMNS = ("file", "filename", "file_name", "path", "image", "image_id", "name", "id")
_LABEL_COLUMNS = ("label", "class", "category", "target")

Classes = tuple[Labels | None, tuple[str, ...]]
"""Labels, int64 (N,), and the names of the classes; `None` and no names without classes."""


def is_image(path: str) -> bool:
    """Whether a relative path (with slashes) counts as an image: by its suffix, and with no hidden part."""
    return path.lower().endswith(SUFFIXES) and not any(
        part.startswith(".") or part == "__MACOSX" for part in path.split("/")
    )


def in_order(paths: Sequence[str]) -> list[int]:
    """The positions of relative paths in the order of a walk: folder by folder, as `sorted` does with `Path`s."""
    return sorted(range(len(paths)), key=lambda k: paths[k].replace("/", "\0"))


def classes_of(paths: Sequence[str], where: str, labels: str | None) -> Classes:
    """Labels of images that have only paths: by their folders (`labels` None), from a CSV, or none ("none").

    Raises:
        UserError: no paths, `labels` is none of these, or see `by_folder` and `by_csv`.
    """
    if not paths:
        raise UserError(f"{where} holds no images: put {', '.join(SUFFIXES)} files into it")
    if labels is None:
        return by_folder(paths, where)
    if labels == NONE:
        return None, ()
    if labels.lower().endswith((".csv", ".tsv", ".txt")):
        return by_csv(paths, where, Path(labels))
    raise UserError(
        f"labels {labels!r} are no CSV: the images of {where} take their labels from their folders, from a "
        "FILE.csv with the columns file and label, or are without (none)"
    )


def by_folder(paths: Sequence[str], where: str) -> Classes:
    """Labels from the first folder of each relative path; none when all images lie in the root.

    Raises:
        UserError: images both beside and in folders.
    """
    firsts = [path.partition("/")[0] if "/" in path else None for path in paths]
    names = sorted({first for first in firsts if first is not None})
    if not names:
        return None, ()
    if None in firsts:
        raise UserError(
            f"{where} holds images (such as {paths[firsts.index(None)]}) beside class folders (such as "
            f"{names[0]}): put every image into a class folder, or all of them directly inside"
        )
    number = {name: k for k, name in enumerate(names)}
    return np.array([number[first] for first in firsts if first is not None], np.int64), tuple(names)


def by_value(values: Sequence[Any]) -> Classes:
    """Labels from one value an image. The classes are the values that occur, whole numbers in their order and
    words in the alphabet's, so that 0 … K-1 stay what they are."""
    texts = [str(value).strip() for value in values]
    distinct = set(texts)
    try:
        names = sorted(distinct, key=lambda text: (int(text), text))
    except ValueError:
        names = sorted(distinct)
    number = {name: k for k, name in enumerate(names)}
    return np.array([number[text] for text in texts], np.int64), tuple(names)


def by_csv(paths: Sequence[str], where: str, file: Path) -> Classes:
    """Labels from a table of two columns: the image, by its relative path with or without suffix, and its label.

    The columns are found by their names in the header (file, path, image, id, …; label, class, …), or else are the
    first two. Commas, semicolons and tabs separate. Rows of images that are not there are passed over.

    Raises:
        UserError: no such file, fewer than two columns, two labels for one image, or images without a label.
    """
    table = _read_csv(file)
    found = [table.get(path, table.get(path.rpartition(".")[0])) for path in paths]
    missing = [path for path, label in zip(paths, found) if not label]
    if missing:
        raise UserError(
            f"{file} has no label for {len(missing)} of the {len(paths)} images of {where} (first {missing[0]}): "
            "name each by its path below the root"
        )
    if len(table) > len(paths):
        log.warning("%s: %d rows name images that are not in %s", file, len(table) - len(paths), where)
    return by_value(found)


def _read_csv(file: Path) -> dict[str, str]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"cannot read labels from {file} ({reason}): give a CSV file") from None
    lines = text.splitlines()
    head = lines[0] if lines else ""
    rows = list(csv.reader(lines, delimiter=max(",;\t", key=head.count)))
    if not rows or min(map(len, filter(None, rows)), default=0) < 2:
        raise UserError(f"{file} has a row with fewer than two columns: it must name a file and a label in each")
    header = [cell.strip().lower() for cell in rows[0]]
    names = [k for k, cell in enumerate(header) if cell in _FILE_COLUMNS]
    labels = [k for k, cell in enumerate(header) if cell in _LABEL_COLUMNS]
    name, label = (names or [0])[0], (labels or [1])[0]
    table: dict[str, str] = {}
    for row in rows[1:] if names or labels else rows:
        if not row:
            continue
        path = row[name].strip().removeprefix("./")
        if table.setdefault(path, row[label]) != row[label]:
            raise UserError(f"{file} gives {path} two labels, {table[path]!r} and {row[label]!r}: keep one")
    return table
