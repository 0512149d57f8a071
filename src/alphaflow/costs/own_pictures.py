"""The run that suits a person's own pictures: their size, the network, the batch and the number of steps.

All of it follows from a look at the pictures, the device and the time there is; what a person has said stays, and
the rest follows that. Only the number of steps and the choice of the network depend on a measurement, and with
`--steps` there is none.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..data import Told, Vocabulary
from ..errors import UserError
from ..progress import duration
from ..runs.config import Config
from .asked import Asked, shape_of, tokens_of
from .budget import Overhead, budget_word, seconds_for, steps_within
from .ladder import on_rung, rungs, usual, weights_of, work
from .picture_size import of_pictures

ENOUGH = 4000
"""Steps that a network should have; the largest of the ladder that has them is taken."""
LEAST = 400
"""Fewer steps than these teach nothing."""
VIEWS = 1000
"""As often may each picture be seen: beyond, a network learns pictures by heart."""
ALWAYS = 2000
"""So many steps are taken however few pictures there are."""
FEW = 500
"""Fewer pictures than these are told to be few."""

Measure = Callable[[Config, Sequence[int], Told], float]
"""Seconds of one step of a run, on samples of a shape, of which a network is told so much."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """The run that was chosen."""

    config: Config
    shape: tuple[int, int, int]
    """Of a picture as the network has it."""
    told: Told
    lines: tuple[str, ...]
    """What was chosen, for people."""


def fit(asked: Asked, measure: Measure, left: Callable[[], float]) -> Fitted:
    """Choose the run.

    Args:
        asked: what there is to decide from.
        measure: takes a few steps of a run; not called where the number of steps was said.
        left: seconds that are left of the budget, when it is called.

    Raises:
        UserError: with status 2: no patches fit the pictures, or the budget holds too few steps.
    """
    config = asked.with_unsaid(of_pictures(asked))
    networks = [on_rung(asked, config, rung) for rung in rungs(asked)]
    if "steps" in asked.said:
        config = _paced(asked, networks[usual(asked, len(networks))], config.steps)
        return _fitted(asked, config, "")
    most = max(ALWAYS, math.ceil(VIEWS * asked.look.count / config.batch_size))
    chosen, step = _network(asked, networks, min(ENOUGH, most), measure, left)
    steps = _steps(asked, chosen, step, left())
    if steps < LEAST:
        raise UserError(_too_little(asked, chosen, step, steps, asked.budget - left()), status=2)
    config = _paced(asked, chosen, min(steps, most))
    seconds = asked.budget - left() + seconds_for(config.steps, step, _overhead(asked, config))
    said = f"{duration(seconds)} of {budget_word(asked.budget)}: {step:.3g} s a step, measured on "
    said += asked.device_words
    if steps > most:
        said += f"; more steps would learn {asked.look.count:,} pictures by heart (--steps N for more)"
    return _fitted(asked, config, said)


def _network(
    asked: Asked, networks: Sequence[Config], needed: int, measure: Measure, left: Callable[[], float]
) -> tuple[Config, float]:
    """Return the largest network that has `needed` steps, else the smallest, and the seconds of its step.

    One is measured and tells about the others; the one to which that points is measured as well.
    """
    number, top = usual(asked, len(networks)), len(networks) - 1
    measured: dict[int, float] = {}
    while number not in measured:
        one = networks[number]
        measured[number] = measure(one, shape_of(one), asked.told)
        rate = measured[number] / work(one)
        if number and _steps(asked, one, measured[number], left()) < needed:
            top = number - 1
        steps = {k: measured.get(k, rate * work(networks[k])) for k in range(top + 1)}
        fitting = [k for k, step in steps.items() if _steps(asked, networks[k], step, left()) >= needed]
        number = max(fitting, default=0)
    return networks[number], measured[number]


def _steps(asked: Asked, config: Config, step: float, seconds: float) -> int:
    """Return the steps that so many seconds hold beside all else; round ones where there are many."""
    about = steps_within(seconds, step, _overhead(asked, _paced(asked, config, ENOUGH)))
    steps = steps_within(seconds, step, _overhead(asked, _paced(asked, config, max(1, about))))
    return steps // 20 * 20 if steps >= LEAST else steps


def _too_little(asked: Asked, config: Config, step: float, steps: int, spent: float) -> str:
    needed = spent + seconds_for(LEAST, step, _overhead(asked, _paced(asked, config, LEAST)))
    remedy = f"give --budget {budget_word(1.1 * needed)}"
    smaller = [size for size in (32, 16, 8) if size < config.data.size]
    if smaller:
        remedy += f", or smaller pictures (--data.size {smaller[0]})"
    return (
        f"--budget {budget_word(asked.budget)} holds {steps} steps of {step:.3g} s, by a network of width "
        f"{config.model.width} on {asked.device_words}, and fewer than {LEAST} teach nothing: {remedy}"
    )


def _paced(asked: Asked, config: Config, steps: int) -> Config:
    """Return the settings with this number of steps, and with what is a share of it."""
    part = max(1, steps // 20)
    changes = {
        "log_every": max(1, min(20, steps // 100)),
        "sample_every": part,
        "checkpoint_every": part,
        "optimizer.warmup": math.ceil(0.03 * steps),
        "ema.half_life": max(1.0, round(0.05 * steps, 1)),
    }
    return asked.with_unsaid(changes, dataclasses.replace(config, steps=steps))


# ---------------------------------------------------------------------- what is no step

_BEGIN = 5.0  # seconds: to load, to hash the pictures, to make the folder, to write the end
_CHECK = 8  # steps' worth of passes over the first batch
_PASS = 0.2  # of a step: drawing as many samples
_SHOWN = 64  # samples of a picture
_WRITTEN = 150e6  # bytes a second of checkpoints
_COMPARED = 5e9  # operations a second of distances in float64


def _overhead(asked: Asked, config: Config) -> Overhead:
    """Return what a run takes beside its steps; of scores by a published detector only the drawing."""
    pictures, files = (1 + config.steps // every for every in (config.sample_every, config.checkpoint_every))
    monitor = config.monitor
    scores = config.steps // monitor.every + 1 if monitor.every else 0
    drawn = (_SHOWN * pictures + monitor.count * scores * monitor.nfe) / config.batch_size
    written = 16 * weights_of(config, shape_of(config), asked.told)
    fixed = _BEGIN + asked.look.seconds * asked.look.count / asked.threads
    fixed += pictures * 0.2 + files * (0.2 + written / _WRITTEN)
    if scores and not monitor.detector:
        values = math.prod(shape_of(config))
        real = min(asked.look.count, max(monitor.count, 2**24 // values))
        pairs = real**2 + scores * monitor.count * (real + monitor.count)
        fixed += 2 * values * pairs / _COMPARED
    return Overhead(fixed=fixed, steps=_CHECK + _PASS * drawn)


def _fitted(asked: Asked, config: Config, time: str) -> Fitted:
    """Return the run that was chosen. time: what it takes, in words."""
    model, told, side, count = config.model, asked.told, config.data.size, asked.look.count
    if isinstance(told, Vocabulary):
        what = f"captions of {len(told.words):,} words"
    else:
        what = f"{told:,} classes" if told else "no labels"
    mirrored = "mirrored" if config.data.flip else "not mirrored (--data.flip)"
    few = f"; {count:,} are few: expect copies of them" * (count < FEW)
    weights, seen = weights_of(config, shape_of(config), told), config.steps * config.batch_size / count
    rows = {
        "pictures": f"{asked.look}, {what}; as {side}×{side} {'grey' if config.data.grey else 'RGB'}, "
        f"{mirrored}{few}",
        "network": f"DiT of width {model.width}, depth {model.depth}, {model.heads} heads, patches of "
        f"{model.patch} ({tokens_of(config)} tokens): {weights:,} weights",
        "training": f"{config.steps:,} steps of {config.batch_size}, each picture {seen:,.1f} times; learning "
        f"rate {config.optimizer.lr:g}, times shifted by {config.objective.time_shift:g}",
        "time": time,
    }
    lines = tuple(f"{name:10} {text}" for name, text in rows.items() if text)
    return Fitted(config=config, shape=shape_of(config), told=told, lines=lines)
