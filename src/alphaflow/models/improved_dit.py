"""Improved MeanFlow's transformer (Geng et al. 2025, arXiv 2512.02012), for its released weights.

Conditions are tokens before those of the image, not modulations: class, guidance scale, guidance interval, and
t - r, the only time that it knows. Rotary positions run over all tokens; norms are RMS, the MLPs SwiGLU, and a
learnt vector gates each branch. The last blocks belong to the average velocity; those of the training's second
output are left out.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alphaflow.models.dit import PatchEmbed, frame_size
from alphaflow.models.embeddings import Network, TimeEmbedder, classes_alone

TOKENS = (8, 4, 2, 2, 4)
"""How many tokens stand for the class, the guidance scale, the ends of the guidance interval, and t - r."""


class RMSNorm(nn.Module):
    """The layer x / sqrt(mean(x²) + 1e-6), times a learnt weight, over the last axis."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * self.weight


def rotate(x: Tensor) -> Tensor:
    """Turn neighbouring pairs of features by position · 10000^(-pair / pairs). x: (B, heads, N, even)."""
    N, D = x.shape[-2:]
    frequencies = 10_000.0 ** -(torch.arange(0, D, 2, dtype=torch.float64, device=x.device) / D)
    angles = torch.outer(torch.arange(N, dtype=torch.float64, device=x.device), frequencies)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


class RotaryAttention(nn.Module):
    """Self-attention over (B, N, width) with normed and rotated queries and keys, without biases."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            nn.Linear(width, width, bias=False) for _ in range(4)
        )
        self.q_norm, self.k_norm = RMSNorm(width // heads), RMSNorm(width // heads)

    def forward(self, x: Tensor) -> Tensor:
        B, N, D = x.shape
        projected = (layer(x).view(B, N, self.heads, -1) for layer in (self.q_proj, self.k_proj, self.v_proj))
        q, k, v = projected
        q, k = (rotate(part.transpose(1, 2)) for part in (self.q_norm(q), self.k_norm(k)))
        out = F.scaled_dot_product_attention(q, k, v.transpose(1, 2))
        return self.out_proj(out.transpose(1, 2).reshape(B, N, D))


class SwiGLU(nn.Module):
    """The layer w2(silu(w1 x) · w3 x), without biases."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w1, self.w3 = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.w2 = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class GatedBlock(nn.Module):
    """Attention and MLP, each times a learnt vector that begins at 0. (B, N, width) to itself."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(width), RMSNorm(width)
        self.attn, self.mlp = RotaryAttention(width, heads), SwiGLU(width, hidden)
        self.attn_scale, self.mlp_scale = (nn.Parameter(torch.zeros(width)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x)) * self.attn_scale
        return x + self.mlp(self.norm2(x)) * self.mlp_scale


class Head(nn.Module):
    """Norm and Linear to each patch's values."""

    def __init__(self, width: int, values: int) -> None:
        super().__init__()
        self.norm, self.linear = RMSNorm(width), nn.Linear(width, values)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(x))


class ImprovedDiT(Network):
    """Improved MeanFlow's transformer under the signature of `Network`; z is (B, channels, H, W).

    Args:
        input_size: side, or (H, W), of the input.
        patch, channels, width, heads, num_classes: as for `DiT`.
        depth: blocks in all.
        head_depth: blocks of the average velocity alone, numbered anew.
        hidden: features within an MLP.
        guidance: the guidance scale that the network is conditioned on, at least 1, which means none.
        interval: the times between which it is to guide, within [0, 1].

    Raises:
        ValueError: sizes do not fit each other; in `forward`, the input has another shape.
    """

    def __init__(
        self,
        input_size: int | Sequence[int],
        patch: int,
        channels: int,
        width: int,
        depth: int,
        head_depth: int,
        heads: int,
        num_classes: int,
        hidden: int,
        guidance: float = 1.0,
        interval: Sequence[float] = (0.0, 1.0),
    ) -> None:
        H, W = frame_size(input_size, patch)
        if width % (2 * heads):
            raise ValueError(f"width={width} is no even number of features for each of {heads} heads")
        if num_classes < 1 or not 0 < head_depth <= depth:
            raise ValueError(
                f"num_classes={num_classes} and head_depth={head_depth} of {depth} must be at least 1"
            )
        start, stop = interval
        if not (math.isfinite(guidance) and guidance >= 1 and 0 <= start <= stop <= 1):
            raise ValueError(
                f"guidance={guidance} must be at least 1 and interval={tuple(interval)} rise in [0, 1]"
            )
        config = {
            "input_size": (H, W),
            "patch": patch,
            "channels": channels,
            "width": width,
            "depth": depth,
            "head_depth": head_depth,
            "heads": heads,
            "num_classes": num_classes,
            "hidden": hidden,
            "guidance": guidance,
            "interval": (start, stop),
        }
        super().__init__(config, width=width, num_classes=num_classes)
        del self.t_embedder  # it knows t - r alone
        self.shape, self.patch, self.grid = (channels, H, W), patch, (H // patch, W // patch)
        self.guidance = (1 - 1 / guidance, start, stop)
        self.x_embedder = PatchEmbed(patch, channels, width)
        self.omega_embedder, self.cfg_t_start_embedder, self.cfg_t_end_embedder = (
            TimeEmbedder(width) for _ in range(3)
        )
        self.class_tokens, self.omega_tokens, self.t_min_tokens, self.t_max_tokens, self.time_tokens = (
            nn.Parameter(torch.randn(count, width) / math.sqrt(width)) for count in TOKENS
        )
        self.shared_blocks = nn.ModuleList(GatedBlock(width, heads, hidden) for _ in range(depth - head_depth))
        self.u_heads = nn.ModuleList(GatedBlock(width, heads, hidden) for _ in range(head_depth))
        self.u_final_layer = Head(width, patch * patch * channels)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        if z.shape[1:] != self.shape:
            raise ValueError(
                f"z has shape {tuple(z.shape)}, this network takes (B, {', '.join(map(str, self.shape))})"
            )
        B = z.shape[0]
        if y is None:
            y = torch.full((B,), self.num_classes, device=z.device)
        classes_alone(y)
        assert self.y_embedder is not None
        scale, start, stop = (t.new_full((B,), value) for value in self.guidance)
        conditions = (
            self.class_tokens + self.y_embedder(y)[:, None],
            self.omega_tokens + self.omega_embedder(scale)[:, None],
            self.t_min_tokens + self.cfg_t_start_embedder(start)[:, None],
            self.t_max_tokens + self.cfg_t_end_embedder(stop)[:, None],
            self.time_tokens + self.d_embedder(t - r)[:, None],
        )
        tokens = self.x_embedder(z)
        x = torch.cat([*conditions, tokens], dim=1)
        for block in (*self.shared_blocks, *self.u_heads):
            x = block(x)
        (h, w), p = self.grid, self.patch
        patches = self.u_final_layer(x[:, -tokens.shape[1] :]).view(B, h, w, p, p, self.shape[0])
        return patches.permute(0, 5, 1, 3, 2, 4).reshape(z.shape).to(z.dtype)
