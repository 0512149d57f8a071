"""Fashion-MNIST: 60,000 grey pictures of clothes for training and 10,000 more, 28 × 28 pixels, ten classes."""

import os
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alphaflow.data.dataset import fingerprint
from alphaflow.fetched import PublishedFile
from alphaflow.pixels import mirror, scale_pixels

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Where the package dataset-fashion-mnist, of Debian and Ubuntu, puts the files."""
SIDE = 28
CLASSES = (
    "t-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


def _file(name: str, sha256: str) -> PublishedFile:
    url = f"http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/{name}"
    return PublishedFile(name, url, sha256, kind="data", option="--data.path")


FILES = {
    "train": (
        _file("train-images-idx3-ubyte.gz", "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
        _file("train-labels-idx1-ubyte.gz", "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
    ),
    "test": (
        _file("t10k-images-idx3-ubyte.gz", "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
        _file("t10k-labels-idx1-ubyte.gz", "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
    ),
}
"""Images and labels of each part."""


class Fashion:
    """Grey images of clothes, levels 0..255 mapped to [-1, 1]; the pixels stay in memory as bytes.

    Source: H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
    Algorithms, arXiv:1708.07747; the files are the publisher's, known by the hash of what is in them.

    Args:
        path: the folder with the four files, packed or not. Empty: Debian's, where its package is installed, else
            the cache, into which the two files are fetched.
        part: "train", 60,000 images, or "test", 10,000.

    Raises:
        UserError: a file is missing, cannot be fetched, or is not the published one.
    """

    shape: tuple[int, ...] = (1, SIDE, SIDE)
    num_classes: int = len(CLASSES)
    class_names: tuple[str, ...] = CLASSES
    kind: Literal["image", "video", "points"] = "image"
    manifest: None = None

    def __init__(self, path: str | os.PathLike[str] = "", part: Literal["train", "test"] = "train") -> None:
        folder = Path(path).expanduser() if path else DEBIAN if DEBIAN.is_dir() else None
        images, labels = (_read(file, folder) for file in FILES[part])
        pixels = images[16:].reshape(-1, 1, SIDE, SIDE)
        self._pixels = torch.from_numpy(pixels)
        self._y = torch.from_numpy(labels[8:].astype(np.int64))
        self.fingerprint: str = fingerprint("fashion", pixels, self._y.numpy())

    def __len__(self) -> int:
        return self._pixels.shape[0]

    def batch(self, indices: Tensor, flip: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return x, float32 (B, 1, 28, 28) in [-1, 1], and y, int64 (B,); see `Dataset.batch`."""
        return mirror(scale_pixels(self._pixels[indices]), flip), self._y[indices]


def _read(file: PublishedFile, folder: Path | None) -> NDArray[np.uint8]:
    return np.frombuffer(bytearray(file.read(folder)), np.uint8)
