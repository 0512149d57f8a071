"""Checks of the samples that a metric is given."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ArrayLike = Tensor | NDArray[np.generic]
"""A tensor on any device, or a numpy array."""


def as_float64(name: str, array: ArrayLike, ndim: int) -> Tensor:
    """Return `array` as a float64 tensor in main memory.

    Raises:
        ValueError: the array does not have `ndim` dimensions, is empty, or holds NaN or infinities.
    """
    tensor = torch.as_tensor(array).detach().to("cpu", torch.float64)
    if tensor.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimensions, not shape {tuple(tensor.shape)}")
    if tensor.numel() == 0:
        raise ValueError(f"{name} is empty: shape {tuple(tensor.shape)}")
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name} holds NaN or infinite values")
    return tensor


def sample_pair(name_a: str, a: ArrayLike, name_b: str, b: ArrayLike) -> tuple[Tensor, Tensor]:
    """Return two sets of samples, (N, D) and (M, D), as float64.

    Raises:
        ValueError: as `as_float64`, or the two differ in D.
    """
    x, y = as_float64(name_a, a, 2), as_float64(name_b, b, 2)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"{name_a} have {x.shape[1]} dimensions and {name_b} {y.shape[1]}: they must agree")
    return x, y
