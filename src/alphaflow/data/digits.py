"""The 1,797 handwritten digits that come with scikit-learn: real images, and no download."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from alphaflow.data.dataset import fingerprint
from alphaflow.pixels import mirror


class Digits:
    """8x8 grey images of the digits 0 to 9, ink levels 0..16 mapped to [-1, 1].

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits (test part), UCI Machine
    Learning Repository, 1998; the same numbers as of `sklearn.datasets.load_digits`.
    """

    shape: tuple[int, ...] = (1, 8, 8)
    num_classes: int = 10
    class_names: tuple[str, ...] = tuple("0123456789")
    kind: Literal["image", "video", "points"] = "image"
    manifest: None = None

    def __init__(self) -> None:
        images, labels = _read()
        levels = images.reshape(-1, 1, 8, 8).astype(np.float32)
        self._x = torch.from_numpy(levels / 8.0 - 1.0)
        self._y = torch.from_numpy(labels.astype(np.int64))
        self.fingerprint: str = fingerprint("digits v/8-1", self._x.numpy(), self._y.numpy())

    def __len__(self) -> int:
        return self._x.shape[0]

    def batch(self, indices: Tensor, flip: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return x, float32 (B, 1, 8, 8) in [-1, 1], and y, int64 (B,); see `Dataset.batch`."""
        return mirror(self._x[indices], flip), self._y[indices]


def _read() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return ink levels (N, 64) and classes (N,), from scikit-learn's file where it lies at its usual place.

    Importing scikit-learn, to ask it, takes longer than importing torch.
    """
    spec = find_spec("sklearn")
    if spec and spec.origin and (file := Path(spec.origin).parent / "datasets/data/digits.csv.gz").is_file():
        table = np.loadtxt(file, delimiter=",")
        return table[:, :-1], table[:, -1]
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return images, labels
