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
from .ladder import networks, usual, weights_of, work
from .picture_size import of_pictures

ENOUGH = 4000
"""Steps that a network should have; the largest of the ladder that has them is taken."""
LEAST = 400
"""Fewer steps than these teach nothing."""
VIEWS = 1000
"""As often may each picture be seen: beyond, a network learns pictures by heart."""
ALWAYS = 2000
"""So many steps are taken however few pictures there are."""
PARTS = 20
"""A picture of samples and a checkpoint come with each of so many parts of a run."""
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
    among = networks(asked, asked.with_unsaid(of_pictures(asked)))
    if "steps" in asked.said:
        return _fitted(asked, _paced(asked, among[usual(asked, among)], asked.config.steps), "")
    chosen, step = _network(asked, among, measure, left)
    steps, most = _steps(asked, chosen, step, left()), _most(asked, chosen)
    if steps < LEAST:
        raise UserError(_too_little(asked, chosen, step, steps, asked.budget - left()), status=2)
    config = _paced(asked, chosen, min(steps, most))
    seconds = asked.budget - left() + seconds_for(config.steps, step, _overhead(asked, config))
    said = f"{duration(seconds)} of {budget_word(asked.budget)}: {step:.3g} s a step, measured on "
    said += asked.device_words
    if steps > most:
        said += f"; more steps would learn {asked.look.count:,} pictures by heart (--steps N for more)"
    if asked.busy:
        said += f"; {asked.busy}"
    return _fitted(asked, config, said)


def _network(
    asked: Asked, among: Sequence[Config], measure: Measure, left: Callable[[], float]
) -> tuple[Config, float]:
    """Return the largest network that has steps enough, else the first, and the seconds of its step.

    One is measured and tells about the others; the one to which that points is measured as well, and where it has
    too few steps after all, the next smaller one.
    """
    first = usual(asked, among)
    measured: dict[int, float] = {}

    def step_of(k: int) -> float:
        if k not in measured:
            measured[k] = measure(among[k], shape_of(among[k]), asked.told)
        return measured[k]

    def has_enough(k: int, step: float) -> bool:
        return _steps(asked, among[k], step, left()) >= min(ENOUGH, _most(asked, among[k]))

    rate = step_of(first) / work(among[first])
    fitting = [k for k, one in enumerate(among) if has_enough(k, measured.get(k, rate * work(one)))]
    number = max(fitting, default=0)
    while number and not has_enough(number, step_of(number)):
        number -= 1
    return among[number], step_of(number)


def _most(asked: Asked, config: Config) -> int:
    """Return the steps beyond which pictures are learnt by heart."""
    return max(ALWAYS, math.ceil(VIEWS * asked.look.count / config.batch_size))


def _steps(asked: Asked, config: Config, step: float, seconds: float) -> int:
    """Return the steps that so many seconds hold beside all else; round ones where there are many."""
    steps = steps_within(seconds, step, _overhead(asked, config))
    return steps // 20 * 20 if steps >= LEAST else steps


def _too_little(asked: Asked, config: Config, step: float, steps: int, spent: float) -> str:
    needed = spent + seconds_for(LEAST, step, _overhead(asked, config))
    remedy = f"give --budget {budget_word(1.1 * needed)}"
    smaller = [size for size in (32, 16, 8) if size < config.data.size]
    if smaller:
        remedy += f", or smaller pictures (--data.size {smaller[0]})"
    remedy += f"; {asked.busy}" * bool(asked.busy)
    return (
        f"--budget {budget_word(asked.budget)} holds {steps} steps of {step:.3g} s, by a network of width "
        f"{config.model.width} on {asked.device_words}, and fewer than {LEAST} teach nothing: {remedy}"
    )


def _paced(asked: Asked, config: Config, steps: int) -> Config:
    """Return the settings with this number of steps, and with what is a share of it."""
    part = max(1, steps // PARTS)
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
    monitor, values, weights = config.monitor, math.prod(shape_of(config)), weights_of(config, asked)
    real = min(asked.look.count, max(monitor.count, 2**24 // values)) if not monitor.detector else 0
    compared = 2 * values * real / _COMPARED
    begin = _BEGIN + asked.look.seconds * asked.look.count / asked.threads
    begin += (compared * real) * (monitor.every > 0)
    once, each = [begin, _CHECK], [0.0, 0.0]
    rows = _PASS / config.batch_size
    for name, every, costs in (
        ("sample_every", config.sample_every, (0.2, rows * _SHOWN)),
        ("checkpoint_every", config.checkpoint_every, (0.2 + 16 * weights / _WRITTEN, 0.0)),
        ("monitor.every", monitor.every, (compared * monitor.count, rows * monitor.count * monitor.nfe)),
    ):
        for k, cost in enumerate(costs):
            once[k] += cost * (1 if name in asked.said else PARTS + 1) * (every > 0)
            each[k] += cost / every if name in asked.said and every else 0.0
    return Overhead(seconds=once[0], steps=once[1], seconds_each=each[0], steps_each=each[1])


def _fitted(asked: Asked, config: Config, time: str) -> Fitted:
    """Return the run that was chosen. time: what it takes, in words."""
    model, told, side, count = config.model, asked.told, config.data.size, asked.look.count
    if isinstance(told, Vocabulary):
        what = f"captions of {len(told.words):,} words"
    else:
        what = f"{told:,} classes" if told else "no labels"
    mirrored = "mirrored" if config.data.flip else "not mirrored (--data.flip)"
    few = f"; {count:,} are few: expect copies of them" * (count < FEW)
    weights, seen = weights_of(config, asked), config.steps * config.batch_size / count
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
