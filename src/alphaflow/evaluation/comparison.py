"""Two evaluations side by side: is the difference larger than the noise of sampling?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.shapes import ATTRIBUTES
from ..errors import UserError, one_line
from ..metrics.estimates import FEWEST_GROUPS, group_counts, t_quantile
from ..runs.folder import RunFolder
from .results import SETTING, figure_title, read, setting_words

LESS_IS_BETTER = ("frechet", "frechet_limit", "kernel", "energy", "sliced_wasserstein")
MORE_IS_BETTER = (
    *("accuracy", "precision", "recall", "density", "coverage", "inception_score"),
    *("words", *ATTRIBUTES, "unseen_words", "unseen_pairs"),
)


@dataclass(frozen=True)
class Difference:
    """Of one figure in one setting.

    reach: half the 95 % interval of b - a, None where it cannot be told. title: the figure's name for people.
    """

    setting: str
    figure: str
    a: float
    b: float
    reach: float | None
    title: str = ""

    @property
    def verdict(self) -> str:
        """In words."""
        if self.reach is None:
            return "no interval"
        if abs(self.b - self.a) <= self.reach:
            return "within the noise"
        if self.figure not in LESS_IS_BETTER + MORE_IS_BETTER:
            return "differs"
        return "B better" if (self.b < self.a) == (self.figure in LESS_IS_BETTER) else "A better"


def open_evaluation(path: Path) -> dict[str, Any]:
    """Return the evaluation of a run's folder, or a JSON file of `alphaflow evaluate`.

    Raises:
        UserError: there is none, or it is not one.
    """
    if not path.exists():
        raise UserError(f"{path} is not there: give a run that was evaluated, or a --json of `alphaflow evaluate`")
    file = RunFolder(path).evaluation_file if path.is_dir() else path
    try:
        record = read(file)
    except (ValueError, OSError) as error:
        raise UserError(f"cannot read {file}: {one_line(error)}") from None
    if record is None:
        raise UserError(f"{file} does not exist: run `alphaflow evaluate {path}` first")
    if not isinstance(record, dict) or "results" not in record:
        raise UserError(f"{file} holds no evaluation: give a run, or the --json of `alphaflow evaluate`")
    return record


def compare(a: Mapping[str, Any], b: Mapping[str, Any], names: Sequence[str] | None = None) -> list[Difference]:
    """Every figure in every setting that both have.

    The interval of a difference takes the two for independent (Welch's t). With one seed for both their errors are
    mostly of one sign, and it is rather too wide than too narrow. It says nothing of other seeds of training.

    Raises:
        UserError: other reference data or another detector, no setting or figure in common.
    """
    for key in ("detector", "preprocessing", "shape", "crop", "data", "real_count"):
        if key in a and key in b and a[key] != b[key]:
            raise UserError(
                f"these do not compare: {key} is {a[key]} in A and {b[key]} in B; evaluate both in the same way"
            )
    found = {_protocol(result): result for result in b["results"]}
    pairs = [(one, found[_protocol(one)]) for one in a["results"] if _protocol(one) in found]
    if not pairs:
        raise UserError(
            f"no setting in common: A has {_settings(a)}; B has {_settings(b)}; evaluate both in the same way"
        )
    rows = []
    for one, other in pairs:
        for name in [name for name in one["figures"] if name in other["figures"] and name in (names or [name])]:
            x, y = one["figures"][name], other["figures"][name]
            title = figure_title(name, a.get("distance", "frechet"))
            rows.append(Difference(setting_words(one), name, x, y, _reach(name, one, other), title))
    if not rows:
        raise UserError(
            f"no figure in common among {', '.join(names or ['all'])}: evaluate both with them", status=2
        )
    return rows


def table(rows: Sequence[Difference]) -> str:
    """For people."""
    lines = [["", "figure", "A", "B", "B - A", ""]]
    for row in rows:
        difference = f"{row.b - row.a:+.3g}" + ("" if row.reach is None else f" ± {row.reach:.2g}")
        lines.append(
            [row.setting, row.title or row.figure, f"{row.a:.4g}", f"{row.b:.4g}", difference, row.verdict]
        )
    widths = [max(len(line[k]) for line in lines) for k in range(6)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def _protocol(result: Mapping[str, Any]) -> str:
    """Return what must be the same in two evaluations; seeds, weights and runtimes may differ."""
    given = {"guidance": 1.0, **result}  # which older records do not name
    return str([given.get(key) for key in SETTING if key not in ("seed", "weights", "runtime")])


def _settings(record: Mapping[str, Any]) -> str:
    words = (f"{setting_words(one)}, {one['count']} samples, labels {one['labels']}" for one in record["results"])
    return " and ".join(words)


def _reach(name: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> float | None:
    parts = []
    for result in (one, other):
        error = result.get("errors", {}).get(name)
        if error is None:
            return None
        filled = sum(count > 0 for count in group_counts(result["count"]))
        parts.append((error**2, max(filled, FEWEST_GROUPS) - 1))
    total = sum(variance for variance, _ in parts)
    if total == 0:
        return 0.0
    freedom = total**2 / sum(variance**2 / degrees for variance, degrees in parts)
    return t_quantile(freedom) * total**0.5
