"""How (r, t) are drawn: distributions on [0, 1] and the couplings between the two times.

Distributions map uniform numbers through their quantile function, so one uniform is one time. All of it runs
in float64 on the CPU: B numbers, known to the host without asking a device for them.
Sources: MeanFlow's logit-normal pair; α-Flow's released configurations for the other couplings; Shortcut
models (arXiv 2410.12557) for the dyadic one.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from ..errors import UserError, choose
from . import parsing

if TYPE_CHECKING:  # a law is read and its numbers are checked before torch is loaded
    from torch import Tensor

    from ..rng import Random


class Distribution(Protocol):
    """A law on [0, 1]."""

    def quantile(self, p: Tensor) -> Tensor:
        """Return the time below which a share p lies."""

    def cdf(self, t: Tensor) -> Tensor:
        """Return the share below t."""


@dataclass(frozen=True)
class Uniform:
    """Even over [low, high]."""

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(f"uniform needs 0 <= low < high <= 1, got {self.low:g}, {self.high:g}")

    def quantile(self, p: Tensor) -> Tensor:
        return self.low + (self.high - self.low) * p

    def cdf(self, t: Tensor) -> Tensor:
        return ((t - self.low) / (self.high - self.low)).clamp(0, 1)


@dataclass(frozen=True)
class Constant:
    """Always `value`."""

    value: float

    def __post_init__(self) -> None:
        if not 0 <= self.value <= 1:
            raise ValueError(f"time {self.value:g} lies outside [0, 1]")

    def quantile(self, p: Tensor) -> Tensor:
        return p.new_full(p.shape, self.value)

    def cdf(self, t: Tensor) -> Tensor:
        return (t >= self.value).to(t.dtype)


@dataclass(frozen=True)
class _Normal:
    """t = f(mean + std n), n standard normal."""

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if not abs(self.mean) <= 30:  # beyond, every time is 0 or 1
            raise ValueError(f"mean {self.mean:g} must lie between -30 and 30")
        if not 0 < self.std <= 30:
            raise ValueError(f"std {self.std:g} must be positive, and at most 30")

    def quantile(self, p: Tensor) -> Tensor:
        import torch

        return self._squash(self.mean + self.std * torch.special.ndtri(p))

    def cdf(self, t: Tensor) -> Tensor:
        import torch

        return torch.special.ndtr((self._unsquash(t) - self.mean) / self.std)

    def _squash(self, n: Tensor) -> Tensor:
        raise NotImplementedError

    def _unsquash(self, t: Tensor) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class LogitNormal(_Normal):
    """sigmoid of a normal; (-0.4, 1) is MeanFlow's and α-Flow's choice."""

    mean: float = -0.4

    def _squash(self, n: Tensor) -> Tensor:
        return n.sigmoid()

    def _unsquash(self, t: Tensor) -> Tensor:
        return t.logit()


@dataclass(frozen=True)
class Arctan(_Normal):
    """(2/π) arctan(e^n), n normal: the log-normal noise levels of EDM seen on the straight path's clock."""

    def _squash(self, n: Tensor) -> Tensor:
        return n.exp().atan() * (2 / math.pi)

    def _unsquash(self, t: Tensor) -> Tensor:
        return (t * (math.pi / 2)).tan().log()


@dataclass(frozen=True)
class Beta:
    """The beta law."""

    a: float = 1.0
    b: float = 1.0

    def __post_init__(self) -> None:
        if not (0.001 <= self.a <= 10_000 and 0.001 <= self.b <= 10_000):
            raise ValueError(
                f"beta needs positive parameters, between 0.001 and 10000, got {self.a:g}, {self.b:g}"
            )

    def quantile(self, p: Tensor) -> Tensor:
        import torch
        from scipy.special import betaincinv

        return torch.from_numpy(betaincinv(self.a, self.b, p.numpy()))

    def cdf(self, t: Tensor) -> Tensor:
        import torch
        from scipy.special import betainc

        return torch.from_numpy(betainc(self.a, self.b, t.numpy()))


@dataclass(frozen=True)
class Larger:
    """The larger of two draws from `law`: t of a sorted pair.

    On the command line `max(LAW)`, for instance `max(logit-normal(-0.4, 1))`. MeanFlow's code (arXiv 2505.13447)
    sorts the pair of every row first and then sets r = t on some, so there t follows this law as well.
    """

    law: Distribution

    def quantile(self, p: Tensor) -> Tensor:
        return self.law.quantile(p.sqrt())

    def cdf(self, t: Tensor) -> Tensor:
        return self.law.cdf(t) ** 2


DISTRIBUTIONS = {
    "uniform": Uniform,
    "constant": Constant,
    "logit-normal": LogitNormal,
    "arctan": Arctan,
    "beta": Beta,
}
_LARGER = re.compile(r"\s*max\s*(?:\((.*)\))?\s*")
Coupling = Literal["sorted", "minimum", "scaled", "truncated", "gap", "dyadic"]


def parse(text: str) -> Distribution:
    """`parse("logit-normal(-0.4, 1)")`; a bare number is that time. `max(LAW)` is `Larger` of that law.

    Raises:
        UserError: an unknown law (the nearest is suggested), numbers out of its range, or only some of them.
    """
    larger = _LARGER.fullmatch(str(text))
    if larger is None:
        return parsing.parse(str(text), "time distribution", DISTRIBUTIONS, together=True)
    if not (larger[1] or "").strip():
        raise UserError(
            f"time distribution {text!r} names no law of the two draws: max(logit-normal(-0.4, 1))", status=2
        )
    return Larger(parse(larger[1]))


