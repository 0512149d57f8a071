"""What the six steps of the tour share: two moons, their exact flow, a small network, and figures.

docs/tour.md tells the story.
"""

import argparse
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import alphaflow as af
from alphaflow.data import toy_points
from alphaflow.metrics import energy_distance

PICTURES = Path(__file__).parents[2] / "docs" / "images" / "tour"


def moons(count: int, seed: int = 0) -> Tensor:
    """Points (N, 2) of two interleaved half circles."""
    return toy_points("moons", count, seed)[0]


def noise(count: int, seed: int = 1) -> Tensor:
    """Where samples begin, (N, 2)."""
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))


def exact_velocity(z: Tensor, t: float, x: Tensor) -> Tensor:
    """The mean velocity of all straight paths through z (B, 2) at time t > 0, for data x (N, 2).

    A path from x_i passes z with v = (z - x_i) / t, and is as likely as noise (z - (1 - t) x_i) / t is.
    """
    far = torch.cdist(z, (1 - t) * x).square() / (2 * t * t)
    return (z - (-far).softmax(1) @ x) / t


def exact_paths(z: Tensor, x: Tensor, steps: int = 100) -> Tensor:
    """The flow from noise z (B, 2) at t = 1 down to data, by Heun steps: (steps + 1, B, 2)."""
    times = torch.linspace(1, 0, steps + 1).tolist()
    places = [z]
    for t, s in pairwise(times):
        v = exact_velocity(z, t, x)
        if s > 0:
            v = (v + exact_velocity(z - (t - s) * v, s, x)) / 2
        z = z - (t - s) * v
        places.append(z)
    return torch.stack(places)


def train(
    objective: af.AlphaFlow,
    steps: int,
    *,
    seed: int = 0,
    watch: Callable[[int, torch.nn.Module], None] | None = None,
) -> torch.nn.Module:
    """A small MLP trained by an objective; returns the average of its weights. `watch` sees the network itself."""
    torch.manual_seed(seed)
    x = moons(20_000)
    net = af.models.MLP(dim=2, width=96, depth=3)
    average = af.EMA(net, half_life=100)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for step in range(steps):
        if watch is not None:
            watch(step, net)
        objective(net, x[torch.randint(len(x), (512,))], step=step).loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update(net, step + 1)
    return average.module


def distance(samples: Tensor) -> float:
    """Energy distance to the moons; two samples of them are about 0.001 apart."""
    return energy_distance(samples, moons(len(samples), seed=99))


def panels(count: int, height: float = 2.9) -> tuple[Figure, Sequence[Axes]]:
    """A row of panels."""
    figure = Figure(figsize=(height * count, height), layout="constrained")
    return figure, figure.subplots(1, count, squeeze=False)[0]


def square(axes: Axes, title: str, limit: float = 2.4) -> None:
    """Equal axes without ticks."""
    axes.set(title=title, aspect="equal", xlim=(-limit, limit), ylim=(-limit, limit), xticks=[], yticks=[])


def dots(axes: Axes, points: Tensor, color: str = "tab:blue", size: float = 2) -> None:
    axes.scatter(points[:, 0], points[:, 1], s=size, color=color, linewidths=0)


def run(main: Callable[..., dict[str, float]], name: str, steps: int | None = None) -> None:
    """The command line of a step: where the picture goes, and for how many steps to train."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=PICTURES / f"{name}.png", help="where the picture goes")
    if steps is not None:
        parser.add_argument("--steps", type=int, default=steps, help="of training")
    for key, value in main(**vars(parser.parse_args())).items():
        print(f"{key}: {value:.4g}")
