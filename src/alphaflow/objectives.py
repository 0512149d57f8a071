"""The α-Flow family: one objective, of which every method here is a setting.

    L_α(θ) = E[ α⁻¹ ‖ u_θ(z_t, r, t) - ( α ṽ_{s,t} + (1 - α) u_θ⁻(z_s, r, s) ) ‖² ]

Source: α-Flow (arXiv 2510.20771), Definition 1, Theorem 1 and Algorithm 1. `docs/family.md` has the table of
members; `members.py` has their constructors.
"""

from dataclasses import dataclass, field
from typing import TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import schedules
from .derivative import METHODS, Method
from .errors import choose
from .guidance import Guidance
from .path import Network, expand, interpolate
from .rng import Random, as_random, send
from .schedules import Schedule
from .targets import Shift, check_alpha, predict_with_target
from .times import Distribution, Times
from .weighting import AnchorWeight, Weight


@dataclass(frozen=True)
class RandomSplit:
    """α drawn row by row: the interval is split at a random point (SplitMeanFlow, arXiv 2507.16884).

    law: of α, cut to at least 1e-3: at 0 the interval is split at t, and the target is u itself.
    """

    law: Distribution

    def rows(self, random: Random, t: Tensor) -> Tensor:
        """α of each row, (B,) like t."""
        return self.law.quantile(random.uniform("alpha")).clamp(1e-3, 1)


@dataclass(frozen=True)
class StepSize:
    """α = δ / t, at most 1, so that with r = 0 every step t - s has the length δ (discrete consistency training).

    delta: δ, in time: the path from noise to data has the length 1.

    Raises:
        ValueError: δ outside (0, 1].
    """

    delta: float

    def __post_init__(self) -> None:
        if not 0 < self.delta <= 1:
            raise ValueError(f"consistency step {self.delta:g} must lie in (0, 1]")

    def rows(self, random: Random, t: Tensor) -> Tensor:
        """α of each row, (B,) like t."""
        return (self.delta / t).clamp(max=1)


Alpha: TypeAlias = "float | Schedule | RandomSplit | StepSize"


@dataclass(frozen=True)
class Output:
    """What one evaluation of an objective gives.

    loss: scalar with gradient. per_sample: weighted losses (B,), detached.
    metrics: detached scalars by name; `residual` is the one to watch.
    r, t: the rows' times (B,). residual: the rows' un-weighted squared errors (B,), mean over dimensions.
    """

    loss: Tensor
    per_sample: Tensor
    metrics: dict[str, Tensor | float]
    r: Tensor
    t: Tensor
    residual: Tensor


@dataclass(frozen=True)
class Draw:
    """Where one evaluation of an objective takes place.

    z, v: points on the paths and velocities there (B, *shape), the samples' or the teacher's, guided or not.
    r, t: (B,). y: classes (B,) or None.
    alpha: a number, or a tensor: () for all rows or (B,) row by row. flow_rows: the first rows, which have r = t.
    """

    z: Tensor
    v: Tensor
    r: Tensor
    t: Tensor
    y: Tensor | None
    alpha: float | Tensor
    flow_rows: int


