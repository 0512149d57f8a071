"""What an evaluation looks at: which pictures, through which detector, against which real ones."""

import os
from dataclasses import dataclass
from functools import cached_property

import torch

from . import metrics
from .data import Dataset, Images, Latents, MovingDigits, VideoClips
from .data.clip_latents import ClipLatents
from .decoder import Decoder, decoder_of
from .errors import UserError
from .metrics.reference import Reference, detector_words
from .scoring import AT_MOST


@dataclass(frozen=True)
class View:
    """How samples are looked at. Made by `view_of`.

    detector: None: nothing fits, the samples' own values are compared.
    reference: the statistics that take the place of real samples, if any.
    decoder: makes pictures of latents, generated and real, where a detector is to see them.
    """

    dataset: Dataset
    detector: metrics.Detector | None = None
    reference: Reference | None = None
    decoder: Decoder | None = None

    @property
    def pixels(self) -> bool:
        """Whether it is pictures that are looked at, rounded as a PNG would."""
        return self.dataset.kind in ("image", "video") or self.decoder is not None

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of a picture: (H, W, C), or (T, H, W, C) of a video."""
        channels, *sides = self.dataset.shape
        if self.decoder:
            *frames, height, width = sides
            factor, channels = self.decoder.vae.factor, 3
            sides = [*frames, height * factor, width * factor]
        return (*sides, channels)

    @cached_property
    def real_count(self) -> int:
        """How many real samples the figures are against; 0: somebody else's file does not tell."""
        return self.reference.count if self.reference else self.sample_count

    @property
    def sample_count(self) -> int:
        """How many of the run's data are looked at, and are generated unless asked otherwise."""
        return min(len(self.dataset), AT_MOST[self.dataset.kind])

    @property
    def crop(self) -> str:
        """How pictures became squares; empty: they are made so, or it is not known."""
        if isinstance(self.dataset, Latents | ClipLatents):
            return self.dataset.manifest.fingerprint.crop if self.decoder else ""
        return self.dataset.crop if isinstance(self.dataset, Images | VideoClips) else ""

    @property
    def data(self) -> str:
        """What tells these real samples from others."""
        if self.reference:
            return self.reference.statistics.source or f"statistics {self.reference.digest}"
        return self.dataset.fingerprint + (f", decoded by {self.decoder.vae.hash}" if self.decoder else "")

    @property
    def against(self) -> str:
        """What the real samples are, in words."""
        if self.reference:
            return "reference statistics" if self.reference.known else "reference statistics of unknown origin"
        return "latents of the run's data, decoded" if self.decoder else "the run's data"

    @property
    def detector_name(self) -> str | None:
        """With the hash of its weights."""
        return detector_words(self.detector) if self.detector else None


def view_of(
    dataset: Dataset,
    *,
    detector: str | None = None,
    path: str | os.PathLike[str] | None = None,
    reference: Reference | None = None,
    device: torch.device | str = "cpu",
    decoder: Decoder | None = None,
) -> View:
    """How to look at samples of a run on `dataset`.

    Latents are decoded where a detector is named. The reference then is best made of the pictures that were
    encoded: a distance from it counts what the autoencoder loses, as published ones do. Without a reference, the
    data's own latents are decoded: that distance is the generator's alone, and smaller.

    Args:
        detector: one of `metrics.DETECTORS`; None: the one that comes with the package and fits, if there is one.
        path: its file. device: where it runs. decoder: of a run on latents; None: by what the data say.

    Raises:
        UserError: a detector that does not fit the pictures or cannot be loaded, a reference made in another way.
    """
    if dataset.kind == "points" and (detector or reference):
        raise UserError("this run generates points, which no detector sees: leave --detector out", status=2)
    seen = _detector(dataset, detector, path, device)
    if reference and seen is None:
        made = f" ({reference.statistics.detector})" if reference.known else ""
        raise UserError(f"--reference needs --detector: the one it was made with{made}", status=2)
    if not (seen and isinstance(dataset, Latents | ClipLatents)):
        decoder = None
    elif decoder is None:
        decoder = decoder_of(dataset, device)
    view = View(dataset, seen, reference, decoder)
    if seen and (reason := seen.misfit(view.shape)):
        raise UserError(f"{reason}, which this run's pictures are: choose another --detector", status=2)
    if seen and reference:
        frames = view.shape[0] if seen.video else 0
        rate = dataset.rate if isinstance(dataset, VideoClips) else 0.0
        width = seen.width(view.shape)
        reference.check(seen, size=view.shape[-2], crop=view.crop, frames=frames, rate=rate, width=width)
    return view


def _detector(
    dataset: Dataset, name: str | None, path: str | os.PathLike[str] | None, device: torch.device | str
) -> metrics.Detector | None:
    if name is None and path is not None:
        raise UserError("--detector-path needs --detector: say which one it is", status=2)
    if isinstance(dataset, MovingDigits) and (name is None or (name == "digits" and path is None)):
        return metrics.load_moving_digits_detector(dataset.frames, dataset.size)
    if name is None:
        return metrics.load_detector("digits") if dataset.shape == (1, 8, 8) else None
    return metrics.load_detector(name, path=path, device=device)
