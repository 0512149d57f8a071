"""alphaflow: train one-step and few-step generators from scratch.

The names below load on first use, so that `alphaflow --help` need not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import models
    from .derivatives.total import DerivativeError, check_derivative, total_derivative
    from .errors import UserError
    from .generation.generator import Generator
    from .method import schedules, times
    from .method.alpha import RandomSplit, StepSize
    from .method.compiled import Compiled
    from .method.family import (
        FACM,
        RCGM,
        TVM,
        ConsistencyTraining,
        FlowMatching,
        ImprovedMeanFlow,
        Lagrangian,
        MeanFlow,
        Shortcut,
        SoFlow,
        SplitMeanFlow,
        TrajectoryFlowMatching,
    )
    from .method.guidance import Autoguided, Guidance, Guided
    from .method.objective import AlphaFlow, Output
    from .method.sampling import invert, jump, sample
    from .method.self_steering import SelfSteering
    from .method.targets import average_velocity_target
    from .method.times import Times
    from .method.trajectories import Trajectories
    from .method.weighting import Weight
    from .metrics import frechet_distance
    from .models.adapted import adapt
    from .models.ema import EMA
    from .models.flow_facts import FlowFacts
    from .path import interpolate
    from .rng import KeyedRandom
    from .runs.loading import load

_HOME = {
    "models": "",
    **{name: ".method" for name in ("schedules", "times")},
    **{name: ".derivatives.total" for name in ("DerivativeError", "check_derivative", "total_derivative")},
    "Compiled": ".method.compiled",
    "EMA": ".models.ema",
    "FlowFacts": ".models.flow_facts",
    "adapt": ".models.adapted",
    "UserError": ".errors",
    "Generator": ".generation.generator",
    "load": ".runs.loading",
    **{name: ".method.guidance" for name in ("Autoguided", "Guidance", "Guided")},
    **{
        name: ".method.family"
        for name in (
            "FACM",
            "RCGM",
            "TVM",
            "ConsistencyTraining",
            "FlowMatching",
            "ImprovedMeanFlow",
            "Lagrangian",
            "MeanFlow",
            "Shortcut",
            "SoFlow",
            "SplitMeanFlow",
            "TrajectoryFlowMatching",
        )
    },
    "frechet_distance": ".metrics",
    **{name: ".method.alpha" for name in ("RandomSplit", "StepSize")},
    **{name: ".method.objective" for name in ("AlphaFlow", "Output")},
    "interpolate": ".path",
    "KeyedRandom": ".rng",
    **{name: ".method.sampling" for name in ("invert", "jump", "sample")},
    "SelfSteering": ".method.self_steering",
    "average_velocity_target": ".method.targets",
    "Times": ".method.times",
    "Trajectories": ".method.trajectories",
    "Weight": ".method.weighting",
}
_MODULES = ("models", "schedules", "times")
__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'alphaflow' has no attribute {name!r}")
    home = _HOME[name]
    if name in _MODULES:
        value = import_module(f"{home}.{name}", __name__)
    else:
        value = getattr(import_module(home, __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
