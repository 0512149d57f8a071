"""The tables of docs/claims.md, from the runs there are; the words around them are kept."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sets import NAMES
from settings import CLAIMS, CONFIRMED, SETTINGS, Claim

PAGE = Path(__file__).parents[2] / "docs" / "claims.md"
FIRST = {"toy": "energy", "digits": "frechet", "glyphs": "frechet", "digits, uneven": "frechet"}
SEEDS = 5
"""A cell with fewer says how many. Seeds from this one on confirm what was chosen on those before."""
Values = dict[int, float]  # by seed


def write(made: dict[str, str]) -> None:
    """Put the tables between their marks in the page."""
    text = PAGE.read_text()
    for name, table in made.items():
        mark = re.compile(rf"(<!-- {name} -->\n)(?:.*?\n)??(<!-- end -->)", re.S)
        if not mark.search(text):
            raise SystemExit(f"{PAGE} has no place for {name}: write <!-- {name} --> and <!-- end --> into it")
        text = mark.sub(lambda found, table=table: f"{found[1]}{table}\n{found[2]}", text)
    PAGE.write_text(text)


def show(made: dict[str, str]) -> None:
    """Print the tables."""
    for name, table in made.items():
        print(f"\n{name}\n\n{table}")


def tables(lines: list[dict[str, Any]]) -> dict[str, str]:
    """Markdown by claim."""
    later = [line for line in lines if line["seed"] >= SEEDS]
    lines = [line for line in lines if line["seed"] < SEEDS]
    found = {claim.name: _comparison(lines, claim) for claim in CLAIMS}
    return {
        "conflict": _conflict(lines),
        **found,
        "sampling": _sampling(lines),
        "confirmed": _confirmed(later),
        "cost": _cost(lines),
    }


def values_of(lines: Iterable[dict[str, Any]], chosen: str, setting: str, way: str) -> Values:
    """The set's first figure by seed; infinite where a run diverged."""
    return {
        line["seed"]: line["figures"][way].get(FIRST[chosen], math.inf)
        for line in lines
        if (line["set"], line["setting"]) == (chosen, setting) and way in line["figures"]
    }


def mean_and_reach(values: Sequence[float] | NDArray[np.float64]) -> tuple[float, float]:
    """Mean, and half its 95 % interval (Student's t); infinite where it cannot be told."""
    x = np.asarray(values)
    if len(x) < 2 or not np.isfinite(x).all():
        return float(x.mean()), math.inf
    return float(x.mean()), float(stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x)))


@dataclass(frozen=True)
class Ratio:
    """Of geometric means over the seeds that both settings have, with its 95 % interval and the p of 1, by a
    paired t-test of the logarithms."""

    mean: float
    low: float
    high: float
    p: float
    seeds: int


def against(values: Values, reference: Values) -> Ratio | None:
    """None for fewer than two seeds; infinite where a run diverged."""
    seeds = sorted(set(values) & set(reference))
    logs = np.log([values[k] for k in seeds]) - np.log([reference[k] for k in seeds])
    if len(seeds) < 2:
        return None
    if not np.isfinite(logs).all():
        return Ratio(math.inf, math.inf, math.inf, math.nan, len(seeds))
    mean, reach = mean_and_reach(logs)
    p = float(stats.ttest_1samp(logs, 0).pvalue) if logs.any() else 1.0
    return Ratio(math.exp(mean), math.exp(mean - reach), math.exp(mean + reach), p, len(seeds))


