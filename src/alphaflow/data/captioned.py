"""Pictures of one's own with what they show in words: the set's own captions, a .txt beside each, or a .csv."""

import csv
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alphaflow.data.dataset import fingerprint
from alphaflow.data.images import Images
from alphaflow.data.sources import Source, captions_of
from alphaflow.data.vocabulary import Vocabulary
from alphaflow.errors import UserError

log = logging.getLogger("alphaflow")

OWN = "auto"
"""The word for the captions that a set has, wherever it keeps them."""
BESIDE = "txt"
"""The word for captions in files beside the pictures."""
NAMES, TEXTS = ("file_name", "file", "filename", "image"), ("text", "caption", "prompt")
"""Columns of a .csv that are taken for the pictures' names and for their captions."""
LONGEST, EXAMPLES = 64, 8
"""Places of a caption, at most; captions that a run keeps to show."""


class CaptionedImages(Images):
    """The images of a folder with captions: conditions y are int64 (B, L), by a vocabulary made of all captions.

    Args:
        source: the images; their classes count for nothing.
        captions: "auto": the set's own, as `captions_of` finds them; "txt", or a file .csv or .csv#COLUMN, see
            `read_captions`.
        size, settings: as `Images` takes them.

    Raises:
        UserError: as `Images`; or captions cannot be read, or images have none.
    """

    def __init__(self, source: Source, size: int, captions: str, **settings: Any) -> None:
        super().__init__(source, size, **settings)
        rows = range(len(source)) if self._rows is None else self._rows.tolist()
        told = captions_for(source, rows, captions)
        distinct = list(dict.fromkeys(told))
        made = Vocabulary.of(told)
        few = min(EXAMPLES, len(distinct))
        shown = tuple(distinct[k * len(distinct) // few] for k in range(few))
        self.vocabulary = _shortened(made, shown)
        self._y = self.vocabulary.encode(told, cut=True)
        self.captions, self.num_classes, self.class_names = tuple(told), 0, ()
        self.fingerprint = fingerprint(f"captions {self.fingerprint}", self._y.numpy())
        if made.length > LONGEST:
            log.warning("the longest caption takes %d places: all are cut to %d", made.length, LONGEST)


def captions_for(source: Source, rows: Sequence[int], captions: str) -> list[str]:
    """Return the captions of these images of a source, for what `CaptionedImages` takes as captions.

    Raises:
        UserError: there are none, or one of the images has none.
    """
    if captions == OWN:
        return _own(source, rows)
    return read_captions([source.name(index) for index in rows], captions, source.address)


def vocabulary_for(source: Source, captions: str) -> Vocabulary:
    """Return the vocabulary that a data set of all images of a source would have, before any is decoded.

    Raises:
        UserError: as `captions_for`.
    """
    return _shortened(Vocabulary.of(captions_for(source, range(len(source)), captions)), ())


def _shortened(made: Vocabulary, shown: tuple[str, ...]) -> Vocabulary:
    return Vocabulary(made.words, min(made.length, LONGEST), shown)


def read_captions(names: Sequence[str], captions: str, address: str) -> list[str]:
    """Return the caption of each picture.

    Args:
        names: the pictures' paths. captions: "txt": a file of the same name that ends in .txt lies beside each; or
            a .csv with a column of names (see `NAMES`; else its first) and one of captions (see `TEXTS`), or the
            one named behind a `#`. address: the pictures' folder, below which a .csv may lie, and from which its
            names are counted.

    Raises:
        UserError: there is no such file or column, or a picture has no caption.
    """
    found = _beside(names) if captions == BESIDE else _in_table(names, captions, Path(address))
    return _whole(names, found, captions)


def _own(source: Source, rows: Sequence[int]) -> list[str]:
    found = captions_of(source)
    if found is None:
        raise UserError(
            f"{source.address} has no captions (a .txt or .json beside each picture, metadata.csv, a column "
            "caption or text): give --data.captions FILE.csv#COLUMN",
            status=2,
        )
    return _whole([source.name(index) for index in rows], [" ".join(found[index].split()) for index in rows], OWN)


def _whole(names: Sequence[str], found: list[str], captions: str) -> list[str]:
    """Return the captions; an error where a picture has none."""
    missing = [name for name, caption in zip(names, found) if not caption]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(names)} pictures have no caption in --data.captions {captions} (first "
            f"{missing[0]}): add one, or remove the picture"
        )
    return found


def _beside(names: Sequence[str]) -> list[str]:
    if names and not Path(names[0]).is_file():
        raise UserError(
            f"--data.captions txt looks for files beside pictures, and {names[0]} is none: unpack it, or give "
            "a .csv"
        )
    found = []
    for name in names:
        file = Path(name).with_suffix(".txt")
        try:
            found.append(" ".join(file.read_text(encoding="utf-8").split()) if file.is_file() else "")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the caption {file} ({error})") from None
    return found


def _in_table(names: Sequence[str], captions: str, folder: Path) -> list[str]:
    place, _, column = captions.partition("#")
    file = next((one for one in (folder / place, Path(place)) if one.is_file()), None)
    if file is None:
        raise UserError(
            f"--data.captions {captions}: no such file in {folder} or here: give txt or FILE.csv#COLUMN",
            status=2,
        )
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            rows = list(csv.DictReader(lines))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {file} ({error}): give a .csv in UTF-8 with a line of names") from None
    columns = list(rows[0]) if rows else []
    key = next((name for name in NAMES if name in columns), columns[0] if columns else "")
    text = column or next((name for name in TEXTS if name in columns), "")
    if text not in columns:
        raise UserError(
            f"{file} has no column {text or ' or '.join(TEXTS)}, but {', '.join(map(str, columns)) or 'none'}: "
            f"give {place}#COLUMN",
            status=2,
        )
    told = {os.path.normpath(row[key] or ""): " ".join((row[text] or "").split()) for row in rows}
    return [_of_name(told, name, folder) for name in names]


def _of_name(told: Mapping[str, str], name: str, folder: Path) -> str:
    """Return the caption of a picture by its path below the folder, its whole path or its name alone."""
    below = os.path.relpath(name, folder)
    return next((told[one] for one in (below, name, Path(name).name) if one in told), "")
