"""Gradients of TFM, TC, FM′ and the full objective on the same batches; losses; bias and variance over α.

L_MF = E‖u - v‖² (TFM) + E[2 (t - r) uᵀ du⁻/dt] (TC) + C, on rows with r < t; FM′ is ‖u - v‖² on rows with r = t,
at times of their own. The full objective is the run's: its weights, its share of r = t rows, its α at the step.
Source: α-Flow (arXiv 2510.20771), section 3 and its analysis of gradients.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ..data import Batches, Dataset, told_of
from ..derivatives.total import choose_method
from ..devices import autocast, choose_device, prepare
from ..errors import UserError
from ..method.objective import AlphaFlow
from ..method.targets import meanflow_target, target_of
from ..parallel.blocks import prepare_blocks
from ..parallel.parallel import Parallel
from ..parallel.sharded import load_into
from ..path import Points, interpolate
from ..progress import ProgressBar
from ..rng import KeyedRandom, hash_key
from ..runs import checkpoint
from ..runs.build import build_model, load_steering
from ..runs.config import Config
from ..runs.data_record import batches_of, data_of
from ..runs.folder import RunFolder
from ..runs.teacher import build_taught
from .curve import BiasVarianceCurve
from .gradients import Gradient, Gradients
from .maps import Maps
from .record import LOSSES, PAIRS, Diagnosis, Summary

log = logging.getLogger("alphaflow")

ALPHAS = (1.0, 0.5, 0.2, 0.1, 0.05, 0.01, 0.0)
BATCHES = 40
MAPPED = ("tfm", "tc", "residual", "slope")
"""Values of rows; of `slope` the mean square is kept, and its root shown."""


@dataclass(frozen=True)
class Subject:
    """The subject of a diagnosis: a network with weights of some step, under the objective that trains it."""

    run: str
    step: int
    net: nn.Module
    objective: AlphaFlow
    dataset: Dataset
    config: Config
    parallel: Parallel
    device: torch.device


def open_subject(path: Path, step: int | None = None, device: str = "", data_path: str | None = None) -> Subject:
    """Open a run's network with the weights that were being trained (not their average) at a checkpoint.

    Args:
        path: the folder of a run.
        step: the step of one of its checkpoints; None: the newest.
        device: the device; "": that of the run's settings.
        data_path: the data's place now; None: their place when the run began.

    Raises:
        UserError: there is no run or no such checkpoint, or the data have changed.
    """
    folder = RunFolder(path)
    config = folder.read_config()
    if config.stage == "trajectories":
        raise UserError(f"{path} learns a teacher's paths (stage trajectories): its loss has no parts to diagnose")
    parallel = Parallel(config.parallel)
    parallel.check_batch(config.batch_size, config.accumulate)
    where = parallel.device(choose_device(device or config.device))
    prepare(where)
    stored = _checkpoint(folder, step)
    dataset = data_of(folder, data_path)
    objective = build_taught(config, dataset, where, folder)
    net = build_model(config.model, dataset.shape, told_of(dataset), config.seed).to(where)
    if objective.derivative == "auto":  # tried while the network is whole
        method = choose_method(net, _few_points(dataset, objective, where), graphed=objective.full_gradient)
        objective = dataclasses.replace(objective, derivative=method)
    parallel.check_objective(objective, compiled=False)
    prepare_blocks(
        net,
        objective.derivative,
        compiled=config.compile_blocks,
        recompute=config.recompute,
        graphed=objective.full_gradient,
    )
    parallel.shard(net)
    for name, tensor in net.state_dict().items():
        load_into(tensor, partial(stored.read, "model", name))
    load_steering(objective, stored.state)
    return Subject(str(path), stored.step, net, objective, dataset, config, parallel, where)


def diagnose(subject: Subject, *, batches: int = BATCHES, alphas: Sequence[float] = ALPHAS) -> Diagnosis:
    """Measure a subject; all processes must call, and all get the same numbers. The network stays as it is.

    The batches, their noise and their times are the same at every step of a run.

    Args:
        subject: the network and its objective.
        batches: how many of the run's own size; percentiles are over them.
        alphas: where to compare L_α with L_MeanFlow; none: not at all.

    Raises:
        UserError: there are fewer than 2 batches, or an α is outside [0, 1].
    """
    if batches < 2:
        raise UserError(f"--batches {batches} is too few to say how gradients vary: give at least 2", status=2)
    for alpha in alphas:
        if not 0 <= alpha <= 1:
            raise UserError(f"--alphas {alpha:g} lies outside [0, 1]: 1 is flow matching, 0 MeanFlow", status=2)
    return _Session(subject, alphas).run(batches)


def _split(subject: Subject) -> AlphaFlow:
    """Return the objective whose loss is taken apart; the full one stays the run's own."""
    if subject.objective.shift != "end":
        return subject.objective
    if subject.parallel.main:
        log.info(
            "the Lagrangian target has no parts TFM and TC: those shown are MeanFlow's, along the network's own "
            "velocity"
        )
    return dataclasses.replace(subject.objective, shift="model", full_gradient=False)


