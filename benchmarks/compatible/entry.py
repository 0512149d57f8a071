"""An entry of the tables of networks: how it is made, what it is given, and how it becomes u(z, r, t, y)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Call = Callable[[Any, Tensor, Tensor, Any], Tensor]
"""call(net, z, t, y) -> like z, with the network's own names."""


@dataclass(frozen=True)
class Entry:
    """A network with tiny random weights.

    make: the network itself. shape: of one z. call: as above; None: it is u(z, r, t, y) already.
    words: tokens and channels of the text it is told, or None. classes: how many it is told, 0: none; with words,
    how many words there are, which it is told by number.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    call: Call | None = None
    words: tuple[int, int] | None = None
    classes: int = 0

    def network(self) -> nn.Module:
        """The network as u(z, r, t, y), in eval mode, with noise in place of weights that begin at zero."""
        torch.manual_seed(0)
        net = self.make()
        net = net if self.call is None else Told(net, self.call, self.shape)
        for weight in net.parameters():
            if not weight.isfinite().all() or not weight.any():
                nn.init.normal_(weight, std=0.1)
        return net.eval()

    def batch(self, rows: int) -> tuple[Tensor, Tensor | None]:
        """Data (rows, *shape) and what the network is told of it."""
        source = torch.Generator().manual_seed(1)
        x = torch.randn(rows, *self.shape, generator=source)
        if self.words and self.classes:
            return x, torch.randint(1, self.classes, (rows, self.words[0]), generator=source)
        if self.words:
            return x, torch.randn(rows, *self.words, generator=source)
        return x, torch.randint(self.classes, (rows,), generator=source) if self.classes else None


class Told(nn.Module):
    """u(z, r, t, y) of a network that knows one time: t - r moves and scales the channels that go in.

    net, call, shape: as in `Entry`; the channels are the first axis of an image or video, the last of tokens.
    """

    def __init__(self, net: nn.Module, call: Call, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.net, self.call, self.last = net, call, len(shape) <= 2
        channels = shape[-1] if self.last else shape[0]
        self.interval = nn.Sequential(nn.Linear(1, 8), nn.SiLU(), nn.Linear(8, 2 * channels))

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        moved = self.interval((t - r)[:, None])
        places = (len(z), *(1,) * (z.ndim - 2), -1) if self.last else (len(z), -1, *(1,) * (z.ndim - 2))
        shift, scale = (part.reshape(places) for part in moved.chunk(2, 1))
        return self.call(self.net, z * (1 + scale) + shift, t, y)


def grid(*sides: int, axes: int = 3) -> Tensor:
    """Positions of tokens on a grid, (tokens, axes): the last axes count, the first stay 0."""
    places = torch.meshgrid(*(torch.arange(float(side)) for side in sides), indexing="ij")
    found = torch.stack([place.flatten() for place in places], 1)
    return torch.cat([torch.zeros(len(found), axes - len(sides)), found], 1)
