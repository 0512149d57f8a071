"""Networks whose features the metrics compare, read from checked files inside the package.

The digits classifier names 99.4 % of held-out digits rightly (358 of 360, stratified 80/20 split). That
number and the shipped weights, which are trained on all 1,797 digits, are what

    python scripts/train_digits_classifier.py

printed and wrote on 2026-11-20 on a machine with 2 CPU cores, in 12 s.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alphaflow.errors import UserError
from alphaflow.pixels import from_uint8

DIGITS_ASSET = "digits_classifier.safetensors"
DIGITS_SHA256 = "60c833c995c7b946c04327352e20e1f309e75d96261b83e1e681ed911aa1a5fb"


class Features(NamedTuple):
    """The output of a detector for N images."""

    features: Tensor
    """Features, float64 (N, D)."""
    logits: Tensor
    """One unnormalised log-probability for each class, float64 (N, K); K = 0 where the detector knows no classes.
    """


class SmallClassifier(nn.Module):
    """A stem of 64 features and a linear head for 10 classes; the package trains and ships such ones.

    The features are tanh units, hence smooth in the image and bounded by 1.
    """

    def __init__(self, *stem: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Sequential(*stem)
        self.head = nn.Linear(64, 10)

    def features(self, images: Tensor) -> Tensor:
        """Return the penultimate activations (N, 64), in [-1, 1], of images (N, 1, H, W) in [-1, 1]."""
        return self.stem(images)

    def logits(self, features: Tensor) -> Tensor:
        """Return the class logits (N, 10) of `features` (N, 64)."""
        return self.head(features)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (N, 64) and logits (N, 10) of images (N, 1, H, W) in [-1, 1]."""
        features = self.features(images)
        return features, self.logits(features)