class _Session:
    """The sums that are gathered over the batches."""

    def __init__(self, subject: Subject, alphas: Sequence[float]) -> None:
        self.subject, self.objective = subject, subject.objective
        self.split = _split(subject)
        config = subject.config
        again = config.compile_blocks or config.recompute
        self.gradients = Gradients(subject.net, subject.parallel, again=again)
        self.maps = Maps(MAPPED)
        self.products: list[Tensor] = []
        self.losses: list[dict[str, float]] = []
        self.curve = BiasVarianceCurve(self.gradients, alphas)

    def run(self, batches: int) -> Diagnosis:
        subject = self.subject
        config = subject.config
        seed = hash_key(config.seed, "diagnosis")
        stream = batches_of(subject.dataset, config.data, config.batch_size, seed)
        parts = subject.parallel.parts(config.accumulate)
        flow_rows = self.objective.flow_rows(config.batch_size, subject.step)
        with ProgressBar("diagnosing", 0, batches, unit="batches", shown=subject.parallel.main) as bar:
            for k in range(batches):
                draws = [self._draw(*stream(k, part.rows)) for part in parts]
                with autocast(subject.config.precision, subject.device):
                    self._batch(draws, [part.below(flow_rows) for part in parts])
                bar.update(k + 1)
        return self._diagnosis(batches)

    def _draw(self, x: Tensor, y: Tensor | None, ids: Tensor) -> Callable[..., Points]:
        """Return points for some of the batch's rows, as a function of how many of them have r = t."""
        subject = self.subject
        x, y = x.to(subject.device), None if y is None else y.to(subject.device)
        random = KeyedRandom(hash_key(subject.config.seed, "diagnosis"), ids)
        return partial(self.objective.draw, subject.net, x, y, step=subject.step, generator=random)

    def _batch(self, draws: Sequence[Callable[..., Points]], flow_rows: Sequence[int]) -> None:
        """Measure a batch in parts, each with its draw and with so many rows with r = t under the full
        objective."""
        net, objective = self.subject.net, self.split
        places = [draw(flow_rows=0) for draw in draws]
        terms = [Terms.at(net, place, objective) for place in places]
        for place, one in zip(places, terms):
            self.maps.add(place.r, place.t, one.rows)
        values = {name: float(torch.cat([one.rows[name] for one in terms]).mean()) for name in MAPPED}

        losses: dict[str, Callable[[int, Tensor], Tensor]] = {
            "tfm": lambda k, u: terms[k].tfm(u),
            "tc": lambda k, u: terms[k].tc(u),
        }
        for alpha in self.curve.between:
            losses[str(alpha)] = partial(_two_point_of, net, places, objective, alpha)
        forwards = [partial(net, place.z, place.r, place.t, place.y) for place in places]
        gradients: dict[str, Gradient] = {}
        for name, gradient in self.gradients.of_each(forwards, losses):
            if name in LOSSES:
                gradients[name] = gradient
            else:
                self.curve.add(float(name), gradient, gradients["tfm"], gradients["tc"])
        self.curve.end(gradients["tfm"], gradients["tc"])

        every = [len(place.t) for place in places]
        for name, loss_of, rows in (("fm", self._flow_matching, every), ("full", self._full, flow_rows)):
            made: list[float] = []
            gradients[name] = self.gradients.of_mean(
                [partial(_noted, made, loss_of, draw, count) for draw, count in zip(draws, rows)]
            )
            values[name] = sum(made) / len(made)
        self.products.append(self.gradients.products([gradients[name] for name in LOSSES]))
        self.losses.append(values)

    def _flow_matching(self, points: Points) -> Tensor:
        return (self.subject.net(points.z, points.r, points.t, points.y) - points.v).square().mean()

    def _full(self, points: Points) -> Tensor:
        return self.objective.evaluate(self.subject.net, points).loss

    def _diagnosis(self, batches: int) -> Diagnosis:
        subject, parallel, step = self.subject, self.subject.parallel, self.subject.step
        products = torch.stack(self.products)
        names = list(self.losses[0])
        table = torch.tensor([[loss[name] for name in names] for loss in self.losses], dtype=torch.float64)
        means = dict(zip(names, parallel.mean(table.to(subject.device)).cpu().numpy().T))
        slope = means.pop("slope") ** 0.5
        maps, counts = self.maps.means(parallel, subject.device)
        maps["slope"] = [[None if value is None else value**0.5 for value in row] for row in maps["slope"]]
        groups = {group: _cosines(products[:, k]) for k, group in enumerate(self.gradients.groups)}
        norms = products.sum(1).diagonal(dim1=1, dim2=2).sqrt()
        return Diagnosis(
            run=subject.run,
            step=step,
            batches=batches,
            batch_size=subject.config.batch_size,
            alpha=self.objective.alpha_at(step),
            flow_ratio=self.objective.flow_rows(subject.config.batch_size, step) / subject.config.batch_size,
            shift=self.objective.shift,
            derivative=self.objective.derivative,
            cosines=_cosines(products.sum(1)),
            groups=groups,
            norms={name: Summary.of(norms[:, k].numpy()) for k, name in enumerate(LOSSES)},
            losses={name: Summary.of(values) for name, values in means.items()},
            slope=Summary.of(slope),
            maps=maps,
            counts=counts,
            curve=self.curve.points(),
        )


