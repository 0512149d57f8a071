"""The time of a run on this machine, from a few of its steps that are really taken."""

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from ..data import Batch, Told
from ..data.vocabulary import some_condition
from ..devices import choose_device, prepare
from ..errors import UserError
from ..method.self_steering import SelfSteering
from ..models.ema import EMA
from ..parallel.blocks import recompute_blocks
from ..runs.build import build_model, build_objective
from ..runs.config import Config
from ..training.loss import Loss
from . import estimate
from .estimate import CostEstimate, duration

log = logging.getLogger("alphaflow")

SECONDS = 1.0
"""As long may a measured step take: with more rows than fit, it is measured on fewer."""
WHOLE = 8.0
"""The same where a budget hangs on it: most steps are taken on all rows."""
STEADY = 4.0
"""So many seconds are then spent on measuring at the least: a machine's pace varies from step to step."""
PARTS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Where in the schedule steps are taken: what they cost depends on α."""
LONGEST = 0.25
"""As many seconds may one sample's step take by the machine's arithmetic; beyond that none is taken."""


@dataclass(frozen=True, kw_only=True)
class MeasuredTime:
    """The time of a run, by the steps that were taken."""

    seconds: float
    """Seconds of one whole step, mean over the schedule; data, checkpoints and observers come on top."""
    steps: int
    """The number of steps of the run."""
    rows: int
    """The samples of each step that was taken."""
    batch_size: int
    """The samples of a step of the run: the time is taken to grow in proportion."""
    device: str
    """The device, in words."""
    busy: str = ""
    """What else the machine does, in words, if much."""

    def __str__(self) -> str:
        fewer = (
            f", measured on {self.rows} of its {self.batch_size} samples" if self.rows < self.batch_size else ""
        )
        return (
            f"{duration(self.seconds * self.steps)} on {self.device}: {self.seconds:.3g} s a step, mean of "
            f"{len(PARTS)} steps through the schedule{fewer}; compilation, data and checkpoints left out"
            + f"; {self.busy}"
            * bool(self.busy)
        )


def measure(
    config: Config, shape: Sequence[int], num_classes: Told, plan: CostEstimate, longest: float = SECONDS
) -> MeasuredTime | str:
    """Take a few steps of the run on random samples, all through its schedule.

    Args:
        config: the run's settings. A teacher is left out of account: with one, nothing is measured.
        shape: that of a sample.
        num_classes: the data's number of classes, or the vocabulary of their captions.
        plan: what the run costs by arithmetic.
        longest: as many seconds may a step take; one that would take longer is taken on fewer rows.

    Returns:
        the time, or in words why nothing was measured.
    """
    device = choose_device(config.device)
    if config.distill.teacher:
        return "not measured: there is a teacher"
    rate = _flops_per_second(device, config.precision)
    if plan.step_flops / config.batch_size > LONGEST * rate:
        least, products = duration(plan.step_flops / rate * config.steps), f"{config.precision} products"
        return (
            f"{least} at the least: the step's FLOPs at the {rate / 1e9:.3g} GFLOP/s of {products} on "
            f"{device_words(device)}; too long to be measured"
        )
    needed, there = 4 * 5 * plan.parameters, _memory(device)
    if needed > 0.8 * there:
        return f"not measured: weights and optimizer take {needed / 2**30:.1f} GiB of {there / 2**30:.1f}"
    prepare(device)
    try:
        return _measure(config, shape, num_classes, device, longest)
    except torch.OutOfMemoryError:
        return "not measured: a step does not fit into the device's memory"


def seconds_of_step(config: Config, shape: Sequence[int], num_classes: Told) -> float:
    """Return the seconds of a step of a run on this machine, mean over its schedule, by a few that are taken.

    Raises:
        UserError: with status 2: none can be taken.
    """
    log.info("taking a few steps of width %d, to see how long they take here", config.model.width)
    plan = estimate.plan(config, shape, num_classes, estimate.Machine(gpus=1))
    found = measure(config, shape, num_classes, plan, longest=WHOLE)
    if isinstance(found, str):
        raise UserError(f"--budget: how many steps it holds is unknown ({found}): give --steps", status=2)
    return found.seconds


def _measure(
    config: Config, shape: Sequence[int], num_classes: Told, device: torch.device, longest: float
) -> MeasuredTime:
    busy = busy_words(device)  # before these steps keep it busy
    step = _step_of(config, shape, num_classes, device)
    most = config.batch_size // config.accumulate
    last, rows = config.steps - 1, min(4, most)  # of four rows the usual shares of r = t are whole
    _timed(step, rows, last, device)  # there α is lowest: this chooses the way to du/dt
    while rows < most and _timed(step, rows, last, device) < longest / 4:
        rows = min(2 * rows, most)
    for part in (PARTS[0], PARTS[-1]):  # the first with so many rows are slow
        step(rows, int(part * config.steps))
    times: list[float] = []
    while not times or (longest == WHOLE and sum(times) < STEADY):
        times += [_timed(step, rows, int(part * config.steps), device) for part in PARTS]
    return MeasuredTime(
        seconds=sum(times) / len(times) * config.batch_size / rows,
        steps=config.steps,
        rows=rows,
        batch_size=config.batch_size,
        device=device_words(device),
        busy=busy,
    )


def _step_of(
    config: Config, shape: Sequence[int], num_classes: Told, device: torch.device
) -> Callable[[int, int], object]:
    """Return what takes one step as `Trainer.train_step` does, on so many random samples, at a step of the run."""
    net = build_model(config.model, shape, num_classes, config.seed).to(device)
    if config.recompute:
        recompute_blocks(net)
    objective = build_objective(config, num_classes)
    if isinstance(objective.alpha, SelfSteering):  # as in the plan: fallen from the start, the most it can cost
        objective = replace(objective, alpha=0.0)
    loss = Loss(net, objective, config.seed, precision=config.precision)
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.optimizer.lr, fused=True)
    average = EMA(net, config.ema.half_life, config.ema.ramp)

    def take(rows: int, step: int) -> None:
        y = some_condition(num_classes, rows, device)
        x, _, ids = Batch(torch.randn(rows, *shape, device=device), y, torch.arange(rows))
        optimizer.zero_grad(set_to_none=True)
        loss(x, y, ids, step, loss.objective.flow_rows(rows, step)).loss.backward()
        optimizer.step()
        average.update(net, step + 1)

    return take


def _timed(step: Callable[[int, int], object], rows: int, at: int, device: torch.device) -> float:
    start = time.perf_counter()
    step(rows, at)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _flops_per_second(device: torch.device, precision: str) -> float:
    """Return the rate of plain matrix products, as few of them as tell it."""
    kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a = torch.randn(256, 512, device=device, dtype=kind)
    b = torch.randn(512, 512, device=device, dtype=kind)
    count, seconds = 1, 0.0
    torch.mm(a, b)
    while seconds < 0.05:
        count *= 2
        seconds = _timed(lambda repeats, _: [torch.mm(a, b) for _ in range(repeats)], count, 0, device)
    return count * 2.0 * a.numel() * len(b) / seconds


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def device_words(device: torch.device) -> str:
    """Return what a device is called in a plan: a GPU's name, or the number of CPU threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{threads} CPU thread{'s' * (threads > 1)}"


def busy_words(device: torch.device) -> str:
    """Return that a CPU has other work, which makes steps slow, and how much of it; empty where it has little."""
    load, processors = os.getloadavg()[0], len(os.sched_getaffinity(0))
    if device.type == "cuda" or load < max(1.0, processors / 2):
        return ""
    return f"the machine is busy (load average {load:.1f} on {processors} processors), and idle it is quicker"
