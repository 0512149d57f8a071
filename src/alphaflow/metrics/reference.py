"""Files of reference statistics: ours, which say what they belong to, and those of others.

`mu` (D,) and `sigma` (D, D), float64, are in all of them: ADM's, JAX-MeanFlow's and clean-fid's hold nothing else
that matters here. Ours also keep the count, the hashes of detector and data, the preprocessing, and the size and
crop of the images (of videos also the frames and their rate), so that a comparison of unlike things is refused
rather than made.
"""

import hashlib
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from alphaflow.errors import UserError
from alphaflow.metrics.detectors import Detector
from alphaflow.metrics.statistics import Statistics

_WORDS = ("detector", "preprocessing", "source", "crop")
_HELD = ("mu", "sigma", "count", "size", "frames", "rate", *_WORDS)
_UNKNOWN_COUNT = 2  # the least that `Statistics` takes; of files that do not tell


def detector_words(detector: Detector) -> str:
    """A detector's name and the hash of its weights, as `Statistics` keep them."""
    return f"{detector.name}, sha256 {detector.sha256}"


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Statistics of real images, and how those were made."""

    statistics: Statistics
    size: int = 0
    """side of the images in pixels; 0: unknown, as in files of others"""
    crop: str = ""
    """how they became squares; empty: unknown"""
    frames: int = 0
    """of a video; 0: unknown, or images"""
    rate: float = 0.0
    """frames a second; 0: unknown, or images"""
    known: bool = True
    """whether the file tells what it belongs to"""

    @property
    def digest(self) -> str:
        """16 hexadecimal digits of mean and covariance."""
        found = hashlib.sha256(self.statistics.mean.numpy().tobytes())
        found.update(self.statistics.cov.contiguous().numpy().tobytes())
        return found.hexdigest()[:16]

    @property
    def count(self) -> int:
        """Of the images; 0 where the file does not tell."""
        return self.statistics.count if self.known else 0

    def write(self, path: str | os.PathLike[str]) -> None:
        """As an .npz, atomically.

        Raises:
            UserError: it cannot be written.
        """
        target = Path(path)
        temporary = target.with_name(target.name + ".tmp")
        found = self.statistics
        words = {"detector": found.detector, "preprocessing": found.preprocessing, "source": found.source}
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                np.savez(
                    file,
                    mu=found.mean.numpy(),
                    sigma=found.cov.numpy(),
                    count=np.int64(found.count),
                    size=np.int64(self.size),
                    crop=np.array(self.crop),
                    frames=np.int64(self.frames),
                    rate=np.float64(self.rate),
                    **{name: np.array(value) for name, value in words.items()},  # type: ignore[arg-type]
                )
            temporary.replace(target)
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
        """Refuse what cannot be compared with images of `size`, cropped so, seen by `detector`.

        What a file of others does not tell is not checked, but for the number of features.

        Args:
            frames, rate: of videos. width: the detector's number of features. 0: not known here.

        Raises:
            UserError: another detector, preprocessing, resolution, crop, number of frames or their rate, or number
                of features.
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
                raise UserError(
                    f"the reference has {what} {mine}, and this {theirs}: the figure would mean nothing; make a "
                    "reference with `alphaflow stats` for it"
                )


def read_reference(path: str | os.PathLike[str]) -> Reference:
    """Read an .npz of ours, ADM's, JAX-MeanFlow's or clean-fid's kind; arrays of Python objects are not opened.

    Raises:
        UserError: it cannot be read, or holds no `mu` and `sigma` that are a mean and a covariance.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            held = {name: file[name] for name in _HELD if name in file.files}
            names = list(file.files)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"cannot read statistics from {path} ({reason}): give an .npz with mu and sigma") from None
    if "mu" not in held or "sigma" not in held:
        raise UserError(f"{path} holds {', '.join(names) or 'nothing'}, not mu and sigma: it holds no statistics")
    mean, cov = (np.asarray(held[name]) for name in ("mu", "sigma"))
    fits = mean.ndim == 1 and cov.shape == (len(mean), len(mean))
    if not fits or not all(part.dtype.kind == "f" and np.isfinite(part).all() for part in (mean, cov)):
        raise UserError(f"{path}: mu {mean.shape} and sigma {cov.shape} are no mean (D,) and covariance (D, D)")
    if not np.allclose(cov, cov.T, rtol=1e-6, atol=1e-6 * float(np.abs(cov).max())):
        raise UserError(
            f"{path}: sigma is not symmetric, so it is no covariance: give the statistics as they were made"
        )
    words = {name: str(held[name]) for name in _WORDS if name in held}
    crop = words.pop("crop", "")
    statistics = Statistics(
        mean=torch.from_numpy(mean.astype(np.float64)),
        cov=torch.from_numpy(cov.astype(np.float64)),
        count=int(held.get("count", _UNKNOWN_COUNT)),
        **words,
    )
    return Reference(
        statistics=statistics,
        size=int(held.get("size", 0)),
        crop=crop,
        frames=int(held.get("frames", 0)),
        rate=float(held.get("rate", 0.0)),
        known=bool(words.get("detector")),
    )
