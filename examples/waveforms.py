"""α-Flow on sound: short waves of four pitches, from one evaluation of a network written here.

    python examples/waveforms.py                   # writes waves.png

The library takes z of (B, *shape), here (B, 1, 64). The network is an ordinary PyTorch module; all that is asked
of it is `net(z, r, t, y) -> u`, smooth in t. Trajectories, of shape (B, coordinates, times), go the same way.

Phases are random, so the mean of each class is silence, and blurred samples have less power than the data: a
one-step generator has to choose a phase by the noise.
"""

import argparse
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import alphaflow as af

LENGTH = 64
PITCHES = (2, 3, 5, 8)  # periods in a window


def waves(count: int) -> tuple[Tensor, Tensor]:
    """Tones with an overtone, of random phase: (N, 1, 64) of variance near 1, and their classes (N,)."""
    y = torch.randint(len(PITCHES), (count,))
    phase = torch.arange(LENGTH) / LENGTH * torch.tensor(PITCHES)[y][:, None] + torch.rand(count, 1)
    x = torch.sin(2 * math.pi * phase) + 0.3 * torch.sin(4 * math.pi * phase)
    return (1.3 * x)[:, None], y


class WaveNet(nn.Module):
    """Dilated circular convolutions; times as they are, [t, t - r] and the class modulate every layer."""

    def __init__(self, width: int = 32, classes: int = len(PITCHES)) -> None:
        super().__init__()
        self.classes = nn.Embedding(classes, width)
        self.times = nn.Sequential(nn.Linear(2, width), nn.SiLU(), nn.Linear(width, width))
        self.first = nn.Conv1d(1, width, 1)
        self.layers = nn.ModuleList(
            nn.Conv1d(width, width, 3, dilation=d, padding=d, padding_mode="circular") for d in (1, 2, 4, 8, 16)
        )
        self.modulation = nn.Linear(width, 2 * width * len(self.layers))
        self.last = nn.Conv1d(width, 1, 1)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor) -> Tensor:
        c = self.times(torch.stack([t, t - r], 1)) + self.classes(y)
        x = self.first(z)
        for layer, change in zip(self.layers, self.modulation(F.silu(c)).chunk(len(self.layers), 1)):
            shift, scale = change[:, :, None].chunk(2, 1)
            x = x + F.silu(layer(x) * (1 + scale) + shift)
        return self.last(x)


def judge(net: nn.Module, count: int = 400) -> tuple[float, float]:
    """The share of one-step waves with the right pitch, and their power (that of the data: 0.92)."""
    y = torch.arange(count) % len(PITCHES)
    x = af.sample(net, torch.randn(count, 1, LENGTH, generator=torch.Generator().manual_seed(0)), y)
    spectrum = torch.fft.rfft(x[:, 0]).abs()
    right = spectrum.argmax(1) == torch.tensor(PITCHES)[y]
    return right.double().mean().item(), x.square().mean().item()


def main(steps: int = 600, out: Path | None = None) -> tuple[float, float]:
    """Train, and return what `judge` makes of the result."""
    torch.manual_seed(0)
    net = WaveNet()
    average = af.EMA(net, half_life=100)
    objective = af.AlphaFlow(alpha=af.schedules.sigmoid(0, 0.6 * steps), weight=af.Weight(kind="definition"))
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for step in range(steps):
        x, y = waves(64)
        output = objective(net, x, y, step=step)
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update(net, step + 1)
        if step % 100 == 0:
            print(f"step {step:4d}   residual {output.metrics['residual']:.4f}")
    right, power = judge(average.module)
    print(f"one-step waves: {right:.0%} of the right pitch, power {power:.2f} (data: 0.92)")
    if out is not None:
        draw(average.module, out)
    return right, power


def draw(net: nn.Module, out: Path) -> None:
    """Four one-step waves of each pitch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    y = torch.arange(4).repeat_interleave(4)
    x = af.sample(net, torch.randn(16, 1, LENGTH), y)
    for axes, some, pitch in zip(figure.subplots(1, 4, sharey=True), x.split(4), PITCHES):
        axes.plot(some[:, 0].T)
        axes.set(title=f"{pitch} periods", xlabel="sample")
    figure.savefig(out, dpi=100)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--out", type=Path, default=Path("waves.png"), help="where the picture goes")
    main(**vars(parser.parse_args()))