def _comparison(lines: list[dict[str, Any]], claim: Claim) -> str:
    head = [f"{name}, {nfe} NFE" for name in claim.sets for nfe in (1, 2)]
    rows = ["| | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    for setting, way, label in claim.rows():
        cells = []
        for name in claim.sets:
            for times in ("1 0", "1 0.5 0"):
                own = values_of(lines, name, setting, f"{way} ode {times}")
                reference = values_of(lines, name, claim.reference, f"ema ode {times}")
                cells.append(_cell(own, reference, (setting, way) == (claim.reference, "ema")))
        rows.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _confirmed(lines: list[dict[str, Any]]) -> str:
    rows = ["| set | NFE | α-Flow | | MeanFlow | | ratio | seeds |", "|---" * 8 + "|"]
    for duel in CONFIRMED:
        way = "ema ode 1 0" if duel.nfe == 1 else "ema ode 1 0.5 0"
        ours, theirs = (values_of(lines, duel.chosen, name, way) for name in (duel.alpha_flow, duel.meanflow))
        ratio = against(ours, theirs)
        if ratio is None:
            continue
        sure = "**" if ratio.p < 0.05 else ""
        cells = [duel.chosen, str(duel.nfe), duel.alpha_flow, _number(ours), duel.meanflow, _number(theirs)]
        cells.append(f"{sure}×{ratio.mean:.2f}{sure} ({ratio.low:.2f} … {ratio.high:.2f}), p {ratio.p:.2g}")
        rows.append("| " + " | ".join([*cells, str(ratio.seeds)]) + " |")
    return "\n".join(rows)


def _number(values: Values) -> str:
    mean, reach = mean_and_reach(list(values.values()))
    return f"{mean:.3g}" + (f" ± {float(f'{reach:.1g}'):g}" if math.isfinite(reach) else "")


def _cell(values: Values, reference: Values, same: bool) -> str:
    if not values:
        return "–"
    if not all(map(math.isfinite, values.values())):
        return "diverged"
    text = _number(values)
    if len(values) < SEEDS:
        text += f" [{len(values)}]"
    ratio = None if same else against(values, reference)
    if ratio is None:
        return text
    times = f"×{ratio.mean:.2f}" if ratio.mean < 10 else "over ×10"
    if len(values) < SEEDS:
        return f"{text} ({times})"
    sure = "**" if ratio.p < 0.05 else ""
    return f"{text} ({sure}{times}{sure}, p {ratio.p:.2g})"


def _conflict(lines: list[dict[str, Any]]) -> str:
    rows = ["| set | objective | cos(∇TFM, ∇TC) | cos(∇FM′, ∇TC) | difference |", "|---|---|---|---|---|"]
    for name in NAMES:
        for setting in [key for key, one in SETTINGS.items() if one.conflict]:
            runs = [line for line in lines if (line["set"], line["setting"]) == (name, setting)]
            if not runs:
                continue
            cells = []
            seeds: dict[str, list[float]] = defaultdict(list)
            for key in ("tfm", "fm"):
                every = [value for line in runs for point in line["cosines"] for value in point[key]]
                seeds[key] = [float(np.mean([p[key] for p in line["cosines"]])) for line in runs]
                mean, reach = mean_and_reach(seeds[key])
                low, high = np.percentile(every, [5, 95])
                cells.append(f"{mean:.2f} ± {reach:.2f} (5–95 %: {low:.2f} … {high:.2f})")
            mean, reach = mean_and_reach([a - b for a, b in zip(seeds["fm"], seeds["tfm"])])
            rows.append(f"| {name} | {setting} | {cells[0]} | {cells[1]} | {mean:+.2f} ± {reach:.2f} |")
    return "\n".join(rows)


def _sampling(lines: list[dict[str, Any]]) -> str:
    middles = (0.1, 0.3, 0.5, 0.7, 0.9)
    rows = ["| set | objective | sampler | " + " | ".join(f"midpoint {m:g}" for m in middles) + " |"]
    rows.append("|---" * (len(middles) + 3) + "|")
    for name in NAMES:
        for setting in [key for key, one in SETTINGS.items() if one.sweep]:
            for method in ("ode", "consistency"):
                cells = []
                for middle in middles:
                    found = values_of(lines, name, setting, f"ema {method} 1 {middle:g} 0")
                    cells.append(_cell(found, {}, True))
                rows.append(f"| {name} | {setting} | {method} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _cost(lines: list[dict[str, Any]]) -> str:
    rows = ["| set | runs | seeds | median seconds of one core a run |", "|---|---|---|---|"]
    for name in NAMES:
        runs = [line for line in lines if line["set"] == name]
        if runs:
            seeds = len({line["seed"] for line in runs})
            rows.append(f"| {name} | {len(runs)} | {seeds} | {np.median([r['seconds'] for r in runs]):.0f} |")
    return "\n".join(rows)
