"""2. Flow matching learns that flow's velocity, and has to be followed in small steps."""

from pathlib import Path

import torch

import alphaflow as af
from common import distance, dots, moons, noise, panels, run, square, train

STEPS = (1, 2, 4, 32)


def main(out: Path, steps: int = 800) -> dict[str, float]:
    net = train(af.FlowMatching(weight=af.Weight(kind="uniform")), steps)
    figure, axes = panels(len(STEPS))
    found = {}
    for one, count in zip(axes, STEPS):
        times = torch.linspace(1, 0, count + 1).tolist()
        samples = af.sample(net, noise(2000), times=times, method="euler")
        found[f"energy distance at {count}"] = distance(samples)
        dots(one, moons(1000), "0.8")
        dots(one, samples)
        square(one, f"{count} evaluation{'s' * (count > 1)}")
    figure.savefig(out, dpi=110)
    return found


if __name__ == "__main__":
    run(main, "flow_matching", 800)
