"""The cost of a run before it starts: parameters, FLOPs, memory, days. `alphaflow train RECIPE --dry-run`.

Nothing is trained and no weight exists: the network is built without storage, the objective is evaluated on a
stand-in that counts which rows it asks for, at steps all through the schedule.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ..data import Told
from ..data.vocabulary import some_condition
from ..derivatives.dual import Dual
from ..errors import UserError
from ..method.objective import AlphaFlow
from ..method.self_steering import SelfSteering
from ..method.trajectories import Trajectories
from ..parallel.blocks import blocks_of, recompute_blocks
from ..rng import KeyedRandom
from ..runs.build import build_model, build_objective, state_objective
from ..runs.config import Config
from ..training.throughput import forward_flops

GIB = 2**30
PEAK_TFLOPS = 989.0
"""An H100's or H200's in dense bfloat16, by NVIDIA's data sheets, in 10¹² FLOP/s."""
COUNTED_STEPS = 128
"""Steps of the schedule at which the objective's evaluations are counted."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The machine to plan for. What one of its GPUs can do is the setting `peak_tflops`, or `PEAK_TFLOPS` where
    that is 0.

    Raises:
        UserError: a number cannot be.
    """

    gpus: int = 8
    """The number of GPUs."""
    mfu: float = 0.4
    """The share of their arithmetic that training reaches."""

    def __post_init__(self) -> None:
        if self.gpus < 1:
            raise UserError(f"--gpus {self.gpus} must be at least 1", status=2)
        if not 0 < self.mfu <= 1:
            raise UserError(f"--mfu {self.mfu:g} is a share: it must lie in (0, 1]", status=2)


@dataclass(frozen=True, kw_only=True)
class CostEstimate:
    """The cost of a run."""

    config: Config
    machine: Machine
    objective: str
    """The objective in one line, as it would run."""
    parameters: int
    """The number of the network's parameters."""
    forward_macs: int
    """Multiply-accumulates of one evaluation of one sample, which papers print as its "GFLOP"; a FLOP count in the
    strict sense is twice as high."""
    evaluations: float
    """Forward passes a sample and step, mean over the run: 1 for the prediction, the rest for targets, tangents,
    guidance and a teacher, which is taken to be as large. The backward pass comes on top, as 2 more."""
    states: float
    """Bytes of weights, gradients, moments, averages and a teacher on each GPU."""
    activations: float
    """Bytes that the network keeps for the backward pass on each GPU."""
    checkpoint: int
    """Bytes of one checkpoint."""
    checkpoints: int
    """The most of them on disk at once, while the newest is written."""

    @property
    def step_flops(self) -> float:
        """FLOPs of one step, mean over the run."""
        return 2 * self.forward_macs * (self.evaluations + 2) * self.config.batch_size

    @property
    def tflops(self) -> float:
        """The assumed speed of one GPU, in 10¹² FLOP/s."""
        return self.config.peak_tflops or PEAK_TFLOPS

    @property
    def seconds(self) -> float:
        """Seconds of the whole run."""
        machine = self.machine
        return self.step_flops * self.config.steps / (machine.gpus * self.tflops * 1e12 * machine.mfu)


def plan(config: Config, shape: Sequence[int], num_classes: Told, machine: Machine | None = None) -> CostEstimate:
    """Estimate what a run costs.

    Args:
        config: the run's settings.
        shape: that of a sample.
        num_classes: the data's number of classes, or the vocabulary of their captions.
        machine: the machine to plan for.

    Raises:
        UserError: settings do not fit together, or a batch does not divide among the GPUs.
    """
    machine = machine or Machine()
    parts = machine.gpus * config.accumulate
    if config.batch_size % parts:
        raise UserError(
            f"batch_size {config.batch_size} does not divide into {machine.gpus} GPUs × accumulate = "
            f"{config.accumulate} equal parts: change --gpus or one of them",
            status=2,
        )
    with torch.device("meta"):
        net = build_model(config.model, shape, num_classes)
    parameters = sum(p.numel() for p in net.parameters())
    constant, per_row = activations(config, shape, num_classes)
    averages = 1 + len(config.ema.profiles)
    shards = 1 if config.parallel.strategy == "ddp" else machine.gpus
    return CostEstimate(
        config=config,
        machine=machine,
        objective=state_objective(config, build_objective(config, num_classes))
        + "; velocities of a teacher" * bool(config.distill.teacher),
        parameters=parameters,
        forward_macs=forward_flops(net, shape, num_classes) // 2,
        evaluations=evaluations(config, num_classes),
        # float32: weights, gradients, two moments, averages; a teacher is whole everywhere
        states=4 * ((4 + averages) / shards + bool(config.distill.teacher)) * parameters,
        activations=constant + per_row * _rows(config) * config.batch_size / parts,
        checkpoint=4 * (3 + averages) * parameters,
        checkpoints=config.keep_checkpoints + 1,
    )


def _rows(config: Config) -> int:
    """Return how many rows are evaluated for each of a batch."""
    return config.trajectories.pairs if config.stage == "trajectories" else 1


