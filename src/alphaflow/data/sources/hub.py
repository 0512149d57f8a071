"""Data sets of the Hugging Face hub, and those that its library has saved to disk."""

import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from alphaflow.errors import UserError, choose, missing, one_line

from .table import ArrowRows, Table

PREFIX = "hf://"


def is_saved(path: Path) -> bool:
    """Return whether `datasets` has saved a data set here."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def open_hub(address: str, *, labels: str | None) -> Table:
    """Open `hf://OWNER/NAME`, `hf://OWNER/NAME:CONFIG#SPLIT`, or a folder `PATH#SPLIT`; the split is train unless
    given.

    Raises:
        UserError: the library is missing, or there is no such data set, configuration or split.
    """
    library = _need_datasets()
    others: list[str] = []
    place, _, split = address.removeprefix(PREFIX).partition("#")
    if not address.startswith(PREFIX):
        try:
            dataset = library.load_from_disk(place)
        except (OSError, ValueError, KeyError, TypeError, library.exceptions.DatasetsError) as error:
            words = one_line(error)
            raise UserError(f"cannot read {place} as a set that `datasets` has saved ({words})") from None
        if isinstance(dataset, library.DatasetDict):
            name = choose(f"split of {place}", split or _usual(dataset), dataset)
            others = [] if split else [f"the split {other}" for other in dataset if other != name]
            dataset = dataset[name]
        elif split:
            raise UserError(f"{place} is one split: give it without #{split}")
    else:
        name, _, config = place.partition(":")
        if not name.strip("/"):
            raise UserError(f"{address} names no data set: the form is hf://OWNER/NAME:CONFIG#SPLIT")
        try:
            dataset = library.load_dataset(name, config or None, split=split or "train")
        except (OSError, ValueError, library.exceptions.DatasetsError) as error:
            words = one_line(error)
            raise UserError(f"cannot load {address}: {words}; the form is hf://OWNER/NAME:CONFIG#SPLIT") from None
    return _table(dataset, address, labels, others)


def _usual(splits: Any) -> str:
    return next(iter(splits)) if len(splits) == 1 else "train"


def _table(dataset: Any, address: str, labels: str | None, passed_over: Sequence[str]) -> Table:
    whole = dataset.flatten_indices() if dataset._indices is not None else dataset
    schema = whole.features.arrow_schema
    return Table(
        ArrowRows(whole.data.table, address, schema),
        address=address,
        folder=None,
        labels=labels,
        files={os.path.basename(address): len(dataset)},  # noqa: PTH119  # the last part of an id
        stamp=dataset._fingerprint,
        passed_over=passed_over,
    )


def _need_datasets() -> ModuleType:
    try:
        import datasets
    except ModuleNotFoundError:
        raise missing("Hugging Face's data sets need the package datasets", "datasets") from None
    return datasets
