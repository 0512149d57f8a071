"""The α-Flow family: one objective, of which every method here is a setting.

    L_α(θ) = E[ α⁻¹ ‖ u_θ(z_t, r, t) - ( α ṽ_{s,t} + (1 - α) u_θ⁻(z_s, r, s) ) ‖² ]

Source: α-Flow (arXiv 2510.20771), Definition 1, Theorem 1 and Algorithm 1. `docs/family.md` has the table of
members; `family.py` has their constructors.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..condition import Condition
from ..derivatives.total import Method
from ..path import Network, Points, expand, interpolate, predict
from ..rng import Random, as_random, send
from . import schedules
from .alpha import Alpha, RandomSplit, StepSize, extremes
from .guidance import Guidance
from .residuals import measure
from .schedules import Schedule
from .targets import Rule, Shift, check_alpha, predict_with_target
from .terminal import terminal_velocity
from .times import Times
from .weighting import AnchorWeight, Weight


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


@dataclass(frozen=True, kw_only=True)
class AlphaFlow:
    """The family's objective. Call it as `objective(net, x, y, step=k)`; call backward on `.loss`.

    alpha: a number, a schedule of the step, or `RandomSplit` / `StepSize` for a value per row.
    flow_ratio: the share of rows with r = t (flow matching), a number or a schedule. They come first.
    times: how (r, t) are drawn. shift, derivative: those of `average_velocity_target`; under shifts "model" and
        "end", r = t rows and α = 1 teach the data, the others make u consistent with itself.
    weight: the weight per row. clip: bound on the targets of rows with r < t where α > 0 (α-Flow's release: 4);
        at α = 1 that cuts (guided) velocities, at α = 0 and on r = t rows nothing is cut.
    guidance: classifier-free guidance in training, or None.
    teacher: distil this network u(z, r, t, y): on all rows its velocity u(z, t, t, y), without gradient, stands
        for noise - x. The targets lose that noise; their mean given z stays, where the teacher is exact. Under
        `Guided` it teaches a guided sampler; `guidance` then comes on top, and the two scales multiply. Rows with
        dropped labels keep their class's velocity, whose mean given z is that of no class. It is evaluated once
        for all rows, plain and whole on each process, in the mode it is in: call `teacher.eval()` first.
        Under shift "end" at α = 0 it also gives the velocity at the interval's end, unless guidance comes on top:
        then rows with r < t learn from it, too.
    full_gradient: TVM's (arXiv 2511.19797), with shift "end" and α = 0: of u - (t - r) ∂u/∂r - u⁻(z_r, r, r) the
        gradient goes through u and ∂u/∂r, and that is what `residual`, `tfm` and `tc` are of.
    blend: under shift "velocity", how much of the tangent is the network's own velocity; the rest is v.
    trust: a number or a schedule in [0, 1]: where r < t the target is v + trust (target - v), that is at α = 0
        v - trust (t - r) du/dt; rising from 0 to 1, the warm-up of consistency distillation (sCM, AYF).
    jumps: how many jumps of the network lead from s to r where 0 < α < 1 (RCGM).
    max_change: RCGM's: where r < t the target is u⁻ - (u⁻ - target) / α, whose change has MeanFlow's size at every
        α, and is cut to ±max_change; None: off.
    relaxation: FACM's: pull the target towards u⁻ by the share (1 - t)^p, the change cut to ±1; None: off.
    cosine: weight of 1 - cos(u, v) over the channels on the r = t rows (FACM's anchor).

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
    blend: float = 1.0
    trust: float | Schedule = 1.0
    jumps: int = 1
    max_change: float | None = None
    relaxation: float | None = None
    cosine: float = 0.0
    full_gradient: bool = False

    def __post_init__(self) -> None:
        for value in extremes(self.alpha):
            check_alpha(value)
        for value in extremes(self.flow_ratio):
            _check_flow_ratio(value)
        for value in extremes(self.trust):
            _check_trust(value)
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip {self.clip:g} must be positive, or None")
        if self.max_change is not None and self.max_change <= 0:
            raise ValueError(f"max_change {self.max_change:g} must be positive, or None")
        if self.max_change is not None and self.relaxation is not None:
            raise ValueError("max_change and relaxation both bound how far a target lies from u: choose one")
        if self.max_change is not None and (callable(self.trust) or self.trust != 1):
            raise ValueError("max_change divides by α a change that trust does not let shrink with α: choose one")
        self._check_full_gradient()
        _ = self.rule  # refuses what it cannot be made of now, not when the schedule reaches 0
        if isinstance(self.teacher, nn.Module) and self.teacher.training:
            raise ValueError(
                "the teacher is in training mode, where dropout and batch statistics would change what it says: "
                "call teacher.eval() first"
            )
        if self._never_drops():
            raise ValueError(
                "guidance drops labels where r = t only (drop_where 'flow'), and flow_ratio 0 has no such rows: "
                "set flow_ratio above 0, or another drop_where"
            )
        if self._never_sees_the_data():
            raise ValueError(
                f"shift {self.shift!r} with flow_ratio 0 never sees the data: every target is made of the "
                "network's own velocities, and u = 0 fits them all; set flow_ratio above 0, or another shift"
            )

    def __call__(
        self,
        net: Network,
        x: Tensor,
        y: Condition | None = None,
        *,
        step: int = 0,
        generator: torch.Generator | Random | None = None,
        flow_rows: int | None = None,
        noise: Tensor | None = None,
    ) -> Output:
        """Evaluate the objective on a batch.

        Args:
            net: u(z, r, t, y), any callable; gradients flow to it once.
            x: data (B, *shape). y: classes (B,) int64, or another condition of B rows (see `condition`), or None.
            step: the training step, for the schedules.
            generator: where noise, times and label drops come from.
            flow_rows: how many of the first rows have r = t, where this is part of a batch; None: by `flow_ratio`.
            noise: of each row, (B, *shape), where it goes with the data: a teacher's image and what it was made of
                (Re-MeanFlow, arXiv 2511.23342), or pairs of an optimal transport; None: drawn.
        """
        points = self.draw(net, x, y, step=step, generator=generator, flow_rows=flow_rows, noise=noise)
        return self.evaluate(net, points)

    def draw(
        self,
        net: Network,
        x: Tensor,
        y: Condition | None = None,
        *,
        step: int = 0,
        generator: torch.Generator | Random | None = None,
        flow_rows: int | None = None,
        noise: Tensor | None = None,
    ) -> Points:
        """Draw the points of one evaluation: what is random in it, or decided on the host; arguments as above."""
        random = as_random(generator, len(x))
        flow_rows = self.flow_rows(len(x), step) if flow_rows is None else flow_rows
        noise = (random.normal("noise", x.shape[1:], x.device) if noise is None else noise).to(x)
        r_host, t_host = self.times.draw(random, flow_rows)
        r, t = send(r_host, x), send(t_host, x)
        z, v = interpolate(x, noise, t)
        if self.teacher is not None:
            with torch.no_grad():
                v = predict(self.teacher, z, t, t, y).to(v)
        if self.guidance is not None:
            flow = (r_host == t_host, self._flow_share(step))
            v, y = self.guidance(net, z, v, t_host, y, random, flow=flow)
        alpha: float | Tensor | None = self.alpha_at(step)
        if alpha is None:
            alpha = send(self.alpha.rows(random, r_host, t_host, step), x)  # type: ignore[union-attr]
        check_alpha(alpha)
        trust = self.trust(step) if callable(self.trust) else self.trust
        _check_trust(trust)
        return Points(z, v, r, t, y, alpha, flow_rows, trust)

    def evaluate(self, net: Network, points: Points) -> Output:
        """Evaluate the objective at given points, a function of tensors alone: `torch.compile` takes it whole."""
        v, r, t = points.v, points.r, points.t
        taught = terminal_velocity if self.full_gradient else predict_with_target
        u, target = taught(net, points, self.rule)
        if isinstance(points.trust, Tensor) or points.trust != 1:
            target = v + points.trust * (target - v)
        target = self._shape_target(target, u.detach(), points)
        error = (u - target).square().flatten(1).mean(1)

        alpha = torch.where(r < t, points.alpha, torch.ones_like(t))
        of_order_1 = points.regime == "derivative" or self.max_change is not None
        a = torch.ones_like(t) if of_order_1 else alpha  # α⁻¹ ‖…‖² has its limit with α² in ‖…‖²
        weight = self.weight(error.detach(), a, v[0].numel(), r, t, self._order(a))
        per_sample = weight * error
        if self.cosine:
            anchor = 1 - F.cosine_similarity(u, v, dim=1).reshape(len(v), -1).mean(1)
            per_sample = per_sample + self.cosine * torch.where(r == t, anchor, 0.0)
        loss = per_sample.mean()
        with torch.no_grad():
            metrics = measure(u, v, target, r, t)
            metrics["alpha"] = alpha[points.flow_rows :].mean() if points.by_row else points.alpha
            metrics["flow_ratio"] = points.flow_rows / len(v)
            metrics["loss"] = loss.detach()
        return Output(loss, per_sample.detach(), metrics, r, t, error.detach())

    @property
    def rule(self) -> Rule:
        """How targets are made."""
        at_end = self.teacher if self._taught_at_the_end() else None
        return Rule(self.shift, self.derivative, self.jumps, self.blend, at_end)

    def alpha_at(self, step: int) -> float | None:
        """α at a step; None where it is drawn row by row."""
        if isinstance(self.alpha, RandomSplit | StepSize):
            return None
        return self.alpha(step) if callable(self.alpha) else float(self.alpha)

    def flow_rows(self, batch: int, step: int) -> int:
        """⌊B · ratio⌋, the number of rows with r = t."""
        return int(batch * self._flow_share(step) + 1e-9)

    def _flow_share(self, step: int) -> float:
        ratio = self.flow_ratio(step) if callable(self.flow_ratio) else self.flow_ratio
        _check_flow_ratio(ratio)
        return ratio

    def _order(self, alpha: Tensor) -> Tensor:
        """Return as what u - target shrinks (B,), where the network fits one part of the interval as the other."""
        if self.shift not in ("model", "end"):
            return alpha
        return torch.where(alpha < 1, alpha * (1 - alpha).clamp(min=1e-3), alpha)

    def _never_drops(self) -> bool:
        where = self.guidance.drop_where if self.guidance is not None and self.guidance.drop else ""
        return where == "flow" and not callable(self.flow_ratio) and self.flow_ratio == 0

    def _never_sees_the_data(self) -> bool:
        """v enters a target where r = t, under the other shifts, and where α = 1."""
        fixed = not callable(self.flow_ratio) and self.flow_ratio == 0
        reaches_1 = isinstance(self.alpha, StepSize) or 1 in extremes(self.alpha)
        return self.shift in ("model", "end") and fixed and not (reaches_1 or self._taught_at_the_end())

    def _taught_at_the_end(self) -> bool:
        """Guidance leads v away from the teacher's velocity, which then is another than at the interval's end."""
        plain = self.teacher is not None and self.guidance is None
        return plain and self.shift == "end" and not callable(self.alpha) and self.alpha == 0

    def _check_full_gradient(self) -> None:
        if not self.full_gradient:
            return
        if self.shift != "end" or self.alpha != 0:
            raise ValueError(
                f"full_gradient goes with shift 'end' and alpha 0, not {self.shift!r} and {self.alpha}: the error "
                "is that of the interval's end; leave these as they are, or choose another member (lagrangian)"
            )
        if self.derivative == "fused":
            raise ValueError(
                "full_gradient needs ∂u/∂r with its graph, which derivative 'fused' does not keep: choose 'auto', "
                "'forward', 'reverse' or 'difference'"
            )
        if callable(self.trust) or self.trust != 1 or self.relaxation is not None or self.max_change is not None:
            raise ValueError(
                "full_gradient has no target of u that trust, relaxation or max_change could move: leave them out"
            )

    def _shape_target(self, target: Tensor, u: Tensor, points: Points) -> Tensor:
        """Clip, extrapolate or relax the target where r < t, if asked to; rows with r = t keep v."""
        clip = None if points.regime == "derivative" else self.clip
        if clip is None and self.relaxation is None and self.max_change is None:
            return target
        first = points.flow_rows
        far, u, rows = target[first:], u[first:], points.rows(first)
        shaped = far if clip is None else far.clamp(-clip, clip)
        if self.max_change is not None:
            alpha = expand(rows.alpha, u) if isinstance(rows.alpha, Tensor) else rows.alpha or 1.0
            shaped = u - ((u - shaped) / alpha).clamp(-self.max_change, self.max_change)
        if self.relaxation is not None:
            share = 1 - (1 - expand(rows.t, u)) ** self.relaxation
            shaped = u - share * (u - shaped).clamp(-1, 1)
        return torch.cat([target[:first], torch.where(expand(rows.r == rows.t, u), far, shaped)])


def _check_trust(value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"trust {value:g} lies outside [0, 1]: 0 teaches v alone, 1 the whole target")


def _check_flow_ratio(value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"flow_ratio {value:g} lies outside [0, 1]: it is the share of rows with r = t")
