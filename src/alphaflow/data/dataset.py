"""The protocol of a data set, as the trainer and the evaluation use it."""

import hashlib
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from .latents.manifest import Manifest


class Dataset(Protocol):
    """A finite, indexable set of samples, in memory or on disk."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample: (C, H, W) for an image, (C, T, H, W) for a video, (2,) for a point."""

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 says that the samples carry no labels."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name for each class, in the order of the labels; empty without labels."""

    @property
    def kind(self) -> Literal["image", "video", "latent", "points"]:
        """Whether the samples are images or videos in [-1, 1], latents of an autoencoder, or points."""

    @property
    def fingerprint(self) -> str:
        """Short hash of the samples, the labels and the settings that made them."""

    @property
    def manifest(self) -> "Manifest | None":
        """How the latents were made, to decode them by; None where samples are no latents."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def batch(self, indices: Tensor, flip: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the samples at `indices`, int64 (B,).

        Args:
            indices: rows of the data set, each in [0, len).
            flip: bool (B,); mirrors those rows left-right. Images and videos only.

        Returns:
            x, float32 (B, *shape), and the labels y, int64 (B,), or captions, int64 (B, L), where the data set has
            a `vocabulary`; `None` without either.

        Raises:
            ValueError: `flip` was given for a data set of points.
        """


def fingerprint(settings: str, *arrays: NDArray[np.generic]) -> str:
    """Hash the settings and the arrays' types, shapes and bytes into 16 hexadecimal digits."""
    digest = hashlib.sha256(settings.encode())
    for array in arrays:
        digest.update(f"|{array.dtype.str}{array.shape}|".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]
