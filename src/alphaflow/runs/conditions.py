"""Whom single settings concern, and the names that others have for what a setting may name.

Conditions are for the declarations in `config.py`: a setting that a person gives where its condition does not hold
would say nothing, and is refused. They look at words, never at data or networks, so that nothing heavy loads.
"""

from typing import Any

from ..errors import UserError
from ..method import schedules
from ..method.self_steering import SelfSteering
from .constraints import Only

TOYS = ("checkerboard", "moons", "gaussians", "spirals")
"""The distributions of `data/toys.py`."""
ALPHAS: dict[str, tuple[float, ...]] = {
    "alphaflow": (0.0, 1.0),
    "meanflow": (0.0,),
    "tfm": (1.0,),
    "fm": (1.0,),
    "shortcut": (0.5,),
    "consistency": (0.0,),
    "discrete-consistency": (1 / 64, 1.0),
    "splitmeanflow": (1e-3, 1.0),
    "facm": (0.0,),
    "imeanflow": (0.0,),
    "lagrangian": (0.0,),
    "tvm": (0.0,),
    "soflow": (0.002, 0.1),
    "rcgm": (0.01, 1.0),
}
"""The members of the family by their names, with the values between which their own α lies."""
WAYS = ("auto", "forward", "fused", "reverse", "difference")
"""The ways to du/dt of `derivatives/ways.py`."""
DETECTORS = ("digits", "fashion", "shapes", "inception", "dinov2", "clip", "clip-l", "i3d")
"""The detectors of `metrics`, by name."""
WIDEST = 0.28
"""The widest average of `models/ema.py`, as a share of the run."""


def of_data(*names: str) -> Only:
    """Return the condition of what these data sets alone know."""
    return Only(f"data.name {' or '.join(names)}", lambda config: config.data.name in names)


def of_model(*names: str) -> Only:
    """Return the condition of what these networks alone have."""
    return Only(f"model.name {' or '.join(names)}", lambda config: config.model.name in names)


def alphas(config: Any) -> tuple[float, ...]:
    """Return the values between which α lies in a run; (0, 1) where that is not known."""
    own = config.objective.alpha
    if own is None:
        return ALPHAS.get(config.objective.name, (0.0, 1.0))
    try:
        schedule = schedules.parse(own, config.schedule_steps or config.steps, further={"self": SelfSteering})
    except UserError:
        return (0.0, 1.0)
    return schedules.extremes(schedule) or (0.0, 1.0)


def _guided(config: Any) -> bool:
    ours = config.objective
    return ours.omega != 1 or ours.kappa != 0 or ours.label_drop > 0


def _jumps(config: Any) -> bool:
    """Whether there are rows with r < t at any time."""
    own, horizon = config.objective.flow_ratio, config.schedule_steps or config.steps
    if own is None:
        return bool(config.objective.name != "fm")
    try:
        return min(schedules.extremes(schedules.parse(own, horizon))) < 1
    except (UserError, ValueError):
        return True


def _dyadic(config: Any) -> bool:
    own = config.objective.coupling
    return own == "dyadic" or (own is None and config.objective.name == "shortcut")


def _velocity(config: Any) -> bool:
    own = config.objective.shift
    return own == "velocity" or (own is None and config.objective.name == "imeanflow")


_DRAWN = ("digits", "shapes", "toy", "moving-digits")
AT_ADDRESS = Only(
    "data that lie somewhere (data.name folder, latents, …)", lambda one: one.data.name not in _DRAWN
)
PICTURES = Only("pictures or videos, not points (data.name)", lambda one: one.data.name != "toy")
CAPTIONED = Only(
    "data with captions (data.name shapes, data.captions)",
    lambda one: one.data.name == "shapes" or bool(one.data.captions),
)
LABELLED = Only(
    "data that have classes, and the checkerboard has none (data.toy)",
    lambda one: (one.data.name, one.data.toy) != ("toy", "checkerboard"),
)
TRANSFORMER = of_model("dit", "video-dit")
POWERED = Only(
    "objective.weight adaptive, scaled or power",
    lambda one: one.objective.weight in ("adaptive", "scaled", "power"),
)
WEIGHTED = Only(
    "objective.weight adaptive, scaled, power or normalised",
    lambda one: one.objective.weight in ("adaptive", "scaled", "power", "normalised"),
)
TIMED = Only("an objective.weight that is said as well", lambda one: one.objective.weight is not None)
STEPPED = Only(
    "objective.name discrete-consistency or rcgm, and no objective.alpha",
    lambda one: one.objective.name in ("discrete-consistency", "rcgm") and one.objective.alpha is None,
)
BLENDED = Only("objective.shift velocity, where the network's own takes part", _velocity)
CLIPPED = Only(
    "rows where r < t and an objective.alpha above 0, where targets are clipped",
    lambda one: _jumps(one) and alphas(one) != (0.0,),
)
SHIFTED = Only(
    "rows where r < t and an objective.alpha below 1, where z is shifted",
    lambda one: _jumps(one) and alphas(one) != (1.0,),
)
DIFFERENTIATED = Only(
    "an objective.alpha that comes to 0, where du/dt is taken",
    lambda one: one.diagnosis.every > 0 or 0.0 in alphas(one),
)
INTERVALS = Only(
    "rows where r < t, and fm has none of its own (objective.name, objective.flow_ratio)", lambda one: _jumps(one)
)
NOT_DYADIC = Only("another objective.coupling than dyadic", lambda one: not _dyadic(one))
GUIDED = Only("objective.omega, objective.kappa or objective.label_drop", _guided)
DROPPED = Only("objective.label_drop above 0", lambda one: one.objective.label_drop > 0)
STAGED = Only("stage trajectories", lambda one: one.stage == "trajectories")
AVERAGED = Only("ema.half_life above 0", lambda one: one.ema.half_life > 0)
STORED = Only("ema.profiles", lambda one: bool(one.ema.profiles))
MONITORED = Only("monitor.every above 0", lambda one: one.monitor.every > 0)
DIAGNOSED = Only("diagnosis.every above 0", lambda one: one.diagnosis.every > 0)
