"""5. α joins the two: 1 is trajectory flow matching, and as it falls to 0 the gradient becomes MeanFlow's."""

import math
from pathlib import Path

import torch
from torch import Tensor, nn

import alphaflow as af
from common import moons, noise, panels, run, train

ALPHAS = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002)


def gradient(net: nn.Module, alpha: float) -> Tensor:
    """∇L_α on one batch of 2,048, α⁻¹ ‖u - target‖², always with the same noise and times."""
    x = moons(2048, seed=5).double()
    source = torch.Generator().manual_seed(5)
    pair = torch.rand(2, len(x), generator=source).double().sort(0).values
    r, t = pair[0], pair[1]
    z, v = af.interpolate(x, noise(len(x), seed=6).double(), t)
    target = af.average_velocity_target(net, z, v, r, t, alpha)
    loss = (net(z, r, t) - target).square().sum(1).mean() / (alpha or 1.0)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))])


def main(out: Path, steps: int = 300) -> dict[str, float]:
    """How far ∇L_α is from MeanFlow's gradient, on a network in the middle of its training."""
    weight = af.Weight(kind="definition")
    net = train(af.AlphaFlow(alpha=1.0, weight=weight), steps).double().requires_grad_()
    meanflow = gradient(net, 0.0)
    far = [((gradient(net, alpha) - meanflow).norm() / meanflow.norm()).item() for alpha in ALPHAS]
    figure, (left, right) = panels(2, height=3.1)
    left.loglog(ALPHAS, far, "o-", markersize=3, label="‖∇L_α - ∇L_0‖ / ‖∇L_0‖")
    left.loglog(
        ALPHAS, [far[-1] * alpha / ALPHAS[-1] for alpha in ALPHAS], "--", color="0.6", label="in proportion to α"
    )
    left.set(xlabel="α", title="distance to MeanFlow")
    left.legend(frameon=False, fontsize=8, loc="lower right")
    shown = range(0, 1001, 5)
    curves = {
        "sigmoid": af.schedules.sigmoid(0, 1000),
        "linear": af.schedules.linear(0, 1000),
        "step": af.schedules.step(500),
    }
    for name, curve in curves.items():
        right.plot(shown, [curve(step) for step in shown], label=name)
    right.set(xlabel="step", title="α over 1,000 steps")
    right.legend(frameon=False, fontsize=8, loc="lower left")
    figure.savefig(out, dpi=110)
    slope = math.log(far[-3] / far[-1]) / math.log(ALPHAS[-3] / ALPHAS[-1])
    return {"distance at α = 1": far[0], "distance at α = 0.01": far[6], "order in α": slope}


if __name__ == "__main__":
    run(main, "alpha", 300)
