"""Networks around networks: other meanings of an output under the same signature."""

from torch import Tensor, nn


class DataPrediction(nn.Module):
    """Turns a network that predicts the data, f, into one that predicts the velocity: u = (z - f) / t.

    This is consistency training's parameterisation (α-Flow, Theorem 1): with r = 0, u(z, 0, t) leads from z to
    f(z, t). At r = t it reads f as the mean of the data given z.

    Args:
        net: f(z, r, t, y) -> (B, *shape).
        floor: the smallest divisor; t below it would blow rounding errors up.
    """

    def __init__(self, net: nn.Module, floor: float = 1e-3) -> None:
        super().__init__()
        self.net, self.floor = net, floor

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        divisor = t.clamp(min=self.floor).reshape(-1, *(1,) * (z.ndim - 1))
        return (z - self.net(z, r, t, y)) / divisor
