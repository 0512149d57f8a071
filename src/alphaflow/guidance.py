"""Classifier-free guidance: built into training, or applied at sampling time.

Training (α-Flow, Algorithm 1; MeanFlow, section 4.3) replaces the velocity v by

    ṽ = ω v + κ u⁻(z, t, t | c) + (1 - ω - κ) u⁻(z, t, t | ∅)       for t_min < t < t_max, else v,

so that sampling needs no second evaluation. The effective scale is ω / (1 - κ).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .path import Network, expand
from .rng import Random


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """Guidance in training: the velocity of the module's formula, and dropped labels.

    null: the class index that means "no class" (a DiT's `num_classes`).
    omega, kappa: the weights ω and κ. ω = 1, κ = 0 guides nothing and only drops labels.
    t_min, t_max: the interval of t in which to guide.
    drop: the share of labels replaced by `null`, inside the interval; those rows keep the plain v.

    Raises:
        ValueError: drop or the interval outside [0, 1], kappa not below 1; when called, no labels.
    """

    null: int
    omega: float = 1.0
    kappa: float = 0.0
    t_min: float = 0.0
    t_max: float = 1.0
    drop: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.drop <= 1:
            raise ValueError(f"guidance drop {self.drop:g} must lie in [0, 1]")
        if not 0 <= self.t_min <= self.t_max <= 1:
            raise ValueError(f"guidance interval ({self.t_min:g}, {self.t_max:g}) must lie in [0, 1]")
        if self.kappa >= 1:
            raise ValueError(f"guidance kappa {self.kappa:g} must be below 1: the scale is omega / (1 - kappa)")

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
        """Guided velocities (B, *shape) and labels (B,) with some dropped; t is (B,) on the CPU.

        The network is evaluated only on the rows that need it, both branches in one batch. Which rows those are
        is known from `t` on the host, so no device is waited for. `even`: it is evaluated even if none does.
        """
        if y is None:
            raise ValueError("guidance needs labels y: give them, or train without guidance")
        inside = (t > self.t_min) & (t < self.t_max)
        dropped = inside & (random.uniform("drop") < self.drop)
        labels = torch.where(dropped.to(y.device), self.null, y)
        rows = torch.nonzero(inside & ~dropped)[:, 0]
        weights = {"class": self.kappa, "null": 1 - self.omega - self.kappa}
        branches = [name for name, weight in weights.items() if weight]
        if not branches or (len(rows) == 0 and not even):
            return v, labels
        needed = len(rows)
        rows = (rows if needed else torch.zeros(1, dtype=torch.int64)).to(z.device)
        times = t.to(z)[rows]
        classes = {"class": y[rows], "null": torch.full_like(y[rows], self.null)}
        many = len(branches)
        velocity = net(
            z[rows].repeat(many, *(1,) * (z.ndim - 1)),
            times.repeat(many),
            times.repeat(many),
            torch.cat([classes[name] for name in branches]),
        )
        if not needed:
            return v, labels
        guided = self.omega * v[rows]
        for name, part in zip(branches, velocity.chunk(many)):
            guided = guided + weights[name] * part
        return v.index_copy(0, rows, guided.to(v)), labels


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
