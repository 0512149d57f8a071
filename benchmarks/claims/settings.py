"""What is compared: settings by name, and the claims that they bear on."""

from collections.abc import Iterator
from dataclasses import dataclass

from sets import NAMES
from training import Setting

BASE = "α-Flow"
SETTINGS: dict[str, Setting] = {
    BASE: Setting(conflict=True, sweep=True),
    "MeanFlow": Setting(alpha="0", conflict=True, sweep=True),
    # schedules, the paper's Table 2a: shares of the run
    "sigmoid 0-25 %": Setting(alpha="sigmoid(0%, 25%)"),
    "sigmoid 25-50 %": Setting(alpha="sigmoid(25%, 50%)"),
    "sigmoid 37-62 %": Setting(alpha="sigmoid(37.5%, 62.5%)"),
    "sigmoid 50-83 %": Setting(alpha="sigmoid(50%, 83%)"),
    "step 50 %": Setting(alpha="step(50%)"),
    # share of rows with r = t
    **{f"α-Flow, r=t {ratio:.0%}": Setting(flow_ratio=ratio) for ratio in (0.0, 0.5, 0.75)},
    **{f"MeanFlow, r=t {ratio:.0%}": Setting(alpha="0", flow_ratio=ratio) for ratio in (0.0, 0.5, 0.75)},
    **{
        f"{schedule}, r=t 50%": Setting(alpha=curve, flow_ratio=0.5)
        for schedule, curve in (("sigmoid 25-50 %", "sigmoid(25%, 50%)"), ("step 50 %", "step(50%)"))
    },
    **{
        f"sigmoid 25-50 %, {share}weight scaled": Setting(
            alpha="sigmoid(25%, 50%)", flow_ratio=ratio, weight="scaled", only=("digits", "glyphs")
        )
        for share, ratio in (("", 0.25), ("r=t 50%, ", 0.5), ("r=t 75%, ", 0.75))
    },
    # a constant α after half of the run at α = 1, as the paper's ablation has it
    **{
        f"α = {alpha:g} from 50 %": Setting(alpha=f"step(50%, last={alpha})")
        for alpha in (0.5, 0.1, 0.03, 0.01, 0.003)
    },
    "Shortcut from 50 %": Setting(alpha="step(50%, last=0.5)", shift="model"),
    "α = 0.01 from 50 %, weight scaled": Setting(
        alpha="step(50%, last=0.01)", weight="scaled", only=("digits", "glyphs")
    ),
    # the velocity that leads to z_s, and whose targets: Table 5a
    "shift by u": Setting(shift="model"),
    "shift by u(z, t, t)": Setting(shift="velocity"),
    "teacher: EMA": Setting(teacher=True),
    # weights; `definition` is the toy's own, `adaptive` the others'
    "weight adaptive": Setting(weight="adaptive", only=("toy",)),
    "weight definition": Setting(weight="definition", only=("digits", "glyphs")),
    **{f"weight {name}": Setting(weight=name) for name in ("scaled", "power", "uniform")},
    # how times are told
    "times × 1000": Setting(time_scale=1000.0),
    "times as t, r": Setting(ends=True),
    "MeanFlow, times × 1000": Setting(alpha="0", time_scale=1000.0),
    "MeanFlow, times as t, r": Setting(alpha="0", ends=True),
    # beyond the paper
    "steered by curvature": Setting(steer="curvature"),
    "steered by curvature, r=t 50%": Setting(steer="curvature", flow_ratio=0.5),
    # under a weight that knows α: the paper's all but forgets rows with a small one
    "steered by bias": Setting(steer="bias", weight="consistent"),
    "norms balanced": Setting(surgery="norms"),
    "conflict projected": Setting(surgery="project"),
    "never a derivative": Setting(alpha="sigmoid(0%, 100%, last=0.005)", weight="consistent"),
    "flow matching, then MeanFlow": Setting(alpha="0", flow_ratio="step(50%, first=1, last=0.25)"),
    "flow matching, then α-Flow": Setting(alpha="sigmoid(50%, 100%)", flow_ratio="step(50%, first=1, last=0.25)"),
    "flow matching, then distilled": Setting(
        alpha="0", flow_ratio="step(50%, first=1, last=0.25)", teacher_from=0.5
    ),
    **{
        name: Setting(guidance=how, only=("digits", "glyphs"))
        for name, how in (("guidance 1.5", "fixed"), ("told of guidance", "told"))
    },
    "classes as they come": Setting(only=("digits, uneven",)),
    "classes balanced": Setting(balanced=True, only=("digits, uneven",)),
}


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Settings beside a `reference`, by 1 and 2 evaluations. own: also their weights without averaging. way: which
    of their figures, where it is not those of the averaged weights."""

    name: str
    reference: str
    settings: tuple[str, ...]
    own: bool = False
    way: str = "ema"
    sets: tuple[str, ...] = NAMES

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """Setting, weights, label; the reference first."""
        for setting in (self.reference, *self.settings):
            yield setting, "ema" if setting == self.reference else self.way, setting
            if self.own:
                yield setting, "own", f"{setting}, not averaged"


_SCHEDULES = ("sigmoid 0-25 %", "sigmoid 25-50 %", "sigmoid 37-62 %", "sigmoid 50-83 %", "step 50 %")


def _named(*parts: str) -> tuple[str, ...]:
    return tuple(name for name in SETTINGS if any(part in name for part in parts))


CLAIMS = (
    Claim(name="schedules", reference="MeanFlow", settings=(BASE, *_SCHEDULES)),
    Claim(
        name="ratio",
        reference="MeanFlow",
        settings=(BASE, *(name for name in _named("r=t") if "scaled" not in name)),
    ),
    Claim(
        name="best",
        reference="MeanFlow, r=t 50%",
        settings=("MeanFlow", "MeanFlow, r=t 75%", *_named("sigmoid 25-50 %")),
        sets=("digits", "glyphs"),
    ),
    Claim(name="constant", reference="step 50 %", settings=_named("from 50 %")),
    Claim(name="targets", reference=BASE, settings=_named("shift", "teacher")),
    Claim(name="weights", reference=BASE, settings=tuple(name for name in SETTINGS if name.startswith("weight"))),
    Claim(name="times", reference=BASE, settings=("times × 1000", "times as t, r")),
    Claim(name="times-meanflow", reference="MeanFlow", settings=_named("MeanFlow, times")),
    Claim(name="steering", reference="sigmoid 25-50 %", settings=("MeanFlow", BASE, *_named("steered"))),
    Claim(name="surgery", reference=BASE, settings=("norms balanced", "conflict projected")),
    Claim(name="finishing", reference=BASE, settings=("never a derivative",)),
    Claim(name="tuning", reference=BASE, settings=("MeanFlow", *_named("flow matching"))),
    Claim(name="told", reference=BASE, settings=("told of guidance",), sets=("digits", "glyphs")),
    Claim(
        name="told-guided",
        reference="guidance 1.5",
        settings=("told of guidance",),
        way="ema@1.5",
        sets=("digits", "glyphs"),
    ),
    Claim(
        name="classes",
        reference="classes as they come",
        settings=("classes balanced",),
        sets=("digits, uneven",),
    ),
    Claim(name="averaging", reference=BASE, settings=("MeanFlow",), own=True),
)
"""What `page.py` makes tables of, beside conflict, sampling and cost."""


@dataclass(frozen=True)
class Duel:
    """A setting of α-Flow and one of MeanFlow on a set, by so many evaluations."""

    chosen: str
    nfe: int
    alpha_flow: str
    meanflow: str


_SCALED = "sigmoid 25-50 %, {}weight scaled"
CONFIRMED = (
    Duel("toy", 1, "sigmoid 25-50 %", "MeanFlow"),
    Duel("toy", 2, "sigmoid 25-50 %", "MeanFlow, r=t 50%"),
    Duel("digits", 1, _SCALED.format("r=t 50%, "), "MeanFlow, r=t 50%"),
    Duel("digits", 2, _SCALED.format("r=t 75%, "), "MeanFlow, r=t 75%"),
    Duel("glyphs", 1, _SCALED.format(""), "MeanFlow"),
    Duel("glyphs", 2, _SCALED.format(""), "MeanFlow, r=t 50%"),
)
"""Each method at its best share of rows with r = t, chosen on the first five seeds and run again on others."""