def evaluations(config: Config, num_classes: Told) -> float:
    """Return forward passes a sample and step, averaged over the schedules of the run.

    A tangent counts as one more pass over its rows, which is what the fused derivative takes, and computing the
    blocks again in the backward pass as one over all rows. One with its graph counts as three, for the backward
    pass through it. A path of the stage of trajectories counts the teacher's steps, and the forward and backward
    passes of its pairs but for the two of one row. So does a teacher, under guidance as two. An α that
    steers itself counts as fallen from the start, which is the most that it can cost.
    """
    objective: AlphaFlow = build_objective(config, num_classes)
    if isinstance(objective, Trajectories):
        path, passes = objective.path_steps, 1 + (config.distill.guidance != 1)
        visits = path if objective.solver == "euler" else 2 * path - 1
        return (3 + config.recompute) * objective.pairs - 2 + passes * visits
    graphed = objective.full_gradient
    objective = dataclasses.replace(objective, derivative="forward" if graphed else "fused")
    if isinstance(objective.alpha, SelfSteering):
        objective = dataclasses.replace(objective, alpha=0.0)
    rows, total = config.batch_size, 0
    x = torch.zeros(rows, 1)
    y = some_condition(num_classes, rows)
    steps = np.linspace(0, config.steps - 1, COUNTED_STEPS).astype(int)
    for step in steps:
        counting = _Counting()
        objective(counting, x, y, step=int(step), generator=KeyedRandom(0, torch.arange(rows), int(step)))
        total += counting.rows
        if graphed:
            total += 3 * (rows - objective.flow_rows(rows, int(step)))
    taught = bool(config.distill.teacher) * (1 + (config.distill.guidance != 1))
    return total / rows / len(steps) + config.recompute + taught


class _Counting:
    """A network of no cost that counts the rows it is asked for, and those of tangents."""

    def __init__(self) -> None:
        self.rows = 0

    def __call__(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        self.rows += len(z) + (len(z.tangent) if isinstance(z, Dual) else 0)
        return z * 0.5


def activations(config: Config, shape: Sequence[int], num_classes: Told) -> tuple[int, float]:
    """Return bytes kept for the backward pass: those that do not depend on the batch, and those of each row.

    The network runs on tensors without storage, in the precision of the settings, and what autograd saves is
    added up. Temporaries are not: the tangent, for instance, has those of one layer at a time.
    """
    few, more = (_saved(config, shape, num_classes, rows) for rows in (2, 4))
    per_row = (more - few) / 2
    return max(0, round(few - 2 * per_row)), per_row


def _saved(config: Config, shape: Sequence[int], num_classes: Told, rows: int) -> int:
    sizes: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        sizes[storage._cdata] = storage.nbytes()
        return x

    def keep_input(block: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        pack(inputs[0])

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x)
    half = torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bfloat16")
    with FakeTensorMode():
        net = build_model(config.model, shape, num_classes)
        if config.recompute:
            recompute_blocks(net)
            for block in blocks_of(net):
                block.register_forward_pre_hook(keep_input)
        y = some_condition(num_classes, rows)
        with hooks, half:
            kept = net(torch.empty(rows, *shape), torch.empty(rows), torch.empty(rows), y)
        for weight in net.parameters():
            sizes.pop(weight.untyped_storage()._cdata, None)
    del kept  # until here it held the graph, and with it the storages, whose addresses tell them apart
    return sum(sizes.values())


def describe(plan: CostEstimate) -> str:
    """Return the plan as text for people."""
    config, machine = plan.config, plan.machine
    passes = f"{plan.evaluations:.2f} forward + 2 backward passes a sample, mean over the run"
    memory = plan.states + plan.activations
    share = f"{config.batch_size // machine.gpus // config.accumulate} samples at a time on each GPU"
    kept = f"{plan.checkpoints} × {_bytes(plan.checkpoint)}"
    rows = {
        "network": f"{plan.parameters:,} parameters, {plan.forward_macs / 1e9:.3g} GFLOP forward as papers count",
        "run": f"{config.steps:,} steps of {config.batch_size:,} samples, {config.precision}",
        "objective": plan.objective,
        "step": f"{plan.step_flops:.3g} FLOPs: {passes}",
        "whole run": f"{plan.step_flops * config.steps:.3g} FLOPs",
        "time": f"{duration(plan.seconds)} on {machine.gpus} GPUs of {plan.tflops:g} TFLOP/s at "
        f"{100 * machine.mfu:g} % of it (--gpus, --peak-tflops, --mfu)",
        "memory": f"{_bytes(memory)} a GPU: {_bytes(plan.states)} weights and optimizer "
        f"({config.parallel.strategy}), {_bytes(plan.activations)} activations, {share}; temporaries come on top",
        "disk": f"{kept} of checkpoints",
    }
    return "\n".join(f"{name:10} {text}" for name, text in rows.items())


_UNITS: tuple[tuple[str, float], ...] = (
    ("years", 365 * 86400.0),
    ("days", 86400.0),
    ("hours", 3600.0),
    ("minutes", 60.0),
)


def duration(seconds: float) -> str:
    """Return a length of time in the largest unit that it holds."""
    for unit, length in _UNITS:
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds" if seconds >= 1 else "under a second"


def _bytes(count: float) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB / 10 else f"{count / 2**20:.1f} MiB"
