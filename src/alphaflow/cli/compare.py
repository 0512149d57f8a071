"""`alphaflow compare`."""

from pathlib import Path

from . import Parser


def run(words: list[str]) -> None:
    """Put two evaluated runs side by side."""
    parser = Parser(
        prog="alphaflow compare", description="Say whether two runs differ by more than the noise of sampling."
    )
    parser.add_argument("a", type=Path, help="a run that was evaluated, or a JSON file of `alphaflow evaluate`")
    parser.add_argument("b", type=Path, help="the other")
    parser.add_argument("--figures", nargs="+", help="only these: frechet accuracy precision …")
    known = parser.parse_args(words)

    from ..evaluation.comparison import compare, open_evaluation, table

    print(table(compare(open_evaluation(known.a), open_evaluation(known.b), known.figures)))