class DigitsClassifier(SmallClassifier):
    """A small convolutional classifier of the 8x8 digits; 68 thousand weights."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(16, 32, 3, padding=1, stride=2),
            nn.GELU(),
            nn.Conv2d(32, 48, 3, padding=1),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(48 * 16, 64),
            nn.Tanh(),
        )


@dataclass(frozen=True, kw_only=True)
class Detector:
    """A frozen network behind the one door through which real and generated images must both pass."""

    name: str
    """The detector's name in results; Fréchet distances are comparable only under one name and hash."""
    sha256: str
    """Hash of the weights."""
    image_shape: tuple[int | None, ...]
    """(H, W, C) of the images it takes, (T, H, W, C) of the videos; None: any"""
    network: Callable[[Tensor], tuple[Tensor, Tensor]]
    """The network, from (N, C, …, H, W) to features (N, D) and logits (N, K); K = 0 where it knows no classes."""
    preprocessing: str = "8-bit levels scaled to [-1, 1]"
    """The change of the pixels before the network, in words."""
    takes: Literal["unit", "levels"] = "unit"
    """The network's input: float32 in [-1, 1], or the uint8 levels themselves."""
    device: torch.device | str = "cpu"
    """The network's device."""
    at_once: int = 1024
    """Images that go through the network at once."""
    shortest: int = 1
    """Frames of the shortest video that the network takes."""
    classes: Literal["none", "its own", "the data's", "attributes"] = "none"
    """The classes of its logits: none, those that it learnt from other images, or those of the data; or its logits
    tell attributes of what is in a picture, several at once."""
    distance: str = "frechet"
    """The name of a Fréchet distance of its features: FID, …"""

    @property
    def video(self) -> bool:
        """Whether the network takes videos."""
        return len(self.image_shape) == 4

    @property
    def version(self) -> str:
        """Hash of the weights."""
        return self.sha256

    def __call__(self, images: NDArray[np.uint8]) -> Features:
        """Return features and logits of images, uint8 (N, H, W, C), or videos, (N, T, H, W, C).

        Only 8-bit images are taken, so that generated ones are rounded as the real ones were.

        Raises:
            ValueError: `images` is no uint8 numpy array, is empty, or has another shape than `image_shape`.
        """
        features, logits = (part.double() for part in self._seen(images))
        return Features(features, logits)

    def features(self, images: NDArray[np.uint8]) -> Tensor:
        """Return the features, float32 (N, D) in main memory; otherwise as `__call__`."""
        return self._seen(images)[0]

    def logits(self, images: NDArray[np.uint8]) -> Tensor:
        """Return the logits, float32 (N, K) in main memory; otherwise as `__call__`.

        Raises:
            ValueError: as `__call__`, or the detector knows no classes.
        """
        logits = self._seen(images)[1]
        if not logits.shape[1]:
            raise ValueError(f"detector {self.name} knows no classes: take inception, or digits for the digits")
        return logits

    def _seen(self, images: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        self._check(images)
        outputs = []
        with torch.inference_mode():
            for start in range(0, len(images), self.at_once):
                some = images[start : start + self.at_once]
                x = from_uint8(some) if self.takes == "unit" else torch.from_numpy(np.moveaxis(some, -1, 1).copy())
                outputs.append([part.float().cpu() for part in self.network(x.to(self.device))])
        features, logits = (torch.cat(parts) for parts in zip(*outputs))
        return features, logits

    def _check(self, images: NDArray[np.uint8]) -> None:
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
            kind = f"{type(images).__name__} of {getattr(images, 'dtype', 'no type')}"
            raise ValueError(f"detector {self.name} takes uint8 numpy images, not {kind}: use to_uint8 first")
        reason = self.misfit(images.shape[1:])
        if reason is None and images.size == 0:
            reason = f"detector {self.name} was shown nothing: images {images.shape}"
        if reason is not None:
            raise ValueError(reason)

    def misfit(self, shape: tuple[int, ...]) -> str | None:
        """Return why images (H, W, C), or videos (T, H, W, C), of this shape do not fit; None if they do."""
        fits = len(shape) == len(self.image_shape) and all(
            expected in (None, side) for expected, side in zip(self.image_shape, shape)
        )
        if not fits:
            letters = ("T", "H", "W", "C")[-len(self.image_shape) :]
            expected = ", ".join(letter if n is None else str(n) for letter, n in zip(letters, self.image_shape))
            kind = "videos" if self.video else "images"
            given = "".join(f", {n}" for n in shape)
            return f"detector {self.name} takes {kind} (N, {expected}), not (N{given})"
        if self.video and shape[0] < self.shortest:
            return f"detector {self.name} takes videos of {self.shortest} frames or more, not {shape[0]}"
        return None

    def width(self, shape: tuple[int, ...]) -> int:
        """Return the number of features D, for images (H, W, C), or videos (T, H, W, C), of this shape."""
        return self.features(np.zeros((1, *shape), np.uint8)).shape[1]


def load_digits_detector(device: torch.device | str = "cpu") -> Detector:
    """Read the digits classifier that comes with the package.

    Raises:
        UserError: the file is missing or its hash is not the one recorded here.
    """
    return shipped("digits-cnn", DigitsClassifier(), DIGITS_ASSET, DIGITS_SHA256, side=8, device=device)


def shipped(
    name: str, network: SmallClassifier, asset: str, sha256: str, *, side: int, device: torch.device | str
) -> Detector:
    """Return a classifier of grey images, `side` × `side`, with the weights that the package has in `asset`.

    Raises:
        UserError: the file is missing or its hash is another.
    """
    from safetensors.torch import load

    network.load_state_dict(load(checked_asset(asset, sha256)))
    network.eval().requires_grad_(False).to(device)
    return Detector(
        name=name,
        sha256=sha256,
        image_shape=(side, side, 1),
        network=network,
        device=device,
        classes="the data's",
    )


def checked_asset(name: str, sha256: str) -> bytes:
    """Return the content of a file of the package.

    Raises:
        UserError: it is missing or its hash is another.
    """
    file = resources.files("alphaflow") / "assets" / name
    if not file.is_file():
        raise UserError(f"{file} is missing: reinstall alphaflow")
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise UserError(f"{file} has sha256 {digest}, expected {sha256}: it was altered; reinstall alphaflow")
    return content
