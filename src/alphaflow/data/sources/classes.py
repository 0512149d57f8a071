"""Labels from the folders that paths lie in, from a table, or from values that stand beside the images."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from alphaflow.errors import UserError
from alphaflow.files import shell_word

from .base import SUFFIXES, Labels
from .splits import refuse_inner_splits, refuse_splits

log = logging.getLogger("alphaflow")

NONE = "none"
"""The value of `labels` that leaves them out."""
FOLDERS = "folders"
"""The value of `labels` that takes those of the folders, whatever else there is."""
_ABSENT = {"nan", "<na>"}
KEYS = ("label", "labels", "class", "class_name", "classname", "category", "target", "cls", "class_id", "label_id")
"""Usual names of a column or a value that holds the label; the first that is there is taken unless the user names
one."""

Classes = tuple[Labels | None, tuple[str, ...]]
"""Labels, int64 (N,), and the names of the classes; `None` and no names without classes."""


class Labelled(NamedTuple):
    """The labels of a source, and how they came about."""

    labels: Labels | None = None
    """Classes, int64 (N,); `None` without classes."""
    class_names: tuple[str, ...] = ()
    """One name for each class, in the order of the labels."""
    origin: str = ""
    """The place that the labels come from, in words ("labels from dataset.json"); "" if nothing says whether there
    are any."""
    passed_over: tuple[str, ...] = ()
    """Sentences about what was seen and not used."""


@dataclass(frozen=True)
class Beside:
    """What lies beside the images of a folder or an archive."""

    root: str = ""
    """The beginning of the images' full paths, such as "photos/"; "" if the paths are full."""
    notes: Mapping[str, int] = field(default_factory=dict)
    """.json files by their full paths, with their sizes in bytes."""
    read: Callable[[str], bytes] = lambda name: b""
    """A function that reads one of them."""
    tables: Mapping[str, int] = field(default_factory=dict)
    """Files that are named like tables of labels, by their full paths, with their sizes in bytes."""
    inside: Callable[[str], str] = lambda folder: folder
    """A function from a folder's path below the images' root to its address."""
    place: Callable[[str], str] = lambda name: name
    """A function from a file's full path to what messages call it."""


def is_image(path: str) -> bool:
    """Return whether a relative path (with slashes) counts as an image: by its suffix, and with no hidden part."""
    return path.lower().endswith(SUFFIXES) and not is_hidden(path)


