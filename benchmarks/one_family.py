"""The picture of docs/family.md: shift "model" from the Eulerian error through two half steps to the Lagrangian.

    python benchmarks/one_family.py            # writes docs/images/one-family.png

The network is one that knows the velocity and nothing of r, u(z, r, t) = v(z, t), on data of two narrow modes in
one dimension, whose v is known in closed form.
"""

from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

import alphaflow as af

IMAGE = Path(__file__).parents[1] / "docs" / "images" / "one-family.png"
MODE, WIDTH = 1.0, 0.25
START, T, R = 0.8, 0.95, 0.12
ALPHAS = (
    (0.06, "α → 0: Eulerian\n(t moves: MeanFlow)"),
    (0.5, "α = ½: progressive\n(two half steps)"),
    (0.94, "α → 1: Lagrangian\n(r moves)"),
)
BLUE, ORANGE, GREY = "#0b6e99", "#d9730d", "0.55"


def velocity(z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
    """v(z, t) = E[noise - x | z_t = z] of data at ±MODE, each normal with deviation WIDTH; z (B, 1)."""
    t = t[:, None]
    variance = (1 - t) ** 2 * WIDTH**2 + t**2
    modes = torch.tensor([-MODE, MODE], dtype=z.dtype)
    away = z - (1 - t) * modes
    share = torch.softmax(-(away**2) / (2 * variance), 1)
    data = modes + (1 - t) * WIDTH**2 / variance * away
    return (share * (t / variance * away - data)).sum(1, keepdim=True)


def path(steps: int = 2000) -> tuple[Tensor, Tensor]:
    """Times from T to R and the flow from START there, by Heun's method."""
    times = torch.linspace(T, R, steps + 1, dtype=torch.float64)
    places = [torch.tensor([[START]], dtype=torch.float64)]
    for t, following in zip(times[:-1, None], times[1:, None]):
        step = following - t
        first = velocity(places[-1], t, t)
        second = velocity(places[-1] + step * first, following, following)
        places.append(places[-1] + step * (first + second) / 2)
    return times, torch.cat(places)[:, 0]


def distances(alphas: Tensor) -> dict[str, Tensor]:
    """How far (target - u) / (α (1 - α)) is from the Eulerian and the Lagrangian error, relative to it."""
    z = torch.linspace(0.1, 2, 20, dtype=torch.float64)[:, None]
    r, t = torch.full_like(z[:, 0], R), torch.full_like(z[:, 0], T)
    u = v = velocity(z, r, t)

    def error(alpha: float, shift: str) -> Tensor:
        return af.average_velocity_target(velocity, z, v, r, t, alpha, shift=shift) - u

    ends = {"Eulerian": error(0.0, "model"), "Lagrangian": error(0.0, "end")}
    between = torch.stack([error(float(a), "model") / (a * (1 - a)) for a in alphas])
    return {name: (between - end).flatten(1).norm(dim=1) / end.norm() for name, end in ends.items()}


def draw(image: Path = IMAGE) -> None:
    """Three cuts of one interval, and how the errors go over into each other."""
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    *panels, last = figure.subplots(1, 4)
    times, places = path()
    whole = START - (T - R) * float(velocity(*_at(START, T)))
    for axes, (alpha, title) in zip(panels, ALPHAS):
        s = T - alpha * (T - R)
        middle = START - (T - s) * float(velocity(*_at(START, T)))
        end = middle - (s - R) * float(velocity(*_at(middle, s)))
        axes.plot(times, places, color=GREY, lw=1.2, label="the flow")
        axes.plot([T, R], [START, whole], "--", color=BLUE, lw=1.2, label="one jump, u(z_t, r, t)")
        axes.plot([T, s, R], [START, middle, end], "o-", color=ORANGE, ms=4, lw=1.6, label="two jumps, cut at s")
        axes.annotate("", (R, end), (R, whole), arrowprops={"arrowstyle": "->", "color": "k", "lw": 1.1})
        axes.set(title=title, xlim=(1, 0), xticks=[T, R], xticklabels=["t", "r"], yticks=[], ylim=(0.05, 1.2))
        axes.set_title(title, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, fontsize=8, loc="upper left")
    alphas = torch.linspace(-4, 4, 81, dtype=torch.float64)
    alphas = 1 / (1 + 10**-alphas)
    for (name, values), color in zip(distances(alphas).items(), (BLUE, ORANGE)):
        last.plot(alphas, values, color=color, lw=1.6, label=f"to the {name} error")
    last.set(xscale="logit", yscale="log", xlabel="α")
    last.set_title("distance of (target − u) / α(1 − α)", fontsize=10)
    last.legend(frameon=False, fontsize=8)
    last.minorticks_off()
    last.spines[["top", "right"]].set_visible(False)
    figure.savefig(image, dpi=110)


def _at(z: float, t: float) -> tuple[Tensor, Tensor, Tensor]:
    time = torch.tensor([t], dtype=torch.float64)
    return torch.tensor([[z]], dtype=torch.float64), time, time


if __name__ == "__main__":
    draw()
