"""A curriculum of α without a beginning and an end to choose: α is the largest step that is still right enough.

On a row with r < t the objective's gradient in u is e_α = (u - target_α) / α. As α → 0 it becomes MeanFlow's e_0,
whose mean over the data is what training should follow; e_α is off by a systematic error that grows like α, and
both scatter with the random velocity v. As a solver of differential equations chooses its steps, α is taken as
large as that error allows:

    E‖e_α - e_0‖² = C α² E‖e_0‖²,      C from a step of α against one of α / 2,
    α_k = min(α_{k-1}, (C k)^-½),

the point where the systematic error equals the sampling error of a mean over the k steps that were taken. C is 0
before the network has learnt any curvature and some tenths later, so α stays at 1 at first and then falls.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .objectives import Draw
from .path import Network
from .targets import average_velocity_target


@dataclass
class SelfSteering:
    """A schedule of α, step -> value, that follows what `measure` sees of the network now and then.

    clamp: α below it is 0, MeanFlow's derivative; at 0 α stops there and no derivative is ever taken.
    value: α now. curvature: C of the module's formula, smoothed; None before the first measurement.
    """

    clamp: float = 5e-3
    value: float = 1.0
    curvature: float | None = field(default=None)

    def __call__(self, step: int) -> float:
        return self.value

    @torch.no_grad()
    def measure(self, net: Network, draw: Draw) -> tuple[Tensor, Tensor]:
        """E‖e_α - e_0‖² / α² and E‖e_0‖² as means over the rows of a draw, all with r < t; three evaluations."""
        u = net(draw.z, draw.r, draw.t, draw.y)
        whole, half = (self._error(net, u, draw, alpha) for alpha in (self.value, self.value / 2))
        return 4 * (whole - half).square().mean() / self.value**2, half.square().mean()

    def follow(self, step: int, error: float, scale: float) -> None:
        """Choose α after `step` steps, from what `measure` gave."""
        seen = error / scale
        self.curvature = seen if self.curvature is None else self.curvature + (seen - self.curvature) / 4
        self.value = min(self.value, (self.curvature * step) ** -0.5 if self.curvature else 1.0)
        if self.value < self.clamp:
            self.value = 0.0

    @staticmethod
    def _error(net: Network, u: Tensor, draw: Draw, alpha: float) -> Tensor:
        target = average_velocity_target(net, draw.z, draw.v, draw.r, draw.t, alpha, draw.y)
        return (u - target) / alpha
