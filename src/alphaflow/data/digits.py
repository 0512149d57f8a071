"""The 1,797 handwritten digits that come with scikit-learn: real images, and no download."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from alphaflow.data.dataset import fingerprint
from alphaflow.pixels import mirror


class Digits:
    """8x8 grey images of the digits 0 to 9, ink levels 0..16 mapped to [-1, 1].

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits (test part), UCI Machine
    Learning Repository, 1998; read through `sklearn.datasets.load_digits`.
    """

    shape: tuple[int, ...] = (1, 8, 8)
    num_classes: int = 10
    class_names: tuple[str, ...] = tuple("0123456789")
    kind: Literal["image", "video", "points"] = "image"

    def __init__(self) -> None:
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        levels = images.reshape(-1, 1, 8, 8).astype(np.float32)
        self._x = torch.from_numpy(levels / 8.0 - 1.0)
        self._y = torch.from_numpy(labels.astype(np.int64))
        self.fingerprint: str = fingerprint("digits v/8-1", self._x.numpy(), self._y.numpy())

    def __len__(self) -> int:
        return self._x.shape[0]

    def batch(self, indices: Tensor, flip: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return x, float32 (B, 1, 8, 8) in [-1, 1], and y, int64 (B,); see `Dataset.batch`."""
        return mirror(self._x[indices], flip), self._y[indices]
