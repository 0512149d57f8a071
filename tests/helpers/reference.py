"""What the package is compared with: Algorithm 1 of α-Flow row by row, closed forms, and plain networks.

Nothing here imports alphaflow. Speed and generality do not matter; that each line can be checked by eye does.
"""

import torch
from torch import Tensor, nn


class SmallNet(nn.Module):
    """A smooth random network u(z, r, t, y) in float64 for rows of `dim` values; class `classes` means none."""

    def __init__(self, dim: int = 3, width: int = 16, classes: int = 4, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(classes + 1, width)
            self.first = nn.Linear(dim + 2, width)
            self.second = nn.Linear(width, width)
            self.last = nn.Linear(width, dim)
        self.null = classes
        self.double()

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        labels = torch.full((len(z),), self.null) if y is None else y
        hidden = self.first(torch.cat([z.flatten(1), 2 * t[:, None], 2 * r[:, None]], 1))
        hidden = nn.functional.silu(2 * hidden) + 0.3 * self.embedding(labels)
        return self.last(nn.functional.silu(self.second(hidden))).reshape(z.shape)


class Counting:
    """A network that notes the rows, times and classes of each of its evaluations."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.calls: list[dict[str, Tensor | None]] = []

    def __call__(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        self.calls.append({"z": z.detach(), "r": r.detach(), "t": t.detach(), "y": y})
        return self.net(z, r, t, y)

    @property
    def rows(self) -> list[int]:
        return [len(call["z"]) for call in self.calls]


class GaussianFlow:
    """The exact average velocity of data N(m, σ²), each dimension alone.

    z_t ~ N((1 - t) m, (1 - t)² σ² + t²), and the flow map keeps the standard score:
    z_r = (1 - r) m + k (z_t - (1 - t) m) with k² = var_r / var_t. Hence u = (z_t - z_r) / (t - r), written so
    that r = t, the marginal velocity, is no special case.
    """

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self.mean, self.std = mean, std

    def variance(self, t: Tensor) -> Tensor:
        return (1 - t) ** 2 * self.std**2 + t**2

    def __call__(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        r, t = r[:, None], t[:, None]
        k = (self.variance(r) / self.variance(t)).sqrt()
        slope = (t + r - self.std**2 * (2 - t - r)) / (self.variance(t) * (1 + k))
        return -self.mean + slope * (z - (1 - t) * self.mean)


def slope_in_time(net, z: Tensor, v: Tensor, r: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
    """du/dt = v·∂u/∂z + ∂u/∂t of one row, by the full Jacobians."""
    by_z, by_t = torch.autograd.functional.jacobian(lambda z, t: net(z, r, t, y)[0], (z, t))
    return (by_z.flatten(-z.ndim) @ v.flatten()).reshape(z.shape) + by_t[..., 0].reshape(z.shape)


def algorithm_1(
    net: nn.Module,
    x: Tensor,
    noise: Tensor,
    y: Tensor,
    r: Tensor,
    t: Tensor,
    alpha: float,
    *,
    c: float = 1e-3,
    clip: float | None = None,
    omega: float = 1.0,
    kappa: float = 0.0,
    interval: tuple[float, float] = (0.0, 1.0),
    null: int = 4,
    dropped: Tensor | None = None,
    guide_dropped: bool = False,
) -> Tensor:
    """The loss of α-Flow's Algorithm 1, adaptively weighted, one row after another.

    guide_dropped: as in the released code, which puts the null class in both branches; otherwise such rows keep v.
    """
    losses = []
    for i in range(len(x)):
        x_i, e_i, r_i, t_i, y_i = x[i : i + 1], noise[i : i + 1], r[i : i + 1], t[i : i + 1], y[i : i + 1]
        z_t = (1 - t[i]) * x_i + t[i] * e_i
        v = e_i - x_i
        no_class = torch.tensor([null])
        lost = dropped is not None and bool(dropped[i])
        if lost:
            y_i = no_class
        if interval[0] < t[i] < interval[1] and (guide_dropped or not lost):
            with torch.no_grad():
                with_class, without = net(z_t, t_i, t_i, y_i), net(z_t, t_i, t_i, no_class)
            v = omega * v + kappa * with_class + (1 - omega - kappa) * without
        weight = 1.0
        if r[i] == t[i] or alpha == 1:
            target = v
        elif alpha == 0:
            target = v - (t[i] - r[i]) * slope_in_time(net, z_t, v, r_i, t_i, y_i)
        else:
            s = alpha * r[i] + (1 - alpha) * t[i]
            z_s = z_t - (t[i] - s) * v
            target = alpha * v + (1 - alpha) * net(z_s, r_i, s.reshape(1), y_i)
            weight = alpha
        if clip is not None and r[i] < t[i] and alpha > 0:
            target = target.clamp(-clip, clip)
        difference = net(z_t, r_i, t_i, y_i) - target.detach()
        square = (difference**2).mean()
        losses.append(weight / (square.detach() + c) * square)
    return torch.stack(losses).mean()


def gradient(loss: Tensor, net: nn.Module) -> Tensor:
    """The gradient of a scalar to all weights of a network, as one vector; zero where there is none."""
    parts = torch.autograd.grad(loss, list(net.parameters()), retain_graph=True, allow_unused=True)
    return torch.cat(
        [torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in zip(net.parameters(), parts)]
    )


def order(sizes: list[float], errors: list[float]) -> float:
    """The slope of log error against log size, by least squares."""
    a, b = torch.tensor(sizes, dtype=torch.float64).log(), torch.tensor(errors, dtype=torch.float64).log()
    a = a - a.mean()
    return float((a * (b - b.mean())).sum() / (a**2).sum())
