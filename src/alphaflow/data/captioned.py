"""Pictures of one's own with what they show in words: the set's own captions, or those of a table."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alphaflow.data.dataset import fingerprint
from alphaflow.data.images import Images
from alphaflow.data.sources import Source, captions_of
from alphaflow.data.sources.captions import caption_key
from alphaflow.data.sources.label_tables import FILES, read_table
from alphaflow.data.vocabulary import Vocabulary
from alphaflow.errors import UserError

log = logging.getLogger("alphaflow")

OWN = "auto"
"""The word for the captions that a set has, wherever it keeps them."""
LONGEST, EXAMPLES = 64, 8
"""Places of a caption, at most; captions that a run keeps to show."""


class CaptionedImages(Images):
    """The images of a folder with captions: conditions y are int64 (B, L), by a vocabulary made of all captions.

    Args:
        source: the images; their classes count for nothing.
        captions: "auto": the set's own, as `captions_of` finds them; or a table FILE.csv or FILE.csv#COLUMN, see
            `captions_in_table`.
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
    names = [source.name(index) for index in rows]
    told = _own(source, rows) if captions == OWN else captions_in_table(names, captions, Path(source.address))
    _refuse_gaps(names, told, captions)
    return told


def vocabulary_for(source: Source, captions: str) -> Vocabulary:
    """Return the vocabulary that a data set of all images of a source would have, before any is decoded.

    Raises:
        UserError: as `captions_for`.
    """
    return _shortened(Vocabulary.of(captions_for(source, range(len(source)), captions)), ())


def _shortened(made: Vocabulary, shown: tuple[str, ...]) -> Vocabulary:
    return Vocabulary(made.words, min(made.length, LONGEST), shown)


def captions_in_table(names: Sequence[str], captions: str, folder: Path) -> list[str]:
    """Return the caption of each picture out of a table, "" of a picture that it does not name.

    Args:
        names: the pictures' paths.
        captions: FILE or FILE#COLUMN: a .csv, .tsv or .jsonl with a line of names, a column of pictures that is
            called so (`file_name`, `image`, …; else the first) and the named one of captions, or one with a usual
            name.
        folder: the pictures' folder, in which the file may lie, and from which its names are counted.

    Raises:
        UserError: there is no such file or column, or the file is no table.
    """
    place, _, column = captions.partition("#")
    file = next((one for one in (folder / place, Path(place)) if one.is_file()), None)
    if file is None:
        raise UserError(
            f"--data.captions {captions}: no such file in {folder} or here: give auto, for the captions that the "
            "set has, or FILE.csv#COLUMN",
            status=2,
        )
    header, rows = read_table(file)
    if header is None:
        header, rows = rows[0], rows[1:]
    columns = [name.strip() for name in header]
    text = column or caption_key(columns) or "caption"
    if text not in columns:
        raise UserError(f"{file} has no column {text}, but {', '.join(columns)}: give {place}#COLUMN", status=2)
    key = columns.index(next((name for name in columns if name.lower() in FILES), columns[0]))
    value = columns.index(text)
    told = {os.path.normpath(row[key].strip()): " ".join(row[value].split()) for row in rows}
    return [_of_name(told, name, folder) for name in names]


def _of_name(told: Mapping[str, str], name: str, folder: Path) -> str:
    """Return the caption of a picture by its path below the folder, its whole path or its name alone."""
    below = os.path.relpath(name, folder)
    return next((told[one] for one in (below, name, Path(name).name) if one in told), "")


def _own(source: Source, rows: Sequence[int]) -> list[str]:
    found = captions_of(source)
    if found is None:
        raise UserError(
            f"{source.address} has no captions (a .txt or .json beside each picture, metadata.csv, a column "
            "caption or text): give --data.captions FILE.csv#COLUMN",
            status=2,
        )
    return [" ".join(found[index].split()) for index in rows]


def _refuse_gaps(names: Sequence[str], told: Sequence[str], captions: str) -> None:
    missing = [name for name, caption in zip(names, told) if not caption]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(names)} pictures have no caption in --data.captions {captions} (first "
            f"{missing[0]}): add one, or remove the picture"
        )
