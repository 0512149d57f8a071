"""alphaflow: train one-step and few-step generators from scratch.

The names below load on first use, so that `alphaflow --help` need not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import models, schedules, times
    from .compiled import Compiled
    from .derivative import DerivativeError, check_derivative, total_derivative
    from .ema import EMA
    from .errors import UserError
    from .generate import Generator, load
    from .guidance import Guidance, Guided
    from .members import (
        FACM,
        ConsistencyTraining,
        FlowMatching,
        ImprovedMeanFlow,
        MeanFlow,
        Shortcut,
        SplitMeanFlow,
        TrajectoryFlowMatching,
    )
    from .metrics import frechet_distance
    from .objectives import AlphaFlow, Output, RandomSplit, StepSize
    from .path import interpolate
    from .rng import KeyedRandom
    from .sampling import invert, jump, sample
    from .steering import SelfSteering
    from .targets import average_velocity_target
    from .times import Times
    from .weighting import Weight

_HOME = {
    **{name: "" for name in ("models", "schedules", "times")},
    **{name: ".derivative" for name in ("DerivativeError", "check_derivative", "total_derivative")},
    "Compiled": ".compiled",
    "EMA": ".ema",
    "UserError": ".errors",
    **{name: ".generate" for name in ("Generator", "load")},
    **{name: ".guidance" for name in ("Guidance", "Guided")},
    **{
        name: ".members"
        for name in (
            "FACM",
            "ConsistencyTraining",
            "FlowMatching",
            "ImprovedMeanFlow",
            "MeanFlow",
            "Shortcut",
            "SplitMeanFlow",
            "TrajectoryFlowMatching",
        )
    },
    "frechet_distance": ".metrics",
    **{name: ".objectives" for name in ("AlphaFlow", "Output", "RandomSplit", "StepSize")},
    "interpolate": ".path",
    "KeyedRandom": ".rng",
    **{name: ".sampling" for name in ("invert", "jump", "sample")},
    "SelfSteering": ".steering",
    "average_velocity_target": ".targets",
    "Times": ".times",
    "Weight": ".weighting",
}
__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'alphaflow' has no attribute {name!r}")
    home = _HOME[name]
    value = getattr(import_module(home, __name__), name) if home else import_module(f".{name}", __name__)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
