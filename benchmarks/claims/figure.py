"""The picture of docs/claims.md: every setting against MeanFlow, by set."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from page import SEEDS, Ratio, against, values_of
from sets import NAMES

IMAGE = Path(__file__).parents[2] / "docs" / "images" / "claims.png"
REFERENCE = "MeanFlow"
SHOWN = (
    "MeanFlow, r=t 50%",
    "MeanFlow, r=t 75%",
    "α-Flow",
    "sigmoid 0-25 %",
    "sigmoid 25-50 %",
    "sigmoid 37-62 %",
    "sigmoid 50-83 %",
    "step 50 %",
    "sigmoid 25-50 %, r=t 50%",
    "steered by curvature",
    "steered by curvature, r=t 50%",
    "sigmoid 25-50 %, weight scaled",
    "sigmoid 25-50 %, r=t 50%, weight scaled",
    "sigmoid 25-50 %, r=t 75%, weight scaled",
    "weight scaled",
    "never a derivative",
    "flow matching, then MeanFlow",
    "flow matching, then distilled",
    "norms balanced",
    "conflict projected",
)
MOST = 1.6
"""Larger ratios are drawn at the edge."""


def draw(lines: list[dict[str, Any]]) -> None:
    """Ratios of geometric means with 95 % intervals, paired by seed, for settings with all their seeds."""
    lines = [line for line in lines if line["seed"] < SEEDS]
    shown = [setting for setting in SHOWN if _ratio(lines, NAMES[-1], setting, "ema ode 1 0")]
    figure = Figure(figsize=(11, 0.36 * len(shown) + 1.3), layout="constrained")
    panels = figure.subplots(1, len(NAMES), sharey=True)
    for axes, name in zip(panels, NAMES):
        axes.axvline(1, color="0.6", lw=1)
        for times, color, offset, label in (
            ("1 0", "#0b6e99", -0.14, "1 evaluation"),
            ("1 0.5 0", "#d9730d", 0.14, "2 evaluations"),
        ):
            for k, setting in enumerate(shown):
                one = _ratio(lines, name, setting, f"ema ode {times}")
                if one is not None:
                    axes.plot([min(one.low, MOST), min(one.high, MOST)], [k + offset] * 2, color=color, lw=1.4)
                    mark = "o" if one.mean < MOST else ">"
                    axes.plot(min(one.mean, MOST), k + offset, mark, color=color, ms=4.5)
            axes.plot([], [], "o", color=color, ms=4.5, label=label)
        axes.set(xscale="log", xlim=(0.6, MOST * 1.03), title=name)
        axes.set_xticks([0.6, 0.8, 1, 1.2, 1.5], ["0.6", "0.8", "1", "1.2", "1.5"])
        axes.minorticks_off()
        axes.grid(axis="y", color="0.93")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(shown)), shown)
    panels[0].invert_yaxis()
    panels[-1].legend(frameon=False, fontsize=8, loc="lower left")
    figure.supxlabel(f"distance over that of {REFERENCE} (25 % at r = t); left is better", fontsize=9)
    figure.savefig(IMAGE, dpi=110)


def _ratio(lines: list[dict[str, Any]], chosen: str, setting: str, way: str) -> Ratio | None:
    values, reference = (values_of(lines, chosen, one, way) for one in (setting, REFERENCE))
    ratio = against(values, reference)
    return ratio if ratio is not None and ratio.seeds >= SEEDS else None
