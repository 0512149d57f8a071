"""Classifier-free guidance: built into training, or applied at sampling time.

Training (α-Flow, Algorithm 1; MeanFlow, section 4.3) replaces the velocity v by

    ṽ = ω v + κ u⁻(z, t, t | c) + (1 - ω - κ) u⁻(z, t, t | ∅)       for t_min < t < t_max, else v,

so that sampling needs no second evaluation. The effective scale is ω / (1 - κ). A network conditioned on the scale
and the interval (improved MeanFlow, arXiv 2512.02012) learns all of them at once: each row has its own
ω = scale (1 - κ), and its own interval.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ..condition import Condition, Null, join_conditions, map_condition, with_null
from ..errors import choose
from ..path import Network, expand, predict
from ..rng import Random, send

DropWhere = Literal["interval", "everywhere", "flow"]


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """Guidance in training: the velocity of the module's formula, and dropped labels.

    null: what means "no condition": a class index (a DiT's `num_classes`), or one row of another condition.
    omega, kappa: the weights ω and κ. ω = 1, κ = 0 guides nothing and only drops labels.
    t_min, t_max: the interval of t in which to guide.
    drop: the share of labels replaced by `null`, where `drop_where` says:
        interval    on rows inside the interval (α-Flow's release)
        everywhere  on any row (zhuyu-cs/MeanFlow, improved MeanFlow)
        flow        on rows with r = t only (MeanFlow's JAX code, FastGen), and there so many more that their share
                    of all rows is the same, if there are that many
    guide_dropped: inside the interval such rows have ṽ = ω v + (1 - ω) u⁻(z, t, t | ∅), the formula with ∅ for c
        (α-Flow's release); otherwise they keep v (MeanFlow's code). The fixed point is the same.
    scales: for networks conditioned on guidance (`guided=True`): a scale for each row, log-uniform between
        these two, takes the place of omega / (1 - kappa). None: one scale for all, which the network is not given.
    intervals: with scales: a row's interval begins at U(0, ½) and ends at U(½, 1), and is given, too. Without it
        rows are guided between t_min and t_max and given (0, 1): there is nothing to choose.

    Rows with dropped labels are given scale 1 and (0, 1), as the class `null` always is: what a network learns of
    it is then one function of z and t, and neither a sample of it nor the formula's null branch asks for another.

    Raises:
        ValueError: drop or the interval outside [0, 1], kappa not below 1; scales below 1 or that fall; omega, or
            under `intervals` t_min or t_max, beside what is drawn in its place; an unknown `drop_where`; when
            called, no labels.
    """

    null: Null
    omega: float = 1.0
    kappa: float = 0.0
    t_min: float = 0.0
    t_max: float = 1.0
    drop: float = 0.1
    scales: tuple[float, float] | None = None
    intervals: bool = False
    drop_where: DropWhere = "interval"
    guide_dropped: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.drop <= 1:
            raise ValueError(f"guidance drop {self.drop:g} must lie in [0, 1]")
        choose("drop_where", self.drop_where, get_args(DropWhere))
        if not 0 <= self.t_min <= self.t_max <= 1:
            raise ValueError(f"guidance interval ({self.t_min:g}, {self.t_max:g}) must lie in [0, 1]")
        if self.kappa >= 1:
            raise ValueError(f"guidance kappa {self.kappa:g} must be below 1: the scale is omega / (1 - kappa)")
        if self.scales is not None:
            low, high = self.scales
            if not 1 <= low <= high < math.inf:
                raise ValueError(f"guidance scales ({low:g}, {high:g}) must rise from 1 or more: 1 guides nothing")
            if self.omega != 1:
                raise ValueError(f"guidance omega {self.omega:g} is drawn where scales are given: leave it at 1")
        if self.scales is not None and not isinstance(self.null, int):
            raise ValueError("guidance scales go with classes: with another condition leave them out")
        if self.intervals and (self.scales is None or (self.t_min, self.t_max) != (0, 1)):
            raise ValueError("guidance intervals go with scales, and without t_min and t_max: they are drawn")

    def __str__(self) -> str:
        where = "t drawn by row" if self.intervals else f"{self.t_min:g} < t < {self.t_max:g}"
        how = f"ω {self.omega:g}, κ {self.kappa:g}"
        if self.scales is not None:
            how = f"scales {self.scales[0]:g} to {self.scales[1]:g} by row, κ {self.kappa:g}"
        dropped = {"interval": "", "everywhere": " at every t", "flow": " where r = t"}[self.drop_where]
        dropped += " and guided all the same" if self.guide_dropped else ""
        return f"{how}, {where}, {100 * self.drop:.4g} % of labels dropped{dropped}"

    @torch.no_grad()
    def __call__(
        self,
        net: Network,
        z: Tensor,
        v: Tensor,
        t: Tensor,
        y: Condition | None,
        random: Random,
        *,
        flow: tuple[Tensor, float] | None = None,
    ) -> tuple[Tensor, Condition]:
        """Guided velocities (B, *shape) and y with some rows dropped; t is (B,) on the CPU.

        flow: which rows have r = t, (B,) on the CPU, and which share of all rows that is meant to be; needed where
        labels drop on those only.

        With scales, classes (B,) become (B, 4), see `with_guidance`.

        The network is evaluated only on the rows that need it, both branches in one batch. Which rows those are
        is known from `t` on the host, so no device is waited for. If none does, the first one is evaluated and not
        used: processes that evaluate a network together call it equally often.
        """
        if y is None:
            raise ValueError("guidance needs labels y: give them, or train without guidance")
        inside = (t > self.t_min) & (t < self.t_max)
        dropped = self._drop(random.uniform("drop"), inside, flow)
        labels, none = with_null(y, self.null, send(dropped, z.device)), with_null(y, self.null)
        omega: float | Tensor = self.omega
        if self.scales is not None:
            scale, start, end = self._draw(random)
            inside = inside & (t > start) & (t < end)
            interval = (start, end) if self.intervals else ()
            labels, none = (self._told(one, scale, interval, v.dtype) for one in (labels, none))
            omega = labels[:, 1] * (1 - self.kappa)
        unaware = self.scales is None and self.omega == 1  # then ω v + (1 - ω) u_∅ is v itself
        rows = torch.nonzero(inside if self.guide_dropped and not unaware else inside & ~dropped)[:, 0]
        weights: dict[str, float | Tensor] = {"class": self.kappa, "null": 1 - omega - self.kappa}
        branches = [name for name, weight in weights.items() if isinstance(weight, Tensor) or weight]
        if not branches:
            return v, labels
        needed = len(rows)
        rows = send(rows if needed else torch.zeros(1, dtype=torch.int64), z.device)
        times = send(t, z)[rows]
        told = {"class": labels, "null": none}
        many = len(branches)
        velocity = predict(
            net,
            z[rows].repeat(many, *(1,) * (z.ndim - 1)),
            times.repeat(many),
            times.repeat(many),
            join_conditions([map_condition(told[name], lambda part: part[rows]) for name in branches]),
        )
        if not needed:
            return v, labels

        def of_rows(weight: float | Tensor) -> float | Tensor:
            return expand(weight[rows], z) if isinstance(weight, Tensor) else weight

        guided = of_rows(omega) * v[rows]
        for name, part in zip(branches, velocity.chunk(many)):
            guided = guided + of_rows(weights[name]) * part
        return v.index_copy(0, rows, guided.to(v)), labels

    def _told(
        self, y: Condition, scale: Tensor, interval: tuple[Tensor, Tensor] | tuple[()], dtype: torch.dtype
    ) -> Tensor:
        """Classes (B,) with their rows' guidance, (B, 4)."""
        if not isinstance(y, Tensor) or y.ndim != 1 or not isinstance(self.null, int):
            raise ValueError("guidance scales go with classes (B,): with another condition leave them out")
        return with_guidance(y, scale, *interval, null=self.null, dtype=dtype)

    def _drop(self, drawn: Tensor, inside: Tensor, flow: tuple[Tensor, float] | None) -> Tensor:
        """Which rows lose their label, (B,), by uniform numbers (B,)."""
        if self.drop_where == "everywhere":
            return drawn < self.drop
        if self.drop_where == "interval":
            return inside & (drawn < self.drop)
        if flow is None:
            raise ValueError("guidance that drops labels where r = t needs to know those rows: give `flow`")
        rows, share = flow
        return rows & (drawn < self.drop / max(share, self.drop)) if self.drop else torch.zeros_like(rows)

    def _draw(self, random: Random) -> tuple[Tensor, Tensor, Tensor]:
        """Each row's scale, and where its interval begins and ends: (B,) each, on the CPU."""
        assert self.scales is not None
        low, high = self.scales
        scale = low * (high / low) ** random.uniform("guidance scale")
        if not self.intervals:
            return scale, torch.full_like(scale, self.t_min), torch.full_like(scale, self.t_max)
        return scale, random.uniform("guidance start") / 2, (1 + random.uniform("guidance end")) / 2


def with_guidance(
    y: Tensor,
    scale: float | Tensor,
    start: float | Tensor = 0.0,
    end: float | Tensor = 1.0,
    *,
    null: int,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return classes with guidance, for a network conditioned on it: (B, 4) of class, scale, interval of t.

    One tensor, so that it is cut and joined like the classes alone. Classes stay exact: `dtype` is raised to at
    least float32. No class is led towards nothing: such rows are given scale 1 and all of [0, 1], which is also
    what classes alone, (B,), mean to such a network.

    Args:
        y: classes (B,) int64. scale, start, end: numbers, or (B,) row by row.
        null: the class index that means "no class".
    """
    columns = [y.to(torch.promote_types(dtype, torch.float32))]
    for value, unguided in ((scale, 1.0), (start, 0.0), (end, 1.0)):
        given = send(value, columns[0]) if isinstance(value, Tensor) else torch.full_like(columns[0], value)
        columns.append(torch.where(y == null, unguided, given))
    return torch.stack(columns, dim=1)


class GuidanceConditioned(nn.Module):
    """A network that takes guidance as an input, given one scale and interval for all rows: one evaluation each.

    Called like the network, with classes (B,).

    net: u(z, r, t, y) of a network built with `guided=True`. null: the class index that means "no class".
    scale, start, end: what it is given; see `with_guidance`.
    """

    def __init__(self, net: nn.Module, null: int, scale: float, start: float = 0.0, end: float = 1.0) -> None:
        super().__init__()
        self.net, self.null, self.guidance = net, null, (scale, start, end)
        self.training = net.training

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self.net(
            z, r, t, None if y is None else with_guidance(y, *self.guidance, null=self.null, dtype=t.dtype)
        )


@dataclass(frozen=True)
class Autoguided:
    """A network led away from a weaker one: u_weak + scale (u_strong - u_weak), one evaluation of each.

    As a teacher it needs neither labels nor networks that know samples without a class. Called like a network.
    Source: autoguidance (arXiv 2406.02507); in distillation AYF (2506.14603).

    strong, weak: u(z, r, t, y); weak is smaller, or trained for a shorter time. scale: 1 is no guidance.

    Raises:
        ValueError: a scale below 1, which would lead towards the weak one; when called, the two differ in shape.
    """

    strong: Network
    weak: Network
    scale: float

    def __post_init__(self) -> None:
        if not 1 <= self.scale < math.inf:
            raise ValueError(
                f"autoguidance scale {self.scale:g} must be at least 1: 1 is the strong network alone"
            )

    def __call__(self, z: Tensor, r: Tensor, t: Tensor, y: Condition | None = None) -> Tensor:
        strong = predict(self.strong, z, r, t, y)
        return strong + (self.scale - 1) * (strong - predict(self.weak, z, r, t, y))


@dataclass(frozen=True)
class Guided:
    """A network under plain guidance: u_∅ + scale (u_c - u_∅), two evaluations in one batch.

    For sampling from models trained without built-in guidance, in many steps. Called like the network.
    Source: classifier-free guidance (arXiv 2207.12598); in an interval of t, arXiv 2404.07724.

    net: u(z, r, t, y). null: what means "no condition", as in `Guidance`.
    scale: 1 is no guidance. t_min, t_max: where t lies outside of them only the conditional branch counts.

    Raises:
        ValueError: when called, no labels.
    """

    net: Network
    null: Null
    scale: float
    t_min: float = 0.0
    t_max: float = 1.0

    def __call__(self, z: Tensor, r: Tensor, t: Tensor, y: Condition | None = None) -> Tensor:
        if y is None:
            raise ValueError("guidance needs labels y: give them, or sample without guidance")
        both = join_conditions([y, with_null(y, self.null)])
        twice = predict(self.net, z.repeat(2, *(1,) * (z.ndim - 1)), r.repeat(2), t.repeat(2), both)
        conditional, unconditional = twice.chunk(2)
        scale = torch.where((t >= self.t_min) & (t <= self.t_max), self.scale, 1.0)
        return unconditional + expand(scale.to(z), z) * (conditional - unconditional)
