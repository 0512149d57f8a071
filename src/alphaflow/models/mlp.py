"""A residual perceptron for low-dimensional data: points in the plane, small vectors."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from alphaflow.models.embeddings import Network


class MLPBlock(nn.Module):
    """The layer x + Linear(SiLU(Linear(x) scaled and shifted by c)); x and c are (B, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, width)
        self.fc2 = nn.Linear(width, width)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.modulation(c).chunk(2, -1)
        return x + self.fc2(F.silu(self.fc1(x) * (1 + scale) + shift))


class MLP(Network):
    """A residual MLP for the average velocity; z is (B, *shape) with `dim` values a row. See `Network`.

    SiLU throughout makes the output smooth in z, r and t, so that derivatives in t of any order exist. There is
    no normalisation, so that the output may grow with z.

    Args:
        dim: values a sample, the product of its shape.
        width: hidden features.
        depth: residual blocks.
        num_classes: 0 for none. The table has one row more, the unconditional one.
        guided: take guidance's scale and interval as an input, beside the class; see `Network`.

    Raises:
        ValueError: in `forward`, the input has another number of values a row.
    """

    def __init__(
        self, dim: int = 2, width: int = 256, depth: int = 4, num_classes: int = 0, guided: bool = False
    ) -> None:
        config = {"dim": dim, "width": width, "depth": depth, "num_classes": num_classes, "guided": guided}
        super().__init__(config, width=width, num_classes=num_classes, guided=guided)
        self.dim = dim
        self.in_layer = nn.Linear(dim, width)
        self.blocks = nn.ModuleList(MLPBlock(width) for _ in range(depth))
        self.out_layer = nn.Linear(width, dim)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        values = math.prod(z.shape[1:])
        if values != self.dim:
            raise ValueError(
                f"z has shape {tuple(z.shape)}, {values} values a row, but this MLP takes {self.dim}: "
                f"build it with dim={values}"
            )
        c = self.condition(z, r, t, y)
        x = self.in_layer(z.reshape(z.shape[0], self.dim))
        for block in self.blocks:
            x = block(x, c)
        return self.out_layer(x).reshape(z.shape).to(z.dtype)
