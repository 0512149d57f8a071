"""A network around what other people's networks do to their tensors, and the check of its fused derivative."""

import torch
from torch import Tensor, nn

from alphaflow.derivatives.fused import dual_forward
from small_networks import inputs

ROWS, WIDTH = 4, 8


class Net(nn.Module):
    """h from z and t, c from t, and what a case makes of them."""

    def __init__(self, body, parts: dict[str, nn.Module] | None = None, width: int = WIDTH) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.first, self.times, self.last = nn.Linear(5, width), nn.Linear(1, width), nn.Linear(width, 4)
            self.parts = nn.ModuleDict({name: make() for name, make in (parts or {}).items()})
            for weight in self.parts.parameters():
                weight.data.add_(0.1 * torch.randn(weight.shape))
        self.body = body
        self.double()

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        h = self.first(torch.cat([z, t[:, None]], -1))
        return self.last(self.body(h, self.times(t[:, None]), **self.parts))


def gradients(u: Tensor, net: nn.Module) -> list[Tensor | None]:
    return list(torch.autograd.grad(u.square().sum(), list(net.parameters()), allow_unused=True))


def check(net: nn.Module, start: int, rows: int = ROWS) -> None:
    """u, du/dt and the gradient of `fused`, with tangents on rows `start` and later, against the network's own."""
    z, v, t = inputs(rows)

    def u(z, t):
        return net(z, t, t)

    ours, slope = dual_forward(u, z.clone(), v[start:], t, start=start)
    with torch.no_grad():
        h = 1e-4
        points = [u(z + k * h * v, t + k * h) for k in (-2, -1, 1, 2)]
        expected = (points[0] - 8 * points[1] + 8 * points[2] - points[3]) / (12 * h)
    plain = u(z.clone(), t)
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(slope, expected[start:], rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(gradients(ours, net), gradients(plain, net), rtol=1e-9, atol=1e-11)
