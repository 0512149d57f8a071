"""Loss weights per row. All are constants under the gradient."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ..errors import choose

WeightName = Literal["adaptive", "scaled", "power", "definition", "uniform"]


@dataclass(frozen=True, kw_only=True)
class Weight:
    """A weight per row, by its error E, the mean square over the row's D dimensions.

    kind: with a = α on rows with r < t and 0 < α < 1, else a = 1, and p the `power`:
        adaptive    a / (E + c)^p           α-Flow's (arXiv 2510.20771; c = 1e-3, p = 1)
        scaled      a^(2p-1) / (E + a² c)^p the same, made continuous at α → 0: there u - target ≈ α q and E ≈ α² Q
                                            with q and Q of MeanFlow, so that weight (u - target) → q / (Q + c)^p
        power       D / (D E + c)^p         MeanFlow's own (arXiv 2505.13447; c = 1e-2, p = 1 as released): the
                                            row's loss is S / (S + c)^p, S = D E the sum over its dimensions
        definition  1 / a                   Definition 1 of α-Flow as printed; the theorem's consistency weights
        uniform     1
    c: in squared units of the data; None: the kind's own, 1e-2 for `power` and 1e-3 for the others.

    With p = 1 the weighted loss sits near 1 whatever the network does: watch the residual.

    Raises:
        ValueError: an unknown kind (the nearest is suggested), a c that is not positive.
    """

    kind: WeightName = "adaptive"
    power: float = 1.0
    c: float | None = None

    def __post_init__(self) -> None:
        choose("weight", self.kind, get_args(WeightName))
        if self.c is not None and self.c <= 0:
            raise ValueError(f"weight constant c = {self.c:g} must be positive")

    def __str__(self) -> str:
        if self.kind in ("uniform", "definition"):
            return self.kind
        own = f"α^{2 * self.power - 1:g}, " if self.kind == "scaled" and self.power != 1 else ""
        return f"{self.kind}({own}p {self.power:g}, c {self._c:g})"

    @property
    def _c(self) -> float:
        return self.c if self.c is not None else (1e-2 if self.kind == "power" else 1e-3)

    def __call__(self, error: Tensor, alpha: Tensor, dimensions: int, r: Tensor, t: Tensor) -> Tensor:
        """Weights (B,) from E (B,), a (B,) and D; r and t (B,) are unused here."""
        if self.kind == "uniform":
            return torch.ones_like(error)
        if self.kind == "definition":
            return 1 / alpha
        c = self._c
        if self.kind == "power":
            return dimensions * (error * dimensions + c) ** -self.power
        if self.kind == "scaled":
            return alpha ** (2 * self.power - 1) / (error + alpha**2 * c) ** self.power
        return alpha / (error + c) ** self.power


@dataclass(frozen=True, kw_only=True)
class AnchorWeight:
    """FACM's (arXiv 2507.03738): sin(π t / 2) / (E + c)^½ where r < t, 1 on its r = t anchors."""

    c: float = 1e-3

    def __str__(self) -> str:
        return f"anchored(c {self.c:g})"

    def __call__(self, error: Tensor, alpha: Tensor, dimensions: int, r: Tensor, t: Tensor) -> Tensor:
        consistency = (t * (torch.pi / 2)).sin() / (error + self.c).sqrt()
        return torch.where(r < t, consistency, torch.ones_like(error))
