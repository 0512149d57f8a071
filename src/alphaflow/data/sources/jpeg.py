"""Plain JPEGs by simplejpeg, where that is installed: the same pixels as Pillow's in two thirds of the time.

Both are libjpeg-turbo. Pillow adds readers of EXIF and other notes around it, and keeps Python's lock for more of
the work; so what such a note may turn or colour goes to Pillow, and so does everything that is damaged, since the
words of its refusals are ours.
"""

import functools
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
"""Baseline, extended and progressive frames, the last coded by Huffman as the others are."""
_NOTES = frozenset({0xE1, 0xEE})
"""APP1 holds EXIF and XMP, APP14 Adobe's word for how colours are meant."""


def plain_jpeg(data: bytes) -> NDArray[np.uint8] | None:
    """Return the pixels of a JPEG, uint8 (H, W, 3), as Pillow's decoder gives them.

    Returns:
        None where Pillow must look at it: it is no JPEG; it has EXIF, XMP or Adobe's marker, levels of more than 8
        bits, other than one or three components, or more pixels than Pillow takes without a word; it is damaged;
        or simplejpeg is not installed.
    """
    if not data.startswith(b"\xff\xd8\xff") or (decode := _decoder()) is None or not _is_plain(data):
        return None
    try:
        pixels: NDArray[np.uint8] = decode(data, "RGB")
    except ValueError:
        return None
    return pixels


@functools.cache
def _decoder() -> Callable[..., Any] | None:
    try:
        found: Callable[..., Any] = import_module("simplejpeg").decode_jpeg
    except ImportError:
        return None
    return found


def _is_plain(data: bytes) -> bool:
    """Whether no segment before the picture is for Pillow to read. Of its frame: ISO/IEC 10918-1, B.2.2."""
    from PIL import Image

    place, found = 2, False
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == 0xDA:  # the picture begins
            return found
        if marker in _NOTES:
            return False
        if marker in _FRAMES and place + 10 <= len(data):
            bits, components = data[place + 4], data[place + 9]
            height, width = (int.from_bytes(data[place + k : place + k + 2], "big") for k in (5, 7))
            found = bits == 8 and components in (1, 3) and height * width <= (Image.MAX_IMAGE_PIXELS or 0)
            if not found:
                return False
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return False
        place += 2 + length
    return False
