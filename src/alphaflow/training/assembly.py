"""What a run trains, and with what: all that its settings stand for, built and laid out over the processes."""

import dataclasses
import logging
from dataclasses import dataclass

import torch
from torch import nn

from ..data import Batches, Dataset, told_of
from ..derivatives.total import choose_method
from ..devices import choose_device, prepare
from ..errors import UserError
from ..method.objective import AlphaFlow
from ..method.targets import differentiated
from ..method.trajectories import Trajectories
from ..models.ema import EMA, PowerEMA
from ..parallel.blocks import prepare_blocks
from ..parallel.parallel import Parallel
from ..runs.build import build_model, may_differentiate, refuse_other_objective, state_objective
from ..runs.config import Config
from ..runs.data_paths import find_data
from ..runs.data_record import batches_of
from ..runs.folder import RunFolder
from ..runs.teacher import build_taught, recorded_classes
from .first_batch import check_first_batch, points_of
from .loss import Loss
from .throughput import forward_flops

log = logging.getLogger("alphaflow")


@dataclass(frozen=True)
class Assembly:
    """The objects of a run on this process; the network, its averages and the optimizer hold their share of it."""

    device: torch.device
    dataset: Dataset
    net: nn.Module
    objective: AlphaFlow
    """The objective as it runs: its way to du/dt is chosen."""
    statement: str
    """The objective in one line, as config.yaml records it."""
    flops: float
    """Operations that a sample costs this process's device at the least: see `ThroughputMeter`."""
    ema: EMA
    profiles: list[PowerEMA]
    """Averages that are stored beside `ema`, for `alphaflow ema` to make others of."""
    optimizer: torch.optim.AdamW
    loss: Loss
    wrapped: nn.Module
    """`loss`, with gradients averaged over the processes."""


def assemble(config: Config, folder: RunFolder, parallel: Parallel, *, resumes: bool) -> Assembly:
    """Build what the settings stand for; all processes must call.

    Args:
        folder: the run's, which need not be there. resumes: whether a run goes on, which must have the objective
            that it began with; of a new one du/dt is checked on the first batch.

    Raises:
        UserError: something that the settings name is not there, or does not go with the rest.
        DerivativeError: du/dt of this network is not to be trusted.
    """
    parallel.check_batch(config.batch_size, config.accumulate)
    device = parallel.device(choose_device(config.device))
    prepare(device)
    dataset = find_data(config.data, recorded_classes(config, folder), moved=folder.holds_run())
    if parallel.main and (summary := getattr(dataset, "found", "")):
        log.info("%s", summary)
    shape, told = dataset.shape, told_of(dataset)
    net = build_model(config.model, shape, told, config.seed).to(device)
    objective = build_taught(config, dataset, device, folder)
    statement = state_objective(config, objective)
    ema = EMA(net, config.ema.half_life, config.ema.ramp)
    rows = objective.pairs if isinstance(objective, Trajectories) else 1
    flops = 3.0 * rows * forward_flops(net, shape, told) / parallel.world
    batches = batches_of(dataset, config.data, config.batch_size, config.seed)
    if resumes:
        refuse_other_objective(statement, folder.read_record(), folder.path)
    else:
        check_first_batch(net, objective, batches, config)
    # from here on no process holds the network whole, where weights are sharded
    objective = _with_method(objective, net, batches, config)
    parallel.check_objective(objective, compiled=config.compile)
    prepare_blocks(
        net,
        objective.derivative,
        compiled=config.compile_blocks,
        recompute=config.recompute,
        graphed=objective.full_gradient,
    )
    parallel.shard(net)
    parallel.shard(ema.module)
    profiles = _profiles(net, config.ema.profiles)
    optimizer = torch.optim.AdamW(
        net.parameters(),
        lr=config.optimizer.lr,
        betas=(config.optimizer.beta1, config.optimizer.beta2),
        weight_decay=config.optimizer.weight_decay,
        fused=True,
    )
    loss = Loss(net, objective, config.seed, precision=config.precision, compiled=config.compile)
    wrapped = parallel.wrap(loss)
    return Assembly(device, dataset, net, objective, statement, flops, ema, profiles, optimizer, loss, wrapped)


def _with_method(objective: AlphaFlow, net: nn.Module, batches: Batches, config: Config) -> AlphaFlow:
    """Return the objective with its way to du/dt, which is tried while the network is plain."""
    differentiates = may_differentiate(objective, config.steps) or config.diagnosis.every > 0
    if objective.derivative != "auto" or not differentiates:
        return objective
    points = points_of(batches, objective, config.seed, next(net.parameters()).device)
    taken = differentiated(net, points, objective.shift)
    return dataclasses.replace(objective, derivative=choose_method(*taken, graphed=objective.full_gradient))


def _profiles(net: nn.Module, widths: tuple[float, ...]) -> list[PowerEMA]:
    try:
        return [PowerEMA(net, width) for width in widths]
    except ValueError as error:
        raise UserError(str(error), status=2) from None