@dataclass(frozen=True)
class Terms:
    """The two parts of MeanFlow's loss at given points."""

    v: Tensor
    target: Tensor
    """The velocity and MeanFlow's target, (B, *shape)."""
    rows: Mapping[str, Tensor]
    """The losses `tfm`, `tc` and `residual`, ‖u - target‖², per row (B,), as means over dimensions, and `slope`,
    the mean square of du/dt."""

    @classmethod
    @torch.no_grad()
    def at(cls, net: nn.Module, points: Points, objective: AlphaFlow) -> "Terms":
        """Compute the terms at points, with the objective's way to shift and to differentiate."""
        v = points.v
        u, slope, target = meanflow_target(net, points, objective.rule)
        values = {
            "tfm": (u - v).square(),
            "tc": 2 * (v - target) * u,
            "residual": (u - target).square(),
            "slope": slope.square(),
        }
        return cls(v, target, {name: value.float().flatten(1).mean(1) for name, value in values.items()})

    def tfm(self, u: Tensor) -> Tensor:
        """Return ‖u - v‖², mean over rows and dimensions."""
        return (u - self.v).square().mean()

    def tc(self, u: Tensor) -> Tensor:
        """Return 2 (v - target)·u, likewise: with `tfm` it is ‖u - target‖² but for what does not depend on u."""
        return (2 * (self.v - self.target) * u).mean()


def two_point(net: nn.Module, points: Points, objective: AlphaFlow, alpha: float) -> Callable[[Tensor], Tensor]:
    """Return L_α of Definition 1 at given points, for 0 < α, as a function of u.

    That is ‖u - target‖² / α; rows with r = t, if any, keep the weight 1.
    """
    target = target_of(net, dataclasses.replace(points, alpha=alpha), objective.rule)
    weight = torch.where(points.r < points.t, 1 / alpha, 1.0)
    return lambda u: (weight * (u - target).square().flatten(1).mean(1)).mean()


def _two_point_of(
    net: nn.Module, places: Sequence[Points], objective: AlphaFlow, alpha: float, k: int, u: Tensor
) -> Tensor:
    """Return L_α of part k; its target is made now and not beforehand, to save memory."""
    return two_point(net, places[k], objective, alpha)(u)


def _noted(
    values: list[float],
    loss_of: Callable[[Points], Tensor],
    draw: Callable[..., Points],
    flow_rows: int,
) -> Tensor:
    """Return a loss at points that are drawn when its turn comes; its value is put into `values`."""
    loss = loss_of(draw(flow_rows=flow_rows))
    values.append(float(loss.detach()))
    return loss


def _cosines(products: Tensor) -> dict[str, Summary]:
    """Return summaries of the cosines, from the inner products (N, K, K) of N batches."""
    norms = products.diagonal(dim1=1, dim2=2).sqrt()
    names, summaries = list(LOSSES), {}
    for one, other in PAIRS:
        i, j = names.index(one), names.index(other)
        summaries[f"{one},{other}"] = Summary.of((products[:, i, j] / (norms[:, i] * norms[:, j])).numpy())
    return summaries


def _checkpoint(folder: RunFolder, step: int | None) -> checkpoint.Checkpoint:
    if step is None:
        return checkpoint.newest(folder.checkpoints)
    steps = checkpoint.steps_in(folder.checkpoints)
    if step not in steps:
        raise UserError(f"{folder.path} has no checkpoint of step {step}: there are {', '.join(map(str, steps))}")
    path = folder.checkpoints / f"step-{step:08d}"
    if damage := checkpoint.inspect(path):
        raise UserError(f"checkpoint {path} is damaged ({damage}): choose another step")
    return checkpoint.Checkpoint(path)


def _few_points(dataset: Dataset, objective: AlphaFlow, device: torch.device) -> Points:
    """Return the points of a few rows."""
    x, y, ids = Batches(dataset, 4, 0)(0)
    random = KeyedRandom(0, ids)
    r, t = (time.to(device, torch.float32) for time in objective.times.draw(random))
    z, v = interpolate(x.to(device), random.normal("noise", x.shape[1:], device), t)
    return Points(z, v, r, t, None if y is None else y.to(device))
