"""Classes from the folders that paths lie in, the same for trees and for archives of them."""

from collections.abc import Sequence

import numpy as np

from alphaflow.errors import UserError

from .base import SUFFIXES, Labels


def is_image(path: str) -> bool:
    """Whether a relative path (with slashes) counts as an image: by its suffix, and with no hidden part."""
    return path.lower().endswith(SUFFIXES) and not any(
        part.startswith(".") or part == "__MACOSX" for part in path.split("/")
    )


def in_order(paths: Sequence[str]) -> list[int]:
    """The positions of relative paths in the order of a walk: folder by folder, as `sorted` does with `Path`s."""
    return sorted(range(len(paths)), key=lambda k: paths[k].replace("/", "\0"))


def by_folder(paths: Sequence[str], where: str) -> tuple[Labels | None, tuple[str, ...]]:
    """Labels and class names from the first folder of each relative path; none when all lie in the root.

    Raises:
        UserError: no paths, or images both beside and in folders.
    """
    if not paths:
        raise UserError(f"{where} holds no images: put {', '.join(SUFFIXES)} files into it")
    firsts = [path.split("/", 1)[0] if "/" in path else None for path in paths]
    names = sorted({first for first in firsts if first is not None})
    if not names:
        return None, ()
    if None in firsts:
        raise UserError(
            f"{where} holds images (such as {paths[firsts.index(None)]}) beside class folders (such as "
            f"{names[0]}): put every image into a class folder, or all of them directly inside"
        )
    number = {name: k for k, name in enumerate(names)}
    return np.array([number[first] for first in firsts if first is not None], np.int64), tuple(names)
