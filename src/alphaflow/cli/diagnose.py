"""`alphaflow diagnose`."""

from pathlib import Path

from . import Parser
from .words import count, number


def run(words: list[str]) -> None:
    """Measure, write JSON, CSV and figures into RUN/diagnosis, and print a table."""
    parser = Parser(
        prog="alphaflow diagnose",
        description="Measure how the parts of a run's objective work together: cosines of their gradients, losses "
        "over (t, t - r), du/dt, and what α trades. Figures show all steps diagnosed so far.",
    )
    parser.add_argument("run", type=Path, help="the folder of a run")
    parser.add_argument("--step", type=count(), help="of one of its checkpoints (the newest)")
    parser.add_argument("--batches", type=count(2, 10**6), help="of the run's own size (40)")
    parser.add_argument(
        "--alphas",
        type=number(float, 0, 1),
        nargs="*",
        help="where to compare L_α with MeanFlow's (1 … 0); none: nowhere",
    )
    parser.add_argument("--device", default="", help="cpu or cuda (that of the run)")
    parser.add_argument(
        "--data.path",
        dest="data_path",
        metavar="PLACE",
        help="where the run's data are, if not where they were",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="instead of RUN/diagnosis")
    known = parser.parse_args(words)

    from ..diagnostics import diagnose, open_subject, write
    from ..diagnostics.measure import ALPHAS, BATCHES

    alphas = ALPHAS if known.alphas is None else known.alphas
    subject = open_subject(known.run, known.step, known.device, known.data_path)
    found = diagnose(subject, batches=BATCHES if known.batches is None else known.batches, alphas=alphas)
    if subject.parallel.main:
        files = write(found, known.out or known.run / "diagnosis")
        print(found.table())
        print("\n".join(map(str, files)))
    subject.parallel.wait()
