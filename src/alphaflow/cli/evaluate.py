"""`alphaflow evaluate`."""

from pathlib import Path

from ..errors import UserError
from . import Parser
from .sample import add_sampler_options, method_of, times_of


def run(words: list[str]) -> None:
    """Score a run, print a table, and keep the figures in its folder for the report."""
    parser = Parser(prog="alphaflow evaluate", description="Score a trained run against its own data.")
    parser.add_argument("run", type=Path, help="the folder of a run")
    parser.add_argument("--nfe", type=int, nargs="+", default=[1, 2], help="numbers of network evaluations (1 2)")
    parser.add_argument("--metrics", nargs="+", help="frechet accuracy manifold neighbours energy sliced")
    parser.add_argument("--count", type=int, help="how many samples (as many as there are data)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    add_sampler_options(parser)
    known = parser.parse_args(words)
    if min(known.nfe) < 1:
        raise UserError(f"--nfe {min(known.nfe)} must be at least 1", status=2)

    from ..evaluate import evaluate
    from ..generate import load
    from ..training.data import data_of
    from ..training.run import RunFolder

    folder = RunFolder(known.run)
    generator = load(known.run, device=known.device, ema=known.ema)
    evaluation = evaluate(
        generator,
        data_of(folder),
        run=str(known.run),
        nfes=known.nfe,
        method=method_of(known.method),
        times=times_of(known.times),
        names=known.metrics,
        count=known.count,
        seed=known.seed,
    )
    if known.ema is None:  # the report is about the run's own average
        evaluation.write(folder.evaluation_file)
    if known.json:
        evaluation.write(known.json)
    print(evaluation.table())