def is_hidden(path: str) -> bool:
    """Return whether a part of a relative path is hidden or the system's own: `.git`, `._x.png`, `__MACOSX`."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


def in_order(paths: Sequence[str]) -> list[int]:
    """Return the positions of relative paths in the order of a walk: folder by folder, as `sorted` does with
    `Path`s."""
    return sorted(range(len(paths)), key=lambda k: paths[k].replace("/", "\0"))


def class_order(names: Sequence[str]) -> list[str]:
    """Return the names in the order of classes: by value if all are whole numbers, else by the alphabet."""
    if all(re.fullmatch(r"-?[0-9]+", name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def shown(name: str) -> str:
    r"""Return a name from a file system as text that can be written anywhere: bytes that are no UTF-8 become
    `\xe9`."""
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a character, out of JSON
        return name.encode("utf-8", "backslashreplace").decode()


def by_folder(paths: Sequence[str], where: str, beside: Beside | None = None, *, told: bool = False) -> Labelled:
    """Return labels from the first folder of each relative path.

    There are none when all images lie in the root, or when the folders only number the images by thousands, as the
    tools of StyleGAN, EDM and FFHQ do.

    Args:
        paths: relative paths of the images.
        where: what messages call their place.
        beside: what lies beside them.
        told: whether the user has asked for these folders, so that they are not doubted.

    Raises:
        UserError: images lie both beside and in folders; folders are splits; or one folder holds all the others.
    """
    beside = beside or Beside()
    firsts = [path.partition("/")[0] if "/" in path else None for path in paths]
    names = {first for first in firsts if first is not None}
    if not names:
        return Labelled()
    if None in firsts:
        raise UserError(
            f"{where} holds images (such as {paths[firsts.index(None)]}) beside class folders (such as "
            f"{min(names)}): put every image into a class folder, or all of them directly inside"
        )
    if not told:
        if are_buckets(paths):
            return Labelled(passed_over=(f"the folders {few(sorted(names))}, which number images by thousands",))
        refuse_splits(names, where, beside.inside)
        refuse_inner_splits(paths, where)
        if len(names) == 1:
            if are_buckets([path.partition("/")[2] for path in paths]):  # FFHQ's images1024x1024
                return Labelled(passed_over=("the folders within it, which number images by thousands",))
            _doubt_lone_folder(paths, where, beside)
    return _numbered([first for first in firsts if first is not None], where, "labels from the folders")


def _doubt_lone_folder(paths: Sequence[str], where: str, beside: Beside) -> None:
    """Refuse or warn of a single class that holds everything, which is rarely meant."""
    folder, rest = "", list(paths)
    while all("/" in path for path in rest) and len({path.partition("/")[0] for path in rest}) == 1:
        folder = f"{folder}/{rest[0].partition('/')[0]}".lstrip("/")
        rest = [path.partition("/")[2] for path in rest]
    if all("/" in path for path in rest) and not are_buckets(rest):
        inner = {path.partition("/")[0] for path in rest}
        refuse_splits(inner, f"{where}, in {shown(folder)},", lambda name: beside.inside(f"{folder}/{name}"))
        raise UserError(
            f"{where} holds one folder, {shown(folder)}, with all others in it ({few(sorted(inner))}): give "
            f"--data.path {shell_word(beside.inside(folder))}; to train on one class, add --data.labels folders"
        )
    log.warning(
        "%s holds one folder, which is one class, %s: give --data.path %s to train without classes",
        where,
        shown(folder),
        shown(shell_word(beside.inside(folder))),
    )


def are_buckets(paths: Sequence[str]) -> bool:
    """Return whether the first folders only say in which thousand (or ten thousand) an image's number lies, as in
    `00001/img00001234.png`, `69000/69123.png` and `00012/000123456.jpg`.
    """
    if not all(re.fullmatch(r"[0-9]{5,}/[^/]*?[0-9]+\.[A-Za-z]+", path) for path in paths):
        return False
    pairs = [(int(path.partition("/")[0]), int(re.findall(r"[0-9]+", path)[-1])) for path in paths]
    return (
        all(folder == number // 1000 for folder, number in pairs)
        or all(folder == number // 1000 * 1000 for folder, number in pairs)
        or all(folder == number // 10000 for folder, number in pairs)
    )


def by_value(values: Sequence[Any]) -> Classes:
    """Return labels from one value for each image.

    The classes are the values that occur, in `class_order`, so that 0 … K-1 stay what they are. Numbers that were
    written as 5.0 are whole.
    """
    texts = [str(value).strip() for value in values]
    if all(re.fullmatch(r"-?[0-9]+(\.0*)?", text) for text in texts):
        texts = [text.partition(".")[0] for text in texts]
    names = class_order(sorted(set(texts)))
    number = {name: k for k, name in enumerate(names)}
    return np.array([number[text] for text in texts], np.int64), tuple(names)


def from_values(values: Sequence[Any], where: str, origin: str, name: Callable[[int], str]) -> Labelled:
    """Return labels from one value for each image, as `by_value`, once the values are seen to be labels.

    Args:
        values: words or whole numbers, one for each image.
        where: what messages call the set.
        origin: where the values stand, in words.
        name: a function from an image's number to its name.

    Raises:
        UserError: a value is empty, NaN, not whole, or -1, which says "no label" wherever it is not half of -1 and
            1; or two classes would get one name.
    """
    texts = [str(value).strip() for value in values]
    whole = {text.removesuffix(".0") for text in texts}
    negative = whole != {"-1", "1"} and "-1" in whole and all(re.fullmatch(r"-?[0-9]+", text) for text in whole)
    numbers = all(re.fullmatch(r"[-+]?[0-9]+(\.[0-9]*)?", text) for text in whole)
    for k, text in enumerate(texts):
        absent = text.lower() in _ABSENT or (negative and text.removesuffix(".0") == "-1")
        if not text or absent or (numbers and not float(text).is_integer()):
            wrong = (
                f"the label {text}, which is no class but a number that is not whole" if text else "an empty label"
            )
            wrong = f"the label {text}, which says that there is none" if absent else wrong
            raise UserError(
                f"{name(k)} has {wrong}, by {origin} of {where}: leave it out, or give labels from elsewhere "
                "(--data.labels, none for no classes)"
            )
    labels = _numbered(texts, where, f"labels from {origin}")
    count = len(labels.class_names)
    if count == len(texts) > 3 or 2 * count > len(texts) >= 8:
        log.warning(
            "%s: %d classes for %d images, by %s: is that what holds the labels?",
            where,
            count,
            len(texts),
            origin,
        )
    return labels


def _numbered(texts: Sequence[str], where: str, origin: str) -> Labelled:
    labels, names = by_value(texts)
    safe = tuple(map(shown, names))
    if len(set(safe)) < len(safe):
        raise UserError(f"{where}: two classes would both be called {max(safe, key=safe.count)}: rename one")
    return Labelled(labels, safe, origin)


def word_of(value: object) -> str | None:
    """Return a label out of JSON or a table as text; `None` if it is neither a word nor a whole number."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else None
    return str(value)


def few(names: Sequence[object], most: int = 3) -> str:
    """Return the first names of many, with an ellipsis if some are left out."""
    return ", ".join(shown(str(name)) for name in names[:most]) + (", …" if len(names) > most else "")