@dataclass(frozen=True, kw_only=True)
class AlphaFlow:
    """The family's objective. Call it as `objective(net, x, y, step=k)`; call backward on `.loss`.

    alpha: a number, a schedule of the step, or `RandomSplit` / `StepSize` for a value per row.
    flow_ratio: the share of rows with r = t (flow matching), a number or a schedule. They come first.
    times: how (r, t) are drawn. shift, derivative: those of `average_velocity_target`; under shift "model", r = t
        rows and α = 1 teach the data, the others make u consistent with itself.
    weight: the weight per row. clip: bound on the targets of rows with 0 < α < 1 (released recipes: 4).
    guidance: classifier-free guidance in training, or None.
    teacher: distil this network u(z, r, t, y): on all rows its velocity u(z, t, t, y), without gradient, stands
        for noise - x. The targets lose that noise; their mean given z stays, where the teacher is exact. Under
        `Guided` it teaches a guided sampler; `guidance` then comes on top, and the two scales multiply. Rows with
        dropped labels keep their class's velocity, whose mean given z is that of no class. It is evaluated once
        for all rows, plain and whole on each process, in the mode it is in: call `teacher.eval()` first.
    relaxation: FACM's: pull the target towards u⁻ by the share (1 - t)^p, the change cut to ±1; None: off.
    cosine: weight of 1 - cos(u, v) over the channels on the r = t rows (FACM's anchor).
    even: evaluate the network as often whichever rows a batch has, even where no row needs it; the result is the
        same. For networks whose evaluation is a collective of several processes, which must not stay away.

    Raises:
        ValueError: a setting out of its range, or settings that would learn nothing of the data.
    """

    alpha: Alpha = field(default_factory=lambda: schedules.sigmoid(0, 400_000))
    flow_ratio: float | Schedule = 0.25
    times: Times = field(default_factory=Times)
    shift: Shift = "data"
    derivative: Method = "auto"
    weight: Weight | AnchorWeight = field(default_factory=Weight)
    clip: float | None = None
    guidance: Guidance | None = None
    teacher: Network | None = field(default=None, repr=False)
    relaxation: float | None = None
    cosine: float = 0.0
    even: bool = False

    def __post_init__(self) -> None:
        for value in _extremes(self.alpha):
            check_alpha(value)
        for value in _extremes(self.flow_ratio):
            _check_flow_ratio(value)
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip {self.clip:g} must be positive, or None")
        choose("shift", self.shift, get_args(Shift))
        choose("derivative", self.derivative, METHODS)  # now, not when the schedule reaches 0
        if isinstance(self.teacher, nn.Module) and self.teacher.training:
            raise ValueError(
                "the teacher is in training mode, where dropout and batch statistics would change what it says: "
                "call teacher.eval() first"
            )
        if self._never_sees_the_data():
            raise ValueError(
                "shift 'model' with flow_ratio 0 never sees the data: every target is made of the network's own "
                "velocities, and u = 0 fits them all; set flow_ratio above 0, or another shift"
            )

    def __call__(
        self,
        net: Network,
        x: Tensor,
        y: Tensor | None = None,
        *,
        step: int = 0,
        generator: torch.Generator | Random | None = None,
        flow_rows: int | None = None,
    ) -> Output:
        """Evaluate the objective on a batch.

        Args:
            net: u(z, r, t, y), any callable; gradients flow to it once.
            x: data (B, *shape). y: classes (B,) int64 or None.
            step: the training step, for the schedules.
            generator: where noise, times and label drops come from.
            flow_rows: how many of the first rows have r = t, where this is part of a batch; None: by `flow_ratio`.
        """
        return self.evaluate(net, self.draw(net, x, y, step=step, generator=generator, flow_rows=flow_rows))

    def draw(
        self,
        net: Network,
        x: Tensor,
        y: Tensor | None = None,
        *,
        step: int = 0,
        generator: torch.Generator | Random | None = None,
        flow_rows: int | None = None,
    ) -> Draw:
        """What is random in one evaluation, or decided on the host; arguments as above."""
        random = as_random(generator, len(x))
        flow_rows = self.flow_rows(len(x), step) if flow_rows is None else flow_rows
        noise = random.normal("noise", x.shape[1:], x.device).to(x)
        r_host, t_host = self.times.draw(random, flow_rows)
        r, t = send(r_host, x), send(t_host, x)
        z, v = interpolate(x, noise, t)
        if self.teacher is not None:
            with torch.no_grad():
                v = self.teacher(z, t, t, y).to(v)
        if self.guidance is not None:
            v, y = self.guidance(net, z, v, t_host, y, random, even=self.even)
        alpha: float | Tensor | None = self.alpha_at(step)
        if alpha is None:
            alpha = send(self.alpha.rows(random, t_host), x)  # type: ignore[union-attr]
        return Draw(z, v, r, t, y, alpha, flow_rows)

    def evaluate(self, net: Network, draw: Draw) -> Output:
        """The objective at given points: a function of tensors alone, which `torch.compile` takes whole."""
        z, v, r, t, alpha, flow_rows = draw.z, draw.v, draw.r, draw.t, draw.alpha, draw.flow_rows
        start = min(flow_rows, len(z) - 1) if self.even else flow_rows
        u, far = predict_with_target(
            net, z, v, r, t, alpha, draw.y, start=start, shift=self.shift, derivative=self.derivative
        )
        far = far[flow_rows - start :]
        far = self._shape_target(far, u.detach()[flow_rows:], t[flow_rows:], alpha)
        target = torch.cat([v[:flow_rows], far])
        error = (u - target).square().flatten(1).mean(1)

        a = torch.where(r < t, alpha if isinstance(alpha, Tensor) else alpha or 1.0, torch.ones_like(t))
        weight = self.weight(error.detach(), a, z[0].numel(), r, t)
        per_sample = weight * error
        if self.cosine:
            anchor = 1 - F.cosine_similarity(u, v, dim=1).reshape(len(z), -1).mean(1)
            per_sample = per_sample + self.cosine * torch.where(r == t, anchor, 0.0)
        loss = per_sample.mean()
        with torch.no_grad():
            metrics = measure(u, v, target, r, t)
            metrics["alpha"] = a[flow_rows:].mean() if isinstance(alpha, Tensor) and alpha.ndim else alpha
            metrics["flow_ratio"] = flow_rows / len(z)
            metrics["loss"] = loss.detach()
        return Output(loss, per_sample.detach(), metrics, r, t, error.detach())

    def alpha_at(self, step: int) -> float | None:
        """α at a step; None where it is drawn row by row."""
        if isinstance(self.alpha, RandomSplit | StepSize):
            return None
        return self.alpha(step) if callable(self.alpha) else float(self.alpha)

    def flow_rows(self, batch: int, step: int) -> int:
        """⌊B · ratio⌋, the number of rows with r = t."""
        ratio = self.flow_ratio(step) if callable(self.flow_ratio) else self.flow_ratio
        _check_flow_ratio(ratio)
        return int(batch * ratio + 1e-9)

    def _never_sees_the_data(self) -> bool:
        """v enters a target where r = t, under the other shifts, and where α = 1."""
        fixed = not callable(self.flow_ratio) and self.flow_ratio == 0
        reaches_1 = isinstance(self.alpha, StepSize) or 1 in _extremes(self.alpha)
        return self.shift == "model" and fixed and not reaches_1

    def _shape_target(self, far: Tensor, u: Tensor, t: Tensor, alpha: float | Tensor) -> Tensor:
        """Clip and relax the target of the rows with r < t, where asked to."""
        if self.clip is not None and (isinstance(alpha, Tensor) or 0 < alpha < 1):
            far = far.clamp(-self.clip, self.clip)
        if self.relaxation is not None:
            share = 1 - (1 - expand(t, u)) ** self.relaxation
            far = u - share * (u - far).clamp(-1, 1)
        return far


