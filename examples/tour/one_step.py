"""6. α-Flow: from flow matching to MeanFlow in one run, and samples of one evaluation each."""

from pathlib import Path

import alphaflow as af
from alphaflow.method.times import Uniform
from common import distance, dots, moons, noise, panels, run, square, train


def main(out: Path, steps: int = 1200) -> dict[str, float]:
    """Three members of the family with the same network, data and number of steps."""
    even = Uniform()  # one evaluation needs r = 0, which logit-normal times seldom come near
    shared = {"flow_ratio": 0.25, "weight": af.Weight(kind="scaled", power=0.5), "times": af.Times(t=even, r=even)}
    members = {
        "trajectory flow matching": af.TrajectoryFlowMatching(**shared),
        "MeanFlow": af.MeanFlow(**shared),
        "α-Flow": af.AlphaFlow(alpha=af.schedules.sigmoid(0, 0.5 * steps), **shared),
    }
    figure, axes = panels(len(members))
    found = {}
    for one, (name, objective) in zip(axes, members.items()):
        samples = af.sample(train(objective, steps), noise(2000))
        found[f"energy distance, {name}"] = distance(samples)
        dots(one, moons(1000), "0.8")
        dots(one, samples)
        square(one, name)
    figure.savefig(out, dpi=110)
    return found


if __name__ == "__main__":
    run(main, "one_step", 1200)
