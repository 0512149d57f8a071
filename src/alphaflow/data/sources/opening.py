"""From an address to a source."""

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
    return Tree(address, labels=labels)
