"""The conditions of every network: the two times t and t−r, and the class; and where asked for, guidance.

Times enter as they are, in [0, 1]. Scaling them (many diffusion codes multiply by 1000) makes ∂u/∂t rough,
which ruins every objective that differentiates or extrapolates in t.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

FREQUENCIES = 256
"""Length of the sinusoidal time features (half cosines, half sines)."""

MAX_PERIOD = 10_000.0
"""The slowest sinusoid is cos(t / MAX_PERIOD), up to the last step of the geometric grid."""


def sinusoids(t: Tensor, features: int = FREQUENCIES, max_period: float = MAX_PERIOD) -> Tensor:
    """Return cosines, then sines, of t·f, with f falling geometrically from 1 towards 1/max_period.

    Args:
        t: (B,) times in [0, 1], unscaled. A precision below float32 is raised to float32 first.
        features: even length of the result's last axis.
        max_period: the reciprocal of the frequency that the grid approaches.

    Returns:
        (B, features), in float32, or float64 where t is. Autocast does not touch it.

    Source: DiT (Peebles & Xie 2023, arXiv 2212.09748), as MeanFlow (arXiv 2505.13447) uses it.
    """
    t = t.to(torch.promote_types(t.dtype, torch.float32))
    half = features // 2
    # Computed here rather than kept in a buffer, which net.bfloat16() would round.
    steps = torch.arange(half, dtype=t.dtype, device=t.device)
    angles = t[:, None] * torch.exp(steps * (-math.log(max_period) / half))
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def _without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


class TimeEmbedder(nn.Module):
    """The embedding of times (B,) in [0, 1] to (B, width): `sinusoids`, then Linear, SiLU, Linear.

    The layers run in their own precision even under autocast: rounding the sinusoids to bfloat16 would make
    times closer than about 1/256 the same, and the cost is that of B rows.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        with _without_autocast(t.device):
            dtype = self.mlp[0].weight.dtype
            return self.mlp(sinusoids(t).to(dtype))  # type: ignore[arg-type]


class ClassEmbedder(nn.Module):
    """The embedding of classes, int64 (B,), to (B, width). Index `num_classes` is the unconditional class."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, width)
        nn.init.normal_(self.embedding_table.weight, std=0.02)

    def forward(self, y: Tensor) -> Tensor:
        return self.embedding_table(y)


class GuidanceEmbedder(nn.Module):
    """The embedding of guidance (B, 3), a scale of at least 1 and the ends of an interval of t, to (B, width).

    It is zero until it is trained: Linear, SiLU, Linear of 1 - 1/scale, which lies in [0, 1), and of both ends; in
    its own precision, as `TimeEmbedder`. The inputs are those of improved MeanFlow (arXiv 2512.02012), but plain
    numbers: what depends on them is smooth, and from the sinusoids of times, most of which hardly move within [0,
    1], a small network learned to tell scales apart much later.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(3, width), nn.SiLU(), nn.Linear(width, width))
        self.init_weights()

    def init_weights(self) -> None:
        """Initialise the layers so that each number matters from the start, and the output is zero."""
        self.mlp[0].reset_parameters()  # type: ignore[operator]
        for name in ("2.weight", "2.bias"):
            nn.init.zeros_(self.mlp.get_parameter(name))

    def forward(self, guidance: Tensor) -> Tensor:
        with _without_autocast(guidance.device):
            values = torch.cat([1 - 1 / guidance[:, :1], guidance[:, 1:]], dim=1)
            return self.mlp(values.to(self.mlp[0].weight.dtype))  # type: ignore[arg-type]


def classes_alone(y: Tensor | None) -> None:
    """Refuse labels that tell of guidance, for networks that don't listen."""
    if y is not None and y.ndim != 1:
        raise ValueError(
            f"y has shape {tuple(y.shape)}: this network takes classes alone, (B,); to tell it a guidance scale "
            "and interval, (B, 4), build it with guided=True"
        )


