"""Loss weights per row. All are constants under the gradient."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ..errors import choose

WeightName = Literal["adaptive", "scaled", "power", "normalised", "definition", "uniform"]
TimeWeight = Literal["tim", "rcgm"]


@dataclass(frozen=True, kw_only=True)
class Weight:
    """A weight per row, by its error E, the mean square over the row's D dimensions.

    kind: with a = α on rows with r < t and 0 < α < 1, else a = 1, and p the `power`:
        adaptive    a / (E + c)^p           α-Flow's (arXiv 2510.20771; c = 1e-3, p = 1)
        scaled      o^(2p-1) / (E + o² c)^p the same, made continuous at α → 0: there u - target ≈ α q and E ≈ α² Q
                                            with q and Q of MeanFlow, so that weight (u - target) → q / (Q + c)^p;
                                            o = a, but under shifts "model" and "end", where the residual shrinks
                                            towards α → 1 as well, o = a (1 - a)
        power       D / (D E + c)^p         MeanFlow's own (arXiv 2505.13447; c = 1e-2, p = 1 as released): the
                                            row's loss is S / (S + c)^p, S = D E the sum over its dimensions
        normalised  1 / (E^½ + o c)         the tangent's length is divided out (sCM, 2410.11081; AYF, 2506.14603):
                                            it leads to u⁻ - g / (rms g + c) with g = (u⁻ - target) / a; c = 0.1
        definition  1 / a                   Definition 1 of α-Flow as printed; the theorem's consistency weights
        uniform     1
    c: in squared units of the data, for `normalised` in plain ones; None: the kind's own, 1e-2 for `power`, 0.1
        for `normalised` and 1e-3 for the others.
    by_time: a factor of the row's times, with any kind:
        tim         1 / (1 + tan t - tan r)^½      less where the interval is long (TiM, arXiv 2509.04394)
        rcgm        1 + tan(2π/5 (1 - (t - r)))    the same, from 4.1 at r = t down to 1 (RCGM, arXiv 2512.05150)

    With p = 1 the weighted loss sits near 1 whatever the network does: watch the residual.

    Raises:
        ValueError: an unknown kind or factor (the nearest is suggested), a c that is not positive.
    """

    kind: WeightName = "adaptive"
    power: float = 1.0
    c: float | None = None
    by_time: TimeWeight | None = None

    def __post_init__(self) -> None:
        choose("weight", self.kind, get_args(WeightName))
        if self.by_time is not None:
            choose("factor of the times", self.by_time, get_args(TimeWeight))
        if self.c is not None and self.c <= 0:
            raise ValueError(f"weight constant c = {self.c:g} must be positive")

    def __str__(self) -> str:
        own = f"α^{2 * self.power - 1:g}, " if self.kind == "scaled" and self.power != 1 else ""
        power = "" if self.kind == "normalised" else f"p {self.power:g}, "
        plain = self.kind in ("uniform", "definition")
        times = f" by time as {self.by_time}" if self.by_time else ""
        return (self.kind if plain else f"{self.kind}({own}{power}c {self._c:g})") + times

    @property
    def _c(self) -> float:
        return self.c if self.c is not None else {"power": 1e-2, "normalised": 0.1}.get(self.kind, 1e-3)

    def __call__(
        self, error: Tensor, alpha: Tensor, dimensions: int, r: Tensor, t: Tensor, order: Tensor | None = None
    ) -> Tensor:
        """Weights (B,) from E (B,), a (B,), D, r and t (B,), and o (B,), which is a where it is not given."""
        weight = self._by_error(error, alpha, dimensions, alpha if order is None else order)
        if self.by_time == "tim":
            return weight / (1 + t.tan() - r.tan()).sqrt()
        if self.by_time == "rcgm":
            return weight * (1 + (0.4 * torch.pi * (1 - (t - r))).tan())
        return weight

    def _by_error(self, error: Tensor, alpha: Tensor, dimensions: int, order: Tensor) -> Tensor:
        if self.kind == "uniform":
            return torch.ones_like(error)
        if self.kind == "definition":
            return 1 / alpha
        c = self._c
        if self.kind == "power":
            return dimensions * (error * dimensions + c) ** -self.power
        if self.kind == "normalised":
            return 1 / (error.sqrt() + order * c)
        if self.kind == "scaled":
            return order ** (2 * self.power - 1) / (error + order**2 * c) ** self.power
        return alpha / (error + c) ** self.power


@dataclass(frozen=True, kw_only=True)
class AnchorWeight:
    """FACM's (arXiv 2507.03738): sin(π t / 2) / (E + c)^½ where r < t, 1 on its r = t anchors."""

    c: float = 1e-3

    def __str__(self) -> str:
        return f"anchored(c {self.c:g})"

    def __call__(
        self, error: Tensor, alpha: Tensor, dimensions: int, r: Tensor, t: Tensor, order: Tensor | None = None
    ) -> Tensor:
        consistency = (t * (torch.pi / 2)).sin() / (error + self.c).sqrt()
        return torch.where(r < t, consistency, torch.ones_like(error))
