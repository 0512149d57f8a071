"""The exponential moving average of a model's weights."""

import copy

import torch
from torch import Tensor, nn


class EMA:
    """Average weights with a half-life in steps, ramped up while training is young.

    After k steps the half-life is min(half_life, ramp * k), so early weights are forgotten.
    Source: EDM2 (arXiv 2312.02696) and the α-Flow recipes (half-life 6931 = decay 0.9999, ramp 0.05).

    `module` holds the averages: a copy of the model, in evaluation mode, without gradients.

    Args:
        model: the module to follow; copied where it is.
        half_life: in steps; 0 keeps no average.
        ramp: in steps of half-life a step done.

    Raises:
        ValueError: a negative half-life, a ramp that is not positive.
    """

    def __init__(self, model: nn.Module, half_life: float = 6931.0, ramp: float = 0.05) -> None:
        if half_life < 0 or ramp <= 0:
            raise ValueError(f"EMA half-life {half_life:g} must be >= 0 and ramp {ramp:g} > 0")
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.half_life, self.ramp = half_life, ramp

    def decay(self, step: int) -> float:
        """The share of the old average that is kept when `step` steps are done (step >= 1)."""
        half_life = min(self.half_life, self.ramp * step)
        return 0.5 ** (1 / half_life) if half_life > 0 else 0.0

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the model's weights after its `step`-th step; buffers are copied."""
        averages: list[Tensor] = [p.data for p in self.module.parameters()]
        weights: list[Tensor] = [p.data for p in model.parameters()]
        torch._foreach_lerp_(averages, weights, 1 - self.decay(step))
        for mine, theirs in zip(self.module.buffers(), model.buffers()):
            mine.copy_(theirs)
