"""From an address to a source."""

from pathlib import Path

from .archive import ENDINGS, Archive
from .base import Source
from .tree import Tree


def open_source(address: str, *, labels: str | None = None) -> Source:
    """Open the images at an address.

    Args:
        address: a folder with one sub-folder for each class, or with images directly inside.
        labels: where the labels come from; `None`: from the folders.

    Raises:
        UserError: nothing there that could be read, and what to give instead.
    """
    path = Path(address)
    if path.name.lower().endswith(ENDINGS):
        return Archive(path, labels=labels)
    return Tree(path, labels=labels)
