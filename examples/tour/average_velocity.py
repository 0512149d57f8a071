"""3. One evaluation is enough if the network knows the average velocity instead of the one at the start."""

from pathlib import Path

from common import distance, dots, exact_paths, exact_velocity, moons, noise, panels, run, square

SHOWN = 14


def main(out: Path) -> dict[str, float]:
    x, z = moons(2000), noise(2000)
    paths = exact_paths(z, x)
    v = exact_velocity(z, 1.0, x)  # the velocity at t = 1: u(z, 1, 1)
    u = paths[0] - paths[-1]  # the average velocity over [0, 1]: u(z, 0, 1)
    figure, axes = panels(2)
    for one, velocity, title in zip(axes, (v, u), ("velocity at the start, v", "average velocity, u")):
        dots(one, x, "0.8")
        one.plot(paths[:, :SHOWN, 0], paths[:, :SHOWN, 1], color="0.55", linewidth=0.8)
        start, step = z[:SHOWN], -velocity[:SHOWN]
        one.quiver(*start.T, *step.T, angles="xy", scale_units="xy", scale=1, width=0.005, color="tab:blue")
        dots(one, start, "tab:orange", 10)
        square(one, title)
    figure.savefig(out, dpi=110)
    return {"energy distance, one step of v": distance(z - v), "energy distance, one step of u": distance(z - u)}


if __name__ == "__main__":
    run(main, "average_velocity")
