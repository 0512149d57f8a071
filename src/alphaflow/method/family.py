"""The members of the family, each a setting of `AlphaFlow`.

Keyword arguments are the fields of `AlphaFlow`; they override what a member prescribes. `MEMBERS` has the names
that config files and the command line use. `statement` says an objective in one line, beside what was published.
"""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..errors import choose
from . import schedules
from .alpha import RandomSplit, StepSize
from .objective import AlphaFlow
from .schedules import Schedule
from .times import Constant, Larger, LogitNormal, Times, Uniform, words
from .weighting import AnchorWeight, Weight

_TO_DATA = Times(coupling="minimum", t=LogitNormal(), r=Constant(0.0))
_SORTED_FIRST = Times(flow=Larger(LogitNormal()))
"""MeanFlow's: the pair is drawn and sorted on all rows, and r = t set on some of them afterwards."""


def FlowMatching(**settings: Any) -> AlphaFlow:
    """Flow matching (arXiv 2210.02747; FM′ in α-Flow): every row has r = t and the target v. Needs many steps."""
    return AlphaFlow(**{"alpha": 1.0, "flow_ratio": 1.0, **settings})


def TrajectoryFlowMatching(**settings: Any) -> AlphaFlow:
    """Trajectory flow matching (α-Flow, arXiv 2510.20771): α = 1, the target v for any (r, t). L_TFM = L_{α=1}."""
    return AlphaFlow(**{"alpha": 1.0, **settings})


def MeanFlow(**settings: Any) -> AlphaFlow:
    """MeanFlow (arXiv 2505.13447): α = 0, the target v - (t - r) du/dt; 75 % of rows with r = t.

    As in MeanFlow's code, t is the larger of two draws on r = t rows, too, and a row's loss is S / (S + c) of the
    sum S over its dimensions; α-Flow's draws once there and weighs by the mean.
    """
    recipe = {"alpha": 0.0, "flow_ratio": 0.75, "times": _SORTED_FIRST, "weight": Weight(kind="power")}
    return AlphaFlow(**{**recipe, **settings})


def Shortcut(**settings: Any) -> AlphaFlow:
    """Shortcut models (arXiv 2410.12557): α = ½ with the model's own shift velocity, on dyadic intervals.

    A quarter of the rows bootstraps; the rest are flow matching. L_SC = ½ L_{1/2}, hence the uniform weight.
    """
    recipe = {
        "alpha": 0.5,
        "shift": "model",
        "flow_ratio": 0.75,
        "times": Times(coupling="dyadic", t=Uniform()),
        "weight": Weight(kind="uniform"),
    }
    return AlphaFlow(**{**recipe, **settings})


def ConsistencyTraining(delta: float | Schedule | None = None, **settings: Any) -> AlphaFlow:
    """Consistency training (arXiv 2303.01469): r = 0, no r = t rows, the weights of α-Flow's Theorem 1.

    delta: the step t - s in time, so α = δ / t and the loss is E[‖f_t - f_s‖² / (t δ)], or a schedule by which it
    falls over the run; None: its limit δ → 0, whose gradient is that of 2 E[(1/t) fᵀ df⁻/dt]. Here u(z, 0, t) =
    (z - f(z, t)) / t, so that f(z, 0) = z for any network u. One that predicts f, the data
    (`models.DataPrediction`), must keep that itself: else a constant f fits every target, and training finds it.

    Raises:
        ValueError: delta outside (0, 1].
    """
    recipe = {
        "alpha": 0.0 if delta is None else StepSize(delta),
        "flow_ratio": 0.0,
        "times": _TO_DATA,
        "weight": Weight(kind="definition"),
    }
    return AlphaFlow(**{**recipe, **settings})


def SplitMeanFlow(**settings: Any) -> AlphaFlow:
    """SplitMeanFlow (arXiv 2507.16884): the interval-splitting identity at a random split, both parts u⁻."""
    recipe = {
        "alpha": RandomSplit(Uniform()),
        "shift": "model",
        "flow_ratio": 0.5,
        "weight": Weight(kind="power"),
    }
    return AlphaFlow(**{**recipe, **settings})


def FACM(**settings: Any) -> AlphaFlow:
    """Flow-anchored consistency (arXiv 2507.03738): r = 0 rows with a relaxed target, anchored by r = t rows."""
    recipe = {
        "alpha": 0.0,
        "flow_ratio": 0.5,
        "times": _TO_DATA,
        "weight": AnchorWeight(),
        "relaxation": 0.5,
        "cosine": 1.0,
    }
    return AlphaFlow(**{**recipe, **settings})


def ImprovedMeanFlow(**settings: Any) -> AlphaFlow:
    """Improved MeanFlow (arXiv 2512.02012): the v-loss ‖u + (t - r) du⁻/dt - v‖², tangent (u⁻(z, t, t), 0, 1)."""
    recipe = {
        "alpha": 0.0,
        "shift": "velocity",
        "flow_ratio": 0.5,
        "times": _SORTED_FIRST,
        "weight": Weight(kind="power"),
    }
    return AlphaFlow(**{**recipe, **settings})


