"""1. Straight paths from noise to data cross; the flow that has the same velocities on average does not."""

from pathlib import Path

import torch

import alphaflow as af
from common import dots, exact_paths, moons, noise, panels, run, square


def main(out: Path) -> dict[str, float]:
    x, z = moons(1000), noise(1000)
    figure, (left, right) = panels(2)
    pairs = torch.stack([af.interpolate(x[:60], z[:60], torch.full((60,), t))[0] for t in (0.0, 1.0)])
    flow = exact_paths(z[:60], x)
    for axes, paths, title in (
        (left, pairs, "paths: pairs drawn at random"),
        (right, flow, "the flow they add up to"),
    ):
        dots(axes, x, "0.75")
        axes.plot(paths[:, :, 0], paths[:, :, 1], color="tab:blue", linewidth=0.6)
        dots(axes, paths[-1] if axes is left else paths[0], "tab:orange", 8)
        square(axes, title)
    figure.savefig(out, dpi=110)
    chord = (flow[-1] - flow[0]).norm(dim=1)
    length = (flow[1:] - flow[:-1]).norm(dim=2).sum(0)
    return {"how much longer the flow's paths are than straight ones": (length.sum() / chord.sum()).item()}


if __name__ == "__main__":
    run(main, "paths")
