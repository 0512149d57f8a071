"""Improved MeanFlow's transformer, written anew from its paper and facts about its code, with random weights."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foreign_transformers import CLASSES, PATCH, SIDE, Holder, waves

WIDTH, HEADS, SHARED, OWN, HIDDEN = 24, 3, 1, 2, 40
COUNTS = {"class": 8, "omega": 4, "t_min": 2, "t_max": 2, "time": 4}
EMBEDDERS = ("h_embedder", "omega_embedder", "cfg_t_start_embedder", "cfg_t_end_embedder")


class Norm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x, x.shape[-1:], self.weight, 1e-6)


class Wrapped(nn.Module):
    """A linear layer under the name that Flax's wrapper leaves."""

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__()
        self._flax_linear = nn.Linear(inputs, outputs, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self._flax_linear(x)


def block() -> Holder:
    made = Holder(
        norm1=Norm(WIDTH),
        norm2=Norm(WIDTH),
        attn=Holder(
            **{f"{name}_proj": Wrapped(WIDTH, WIDTH) for name in ("q", "k", "v", "out")},
            q_norm=Norm(WIDTH // HEADS),
            k_norm=Norm(WIDTH // HEADS),
        ),
        mlp=Holder(w1=Wrapped(WIDTH, HIDDEN), w3=Wrapped(WIDTH, HIDDEN), w2=Wrapped(HIDDEN, WIDTH)),
    )
    made.attn_scale, made.mlp_scale = nn.Parameter(torch.ones(WIDTH)), nn.Parameter(torch.ones(WIDTH))
    return made


class Improved(nn.Module):
    """With the heads of both velocities; only that of the average one is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.x_embedder = Holder(proj=nn.Conv2d(4, WIDTH, PATCH, stride=PATCH))
        for name in EMBEDDERS:
            mlp = nn.Sequential(Wrapped(256, WIDTH, True), nn.SiLU(), Wrapped(WIDTH, WIDTH, True))
            setattr(self, name, Holder(mlp=mlp))
        self.y_embedder = Holder(embedding_table=Holder(_flax_embedding=nn.Embedding(CLASSES + 1, WIDTH)))
        for name, count in COUNTS.items():
            setattr(self, f"{name}_tokens", nn.Parameter(torch.ones(count, WIDTH)))
        self.shared_blocks = nn.ModuleList(block() for _ in range(SHARED))
        self.u_heads = nn.ModuleList(block() for _ in range(OWN))
        self.v_heads = nn.ModuleList(block() for _ in range(OWN))
        values = PATCH * PATCH * 4
        self.u_final_layer = Holder(norm=Norm(WIDTH), linear=Wrapped(WIDTH, values, True))
        self.v_final_layer = Holder(norm=Norm(WIDTH), linear=Wrapped(WIDTH, values, True))
        for weight in self.parameters():
            nn.init.normal_(weight, std=0.7 if weight.ndim < 2 else weight[0].numel() ** -0.5)

    def forward(
        self, z: Tensor, r: Tensor, t: Tensor, y: Tensor, guidance: float, start: float, stop: float
    ) -> Tensor:
        one = torch.ones_like(t)
        told = {
            "class": self.y_embedder.embedding_table._flax_embedding(y),
            "omega": self.omega_embedder.mlp(waves(one - 1 / guidance)),
            "t_min": self.cfg_t_start_embedder.mlp(waves(start * one)),
            "t_max": self.cfg_t_end_embedder.mlp(waves(stop * one)),
            "time": self.h_embedder.mlp(waves(t - r)),
        }
        image = self.x_embedder.proj(z).flatten(2).transpose(1, 2)
        x = torch.cat([*(getattr(self, f"{name}_tokens") + told[name][:, None] for name in COUNTS), image], dim=1)
        for one_block in [*self.shared_blocks, *self.u_heads]:
            attn, mlp = one_block.attn, one_block.mlp
            h = one_block.norm1(x)
            q, k, v = (getattr(attn, f"{name}_proj")(h).unflatten(2, (HEADS, -1)) for name in "qkv")
            q, k = turn(attn.q_norm(q)), turn(attn.k_norm(k))
            h = nn.functional.scaled_dot_product_attention(*(part.transpose(1, 2) for part in (q, k, v)))
            x = x + attn.out_proj(h.transpose(1, 2).flatten(2)) * one_block.attn_scale
            h = one_block.norm2(x)
            x = x + mlp.w2(nn.functional.silu(mlp.w1(h)) * mlp.w3(h)) * one_block.mlp_scale
        out = self.u_final_layer.linear(self.u_final_layer.norm(x[:, sum(COUNTS.values()) :]))
        side = SIDE // PATCH
        return out.reshape(-1, side, side, PATCH, PATCH, 4).permute(0, 5, 1, 3, 2, 4).reshape(z.shape)


def turn(x: Tensor) -> Tensor:
    """Rotary positions, (B, N, heads, D), by a rotation matrix for each pair."""
    N, D = x.shape[1], x.shape[-1]
    out = torch.empty_like(x)
    for k in range(D // 2):
        angle = torch.arange(N, dtype=torch.float64) / 10_000.0 ** (2 * k / D)
        cos, sin = angle.cos().to(x)[:, None], angle.sin().to(x)[:, None]
        a, b = x[..., 2 * k], x[..., 2 * k + 1]
        out[..., 2 * k], out[..., 2 * k + 1] = a * cos - b * sin, a * sin + b * cos
    return out


OLD = {
    "omega_embedder": "k_embedder",
    "t_min_tokens": "cfg_start_cond_tokens",
    "t_max_tokens": "cfg_end_cond_tokens",
    "time_tokens": "time_cond_tokens",
    "class_tokens": "class_cond_tokens",
    "omega_tokens": "kappa_cond_tokens",
}


def flax_tree(net: Improved, old: bool) -> dict[str, Any]:
    """The parameters under the names of the JAX code, today's or those of its released checkpoints."""
    tree: dict[str, Any] = {}
    for name, value in net.state_dict().items():
        words, array = name.split("."), value.numpy()
        if words[0] in ("shared_blocks", "u_heads", "v_heads"):
            words = [f"{words[0]}_{words[1]}", *words[2:]]
        words = [f"layers_{word}" if word.isdigit() else word for word in words]
        words = [OLD.get(word, word) if old else word for word in words]
        if words[-1] == "weight":
            words[-1] = "embedding" if "_flax_embedding" in words else "kernel"
            if array.ndim == 4:
                array = array.transpose(2, 3, 1, 0)
            elif array.ndim == 2 and words[-1] == "kernel":
                array = array.T
        place = tree
        for word in words[:-1]:
            place = place.setdefault(word, {})
        place[words[-1]] = np.ascontiguousarray(array[None] if words[-1].endswith("_tokens") and old else array)
    return tree
