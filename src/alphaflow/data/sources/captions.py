"""Captions of images: what describes each in words, where a set has that."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alphaflow.errors import UserError

from .base import Source
from .label_tables import table_of
from .notes import LARGEST_NOTE, holding, parse

CAPTIONS = ("caption", "captions", "text", "prompt", "description", "title", "alt")
"""Usual names of a value or a column that holds a caption; the first that is there is taken."""
_TABLES = ("metadata.csv", "metadata.jsonl")

Captions = list[str]
"""One caption for each image; "" where an image has none."""


def captions_of(source: Source) -> Captions | None:
    """Return the captions of a source's images, in their order.

    They are those of the `.txt` beside each image, else of a value in the `.json` beside it, else of a column of
    metadata.csv or .jsonl; in shards the `.txt` or the `.json`; in tables a column; in TFRecords a feature.
    Values and columns are named caption, text, prompt, … ; of several captions the first counts.

    Returns:
        a caption for each image, "" where it has none; `None` if the source has no captions.

    Raises:
        UserError: a file with captions cannot be read.
    """
    tell = getattr(source, "captions", None)
    return tell() if tell else None


def caption_key(names: Sequence[str]) -> str | None:
    """Return the name that holds captions, in upper or lower case; `None` if none does."""
    plain = {name.lower(): name for name in reversed(names)}
    return next((plain[word] for word in CAPTIONS if word in plain), None)


def caption_in(value: Any) -> str:
    """Return a caption out of JSON or a table: text, or the first of several texts; "" for anything else."""
    if isinstance(value, list):
        value = value[0] if value else ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip()
    return value.strip() if isinstance(value, str) else ""


def captions_beside(
    names: Sequence[str],
    sizes: Callable[[str], int | None],
    read: Callable[[str], bytes],
    root: str = "",
    called: Callable[[str], str] = lambda name: name,
) -> Captions | None:
    """Return captions from the files beside images.

    Args:
        names: relative paths of the images.
        sizes: a function from a file's full path to its bytes; `None` if there is no such file.
        read: a function that reads one.
        root: the beginning of the images' full paths.
        called: a function from a full path to what messages call it.

    Raises:
        UserError: a file is no JSON, or no table.
    """
    stems = [root + name.rpartition(".")[0] for name in names]
    texts = [f"{stem}.txt" for stem in stems]
    if any(sizes(text) is not None for text in texts[:_LOOKED_AT]):
        return [caption_in(_read(text, sizes, read)) for text in texts]
    notes = [f"{stem}.json" for stem in stems]
    first = next((note for note in notes[:_LOOKED_AT] if sizes(note) is not None), None)
    if first is not None and (key := _key_of(parse(_read(first, sizes, read), called(first)))):
        contents = (parse(_read(note, sizes, read) or b"{}", called(note)) for note in notes)
        return [caption_in(content.get(key)) if isinstance(content, dict) else "" for content in contents]
    for folder in holding(names, root):
        for table in (folder + name for name in _TABLES):
            if sizes(table) is not None and (found := _of_table(table, read, called)):
                return [found.get(f"{root}{name}".removeprefix(folder), "") for name in names]
    return None


_LOOKED_AT = 16  # images by which it is known whether files lie beside them


def _read(name: str, sizes: Callable[[str], int | None], read: Callable[[str], bytes]) -> bytes:
    size = sizes(name)
    if size is None or size > LARGEST_NOTE:
        return b""
    try:
        return read(name)
    except OSError as error:
        raise UserError(f"cannot read the caption {name} ({error.strerror or error})") from None


def _key_of(content: Any) -> str | None:
    return caption_key(list(content)) if isinstance(content, Mapping) else None


def _of_table(name: str, read: Callable[[str], bytes], called: Callable[[str], str]) -> dict[str, str] | None:
    """Return captions by the paths in the column `file_name`; `None` if a table has none."""
    header, rows = table_of(read(name), Path(called(name)))
    if header is None and rows:
        header, rows = rows[0], rows[1:]
    names = [word.strip() for word in header or ()]
    key = caption_key(names)
    if "file_name" not in names or key is None:
        return None
    images, column = names.index("file_name"), names.index(key)
    return {row[images].replace("\\", "/").removeprefix("./"): row[column].strip() for row in rows}
