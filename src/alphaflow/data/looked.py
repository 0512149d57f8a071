"""What a few images of a source look like, before all are decoded: how large they are, and whether in colour."""

import statistics
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alphaflow.data.sources import Source
from alphaflow.data.sources.decoding import open_rgb, reason_of
from alphaflow.errors import UserError

MOST = 64
"""Images that are looked at, spread over all."""
_NEUTRAL = 3  # levels by which the channels of a grey JPEG may differ


@dataclass(frozen=True, kw_only=True)
class Look:
    """What the images of a source are, so far as those that were looked at tell."""

    count: int
    """Images of the source, broken ones included."""
    side: int
    """Pixels of the shorter side: the median."""
    alike: bool
    """Whether the shorter side is the same in all."""
    grey: bool
    """Whether none has colours."""
    seconds: float
    """What it takes to decode one."""

    def __str__(self) -> str:
        size = f"{self.side} pixels" if self.alike else f"about {self.side} pixels"
        return f"{self.count:,} {'grey' if self.grey else 'coloured'} pictures, the shorter side {size}"


def look_at(source: Source, most: int = MOST) -> Look:
    """Look at `most` images of a source at the most, spread evenly; those that cannot be read are passed over.

    Raises:
        UserError: the source has none, or none of those that were looked at can be read.
    """
    count = len(source)
    if not count:
        raise UserError(f"{source.address} holds no images: give another address")
    sides, seconds, grey, wrong = [], [], True, ""
    for index in np.linspace(0, count - 1, min(count, most)).astype(int).tolist():
        start = time.perf_counter()
        try:
            pixels = _pixels(source.read(index))
        except Exception as error:  # a damaged file can make a decoder raise nearly anything
            wrong = wrong or f"{source.name(index)}: {reason_of(error)}"
            continue
        sides.append(min(pixels.shape[:2]))
        grey = grey and _is_grey(pixels)
        seconds.append(time.perf_counter() - start)
    if not sides:
        raise UserError(f"{source.address}: none of its images that were looked at can be read (first {wrong})")
    return Look(
        count=count,
        side=int(statistics.median_low(sides)),
        alike=len(set(sides)) == 1,
        grey=grey,
        seconds=statistics.median(seconds),
    )


def _pixels(data: bytes | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image as it is, uint8 (H, W, 3) or (H, W, 1)."""
    return data if isinstance(data, np.ndarray) else np.asarray(open_rgb(data))


def _is_grey(pixels: NDArray[np.uint8]) -> bool:
    spread = pixels.max(axis=2).astype(np.int16) - pixels.min(axis=2)
    return bool(spread.max(initial=0) <= _NEUTRAL)
