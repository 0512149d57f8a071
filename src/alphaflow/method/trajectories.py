"""A teacher's whole paths as targets: between two of their points the average velocity is known.

    z_0 = ε at τ_0 = 1,  z_{k+1} = z_k - (τ_k - τ_{k+1}) v_T(z_k, τ_k),  τ_N = 0
    u(z_i, τ_j, τ_i) → (z_i - z_j) / (τ_i - τ_j),  i < j

No derivative is taken, no target is made by the network itself, and no sample is looked at: a start from which any
member of the family goes on. Source: CMT (arXiv 2509.24526), in u as MF-RAE (2511.13019) has it.
"""

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from ..condition import Condition, map_condition
from ..errors import choose
from ..path import Network, Points, move, predict
from ..rng import Random, as_random, send
from .alpha import Alpha
from .objective import AlphaFlow, Output
from .schedules import Schedule
from .weighting import AnchorWeight, Weight

Solver = Literal["euler", "heun"]


@dataclass(frozen=True, kw_only=True)
class Trajectories(AlphaFlow):
    """Regression on a teacher's paths from noise to data. Called like `AlphaFlow`, of which it uses the weight,
    `times.time_shift` and the teacher.

    Each row of a batch is a path: its class and noise are used, its sample is not. `pairs` of its points are drawn
    with replacement from all i < j, so that an evaluation has B · pairs rows. `per_sample` of what it gives is the
    mean of each path, (B,); `residual`, `r` and `t` are of all rows, the pairs of a path side by side.

    path_steps: N, evaluations of the teacher a path, at times evenly spaced but for `times.time_shift`.
    solver: euler, or heun, with two evaluations a step but the last, to t = 0, which is Euler's, and an error of
        1 / N².
    pairs: how many pairs of points are taken from a path.

    Raises:
        ValueError: a setting out of its range, or one of `AlphaFlow` that says nothing here; when called, no
            teacher.
    """

    alpha: Alpha = 1.0
    flow_ratio: float | Schedule = 0.0
    weight: Weight | AnchorWeight = field(default_factory=lambda: Weight(kind="uniform"))
    path_steps: int = 16
    solver: Solver = "euler"
    pairs: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        choose("solver", self.solver, get_args(Solver))
        if self.path_steps < 1:
            raise ValueError(f"path_steps {self.path_steps} must be at least 1")
        if self.pairs < 1:
            raise ValueError(f"pairs {self.pairs} must be at least 1")
        if self.alpha != 1 or self.flow_ratio != 0 or self.guidance is not None:
            raise ValueError(
                "trajectories have no α, no rows with r = t and no guidance but the teacher's: leave out"
            )

    def __str__(self) -> str:
        """Return what is learned, in one line."""
        n = self.times.time_shift
        shifted = f", times shifted by {n:g}" if n != 1 else ""
        return (
            f"trajectories: {self.path_steps} steps of {self.solver}{shifted}; {self.pairs} pairs a path; weight "
            f"{self.weight}"
        )

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
        """Draw paths and pairs of their points. x: its shape, type and device alone; noise: where paths begin."""
        if self.teacher is None:
            raise ValueError("trajectories are a teacher's: give teacher=net")
        random = as_random(generator, len(x))
        start = (random.normal("noise", x.shape[1:], x.device) if noise is None else noise).to(x)
        places = self.path(start, y)
        first, last = torch.triu_indices(len(places), len(places), 1)
        drawn = torch.stack([random.uniform(f"pair {k}") for k in range(self.pairs)], dim=1)  # (B, pairs)
        drawn = (drawn * len(first)).long().clamp(max=len(first) - 1).flatten()
        i, j = first[drawn], last[drawn]
        paths = torch.arange(len(x)).repeat_interleave(self.pairs)
        grid = self.grid()
        r, t = send(grid[j], x), send(grid[i], x)
        row, begin, end = (send(index, x.device) for index in (paths, i, j))
        z, arrived = places[begin, row], places[end, row]
        told = None if y is None else map_condition(y, lambda part: part[row])
        return Points(z, self.velocity_between(z, arrived, r, t), r, t, told, 1.0, 0)

    def evaluate(self, net: Network, points: Points) -> Output:
        """Evaluate the regression at given points."""
        out = super().evaluate(net, points)
        return replace(out, per_sample=out.per_sample.reshape(-1, self.pairs).mean(1))

    def grid(self) -> Tensor:
        """Return the times τ_0 = 1 … τ_N = 0 of a path's points, (N + 1,) float64."""
        even = torch.linspace(1, 0, self.path_steps + 1, dtype=torch.float64)
        n = self.times.time_shift
        return n * even / (1 + (n - 1) * even)

    @torch.no_grad()
    def path(self, start: Tensor, y: Condition | None = None) -> Tensor:
        """Return the points of the teacher's paths from noise (B, *shape): (N + 1, B, *shape), at `grid()`."""
        assert self.teacher is not None
        places, grid = [start], self.grid()
        for here, there in zip(grid[:-1].tolist(), grid[1:].tolist()):
            z, t, s = places[-1], start.new_full(start.shape[:1], here), start.new_full(start.shape[:1], there)
            v = predict(self.teacher, z, t, t, y).to(start)
            if self.solver == "heun" and there > 0:
                v = (v + predict(self.teacher, move(z, v, t, s), s, s, y).to(start)) / 2
            places.append(move(z, v, t, s))
        return torch.stack(places)

    @staticmethod
    def velocity_between(z: Tensor, arrived: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """Return the average velocity from z at t to `arrived` at r < t, (B, *shape)."""
        return (z - arrived) / (t - r).reshape(-1, *(1,) * (z.ndim - 1))
