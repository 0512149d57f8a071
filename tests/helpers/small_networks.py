"""Small networks and points for the tests of du/dt."""

import torch
from torch import Tensor, nn

ROWS = 8


def points(*shape: int, dtype=torch.float32) -> tuple[Tensor, ...]:
    source = torch.Generator().manual_seed(0)
    z, v = torch.randn(2, ROWS, *shape, generator=source, dtype=dtype)
    r, t = torch.rand(2, ROWS, generator=source, dtype=dtype).sort(0).values
    return z, v, r, t


def inputs(rows: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """z, v (rows, 4) and t (rows,) between 0.1 and 0.9, in float64."""
    source = torch.Generator().manual_seed(0)
    z, v = (torch.randn(rows, 4, generator=source, dtype=torch.float64) for _ in range(2))
    return z, v, 0.1 + 0.8 * torch.rand(rows, generator=source, dtype=torch.float64)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


class Net(nn.Module):
    """Two layers with `between` applied in the middle, `joined` to the input: z (B, 2)."""

    def __init__(self, between=torch.tanh, joined=lambda r, t: torch.stack([r, t], 1), **modules) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.a, self.b = nn.Linear(4, 32), nn.Linear(32, 2)
        self.between, self.joined = between, joined
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, z, r, t, y=None):
        return self.b(self.between(self.a(torch.cat([z, self.joined(r, t)], 1))))
