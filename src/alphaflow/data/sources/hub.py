"""Data sets of the Hugging Face hub, and those that its library has saved to disk."""

import os
from pathlib import Path
from types import ModuleType
from typing import Any

from alphaflow.errors import UserError, choose

from .table import ArrowRows, Table

PREFIX = "hf://"


def is_saved(path: Path) -> bool:
    """Whether `datasets` has saved a data set here."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def open_hub(address: str, *, labels: str | None) -> Table:
    """`hf://OWNER/NAME`, `hf://OWNER/NAME:CONFIG#SPLIT`, or a folder `PATH#SPLIT`; the split is train unless
    given.

    Raises:
        UserError: the library is missing, or no such data set, configuration or split.
    """
    library = _need_datasets()
    place, _, split = address.removeprefix(PREFIX).partition("#")
    if not address.startswith(PREFIX):
        found = library.load_from_disk(place)
        if isinstance(found, library.DatasetDict):
            found = found[choose(f"split of {place}", split or _usual(found), found)]
        elif split:
            raise UserError(f"{place} is one split: give it without #{split}")
    else:
        name, _, config = place.partition(":")
        try:
            found = library.load_dataset(name, config or None, split=split or "train")
        except (OSError, ValueError, library.exceptions.DatasetsError) as error:
            words = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"cannot load {address}: {words}; the form is hf://OWNER/NAME:CONFIG#SPLIT") from None
    return _table(found, address, labels)


def _usual(splits: Any) -> str:
    return next(iter(splits)) if len(splits) == 1 else "train"


def _table(found: Any, address: str, labels: str | None) -> Table:
    whole = found.flatten_indices() if found._indices is not None else found
    schema = whole.features.arrow_schema
    return Table(
        ArrowRows(whole.data.table, address, schema),
        address=address,
        folder=None,
        labels=labels,
        files={os.path.basename(address): len(found)},  # noqa: PTH119  # the last part of an id
        stamp=found._fingerprint,
    )


def _need_datasets() -> ModuleType:
    try:
        import datasets
    except ModuleNotFoundError:
        raise UserError(
            "Hugging Face's data sets need the package datasets: pip install 'alphaflow[datasets]'"
        ) from None
    return datasets
