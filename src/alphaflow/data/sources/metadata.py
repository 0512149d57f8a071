"""Labels in `metadata.csv` or `metadata.jsonl`, as Hugging Face's image folders have them."""

import re
from collections.abc import Sequence
from pathlib import Path

from alphaflow.errors import UserError

from .classes import KEYS, Beside, Labelled
from .label_files import by_table
from .label_tables import table_of
from .notes import holding, read_beside, refuse_size

METADATA = ("metadata.csv", "metadata.jsonl")
_IMAGES = "file_name"


def by_metadata(paths: Sequence[str], where: str, beside: Beside) -> Labelled | None:
    """Return labels from the metadata that lie at the root, or in the folder that holds all images.

    They are a table with a column `file_name`, of paths below its folder, and one that is named as a label is.

    Returns:
        the labels; `None` if there is no such table, or one without these columns, as where they hold captions.

    Raises:
        UserError: see `label_files.by_file`.
    """
    held = {name: name.rpartition("/")[2].lower() for name in beside.tables}
    for folder in holding(paths, beside.root):
        for usual in METADATA:
            for name in held:
                if held[name] == usual and name[: name.rfind("/") + 1] == folder:
                    labelled = _read(paths, where, beside, name, folder)
                    if labelled is not None:
                        return labelled
    return None


def _read(paths: Sequence[str], where: str, beside: Beside, name: str, folder: str) -> Labelled | None:
    called = beside.place(name)
    refuse_size(beside.tables[name], called, paths)
    data = read_beside(beside, name, called)
    if _is_other(re.split(r"[^a-z0-9_]+", data[:65536].replace(b"\0", b"").decode("latin-1").lower())):
        return None  # it is no table of labels, so it need not be parsed
    full = [f"{beside.root}{path}".removeprefix(folder) for path in paths]
    try:
        header, rows = table_of(data, Path(called))
        if header is None:
            header, rows = rows[0], rows[1:]
        if _is_other([word.strip().lower() for word in header]):
            return None
        if not rows:
            raise UserError(f"{called} names no image: add a row for each, or remove it")
        return by_table(full, where, called, "", header, rows)
    except UserError as error:
        more = "" if "--data.labels" in str(error) else ", or give others (--data.labels folders, none)"
        raise UserError(f"{error}{more}") from None


def _is_other(words: Sequence[str]) -> bool:
    """Return whether a table with these words in its header cannot be one of labels."""
    return _IMAGES not in words or not set(KEYS) & set(words)