def Lagrangian(**settings: Any) -> AlphaFlow:
    """Lagrangian self-distillation (flow maps, arXiv 2505.18825): the interval's end r moves, not its start t.

    The target is u⁻(z_r, r, r) + (t - r) ∂u⁻/∂r at z_r = z_t - (t - r) u⁻, the limit of `shift="model"` as α → 1;
    75 % of rows with r = t, the others uniform on the triangle r <= t. The weight is uniform, as TVM's
    (2511.19797): u = 0 fits the others, and a weight that divides by a row's error makes the most of that
    (docs/family.md).
    """
    recipe = {
        "alpha": 0.0,
        "shift": "end",
        "flow_ratio": 0.75,
        "times": Times(t=Uniform(), r=Uniform()),
        "weight": Weight(kind="uniform"),
    }
    return AlphaFlow(**{**recipe, **settings})


def TVM(**settings: Any) -> AlphaFlow:
    """Terminal velocity matching (arXiv 2511.19797): Lagrangian, with a gradient through u and ∂u/∂r.

    On half of the rows r < t, and ‖u - (t - r) ∂u/∂r - u⁻(z_r, r, r)‖² is the loss; t - r is drawn first, then r
    where it leaves room. The other half is flow matching. Its code draws both halves on one sample and noise, here
    they are rows of their own, which has the same mean; and there u⁻ is an average of decay 0.99, here it is the
    network's own, as in `Lagrangian`. Its guidance at one scale ω is `Guidance(omega=ω, drop=0.1)`.
    """
    recipe = {
        "alpha": 0.0,
        "shift": "end",
        "full_gradient": True,
        "flow_ratio": 0.5,
        "times": Times(coupling="gap", t=LogitNormal(-0.8), r=LogitNormal()),
        "weight": Weight(kind="uniform"),
    }
    return AlphaFlow(**{**recipe, **settings})


def SoFlow(**settings: Any) -> AlphaFlow:
    """SoFlow (arXiv 2512.15657), as for ImageNet: α-Flow's target at small α from the first step to the last.

    α falls from 0.1 to 0.002 by the same factor in each step. The weight is 1 / (Q + c) of the difference
    quotient's mean square Q = E / α², so that rows with r < t count as MeanFlow's do. 75 % of rows have r = t; on
    the others r = min(t, a draw), which its code cuts at t - 1e-4. Its guidance is that of
    `Guidance(omega=0.75, kappa=0.75, t_max=0.8)`, scale 3, but that the paper's interval ends smoothly.
    """
    recipe = {
        "alpha": schedules.exponential(0, 400_000, math.log(50), first=0.1, last=0.002),
        "flow_ratio": 0.75,
        "times": Times(
            coupling="minimum", t=LogitNormal(0.2, 0.8), r=LogitNormal(-1.0, 0.8), flow=LogitNormal(-0.2)
        ),
        "weight": Weight(kind="scaled", c=1e-2),
    }
    return AlphaFlow(**{**recipe, **settings})


def RCGM(delta: float = 0.01, **settings: Any) -> AlphaFlow:
    """RCGM (as in TwinFlow, arXiv 2512.05150): a step of length δ at the start of any interval, then jumps.

    The first part of the way is δ long at most and goes along v; two jumps of the network (`jumps`) are the rest.
    The target is u⁻ - (u⁻ - α v - (1 - α) u⁻_jumps) / α with its change cut to ±1, and the weight
    1 / (E + 1e-6)^½, which is TwinFlow's robust loss, times 1 + tan(2π/5 (1 - (t - r))). t is uniform, and r / t
    likewise. Of the four parts of TwinFlow's batch this is the one with any (r, t), and 25 % of rows have r = t in
    the place of the one with r near t.

    delta: δ, in time: the path from noise to data has the length 1.

    Raises:
        ValueError: delta outside (0, 1].
    """
    recipe = {
        "alpha": StepSize(delta),
        "flow_ratio": 0.25,
        "times": Times(coupling="scaled", t=Uniform(), r=Uniform()),
        "weight": Weight(power=0.5, c=1e-6, by_time="rcgm"),
        "jumps": 2,
        "max_change": 1.0,
    }
    return AlphaFlow(**{**recipe, **settings})


def _discrete_consistency(**settings: Any) -> AlphaFlow:
    return ConsistencyTraining(delta=1 / 64, **settings)