def words(law: Distribution) -> str:
    """Return a law as `parse` reads it: `logit-normal(-0.4, 1)`."""
    return f"max({words(law.law)})" if isinstance(law, Larger) else parsing.words(law, DISTRIBUTIONS)


@dataclass(frozen=True, kw_only=True)
class Times:
    """How the pair (r, t) of a row is drawn.

    coupling:
        sorted     two draws, from `t` and from `r`; the larger is t, the smaller r (MeanFlow, α-Flow)
        minimum    t drawn, r = min(t, a draw from `r`); `r=Constant(0)` makes every interval reach the data
        scaled     t drawn, r = t ρ with ρ drawn from `r`
        truncated  t drawn, r drawn from the part of `r` below t
        gap        t - r drawn from the law `t`, then r from the part of `r` that leaves room for it (TVM)
        dyadic     t - r = 2^-k, k uniform in 0 … levels-1, t on that grid (Shortcut); t and r's laws unused
    t, r, flow: the laws of t (or t - r), of r (or ρ), and of t on the rows with r = t (None: that of t, as α-Flow
        draws it, under `gap` that of r; `Larger` of it: MeanFlow's, which sorts the pair before it makes r = t).
    levels: of the dyadic grid; 7 makes steps of 1 to 1/64.
    to_data: the share of rows with r < t whose r becomes 0 (TiM 0.1, AnyFlow 0.25).
    time_shift: n of t → n t / (1 + (n - 1) t), after all else and on r and t alike; it keeps 0, 1 and the order.
        Above 1 it moves times towards the noise, as latents of many dimensions need (SD3, 2403.03206).

    Sources: TVM (arXiv 2511.19797), TiM (2509.04394), AnyFlow (2605.13724), MF-RAE (2511.13019).

    Raises:
        ValueError: an unknown coupling (the nearest is suggested), no level, a share outside [0, 1], a time shift
            that is not positive.
    """

    coupling: Coupling = "sorted"
    t: Distribution = field(default_factory=LogitNormal)
    r: Distribution = field(default_factory=LogitNormal)
    flow: Distribution | None = None
    levels: int = 7
    to_data: float = 0.0
    time_shift: float = 1.0

    def __post_init__(self) -> None:
        choose("coupling", self.coupling, get_args(Coupling))
        if self.levels < 1:
            raise ValueError(f"levels {self.levels} must be at least 1")
        if not 0 <= self.to_data <= 1:
            raise ValueError(f"to_data {self.to_data:g} must lie in [0, 1]: it is a share of rows")
        if not 0 < self.time_shift < math.inf:
            raise ValueError(f"time_shift {self.time_shift:g} must be positive; 1 leaves times as they are")

    def draw(self, random: Random, flow_rows: int = 0) -> tuple[Tensor, Tensor]:
        """Draw the times of a batch: r, t (B,), float64, CPU. The first `flow_rows` rows have r = t."""
        import torch

        t, r = self._pair(random)
        if self.to_data:
            r = torch.where(random.uniform("to data") < self.to_data, 0.0, r)
        if flow_rows:
            t_flow = self.where_equal.quantile(random.uniform("t_flow"))
            is_flow = torch.arange(len(t)) < flow_rows
            t, r = torch.where(is_flow, t_flow, t), torch.where(is_flow, t_flow, r)
        n = self.time_shift
        return (r, t) if n == 1 else (n * r / (1 + (n - 1) * r), n * t / (1 + (n - 1) * t))

    def __str__(self) -> str:
        """Return the laws of t and r in words, without that of t on rows with r = t."""
        zero = f", r 0 on {100 * self.to_data:.4g} %" if self.to_data else ""
        return self._laws() + zero + self._shifted()

    @property
    def where_equal(self) -> Distribution:
        """The law of t on the rows with r = t, before the shift."""
        return self.flow or (self.r if self.coupling == "gap" else self.t)

    def words_where_equal(self) -> str:
        """Return the law of t on the rows with r = t in words."""
        return words(self.where_equal) + self._shifted()

    def _shifted(self) -> str:
        return f", shifted by {self.time_shift:g}" if self.time_shift != 1 else ""

    def _laws(self) -> str:
        if self.coupling == "dyadic":
            return f"on the dyadic grid of {self.levels} levels"
        t, r = words(self.t), words(self.r)
        if self.coupling == "scaled":
            return f"t {t}, r / t {r}"
        if self.coupling == "gap":
            return f"t - r {t}, r {r}"
        return f"{t}, {self.coupling}" if t == r else f"t {t}, r {r}, {self.coupling}"

    def _pair(self, random: Random) -> tuple[Tensor, Tensor]:
        import torch

        p, q = random.uniform("t"), random.uniform("r")
        if self.coupling == "dyadic":
            count = 2.0 ** (p * self.levels).floor()  # intervals of this length on [0, 1]
            t = ((q * count).floor() + 1) / count
            return t, t - 1 / count
        t = self.t.quantile(p)
        if self.coupling == "truncated":
            return t, torch.minimum(self.r.quantile(q * self.r.cdf(t)), t)
        if self.coupling == "gap":  # here the first draw is t - r
            r = self.r.quantile(q * self.r.cdf(1 - t)).clamp(max=1 - t)
            return (r + t).clamp(max=1), r
        other = self.r.quantile(q)
        if self.coupling == "sorted":
            return torch.maximum(t, other), torch.minimum(t, other)
        return t, torch.minimum(t, other) if self.coupling == "minimum" else t * other
