"""Foreign networks computed from their own tensors, under their own names and in their own convention.

It is a second way to the numbers of an imported network: it shares neither names nor code with the network that
the weights are taken over into, and with the code that takes them over only the sizes.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import alphaflow as af
from alphaflow.importing.averages import WeightSet, choose_weights, only_weights, unwrapped
from alphaflow.importing.build_network import ImportOptions
from alphaflow.importing.folders import read_source
from alphaflow.importing.improved import ImprovedShape, canonical, is_improved, shape_of_improved
from alphaflow.importing.layouts import POSITIONS, Layout, flax_name
from alphaflow.importing.mapping import Shape, choose_layout, shape_of
from alphaflow.importing.read_checkpoint import flatten


@torch.no_grad()
def difference(path: Path, folder: Path, options: ImportOptions) -> float:
    """The largest difference between the imported network in `folder` and a computation from the tensors of the
    file `path`, relative to the largest value. The number of heads is that of the imported network."""
    net = af.load(folder).net
    chosen = only_weights(choose_weights(unwrapped(flatten(read_source(path).tree)), options.weights))
    original: Original | OriginalImproved
    if is_improved(chosen):
        chosen = canonical(chosen)
        guidance, interval = net.config["guidance"], tuple(net.config["interval"])
        original = OriginalImproved(chosen, shape_of_improved(chosen), guidance, interval)
    else:
        layout = choose_layout(chosen, options.layout)
        original = Original(chosen, layout, shape_of(chosen, layout), net.config["heads"])
    z = torch.randn(3, *net.shape, generator=torch.manual_seed(0))
    r, t = torch.tensor([0.0, 0.3, 0.5]), torch.tensor([1.0, 0.8, 0.5])
    y = torch.arange(3) % net.num_classes if net.num_classes else None
    ours, expected = net(z, r, t, y), original.velocity(z, r, t, y)
    assert expected.std() > 0.1
    return float((ours - expected).abs().max() / expected.abs().max())


class Original:
    """Computes velocity(z, r, t, y) as the code that trained these weights does, with noise at t = 1.

    Args:
        chosen, layout: the tensors under their own names, and what the names mean.
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


class OriginalImproved:
    """A second computation of velocity(z, r, t, y), from `canonical` tensors, with complex rotations."""

    def __init__(
        self, chosen: WeightSet, shape: ImprovedShape, guidance: float, interval: tuple[float, float]
    ) -> None:
        self.weights, self.shape, self.guidance, self.interval = chosen.weights, shape, guidance, interval

    def velocity(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Return the velocity (B, C, H, W), float32.

        Args:
            z: (B, C, H, W).
            r, t: (B,).
            y: classes, int64 (B,).
        """
        one = torch.ones_like(t)
        parts = [("class", self._get("y_embedder.embedding_table.weight")[y])]
        parts += [("omega", self._time("omega_embedder", one - one / self.guidance))]
        parts += [("t_min", self._time("cfg_t_start_embedder", one * self.interval[0]))]
        parts += [("t_max", self._time("cfg_t_end_embedder", one * self.interval[1]))]
        parts += [("time", self._time("h_embedder", t - r))]
        patches = F.conv2d(
            z, self._get("x_embedder.proj.weight"), self._get("x_embedder.proj.bias"), self.shape.patch
        )
        tokens = [self._get(f"{name}_tokens")[None] + embedded[:, None, :] for name, embedded in parts]
        x = torch.cat([*tokens, patches.flatten(2).mT], dim=1)
        shared = self.shape.depth - self.shape.head_depth
        for name in [f"shared_blocks.{n}" for n in range(shared)] + [
            f"u_heads.{n}" for n in range(self.shape.head_depth)
        ]:
            x = x + self._get(f"{name}.attn_scale") * self._attention(
                f"{name}.attn", self._norm(f"{name}.norm1", x)
            )
            h = self._norm(f"{name}.norm2", x)
            gate, up = h @ self._get(f"{name}.mlp.w1.weight").mT, h @ self._get(f"{name}.mlp.w3.weight").mT
            x = x + self._get(f"{name}.mlp_scale") * (
                (gate * torch.sigmoid(gate) * up) @ self._get(f"{name}.mlp.w2.weight").mT
            )
        x = self._norm("u_final_layer.norm", x)[:, -patches[0, 0].numel() :]
        x = x @ self._get("u_final_layer.linear.weight").mT + self._get("u_final_layer.linear.bias")
        side, p = patches.shape[-1], self.shape.patch
        return torch.einsum("nhwpqc->nchpwq", x.reshape(len(x), side, side, p, p, -1)).reshape(z.shape)

    def _get(self, name: str) -> Tensor:
        return self.weights[name].read().float()

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * self._get(f"{name}.weight")

    def _time(self, name: str, t: Tensor) -> Tensor:
        angles = t[:, None] * torch.tensor([10_000.0 ** (-k / 128) for k in range(128)])
        x = torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)
        x = F.silu(x @ self._get(f"{name}.mlp.0.weight").mT + self._get(f"{name}.mlp.0.bias"))
        return x @ self._get(f"{name}.mlp.2.weight").mT + self._get(f"{name}.mlp.2.bias")

    def _attention(self, name: str, x: Tensor) -> Tensor:
        B, N, D = x.shape
        q, k, v = (
            (x @ self._get(f"{name}.{part}_proj.weight").mT).reshape(B, N, self.shape.heads, -1) for part in "qkv"
        )
        q, k = self._turn(self._norm(f"{name}.q_norm", q)), self._turn(self._norm(f"{name}.k_norm", k))
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(D // self.shape.heads)
        out = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)
        return out.reshape(B, N, D) @ self._get(f"{name}.out_proj.weight").mT

    @staticmethod
    def _turn(x: Tensor) -> Tensor:
        """Turn queries or keys (B, N, heads, D), as complex numbers of neighbouring features."""
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2).contiguous())
        speeds = torch.tensor([10_000.0 ** (-2 * k / x.shape[-1]) for k in range(x.shape[-1] // 2)])
        turns = torch.polar(torch.ones(()), torch.arange(x.shape[1])[:, None] * speeds)
        return torch.view_as_real(pairs * turns[None, :, None]).reshape(x.shape)