MEMBERS: dict[str, Callable[..., AlphaFlow]] = {
    "alphaflow": AlphaFlow,
    "meanflow": MeanFlow,
    "tfm": TrajectoryFlowMatching,
    "fm": FlowMatching,
    "shortcut": Shortcut,
    "consistency": ConsistencyTraining,
    "discrete-consistency": _discrete_consistency,
    "splitmeanflow": SplitMeanFlow,
    "facm": FACM,
    "imeanflow": ImprovedMeanFlow,
    "lagrangian": Lagrangian,
    "tvm": TVM,
    "soflow": SoFlow,
    "rcgm": RCGM,
}


def member(name: str, steps: int) -> AlphaFlow:
    """Return the member as it was published, its curriculum spread over a run of `steps` steps.

    Raises:
        UserError: (a ValueError) an unknown name; the nearest is suggested.
    """
    choose("objective", name, MEMBERS, status=2)
    published = MEMBERS[name]()
    if isinstance(published.alpha, schedules.Curve):
        return replace(published, alpha=replace(published.alpha, start=0, end=steps))
    return published


def statement(objective: AlphaFlow, name: str, steps: int) -> str:
    """Return an objective in one line: member, α, ṽ, share of rows with r = t, times, weight, guidance.

    What differs from the member of this name as it was published is followed by the published value in brackets.
    Guidance and a teacher change which velocity is learned, by any member, and are told without brackets.

    steps: the length of the run, over which a published curriculum is spread.
    """
    ours, published = _parts(objective), _parts(member(name, steps))
    told = []
    for part, value in ours.items():
        own = published[part]
        departs = value != own and not (name == "alphaflow" and _varies(part, objective, steps))
        if value or own:
            none = "as elsewhere" if part == "times where r = t" else "none"
            told.append(f"{part} {value or none}" + (f" [published: {own or none}]" if departs else ""))
    teacher = "; velocities of a teacher" if objective.teacher is not None else ""
    guidance = str(objective.guidance) if objective.guidance is not None else "none"
    return f"{name}: {'; '.join(told)}{teacher}; guidance {guidance}"


def as_it_runs(line: str) -> str:
    """Return a statement without what was published instead."""
    return re.sub(r" \[published: [^]]*\]", "", line)


def _varies(part: str, objective: AlphaFlow, steps: int) -> bool:
    """Whether this is one of the values that α-Flow's own runs have: a sigmoid within the run, 25 or 50 % of rows,
    targets cut at 4 or not at all."""
    alpha = objective.alpha
    if part == "α" and isinstance(alpha, schedules.Curve):
        whole = schedules.sigmoid(alpha.start, alpha.end)
        return alpha == whole and 0 <= alpha.start < alpha.end <= steps
    return {"r = t on": objective.flow_ratio in (0.25, 0.5), "clip": objective.clip in (None, 4)}.get(part, False)


def _alpha_words(objective: AlphaFlow) -> str:
    alpha = objective.alpha
    if isinstance(alpha, int | float):
        return f"{alpha:g}"
    to_data = objective.times.coupling == "minimum" and objective.times.r == Constant(0.0)
    return str(alpha).replace("(t - r)", "t") if isinstance(alpha, StepSize) and to_data else str(alpha)


def _weight_words(objective: AlphaFlow, far: bool) -> str:
    """Return the weight, with what its α is where that is not α."""
    weight, alpha = objective.weight, objective.alpha
    both = objective.shift in ("model", "end") and far and not (isinstance(alpha, int | float) and alpha in (0, 1))
    counts = both and isinstance(weight, Weight) and weight.kind in ("scaled", "normalised")
    return f"{weight}, α (1 - α) for α" if counts else str(weight)


def _parts(objective: AlphaFlow) -> dict[str, str]:
    """Return what an objective is made of, in words; empty where it makes no use of it."""
    alpha, ratio = objective.alpha, objective.flow_ratio
    far, flow = ratio != 1, ratio != 0
    blend = f" {objective.blend:g}" if objective.blend != 1 else ""
    trust = objective.trust
    law = words(objective.times.flow) if objective.times.flow is not None else ""
    return {
        "α": _alpha_words(objective),
        "ṽ": (objective.shift if far and alpha != 1 else "data") + blend,
        "r = t on": f"{100 * ratio:.4g} % of rows" if isinstance(ratio, int | float) else str(ratio),
        "times": str(objective.times) if far else objective.times.words_where_equal(),
        "times where r = t": law if far and flow else "",
        "weight": _weight_words(objective, far),
        "trust": f"{trust}" if callable(trust) or trust != 1 else "",
        "clip": "" if objective.clip is None else f"±{objective.clip:g}",
        "jumps": f"{objective.jumps}" if objective.jumps != 1 else "",
        "change": "" if objective.max_change is None else f"over α, ±{objective.max_change:g}",
        "relaxation": "" if objective.relaxation is None else f"{objective.relaxation:g}",
        "gradient": "through u and ∂u/∂r" if objective.full_gradient else "",
        "cosine": f"{objective.cosine:g}" if objective.cosine else "",
    }
