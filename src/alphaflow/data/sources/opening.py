"""From an address to a source."""

from pathlib import Path

from alphaflow.errors import UserError

from . import table
from .archive import ENDINGS, Archive
from .arrays import Arrays
from .base import Source
from .hub import PREFIX, is_saved, open_hub
from .tree import Tree


def open_source(address: str, *, labels: str | None = None) -> Source:
    """Open the images at an address.

    Args:
        address: one of
            a folder with one sub-folder for each class, or with images directly inside;
            a .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz of one;
            a .parquet or .arrow file, a pattern of them (`data/*.parquet`), or a folder that holds nothing else;
            a .npy or .npz;
            a folder that `datasets` has saved, or `hf://OWNER/NAME`, with `#SPLIT`.
        labels: where the labels come from; `None`: from the data's own. FILE.csv for folders and archives, a
        column
            for tables, an array of the .npz or FILE.npy for arrays; "none" for no labels.

    Raises:
        UserError: nothing there that could be read, and what to give instead.
    """
    if address.startswith(PREFIX) or is_saved(Path(address.partition("#")[0])):
        return open_hub(address, labels=labels)
    paths = _files(address)
    endings = {path.suffix.lower() for path in paths}
    if endings and (endings <= set(table.PARQUET) or endings <= set(table.ARROW)):
        return table.open_tables(paths, address=address, labels=labels)
    path = Path(address)
    if path.name.lower().endswith(ENDINGS):
        return Archive(path, labels=labels)
    if path.suffix.lower() in (".npy", ".npz"):
        return Arrays(path, labels=labels)
    return Tree(path, labels=labels)


def _files(address: str) -> list[Path]:
    """The files that an address names: one, those of a pattern, or the tables of a folder."""
    path = Path(address)
    if path.is_dir():
        return sorted(found for found in path.rglob("*") if found.suffix.lower() in (*table.PARQUET, *table.ARROW))
    if path.exists() or not any(sign in address for sign in "*?["):
        return [path]
    root = Path(path.anchor)
    found = sorted(root.glob(str(path.relative_to(root))))
    if not found:
        raise UserError(f"nothing matches {address}: give an address of images")
    return found
