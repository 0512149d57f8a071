"""The setup of an evaluation: which pictures it scores, by which detector, against which real ones."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from .. import metrics
from ..data import CaptionedShapes, Dataset, Images, MovingDigits, VideoClips
from ..data.safe_pickles import load_plain
from ..encoding.decoder import Decoder, decoder_of
from ..errors import UserError
from ..metrics.reference import Reference, detector_words, read_reference, reference_from
from .scoring import AT_MOST


@dataclass(frozen=True)
class EvaluationSetup:
    """The dataset, detector, reference and decoder of an evaluation. `prepare` makes one that fits together."""

    dataset: Dataset
    """The run's data."""
    detector: metrics.Detector | None = None
    """The network whose features are compared; None: the samples' own values are compared."""
    reference: Reference | None = None
    """The statistics that take the place of real samples, if any."""
    decoder: Decoder | None = None
    """It makes pictures of latents, generated and real, where a detector is to see them."""

    @property
    def pixels(self) -> bool:
        """Whether pictures are scored, rounded as a PNG would."""
        return self.dataset.kind in ("image", "video") or self.decoder is not None

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape of a picture: (H, W, C), or (T, H, W, C) of a video."""
        channels, *sides = self.dataset.shape
        if self.decoder:
            *frames, height, width = sides
            factor, channels = self.decoder.vae.factor, 3
            sides = [*frames, height * factor, width * factor]
        return (*sides, channels)

    @cached_property
    def real_count(self) -> int:
        """The number of real samples that are compared with; 0 where a file of statistics does not tell."""
        return self.reference.count if self.reference else self.sample_count

    @property
    def sample_count(self) -> int:
        """The number of the run's data that are compared with, and of samples generated unless asked otherwise."""
        return min(len(self.dataset), AT_MOST[self.dataset.kind])

    @property
    def crop(self) -> str:
        """The way in which pictures became squares; empty where they are made so, or it is not known."""
        if self.dataset.manifest:
            return self.dataset.manifest.fingerprint.crop if self.decoder else ""
        return self.dataset.crop if isinstance(self.dataset, Images | VideoClips) else ""

    @property
    def data(self) -> str:
        """A hash or name that tells these real samples from others."""
        if self.reference:
            return self.reference.statistics.source or f"statistics {self.reference.digest}"
        return self.dataset.fingerprint + (f", decoded by {self.decoder.vae.hash}" if self.decoder else "")

    @property
    def against(self) -> str:
        """The real samples, in words."""
        if self.reference:
            return "reference statistics" if self.reference.known else "reference statistics of unknown origin"
        return "latents of the run's data, decoded" if self.decoder else "the run's data"

    @property
    def detector_name(self) -> str | None:
        """The detector's name with the hash of its weights."""
        return detector_words(self.detector) if self.detector else None


LARGEST_PICKLE = 1 << 31
"""The largest file of references, in bytes."""
_SETS = {"inception": "fid", "dinov2": "fd_dinov2"}
"""The names under which EDM2's files of references keep the statistics of those detectors."""


def open_reference(path: str | os.PathLike[str], detector: str | None = None) -> Reference:
    """Read a file of reference statistics: an .npz, see `read_reference`, or a pickle as EDM2's, TVM's and
    DMF's, which hold those of several detectors, `{"fid": {"mu": …, "sigma": …}, …}`. Nothing in it is run.

    Args:
        detector: the detector whose statistics are read, where there are several.

    Raises:
        UserError: as `read_reference`; the pickle holds something else than arrays, or none of this detector's.
    """
    try:
        with Path(path).open("rb") as file:
            pickled = file.read(1) == b"\x80"
            data = b"\x80" + file.read(LARGEST_PICKLE) if pickled else b""
    except OSError as error:
        raise UserError(f"cannot read statistics from {path} ({error.strerror}): give an .npz") from None
    if not pickled:
        return read_reference(path)
    try:
        content = load_plain(data)
    except UserError as error:
        raise UserError(f"cannot read statistics from {path} ({error})") from None
    entries = content.items() if isinstance(content, dict) else ()
    sets = {key: entry for key, entry in entries if isinstance(entry, dict)}
    if sets:
        name = _SETS.get(detector or "inception", str(detector))
        if name not in sets:
            raise UserError(f"{path} holds statistics for {', '.join(map(str, sets))}, not for {name}", status=2)
        content = sets[name]
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not mu and sigma: it holds no statistics")
    return reference_from(path, content, [str(key) for key in content])


def prepare(
    dataset: Dataset,
    *,
    detector: str | None = None,
    path: str | os.PathLike[str] | None = None,
    reference: Reference | None = None,
    device: torch.device | str = "cpu",
    decoder: Decoder | None = None,
) -> EvaluationSetup:
    """Prepare an evaluation of samples of a run on `dataset`.

    Latents are decoded where a detector is named. The reference then is best made of the pictures that were
    encoded: a distance from it counts what the autoencoder loses, as published ones do. Without a reference, the
    data's own latents are decoded: that distance is the generator's alone, and smaller.

    Args:
        detector: one of `metrics.DETECTORS`; None: the one that comes with the package and fits, if there is one.
        path: the detector's file. device: the device on which the detector runs.
        decoder: the decoder of a run on latents; None: the one that the data name.

    Raises:
        UserError: a detector that does not fit the pictures or cannot be loaded, a reference made in another way.
    """
    if dataset.kind == "points" and (detector or reference):
        given = "--detector" if detector else "--reference"
        raise UserError(f"this run generates points, which no detector sees: leave {given} out", status=2)
    network = _detector(dataset, detector, path, device)
    if reference and network is None:
        maker = f" ({reference.maker})" if reference.maker else ""
        raise UserError(f"--reference needs --detector: the one it was made with{maker}", status=2)
    if not (network and dataset.manifest):
        decoder = None
    elif decoder is None:
        decoder = decoder_of(dataset.manifest, device)
    setup = EvaluationSetup(dataset, network, reference, decoder)
    if network and (reason := network.misfit(setup.shape)):
        raise UserError(f"{reason}, which this run's pictures are: choose another --detector", status=2)
    if network and reference:
        frames = setup.shape[0] if network.video else 0
        rate = dataset.rate if isinstance(dataset, VideoClips) else 0.0
        width = network.width(setup.shape)
        reference.check(network, size=setup.shape[-2], crop=setup.crop, frames=frames, rate=rate, width=width)
    return setup


def _detector(
    dataset: Dataset, name: str | None, path: str | os.PathLike[str] | None, device: torch.device | str
) -> metrics.Detector | None:
    if name is None and path is not None:
        raise UserError("--detector-path needs --detector: say which one it is", status=2)
    if isinstance(dataset, MovingDigits) and (name is None or (name == "digits" and path is None)):
        return metrics.load_moving_digits_detector(dataset.frames, dataset.size)
    if name is None:
        shapes: dict[tuple[int, ...], str] = {(1, 8, 8): "digits", (1, 28, 28): "fashion"}
        if isinstance(dataset, CaptionedShapes):
            return metrics.load_shapes_detector(device)
        own = shapes.get(dataset.shape)
        return metrics.load_detector(own) if own else None
    return metrics.load_detector(name, path=path, device=device)
