"""A foreign diffusion transformer computed from its own tensors, under their own names and in its own convention.

It is a second way to the same numbers, for the check that each import makes: it shares neither names nor code with
the
network that the weights are taken over into.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .averages import WeightSet
from .layouts import POSITIONS, Layout, flax_name
from .mapping import Shape


class Original:
    """Computes velocity(z, r, t, y) as the code that trained these weights does, with noise at t = 1.

    Args:
        weights, layout: the tensors under their own names, and what the names mean.
        heads: heads of the attention, which the weights do not tell.
    """

    def __init__(self, chosen: WeightSet, layout: Layout, shape: Shape, heads: int) -> None:
        self.weights, self.layout, self.shape, self.heads = chosen.weights, layout, shape, heads

    def velocity(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        """Return the average velocity over [r, t], (B, C, H, W) float32; for a network of one time the one at t.

        Args:
            z: (B, C, H, W).
            r, t: (B,).
            y: rows of the network's own table, int64 (B,); `None` without one.
        """
        times = (1 - t,) if self.layout.reversed_time else (t, t - r)
        c = torch.stack([self._time(name, time) for name, time in zip(self.layout.embedders, times)]).sum(0)
        if y is not None:
            c = c + self._table()[y]
        x = self._patches(z)
        for n in range(self.shape.depth):
            x = self._block(f"blocks.{n}", x, c)
        shift, scale = self._linear("final_layer.adaLN_modulation.1", F.silu(c)).chunk(2, dim=1)
        out = self._picture(self._linear("final_layer.linear", self._norm(x, shift, scale)), z.shape[-1])
        return -out if self.layout.reversed_time else out

    def _get(self, name: str) -> Tensor:
        return self.weights[name].read().float()

    def _linear(self, name: str, x: Tensor) -> Tensor:
        if self.layout.flax:
            name = f"{flax_name(name)}._flax_linear"
            return x @ self._get(f"{name}.kernel") + self._get(f"{name}.bias")
        return F.linear(x, self._get(f"{name}.weight"), self._get(f"{name}.bias"))

    def _table(self) -> Tensor:
        end = "_flax_embedding.embedding" if self.layout.flax else "weight"
        return self._get(f"y_embedder.embedding_table.{end}")

    def _time(self, name: str, t: Tensor) -> Tensor:
        frequencies = torch.tensor([10_000.0 ** (-k / 128) for k in range(128)])
        angles = torch.outer(t.float(), frequencies)
        features = torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)
        return self._linear(f"{name}.mlp.2", F.silu(self._linear(f"{name}.mlp.0", features)))

    def _patches(self, z: Tensor) -> Tensor:
        if self.layout.flax:
            kernel = self._get("x_embedder.proj.kernel").permute(3, 2, 0, 1)
        else:
            kernel = self._get("x_embedder.proj.weight")
        x = F.conv2d(z, kernel, self._get("x_embedder.proj.bias"), stride=self.shape.patch).flatten(2).mT
        if POSITIONS in self.weights and self.weights[POSITIONS].dtype.itemsize >= 4:  # not rounded
            return x + self._get(POSITIONS).reshape(1, x.shape[1], -1)
        return x + _sines(math.isqrt(x.shape[1]), x.shape[2])

    def _block(self, name: str, x: Tensor, c: Tensor) -> Tensor:
        parts = self._linear(f"{name}.adaLN_modulation.1", F.silu(c)).chunk(6, dim=1)
        B, N, D = x.shape
        h = self._linear(f"{name}.attn.qkv", self._norm(x, parts[0], parts[1]))
        q, k, v = h.reshape(B, N, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        scores = torch.softmax(q @ k.mT / math.sqrt(D // self.heads), dim=-1)
        h = (scores @ v).transpose(1, 2).reshape(B, N, D)
        x = x + parts[2][:, None] * self._linear(f"{name}.attn.proj", h)
        h = self._linear(f"{name}.mlp.fc1", self._norm(x, parts[3], parts[4]))
        h = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
        return x + parts[5][:, None] * self._linear(f"{name}.mlp.fc2", h)

    @staticmethod
    def _norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return (
            centred * (centred.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * (1 + scale)[:, None]
            + shift[:, None]
        )

    def _picture(self, x: Tensor, side: int) -> Tensor:
        p, h = self.shape.patch, side // self.shape.patch
        cut = x.reshape(len(x), h, h, p, p, -1)[..., : self.shape.channels]
        return torch.einsum("nhwpqc->nchpwq", cut).reshape(len(x), -1, side, side)


def _sines(side: int, width: int) -> Tensor:
    """Return sines and cosines (side², width): those of the column, then of the row, sines before cosines."""
    quarter = width // 4
    frequencies = torch.tensor([10_000.0 ** (-k / quarter) for k in range(quarter)], dtype=torch.float64)
    rows = [
        torch.cat(
            [f(torch.tensor(place) * frequencies) for place in (column, row) for f in (torch.sin, torch.cos)]
        )
        for row in range(side)
        for column in range(side)
    ]
    return torch.stack(rows).float()
