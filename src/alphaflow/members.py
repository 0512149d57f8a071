"""The members of the family, each a setting of `AlphaFlow`.

Keyword arguments are the fields of `AlphaFlow`; they override what a member prescribes. `MEMBERS` has the names
that config files and the command line use.
"""

from collections.abc import Callable
from typing import Any

from .objectives import AlphaFlow, RandomSplit, StepSize
from .times import Constant, LogitNormal, Times, Uniform
from .weighting import AnchorWeight, Weight

_TO_DATA = Times(coupling="minimum", t=LogitNormal(), r=Constant(0.0))


def FlowMatching(**settings: Any) -> AlphaFlow:
    """Flow matching (arXiv 2210.02747; FM′ in α-Flow): every row has r = t and the target v. Needs many steps."""
    return AlphaFlow(**{"alpha": 1.0, "flow_ratio": 1.0, **settings})


def TrajectoryFlowMatching(**settings: Any) -> AlphaFlow:
    """Trajectory flow matching (α-Flow, arXiv 2510.20771): α = 1, the target v for any (r, t). L_TFM = L_{α=1}."""
    return AlphaFlow(**{"alpha": 1.0, **settings})


def MeanFlow(**settings: Any) -> AlphaFlow:
    """MeanFlow (arXiv 2505.13447): α = 0, the target v - (t - r) du/dt; 75 % of rows with r = t."""
    return AlphaFlow(**{"alpha": 0.0, "flow_ratio": 0.75, **settings})


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


def ConsistencyTraining(delta: float | None = None, **settings: Any) -> AlphaFlow:
    """Consistency training (arXiv 2303.01469): r = 0, no r = t rows, the weights of α-Flow's Theorem 1.

    delta: the step t - s in time, so α = δ / t and the loss is E[‖f_t - f_s‖² / (t δ)]; None: its limit δ → 0,
    whose gradient is that of 2 E[(1/t) fᵀ df⁻/dt]. Here u(z, 0, t) = (z - f(z, t)) / t; for a network that
    predicts f, the data, wrap it in `models.DataPrediction`.

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
    recipe = {"alpha": 0.0, "shift": "velocity", "flow_ratio": 0.5, "weight": Weight(kind="power")}
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
}
