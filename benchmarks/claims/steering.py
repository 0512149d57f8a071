"""A curriculum of α that chooses itself by its bias; `alphaflow.SelfSteering` is the one that fared better.

On a row with r < t the objective's error is e_α = (u - target_α) / α. As α → 0 it becomes MeanFlow's
e_0, whose gradient training should follow; that of e_α is off by a bias that grows like α. Both scatter with the
random velocity v. So α is chosen as a solver of differential equations chooses its steps, against the error that
is there anyway: that of a mean over the n samples seen so far,

    ‖E g_α - E g_0‖² = C α² tr Σ,      α_n = min(α so far, (C n)^-½),

with g the gradient of a sample's loss, Σ its covariance, and the difference to e_0 from e_α and e_(α/2). C is 0
before the network has learnt any curvature, so α begins at 1 and falls.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alphaflow.method.targets import average_velocity_target
from alphaflow.method.weighting import AnchorWeight, Weight
from alphaflow.path import Network, Points


@dataclass
class ByBias:
    """A schedule of α, step -> value, that follows what it sees of the gradients now and then.

    every: steps between measurements. clamp: α below it is 0, MeanFlow's derivative; there it stays.
    value: α now. bias, scatter: ‖E g_α - E g_0‖² / α² and tr Σ, smoothed; None before the first measurement.
    """

    every: int = 40
    clamp: float = 5e-3
    value: float = 1.0
    bias: float | None = None
    scatter: float | None = None

    def __call__(self, step: int) -> float:
        return self.value

    def measure(self, net: nn.Module, draw: Points, weight: Weight | AnchorWeight) -> tuple[float, float]:
        """What `bias` and `scatter` are on the rows of a draw, all with r < t: without the noise of their number,
        for it comes from products and differences of the gradients on the two halves."""
        half = len(draw.z) // 2
        parts = [self._gradients(net, _rows(draw, rows), weight) for rows in (slice(half), slice(half, 2 * half))]
        (off_a, all_a), (off_b, all_b) = parts
        return float(off_a @ off_b) / self.value**2, float((all_a - all_b).square().sum()) * half / 2

    def follow(self, samples: int, bias: float, scatter: float) -> None:
        """Choose α after so many samples, from what `measure` gave."""
        self.bias = bias if self.bias is None else self.bias + (bias - self.bias) / 4
        self.scatter = scatter if self.scatter is None else self.scatter + (scatter - self.scatter) / 4
        if self.bias > 0:
            self.value = min(self.value, (self.scatter / (self.bias * samples)) ** 0.5)
        if self.value < self.clamp:
            self.value = 0.0

    def _gradients(self, net: nn.Module, draw: Points, weight: Weight | AnchorWeight) -> tuple[Tensor, Tensor]:
        """Of the mean loss: what α adds to it in comparison with α → 0, and all of it."""
        u = net(draw.z, draw.r, draw.t, draw.y)
        whole, halved = (_error(net, u.detach(), draw, alpha) for alpha in (self.value, self.value / 2))
        a = torch.full_like(draw.t, self.value)
        w = a * weight(
            (a.reshape(-1, *(1,) * (u.ndim - 1)) * whole).square().flatten(1).mean(1),
            a,
            u[0].numel(),
            draw.r,
            draw.t,
        )
        losses = [(w * (2 * e * u).flatten(1).mean(1)).mean() for e in (2 * (whole - halved), whole)]
        weights = [p for p in net.parameters() if p.requires_grad]
        found = [
            torch.autograd.grad(loss, weights, retain_graph=k == 0, allow_unused=True)
            for k, loss in enumerate(losses)
        ]
        first, second = (
            torch.cat([g.flatten() for g in gradient if g is not None]).double() for gradient in found
        )
        return first, second


def _rows(draw: Points, rows: slice) -> Points:
    return draw.map(lambda part: part[rows])


@torch.no_grad()
def _error(net: Network, u: Tensor, draw: Points, alpha: float) -> Tensor:
    return (u - average_velocity_target(net, draw.z, draw.v, draw.r, draw.t, alpha, draw.y)) / alpha