class Network(nn.Module, ABC):
    """A network u(z, r, t, y) for the average velocity over [r, t], noise at t=1 and data at t=0.

    Attributes:
        num_classes: number of classes; index `num_classes` is the unconditional one. 0: there is no table.
        config: the constructor's keyword arguments; `type(net)(**net.config)` builds the same network anew.
        t_embedder, d_embedder, y_embedder: embeddings of t, of t−r and of the class (None without classes).
        guide_embedder: that of guidance's scale and interval; None where the network is built without `guided`.

    Raises:
        ValueError: the number of classes is negative, or `guided` is given without any.
    """

    def __init__(self, config: Mapping[str, Any], *, width: int, num_classes: int, guided: bool = False) -> None:
        super().__init__()
        if num_classes < 0:
            raise ValueError(f"num_classes={num_classes} is negative: give 0 for a network without classes")
        self.config = dict(config)
        self.num_classes = num_classes
        self.t_embedder = TimeEmbedder(width)
        self.d_embedder = TimeEmbedder(width)
        self.y_embedder = ClassEmbedder(num_classes, width) if num_classes else None
        if guided and not num_classes:
            raise ValueError("guided=True needs classes to guide towards, and num_classes=0: leave guided out")
        self.guide_embedder = GuidanceEmbedder(width) if guided else None

    def condition(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """Return the sum of the embeddings of t, t−r and y, (B, width). z only decides the precision.

        Raises:
            ValueError: r or t is not of shape (B,); y is given to a network without classes, or holds guidance
                for one built without `guided`, or its shape or precision is another.
        """
        for name, time in (("r", r), ("t", t)):
            if time.shape != z.shape[:1]:
                raise ValueError(
                    f"{name} has shape {tuple(time.shape)} but z has {z.shape[0]} rows: "
                    f"give one time a row, shape ({z.shape[0]},)"
                )
        dtype = torch.promote_types(torch.promote_types(z.dtype, t.dtype), torch.float32)
        r, t = r.to(dtype), t.to(dtype)
        c = self.t_embedder(t) + self.d_embedder(t - r)
        if self.y_embedder is None:
            if y is not None:
                raise ValueError("y is given but this network has no classes (num_classes=0): pass y=None")
            return c
        if y is None:
            y = torch.full(z.shape[:1], self.num_classes, dtype=torch.int64, device=z.device)
        if self.guide_embedder is None:
            classes_alone(y)
            return c + self.y_embedder(y)
        if y.ndim == 1:
            one, zero = (torch.full(z.shape[:1], end, dtype=dtype, device=z.device) for end in (1.0, 0.0))
            return c + self.y_embedder(y) + self.guide_embedder(torch.stack([one, zero, one], dim=1))
        if y.shape[1:] != (4,) or y.element_size() < 4:  # bfloat16 would round classes above 256
            raise ValueError(
                f"y is {y.dtype} of shape {tuple(y.shape)}: give classes (B,) int64, or (B, 4) float32 or float64 "
                "with each row's class, guidance scale, and start and end of its interval"
            )
        return c + self.y_embedder(y[:, 0].long()) + self.guide_embedder(y[:, 1:])

    @abstractmethod
    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the average velocity over [r, t].

        Args:
            z: (B, *shape) float, the state at time t.
            r: (B,) end of the jump, 0 <= r <= t.
            t: (B,) start of the jump, in [0, 1]; noise is at 1.
            y: (B,) int64 classes; index `num_classes`, or None for all rows, is unconditional. For a network
                built with `guided` also (B, 4) float: class, guidance scale, and start and end of the interval of
                t in which to guide; (B,) there means scale 1 and (0, 1). See `method.guidance.with_guidance`.

        Returns:
            u, of z's shape and dtype; the jump is z_r = z − (t−r)·u.
        """

    # nn.Module.__call__ is untyped; this lets `net(z, r, t, y)` be checked.
    __call__: Callable[..., Tensor]
