"""Reference statistics of any source of images or videos, as `alphaflow stats` makes them."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from ..data import CaptionedShapes, Dataset, Digits, Fashion, Images, VideoClips
from ..data.sources import Crop, open_source
from ..errors import UserError
from ..metrics.detectors.base import Detector
from ..metrics.reference import Reference, detector_words
from ..metrics.statistics import BLOCK, Accumulator
from ..parallel.share import Share
from ..pixels import to_uint8
from ..progress import ProgressBar

log = logging.getLogger("alphaflow")
SIZE, FRAMES, RATE = 256, 16, 8.0
"""Side in pixels, frames of a video, and frames a second, unless told otherwise."""
_OWN: dict[str, Callable[[], Dataset]] = {
    "digits": Digits,
    "fashion": Fashion,
    "shapes": CaptionedShapes,
    "fashion#test": partial(Fashion, part="test"),
}


def reference_of(
    source: str,
    detector: Detector,
    *,
    size: int | None = None,
    crop: Crop | None = None,
    frames: int | None = None,
    rate: float | None = None,
    share: Share | None = None,
) -> Reference:
    """Return the statistics of what `detector` sees in all images, or videos, of a source.

    They are shown to it 64 at a time, as `alphaflow evaluate` does, and summed by groups: the result is the same,
    to the bit, for any number of processes.

    Args:
        source: an address of images, see `data.sources.open_source`, or of videos, see `data.clips.find_clips`; or
            "digits", which come with the package, "fashion", or "fashion#test", where nothing lies at such a path.
        size: side in pixels. crop: how images become squares. frames, rate: of videos. None: `SIZE`, lanczos,
            `FRAMES`, `RATE`.
        share: with the other processes, if there are any; all must call, and all get the same.

    Raises:
        UserError: as `Images` and `VideoClips`; pictures that do not fit the detector; settings that do not apply.
    """
    share = share or Share()
    data = _opened(source, detector, size, crop, frames, rate)
    if share.main and (found := getattr(data, "found", "")):
        log.info("%s", found)
    channels, *sides = data.shape
    shape = (*sides, channels)
    _refuse_misfit(source, detector, shape)
    accumulator = Accumulator(detector.width(shape))
    unit = "videos" if detector.video else "images"
    with ProgressBar(detector.name, 0, len(data), unit=unit, shown=share.main) as bar:
        for first in share.blocks(len(data)):
            rows = torch.arange(first, min(first + BLOCK, len(data)))
            accumulator.update(detector.features(to_uint8(data.batch(rows)[0])), first)
            bar.update(first + len(rows))
    if len(data) < 2:
        raise UserError(f"{source} holds {len(data)} of the {unit} wanted: a covariance needs at least 2")
    statistics = accumulator.statistics(
        share.all_reduce,
        detector=detector_words(detector),
        preprocessing=detector.preprocessing,
        source=data.fingerprint,
    )
    return Reference(
        statistics=statistics,
        size=data.shape[-1],
        crop=data.crop if isinstance(data, Images | VideoClips) else "",
        frames=data.shape[1] if detector.video else 0,
        rate=data.rate if isinstance(data, VideoClips) else 0.0,
    )


def _refuse_misfit(source: str, detector: Detector, shape: tuple[int, ...]) -> None:
    if reason := detector.misfit(shape):
        raise UserError(f"{source}: {reason}: choose another --detector", status=2)


def _opened(
    source: str,
    detector: Detector,
    size: int | None,
    crop: Crop | None,
    frames: int | None,
    rate: float | None,
) -> Dataset:
    given = {"size": size, "crop": crop, "frames": frames, "rate": rate}
    unused: tuple[str, ...]
    own = None if Path(source).exists() else _OWN.get(source)
    if own:
        unused, why = ("size", "crop", "frames", "rate"), f"the pictures of {source} are as they are"
    elif detector.video:
        unused, why = ("crop",), "of videos the central square is taken, by Lanczos"
    else:
        unused, why = ("frames", "rate"), f"detector {detector.name} looks at images"
    for name in unused:
        if given[name] is not None:
            raise UserError(f"--{name} does not apply: {why}; leave it out", status=2)
    if own:
        return own()
    size = SIZE if size is None else size
    if detector.video:
        frames, rate = FRAMES if frames is None else frames, RATE if rate is None else rate
        return VideoClips(source, frames=frames, rate=rate, size=size)
    images = open_source(source)
    _refuse_misfit(source, detector, (size, size, 3))  # before anything is decoded
    return Images(images, size, crop=crop or "lanczos")
