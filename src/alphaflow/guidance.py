"""Classifier-free guidance: built into training, or applied at sampling time.

Training (α-Flow, Algorithm 1; MeanFlow, section 4.3) replaces the velocity v by

    ṽ = ω v + κ u⁻(z, t, t | c) + (1 - ω - κ) u⁻(z, t, t | ∅)       for t_min < t < t_max, else v,

so that sampling needs no second evaluation. The effective scale is ω / (1 - κ). A network that is told the scale
and the interval (improved MeanFlow, arXiv 2512.02012) learns all of them at once: each row has its own
ω = scale (1 - κ), and its own interval.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .path import Network, expand, tell
from .rng import Random, send


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """Guidance in training: the velocity of the module's formula, and dropped labels.

    null: the class index that means "no class" (a DiT's `num_classes`).
    omega, kappa: the weights ω and κ. ω = 1, κ = 0 guides nothing and only drops labels.
    t_min, t_max: the interval of t in which to guide.
    drop: the share of labels replaced by `null`, inside the interval; those rows keep the plain v.
    scales: for networks that are told of guidance (`guided=True`): a scale for each row, log-uniform between
        these two, takes the place of omega / (1 - kappa). None: one scale for all, of which nothing is told.
    intervals: with scales: a row's interval begins at U(0, ½) and ends at U(½, 1), and is told, too. Without it
        rows are guided between t_min and t_max and told (0, 1): there is nothing to choose.

    Rows with dropped labels are told scale 1 and (0, 1), as the class `null` always is: what a network learns of
    it is then one function of z and t, and neither a sample of it nor the formula's null branch asks for another.

    Raises:
        ValueError: drop or the interval outside [0, 1], kappa not below 1; scales below 1 or that fall; omega, or
            under `intervals` t_min or t_max, beside what is drawn in its place; when called, no labels.
    """

    null: int
    omega: float = 1.0
    kappa: float = 0.0
    t_min: float = 0.0
    t_max: float = 1.0
    drop: float = 0.1
    scales: tuple[float, float] | None = None
    intervals: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.drop <= 1:
            raise ValueError(f"guidance drop {self.drop:g} must lie in [0, 1]")
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
        if self.intervals and (self.scales is None or (self.t_min, self.t_max) != (0, 1)):
            raise ValueError("guidance intervals go with scales, and without t_min and t_max: they are drawn")

    @torch.no_grad()
    def __call__(
        self,
        net: Network,
        z: Tensor,
        v: Tensor,
        t: Tensor,
        y: Tensor | None,
        random: Random,
        *,
        even: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Guided velocities (B, *shape) and labels with some dropped; t is (B,) on the CPU.

        Labels are (B,), or with scales (B, 4), see `path.tell`.

        The network is evaluated only on the rows that need it, both branches in one batch. Which rows those are
        is known from `t` on the host, so no device is waited for. `even`: it is evaluated even if none does.
        """
        if y is None:
            raise ValueError("guidance needs labels y: give them, or train without guidance")
        inside = (t > self.t_min) & (t < self.t_max)
        dropped = inside & (random.uniform("drop") < self.drop)
        labels, none = torch.where(send(dropped, y.device), self.null, y), torch.full_like(y, self.null)
        omega: float | Tensor = self.omega
        if self.scales is not None:
            scale, start, end = self._draw(random)
            inside = inside & (t > start) & (t < end)
            labels, none = (
                tell(one, scale, *((start, end) if self.intervals else ()), null=self.null, dtype=v.dtype)
                for one in (labels, none)
            )
            omega = labels[:, 1] * (1 - self.kappa)
        rows = torch.nonzero(inside & ~dropped)[:, 0]
        weights: dict[str, float | Tensor] = {"class": self.kappa, "null": 1 - omega - self.kappa}
        branches = [name for name, weight in weights.items() if isinstance(weight, Tensor) or weight]
        if not branches or (len(rows) == 0 and not even):
            return v, labels
        needed = len(rows)
        rows = send(rows if needed else torch.zeros(1, dtype=torch.int64), z.device)
        times = send(t, z)[rows]
        classes = {"class": labels[rows], "null": none[rows]}
        many = len(branches)
        velocity = net(
            z[rows].repeat(many, *(1,) * (z.ndim - 1)),
            times.repeat(many),
            times.repeat(many),
            torch.cat([classes[name] for name in branches]),
        )
        if not needed:
            return v, labels

        def of_rows(weight: float | Tensor) -> float | Tensor:
            return expand(weight[rows], z) if isinstance(weight, Tensor) else weight

        guided = of_rows(omega) * v[rows]
        for name, part in zip(branches, velocity.chunk(many)):
            guided = guided + of_rows(weights[name]) * part
        return v.index_copy(0, rows, guided.to(v)), labels

    def _draw(self, random: Random) -> tuple[Tensor, Tensor, Tensor]:
        """Each row's scale, and where its interval begins and ends: (B,) each, on the CPU."""
        assert self.scales is not None
        low, high = self.scales
        scale = low * (high / low) ** random.uniform("guidance scale")
        if not self.intervals:
            return scale, torch.full_like(scale, self.t_min), torch.full_like(scale, self.t_max)
        return scale, random.uniform("guidance start") / 2, (1 + random.uniform("guidance end")) / 2


class Told(nn.Module):
    """A network that takes guidance as an input, told one scale and interval for all rows: one evaluation each.

    Called like the network, with classes (B,).

    net: u(z, r, t, y) of a network built with `guided=True`. null: the class index that means "no class".
    scale, start, end: what it is told; see `path.tell`.
    """

    def __init__(self, net: nn.Module, null: int, scale: float, start: float = 0.0, end: float = 1.0) -> None:
        super().__init__()
        self.net, self.null, self.told = net, null, (scale, start, end)
        self.training = net.training

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self.net(z, r, t, None if y is None else tell(y, *self.told, null=self.null, dtype=t.dtype))


@dataclass(frozen=True)
class Guided:
    """A network under plain guidance: u_∅ + scale (u_c - u_∅), two evaluations in one batch.

    For sampling from models trained without built-in guidance, in many steps. Called like the network.
    Source: classifier-free guidance (arXiv 2207.12598); in an interval of t, arXiv 2404.07724.

    net: u(z, r, t, y). null: the class index that means "no class".
    scale: 1 is no guidance. t_min, t_max: where t lies outside of them only the conditional branch counts.

    Raises:
        ValueError: when called, no labels.
    """

    net: Network
    null: int
    scale: float
    t_min: float = 0.0
    t_max: float = 1.0

    def __call__(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        if y is None:
            raise ValueError("guidance needs labels y: give them, or sample without guidance")
        both = torch.cat([y, torch.full_like(y, self.null)])
        twice = self.net(z.repeat(2, *(1,) * (z.ndim - 1)), r.repeat(2), t.repeat(2), both)
        conditional, unconditional = twice.chunk(2)
        scale = torch.where((t >= self.t_min) & (t <= self.t_max), self.scale, 1.0)
        return unconditional + expand(scale.to(z), z) * (conditional - unconditional)
