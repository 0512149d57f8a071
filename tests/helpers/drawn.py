"""What the tests of objectives share: their batch, and the random numbers that an objective draws for it."""

import torch
from torch import Tensor

from alphaflow.method.weighting import Weight
from alphaflow.path import interpolate
from alphaflow.rng import KeyedRandom

ROWS, NULL = 12, 4
PLAIN = {"weight": Weight(kind="uniform")}


def keyed(seed: int = 3) -> KeyedRandom:
    return KeyedRandom(seed, torch.arange(ROWS))


def noise_of(x: Tensor, seed: int = 3) -> Tensor:
    """The noise that an objective draws from the same keys."""
    return keyed(seed).normal("noise", x.shape[1:]).double()


def on_path(x: Tensor, out) -> tuple[Tensor, Tensor]:
    return interpolate(x, noise_of(x), out.t)


def assert_same(a, b, rtol=1e-10):
    torch.testing.assert_close(a, b, rtol=rtol, atol=1e-13)