def _check_flow_ratio(value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"flow_ratio {value:g} lies outside [0, 1]: it is the share of rows with r = t")


def _extremes(value: Alpha) -> tuple[float, ...]:
    """Where a number or a schedule begins and ends; nothing for values per row."""
    if isinstance(value, RandomSplit | StepSize):
        return ()
    return (value(0), value(2**62)) if callable(value) else (value,)


BINS = 5
"""Residuals are reported in this many equal bins of t and of t - r."""


def measure(u: Tensor, v: Tensor, target: Tensor, r: Tensor, t: Tensor) -> dict[str, Tensor | float]:
    """The numbers that tell how training goes, un-weighted, as means over dimensions and rows.

    residual: ‖u - target‖².  tfm: ‖u - v‖².  tc: 2 (v - target)·u.  residual - (tfm + tc) has no gradient.
    residual_t<k>, residual_d<k>: the residual of rows with t, or t - r > 0, in the k-th fifth of [0, 1]; NaN
    where there is none.
    """
    error = (u - target).square().flatten(1).mean(1)
    metrics: dict[str, Tensor | float] = {
        "residual": error.mean(),
        "tfm": (u - v).square().mean(),
        "tc": (2 * (v - target) * u).mean(),
    }
    return metrics | binned(error, r, t)


def binned(error: Tensor, r: Tensor, t: Tensor) -> dict[str, Tensor]:
    """`residual_t<k>` and `residual_d<k>` of `measure`, from the rows' errors and times (B,)."""
    metrics, gap = {}, t - r
    for name, place, counted in (("t", t, torch.ones_like(t)), ("d", gap, (gap > 0).to(t))):
        bins = (place * BINS).long().clamp(0, BINS - 1)
        zeros = torch.zeros(BINS, dtype=error.dtype, device=error.device)
        means = zeros.index_add(0, bins, error * counted) / zeros.index_add(0, bins, counted)
        for k in range(BINS):
            metrics[f"residual_{name}{k}"] = means[k]
    return metrics
