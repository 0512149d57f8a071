"""A folder or an archive becomes a published set, if its lists are those of one."""

import os
from pathlib import Path

from alphaflow.errors import UserError, choose

from ..archive import ENDINGS
from ..classes import is_hidden, is_image
from ..splits import split_of
from . import annotated, imagenet
from .layout import ALL, Layout, Official
from .place import Place

_BESIDE = 16  # files in the folder of a lone archive, at most
FINDERS = (*imagenet.FINDERS, *annotated.FINDERS)


def open_official(path: Path, part: str, *, address: str, labels: str | None) -> Official | None:
    """Open a published set that goes by lists: ImageNet, CelebA, CUB, …; `None` if it is none.

    Args:
        path: a folder or an archive.
        part: the split, "all" for all of them, "" for the training one; a folder in it is left to others.
        address: what messages call it.
        labels: see `Official`.

    Raises:
        UserError: it is one, but damaged, or without such a part.
    """
    if not path.is_dir() and not (path.is_file() and path.name.lower().endswith(ENDINGS)):
        return None
    bare = address.rpartition("#")[0] if part else address
    found = _found(path, bare) or (_found(lone, bare) if (lone := _lone_archive(path)) else None)
    if found is None:
        return None
    place, layout = found
    if _is_folder(place, layout, part):
        return None
    split = _chosen(layout, part, bare)
    others = [name for name in layout.splits if name != split] if split != ALL else []
    told = [f"the split{'s' * (len(others) > 1)} {', '.join(others)}"] if others else []
    told += [f"{name}, which is unpacked beside" for name in place.unpacked]
    return Official(place, layout, split, address=address, labels=labels, passed_over=told)


def _found(path: Path, address: str) -> tuple[Place, Layout] | None:
    try:
        place = Place(path, address)
    except UserError:  # whoever opens it as something else says what is wrong with it
        return None
    layout = next((layout for find in FINDERS if (layout := find(place)) is not None), None)
    return None if layout is None else (place, layout)


def _lone_archive(path: Path) -> Path | None:
    """Return the only archive in a folder with nothing but a few texts beside, as a download may lie."""
    if not path.is_dir():
        return None
    with os.scandir(path) as entries:
        held = [entry for _, entry in zip(range(_BESIDE + 1), entries) if not is_hidden(entry.name)]
    archives = [entry.name for entry in held if entry.name.lower().endswith(ENDINGS)]
    others = any(entry.is_dir() or is_image(entry.name) for entry in held)
    return path / archives[0] if len(archives) == 1 and len(held) <= _BESIDE and not others else None


def _is_folder(place: Place, layout: Layout, part: str) -> bool:
    """Return whether a part of an address is no split, but the path of a folder within."""
    inner = part.strip("/")
    if not inner or inner in layout.splits or ("/" not in inner and split_of(inner)):
        return False
    return (place.path / inner).is_dir() or inner in place.folders


def _chosen(layout: Layout, part: str, address: str) -> str:
    """Return the split that is asked for, by its name or another name of its kind."""
    if not layout.splits:
        if part and not (part == ALL and layout.whole):
            raise UserError(f"{address} has no split {part!r}: its lists name none; leave #{part} away")
        return ""
    if not part:
        return next((name for name in layout.splits if split_of(name) == "train"), layout.splits[0])
    every = [*layout.splits, *([ALL] if layout.whole else [])]
    if part in every:
        return part
    meant = [name for name in layout.splits if split_of(part) and split_of(name) == split_of(part)]
    return meant[0] if len(meant) == 1 else choose(f"split of {address}", part, every)
