"""4. MeanFlow's loss is two losses, and their gradients pull against each other.

‖u - v + (t - r) du⁻/dt‖² has the same gradient as ‖u - v‖² (trajectory flow matching) plus 2 (t - r) u·du⁻/dt
(trajectory consistency): one draws u to single paths, the other makes it agree with itself.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

import alphaflow as af
from common import moons, panels, run, train

EVERY = 25


def gradients(net: nn.Module, seed: int) -> dict[str, Tensor]:
    """The gradients of the parts of the loss on one batch of 1,024, each as one long vector."""
    source = torch.Generator().manual_seed(seed)
    x = moons(1024, seed=seed)
    z1 = torch.randn(x.shape, generator=source)
    pair = torch.randn(2, len(x), generator=source).sub(0.4).sigmoid().sort(0).values
    r, t = pair[0], pair[1]
    z, v = af.interpolate(x, z1, t)
    target = af.average_velocity_target(net, z, v, r, t, alpha=0.0)  # v - (t - r) du/dt
    u = net(z, r, t)
    losses = {
        "tfm": (u - v).square().sum(1).mean(),
        "tc": 2 * ((v - target) * u).sum(1).mean(),
        "whole": (u - target).square().sum(1).mean(),
        "fm": (net(z, t, t) - v).square().sum(1).mean(),
    }
    weights = list(net.parameters())
    return {
        name: torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights, retain_graph=True)])
        for name, loss in losses.items()
    }


def main(out: Path, steps: int = 800) -> dict[str, float]:
    """Train MeanFlow, and look at the gradients every now and then."""
    rows: list[tuple[int, float, float, float]] = []

    def watch(step: int, net: nn.Module) -> None:
        if step % EVERY == 0 and step > 0:
            g = gradients(net, seed=step)
            rows.append(
                (
                    step,
                    torch.cosine_similarity(g["tfm"], g["tc"], dim=0).item(),
                    torch.cosine_similarity(g["fm"], g["tc"], dim=0).item(),
                    ((g["tfm"] + g["tc"] - g["whole"]).norm() / g["whole"].norm()).item(),
                )
            )

    train(af.MeanFlow(flow_ratio=0.5, weight=af.Weight(kind="uniform")), steps, watch=watch)
    table = torch.tensor(rows)
    figure, (axes,) = panels(1)
    figure.set_size_inches(6, 3.2)
    axes.axhline(0, color="0.7", linewidth=0.8)
    for column, name in ((1, "trajectory flow matching"), (2, "flow matching at r = t")):
        axes.plot(table[:, 0], table[:, column], "o", markersize=3, color=f"C{column - 1}")
        axes.axhline(
            table[:, column].mean(), color=f"C{column - 1}", label=f"{name}: mean {table[:, column].mean():.2f}"
        )
    axes.set(xlabel="step", ylabel="cosine with the gradient\nof trajectory consistency", ylim=(-1.05, 1.05))
    axes.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    figure.savefig(out, dpi=110)
    return {
        "mean cosine of TFM and TC": table[:, 1].mean().item(),
        "share of the measurements where it is negative": (table[:, 1] < 0).double().mean().item(),
        "mean cosine of FM at r = t and TC": table[:, 2].mean().item(),
        "TFM + TC differs from the whole by": table[:, 3].max().item(),
    }


if __name__ == "__main__":
    run(main, "two_losses", 800)
