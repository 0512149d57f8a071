"""Files of reference statistics: ours, which say what they belong to, and those of others.

`mu` (D,) and `sigma` (D, D), float64, are in all of them: ADM's, JAX-MeanFlow's and clean-fid's hold nothing else
that matters here. Ours also keep the count, the hashes of detector and data, the preprocessing, and the size and
crop of the images (of videos also the frames and their rate), so that a comparison of unlike things is refused
rather than made.
"""

import hashlib
import math
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alphaflow.errors import UserError, one_line
from alphaflow.files import beside
from alphaflow.metrics.detectors.base import Detector
from alphaflow.metrics.statistics import Statistics

_WORDS = ("detector", "preprocessing", "source", "crop")
_HELD = ("mu", "sigma", "count", "size", "frames", "rate", *_WORDS)
_LARGEST = 1 << 31
"""Bytes of a covariance: of 16,384 features."""
_ROUNDING = 1e-6
"""How far below 0 an eigenvalue may be, as a share of the trace."""
WIDTHS = {2048: "inception", 1024: "dinov2", 512: "clip", 768: "clip-l", 400: "i3d"}
"""The published detectors by their numbers of features, which tell whose statistics a file of others holds."""
_UNKNOWN_COUNT = 2  # the least that `Statistics` takes; of files that do not tell


def detector_words(detector: Detector) -> str:
    """Return a detector's name and the hash of its weights, as `Statistics` keep them."""
    return f"{detector.name}, sha256 {detector.sha256}"


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Statistics of real images, and how those were made."""

    statistics: Statistics
    size: int = 0
    """Side of the images in pixels; 0: unknown, as in files of others."""
    crop: str = ""
    """The crop that made images squares; empty: unknown."""
    frames: int = 0
    """Frames of a video; 0: unknown, or images."""
    rate: float = 0.0
    """Frames a second; 0: unknown, or images."""
    known: bool = True
    """Whether the file says which detector and images it belongs to."""

    @property
    def digest(self) -> str:
        """16 hexadecimal digits of mean and covariance."""
        digest = hashlib.sha256(self.statistics.mean.numpy().tobytes())
        digest.update(self.statistics.cov.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def count(self) -> int:
        """The number of images; 0 where the file does not say."""
        return self.statistics.count if self.known else 0

    @property
    def maker(self) -> str:
        """The detector that the statistics are of, in words; of files that do not say, by the number of features.

        Empty where no published detector has as many.
        """
        if self.known:
            return self.statistics.detector
        width = len(self.statistics.mean)
        return f"{width} features, as {WIDTHS[width]} has" if width in WIDTHS else ""

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the reference as an .npz, atomically.

        Raises:
            UserError: the file cannot be written.
        """
        target = Path(path)
        statistics = self.statistics
        words = {
            "detector": statistics.detector,
            "preprocessing": statistics.preprocessing,
            "source": statistics.source,
        }
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with beside(target) as temporary, temporary.open("wb") as file:
                np.savez(
                    file,
                    mu=statistics.mean.numpy(),
                    sigma=statistics.cov.numpy(),
                    count=np.int64(statistics.count),
                    size=np.int64(self.size),
                    crop=np.array(self.crop),
                    frames=np.int64(self.frames),
                    rate=np.float64(self.rate),
                    **{name: np.array(value) for name, value in words.items()},  # type: ignore[arg-type]
                )
        except OSError as error:
            raise UserError(f"cannot write {target} ({error.strerror}): choose another place") from None

    def check(
        self,
        detector: Detector,
        *,
        size: int,
        crop: str | None = None,
        frames: int = 0,
        rate: float = 0.0,
        width: int = 0,
    ) -> None:
        """Refuse a reference that cannot be compared with images of `size`, cropped so, seen by `detector`.

        What a file of others does not say is not checked, but for the number of features.

        Args:
            detector, size, crop: the images' own.
            frames, rate: those of videos.
            width: the detector's number of features; 0: not known here.

        Raises:
            UserError: detector, preprocessing, resolution, crop, number of frames or their rate, or number of
                features differ.
        """
        pairs = [
            ("detector", self.statistics.detector, detector_words(detector)),
            ("preprocessing", self.statistics.preprocessing, detector.preprocessing),
            ("resolution", self.size, size),
            ("crop", self.crop, crop),
            ("frames", self.frames, frames),
            ("frames a second", self.rate, rate),
            ("features", len(self.statistics.mean), width),
        ]
        for what, mine, theirs in pairs:
            if mine and theirs and mine != theirs:
                other = WIDTHS.get(len(self.statistics.mean), "")
                remedy = (
                    f"say --detector {other}, whose number that is, or " if what == "features" and other else ""
                )
                raise UserError(
                    f"the reference has {what} {mine}, and this {theirs}: the figure would mean nothing; {remedy}"
                    "make a reference with `alphaflow stats` for it"
                )


