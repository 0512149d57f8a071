"""`alphaflow ema`."""

from pathlib import Path

from ..errors import UserError
from . import Parser
from .words import count, share_of_run


def run(words: list[str]) -> None:
    """Make an average of any length from those that a run stored, and write its weights."""
    parser = Parser(
        prog="alphaflow ema",
        description="Average a run's weights over any share of it, after training (EDM2's post-hoc EMA). "
        "To sample with one without writing it: alphaflow sample RUN --ema 0.08",
    )
    parser.add_argument(
        "run", type=Path, help="the folder of a run that stored averages (--ema.profiles 0.05 0.1)"
    )
    parser.add_argument("--std", type=share_of_run, required=True, help="width as a share of the run: 0.08")
    parser.add_argument("--step", type=count(), help="as of this step (the last stored one)")
    parser.add_argument("--out", type=Path, help="FILE.safetensors (RUN/ema-STD.safetensors)")
    known = parser.parse_args(words)

    from safetensors.torch import save_file

    from ..runs.averages import make_average
    from ..runs.folder import RunFolder

    average = make_average(RunFolder(known.run), known.std, known.step)
    out = known.out or known.run / f"ema-{known.std:g}.safetensors"
    try:
        save_file(average.weights, out)
    except Exception as error:
        raise UserError(f"cannot write {out} ({error}): choose another --out") from None
    print(
        f"{out}: as of step {average.step}, from {average.count} stored averages, "
        f"profile within {100 * average.distance:.2g} % of the wanted one"
    )
