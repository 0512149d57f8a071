"""`alphaflow sample`."""

from pathlib import Path

from ..errors import UserError
from . import Parser


def run(words: list[str]) -> None:
    """Generate samples into a file or folder."""
    parser = Parser(prog="alphaflow sample", description="Generate with a trained run.")
    parser.add_argument("run", type=Path, help="the folder of a run")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="FILE.npz, GRID.png, or a folder for single PNGs; of videos also FILE.gif and FILE.mp4",
    )
    parser.add_argument("--count", type=int, default=64, help="how many (64)")
    parser.add_argument("--labels", default="balanced", help="balanced, random, or a list to go round in: 0,1")
    parser.add_argument("--nfe", type=int, default=1, help="network evaluations (1)")
    parser.add_argument("--guidance", type=float, default=1.0, help="its scale (1: none)")
    parser.add_argument(
        "--guide-from", type=float, default=0.0, metavar="T", help="guide from this t on, if told in training (0)"
    )
    parser.add_argument("--guide-to", type=float, default=1.0, metavar="T", help="and up to this one (1)")
    parser.add_argument("--rate", type=float, default=8.0, help="of videos, frames a second (8)")
    parser.add_argument("--vae", help="of a run on latents: where the autoencoder is, if not where it was")
    add_sampler_options(parser)
    known = parser.parse_args(words)
    if known.count < 1:
        raise UserError(f"--count {known.count} must be at least 1", status=2)
    if known.nfe < 1:
        raise UserError(f"--nfe {known.nfe} must be at least 1", status=2)

    from ..figures import write_samples
    from ..films import write_videos
    from ..generate import choose_labels, load

    generator = load(known.run, device=known.device, ema=known.ema, vae=known.vae)
    labels = choose_labels(known.labels, known.count, generator.num_classes, known.seed)
    method, times = method_of(known.method), times_of(known.times)
    interval = (known.guide_from, known.guide_to)
    samples = generator.samples(labels, known.nfe, known.seed, method, times, known.guidance, interval)
    columns = generator.num_classes if known.labels == "balanced" and 1 < generator.num_classes <= 20 else None
    pictures = generator.pictures(samples)
    if pictures.ndim == 5:
        write_videos(pictures, labels.numpy(), known.out, columns, rate=known.rate)
    else:
        write_samples(pictures, labels.numpy(), known.out, columns)
    print(known.out)


def add_sampler_options(parser: Parser) -> None:
    """The options that every sampling command shares."""
    parser.add_argument(
        "--method", default="ode", help="ode, consistency, euler, heun; or one for each interval: heun,ode"
    )
    parser.add_argument("--times", help="a grid of times instead of --nfe: 1,.5,0")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (0)")
    parser.add_argument(
        "--ema",
        type=float,
        metavar="STD",
        help="weights averaged over this share of the run, from those it stored",
    )
    parser.add_argument("--device", default="cpu", help="cpu (the default) or cuda")


def method_of(words: str) -> str | list[str]:
    """`ode`, or `heun,ode` as a list."""
    return words.split(",") if "," in words else words


def times_of(words: str | None) -> list[float] | None:
    """`1,.5,0` as numbers."""
    if words is None:
        return None
    try:
        return [float(word) for word in words.split(",")]
    except ValueError:
        raise UserError(f"--times {words!r}: give falling numbers like 1,.5,0", status=2) from None
