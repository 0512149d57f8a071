"""`alphaflow report`."""

from pathlib import Path

from . import Parser


def run(words: list[str]) -> None:
    """Write a run's report.html, and say where it lies."""
    parser = Parser(prog="alphaflow report", description="Write a run's report.html: samples, figures, curves.")
    parser.add_argument("run", type=Path, help="the folder of a run")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (0)")
    parser.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    known = parser.parse_args(words)

    from ..devices import choose_device
    from ..reports.report import headlines, write_report

    print(write_report(known.run, seed=known.seed, device=choose_device(known.device)))
    for line in headlines(known.run):
        print(line)
