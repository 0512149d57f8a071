"""Reference statistics of any source of images, as `alphaflow stats` makes them."""

import torch

from .data import Digits, Images
from .data.sources import Crop
from .metrics.detectors import Detector
from .metrics.reference import Reference, detector_words
from .metrics.statistics import Accumulator
from .pixels import to_uint8

_AT_ONCE = 256  # images


def reference_of(source: str, detector: Detector, *, size: int = 256, crop: Crop = "lanczos") -> Reference:
    """What `detector` sees in all images of a source.

    Args:
        source: an address, see `data.sources.open_source`; or "digits", which come with the package.
        size: side of the images in pixels. crop: how they become squares. Of the digits, both are given.

    Raises:
        UserError: as `Images`. ValueError: the images do not fit the detector.
    """
    digits = source == "digits"
    data = Digits() if digits else Images(source, size, crop=crop)
    accumulator = Accumulator()
    for rows in torch.arange(len(data)).split(_AT_ONCE):
        accumulator.update(detector.features(to_uint8(data.batch(rows)[0])))
    statistics = accumulator.statistics(
        detector=detector_words(detector), preprocessing=detector.preprocessing, source=data.fingerprint
    )
    return Reference(statistics=statistics, size=data.shape[-1], crop="" if digits else crop)