def read_reference(path: str | os.PathLike[str]) -> Reference:
    """Read an .npz of this package's, ADM's, JAX-MeanFlow's or clean-fid's kind; arrays of Python objects are not
    opened.

    Raises:
        UserError: the file cannot be read, or holds no `mu` and `sigma` that are a mean and a covariance.
    """
    try:
        _check_size(path)
        opened = np.load(path, allow_pickle=False)
        if not isinstance(opened, np.lib.npyio.NpzFile):
            raise ValueError("one array alone")
        with opened as file:
            held = {name: file[name] for name in _HELD if name in file.files}
            names = list(file.files)
    except Exception as error:  # a damaged file can make numpy raise nearly anything
        unknown = isinstance(error, ValueError) and "pickle" in str(error)  # numpy advises to read it unsafely
        reason = "no .npz of numbers" if unknown else one_line(error)
        raise UserError(f"cannot read statistics from {path} ({reason}): give an .npz with mu and sigma") from None
    return reference_from(path, held, names)


def reference_from(path: str | os.PathLike[str], held: Mapping[str, Any], names: Sequence[str]) -> Reference:
    """Return the reference in the entries `held`, read from `path`, which has entries of those `names`.

    Raises:
        UserError: there are no `mu` and `sigma` that are a mean and a covariance: finite, symmetric, without
            negative variances in any direction.
    """
    if "mu" not in held or "sigma" not in held:
        raise UserError(f"{path} holds {', '.join(names) or 'nothing'}, not mu and sigma: it holds no statistics")
    mean, cov = (np.asarray(held[name]) for name in ("mu", "sigma"))
    fits = mean.ndim == 1 and len(mean) > 0 and cov.shape == (len(mean), len(mean))
    numbers_only = all(part.dtype.kind == "f" for part in (mean, cov))
    both = {"mu": mean, "sigma": cov} if fits and numbers_only else {}
    if wrong := [name for name, part in both.items() if not np.isfinite(part).all()]:
        raise UserError(
            f"{path}: not all numbers of its {' and '.join(wrong)} are finite: make the statistics anew"
        )
    if not fits or not numbers_only:
        raise UserError(f"{path}: mu {mean.shape} and sigma {cov.shape} are no mean (D,) and covariance (D, D)")
    mean, cov = mean.astype(np.float64), cov.astype(np.float64)
    _check_covariance(path, cov)
    words = {name: str(held[name]) for name in _WORDS if name in held}
    crop = words.pop("crop", "")
    numbers = {name: _number(path, name, held.get(name, 0)) for name in ("count", "size", "frames", "rate")}
    if "count" in held and numbers["count"] < 2:
        raise UserError(f"{path}: count {numbers['count']:g} is of no covariance: at least 2 images make one")
    statistics = Statistics(
        mean=torch.from_numpy(mean),
        cov=torch.from_numpy(cov),
        count=int(numbers["count"]) or _UNKNOWN_COUNT,
        **words,
    )
    return Reference(
        statistics=statistics,
        size=int(numbers["size"]),
        crop=crop,
        frames=int(numbers["frames"]),
        rate=numbers["rate"],
        known=bool(words.get("detector")),
    )


def _check_size(path: str | os.PathLike[str]) -> None:
    """Refuse an archive whose statistics unpack to more than any detector's would."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.filename.removesuffix(".npy") in _HELD and entry.file_size > _LARGEST:
                raise ValueError(f"{entry.filename} is {entry.file_size:,} bytes")


def _check_covariance(path: str | os.PathLike[str], cov: np.ndarray) -> None:
    """Refuse a matrix that is no covariance; rounding to float32 is forgiven."""
    if not np.allclose(cov, cov.T, rtol=1e-6, atol=1e-6 * float(np.abs(cov).max())):
        raise UserError(
            f"{path}: sigma is not symmetric, so it is no covariance: give the statistics as they were made"
        )
    if not cov.any():
        raise UserError(
            f"{path}: sigma is 0 everywhere, as of images that are all the same: make the statistics anew"
        )
    lowest, trace = float(np.linalg.eigvalsh((cov + cov.T) / 2)[0]), float(cov.trace())
    if lowest < -_ROUNDING * max(trace, 0.0):
        raise UserError(
            f"{path}: sigma has an eigenvalue of {lowest:.3g}, and a covariance has none below 0: give the "
            "statistics as they were made"
        )


def _number(path: str | os.PathLike[str], name: str, value: Any) -> float:
    try:
        number = float(np.asarray(value).item())
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < 2**53 or (name != "rate" and not number.is_integer()):
        raise UserError(f"{path}: its {name} is no number of {name}: give the statistics as they were made")
    return number
