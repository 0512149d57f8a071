"""Averages of a model's weights: one with a half-life, and power functions that give any length afterwards.

A power-function profile weighs the weights of step k by k^γ; its width, relative to the length of the run, is
`std`. Averages of two widths, stored now and then, are enough to make one of any width after training: the
combination whose profile lies nearest (least squares) to the wanted one.
Source: EDM2 (arXiv 2312.02696), sections 3.1 and 3.2.
"""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

WIDEST = 0.28
"""The largest relative width; a plain average of all steps (γ = 0) has 12^-½ = 0.289."""


class EMA:
    """Average weights with a half-life in steps, ramped up while training is young.

    After k steps the half-life is min(half_life, ramp * k), so early weights are forgotten.
    Source: EDM2 (arXiv 2312.02696) and the α-Flow recipes (half-life 6931 = decay 0.9999, ramp 0.05).

    `module` holds the averages: a copy of the model, in evaluation mode, without gradients.

    Args:
        model: the module to follow; copied where it is.
        half_life: the half-life in steps; 0 keeps no average.
        ramp: steps of half-life for each step done.

    Raises:
        ValueError: the half-life is negative, or the ramp is not positive.
    """

    def __init__(self, model: nn.Module, half_life: float = 6931.0, ramp: float = 0.05) -> None:
        if half_life < 0 or ramp <= 0:
            raise ValueError(f"EMA half-life {half_life:g} must be >= 0 and ramp {ramp:g} > 0")
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.half_life, self.ramp = half_life, ramp

    def decay(self, step: int) -> float:
        """Return the share of the old average that is kept when `step` steps are done (step >= 1)."""
        half_life = min(self.half_life, self.ramp * step)
        return 0.5 ** (1 / half_life) if half_life > 0 else 0.0

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the model's weights after its `step`-th step; buffers are copied."""
        averages: list[Tensor] = [p.data for p in self.module.parameters()]
        weights: list[Tensor] = [p.data for p in model.parameters()]
        torch._foreach_lerp_(averages, weights, 1 - self.decay(step))
        for mine, theirs in zip(self.module.buffers(), model.buffers()):
            if mine is not theirs:  # which frozen weights are: see `AdaptedFlow`
                mine.copy_(theirs)


class PowerEMA:
    """Average weights with a power-function profile, all steps of the run weighed by k^γ.

    std: the profile's standard deviation, relative to the number of steps so far; in (0, `WIDEST`].
    weights: the averages by the parameters' names, each laid out like its parameter; no buffers.
    Source: EDM2, equation 2. The share of step k after T steps is exactly (k/T)^(γ+1) - ((k-1)/T)^(γ+1).
    """

    def __init__(self, model: nn.Module, std: float) -> None:
        self.std, self.gamma = std, gamma_of(std)
        self.weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}

    def decay(self, step: int) -> float:
        """Return the share of the old average that is kept when `step` steps are done (step >= 1)."""
        return (1 - 1 / step) ** (self.gamma + 1)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the model's weights after its `step`-th step."""
        weights = [weight.detach() for weight in model.parameters()]
        torch._foreach_lerp_(list(self.weights.values()), weights, 1 - self.decay(step))


def gamma_of(std: float) -> float:
    """Return the exponent γ of the profile with this relative width: std² = (γ+1) / ((γ+2)² (γ+3)), a Beta(γ+1, 1)
    law's.

    Raises:
        ValueError: `std` outside (0, `WIDEST`].
    """
    if not 0 < std <= WIDEST:
        raise ValueError(
            f"EMA width {std:g} lies outside (0, {WIDEST:g}]: it is a share of the run, 0.05 or 0.1 are usual"
        )
    square = std * std
    roots = np.roots([square, 4 * square, 5 * square - 1, 2 * square])  # in γ + 1
    return float(max(root.real for root in roots if abs(root.imag) < 1e-9) - 1)


class StoredAverage(NamedTuple):
    """One stored average: the exponent of its profile, and the step it was stored at."""

    gamma: float
    step: int


def combine(stored: Sequence[StoredAverage], wanted: StoredAverage) -> tuple[NDArray[np.float64], float]:
    """Return the coefficients with which stored averages add up to a wanted one.

    They minimise the squared distance of the profiles under the condition that they add up to 1. EDM2 leaves that
    condition out; with it the same stored averages come two to four times nearer, since what it forbids is a
    change of all weights' scale.

    Returns:
        coefficients (n,), and the distance of the profiles relative to the wanted one's norm: 0 is exact.

    Raises:
        ValueError: nothing is stored up to the wanted step.
    """
    if not any(average.step <= wanted.step for average in stored):
        raise ValueError(f"no average is stored up to step {wanted.step}: the first is of a later step")
    usable = np.array([average.step <= wanted.step for average in stored])
    points = [average for average in stored if average.step <= wanted.step]
    products = np.array([[_product(a, b) for b in points] for a in points])
    aims = np.array([_product(a, wanted) for a in points])
    scale = np.diag(products) ** -0.5  # profiles of norm 1: steps of 100 and of 10⁶ in one matrix
    count = len(points)
    system = np.zeros((count + 1, count + 1))
    system[:count, :count] = products * scale[:, None] * scale
    system[:count, count] = system[count, :count] = scale
    solution = np.linalg.lstsq(system, np.append(aims * scale, 1.0), rcond=1e-13)[0][:count] * scale
    size = _product(wanted, wanted)
    square = solution @ products @ solution - 2 * solution @ aims + size
    coefficients = np.zeros(len(stored))
    coefficients[usable] = solution
    return coefficients, float(np.sqrt(max(square, 0.0) / size))


def _product(a: StoredAverage, b: StoredAverage) -> float:
    """Return ∫ p_a p_b of two profiles p(τ) = (γ+1) τ^γ / T^(γ+1) on [0, T]."""
    early, late = (a, b) if a.step <= b.step else (b, a)
    share = (early.step / late.step) ** (late.gamma + 1)
    return (early.gamma + 1) * (late.gamma + 1) / (early.gamma + late.gamma + 1) * share / early.step
