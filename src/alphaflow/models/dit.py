"""The diffusion transformer (Peebles & Xie 2023, arXiv 2212.09748) with MeanFlow's second time (2505.13447).

Submodules carry DiT's names, and patches DiT's orders ((c, p, q) in, (p, q, c) out), so that weights
trained elsewhere map onto these. The deviations: `d_embedder` for t−r, no learnt variance, and a patch
embedding that is a Linear over a reshape (`x_embedder.proj.weight` is the convolution's, flattened).
"""

import functools
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alphaflow.errors import UserError, choose
from alphaflow.models.embeddings import FREQUENCIES, Network

PRESETS: Mapping[str, tuple[int, int, int]] = {
    "S": (12, 384, 6),
    "B": (12, 768, 12),
    "M": (16, 1024, 16),
    "L": (24, 1024, 16),
    "XL": (28, 1152, 16),
}
"""Depth, width and heads. S, B, L and XL are DiT's (its Table 1); M is MeanFlow's (its Table 4)."""


def position_table(rows: int, columns: int, width: int, step: float = 1.0) -> Tensor:
    """Return fixed 2-D sin-cos positions, (rows·columns, width) float32, row-major; width divisible by 4.

    As in DiT, the first half of the features encodes the column, the second the row; sines, then cosines.
    Neighbours are `step` apart, 1 in DiT.
    """
    frequencies = 10_000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))

    def encode(positions: Tensor) -> Tensor:
        angles = positions.flatten()[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    row, column = torch.meshgrid(
        *(torch.arange(count, dtype=torch.float64) * step for count in (rows, columns)), indexing="ij"
    )
    return torch.cat([encode(column), encode(row)], dim=1).float()


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return x (B, N, D) scaled by 1 + scale and shifted, both (B, D)."""
    return torch.addcmul(shift.unsqueeze(1), x, (1 + scale).unsqueeze(1))


class PatchEmbed(nn.Module):
    """A Linear over each patch, patches in row-major order: (B, C, H, W) to (B, N, width)."""

    def __init__(self, patch: int, channels: int, width: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Linear(channels * patch * patch, width)

    def forward(self, z: Tensor) -> Tensor:
        B, C, H, W = z.shape
        p = self.patch
        patches = z.reshape(B, C, H // p, p, W // p, p).permute(0, 2, 4, 1, 3, 5)
        return self.proj(patches.reshape(B, (H // p) * (W // p), C * p * p))


class Attention(nn.Module):
    """Multi-head self-attention over (B, N, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"width={width} is not divisible by heads={heads}: change one of them")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        B, N, D = x.shape
        q, k, v = (part.view(B, N, self.heads, -1).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(B, N, D))


ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "gelu-tanh": functools.partial(nn.GELU, approximate="tanh"),
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}
"""Activations of a block's MLP. DiT's is the first, and the slowest kernel on a CPU."""


class Mlp(nn.Module):
    """Linear, activation, Linear."""

    def __init__(self, width: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = ACTIVATIONS[choose("activation", activation, ACTIVATIONS)]()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """A transformer block with adaLN-zero: x (B, N, width), c (B, width) to (B, N, width).

    attention: a module over (B, N, width), and what else the block is given; None: `Attention` with these heads.
    """

    def __init__(
        self, width: int, heads: int, hidden: int, activation: str, attention: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attn = attention or Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.mlp = Mlp(width, hidden, activation)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, c: Tensor, *seen: Tensor) -> Tensor:
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = self.adaLN_modulation(c).chunk(6, -1)
        y = self.attn(_modulate(self.norm1(x), shift_attn, scale_attn), *seen)
        x = torch.addcmul(x, gate_attn.unsqueeze(1), y)
        y = self.mlp(_modulate(self.norm2(x), shift_mlp, scale_mlp))
        return torch.addcmul(x, gate_mlp.unsqueeze(1), y)


class FinalLayer(nn.Module):
    """Modulated norm, then a Linear to each patch's values: (B, N, width) to (B, N, p·p·C)."""

    def __init__(self, width: int, values: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.linear = nn.Linear(width, values)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c).chunk(2, -1)
        return self.linear(_modulate(self.norm_final(x), shift, scale))


@torch.no_grad()
def frame_size(input_size: int | Sequence[int], patch: int) -> tuple[int, int]:
    """Return (H, W) in pixels, checked against the patch."""
    H, W = (input_size, input_size) if isinstance(input_size, int) else input_size
    if patch < 1:
        raise ValueError(f"patch={patch} is not a patch size: give 1 or more")
    for side in (H, W):
        if side < 1 or side % patch:
            raise ValueError(
                f"input_size={input_size!r}: {side} cannot be cut into patches of {patch}: "
                f"give a positive multiple of {patch}, or another patch"
            )
    return H, W


class Transformer(Network):
    """The common part of DiTs on images and on videos: patches to tokens, adaLN-zero blocks, tokens to patches.

    A subclass sets the attributes in its constructor, ends it with `init_weights()`, and says where tokens are and
    how they become a sample again.

    Attributes:
        shape: that of a sample.
        x_embedder: z to tokens (B, N, width).
        pos_embed: the tokens' positions (N, width).
        blocks, final_layer: `Block`s and a `FinalLayer`.
    """

    shape: tuple[int, ...]
    pos_embed: Tensor
    x_embedder: nn.Module
    blocks: nn.ModuleList
    final_layer: FinalLayer

    @abstractmethod
    def _positions(self, width: int) -> Tensor:
        """Return fixed positions of the tokens, (N, width)."""

    @abstractmethod
    def _unpatchify(self, x: Tensor) -> Tensor:
        """Return tokens (B, N, p·p·C) as samples (B, *shape)."""

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialise every parameter and the positions, as DiT does; also after `to_empty` from meta."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        for embedder in (self.t_embedder, self.d_embedder):
            nn.init.normal_(embedder.mlp.get_parameter("0.weight"), std=0.02)
            nn.init.normal_(embedder.mlp.get_parameter("2.weight"), std=0.02)
        if self.guide_embedder is not None:
            self.guide_embedder.init_weights()
        for name, parameter in self.named_parameters():
            if "adaLN_modulation" in name or name.startswith("final_layer"):
                nn.init.zeros_(parameter)
        if not self.pos_embed.is_meta:
            self.pos_embed.copy_(self._positions(self.pos_embed.shape[1]))

    @torch.no_grad()
    def place_positions(self, device: torch.device | str) -> None:
        """Compute the positions on `device`: they are not among the weights, and a network built on meta lacks
        them."""
        self.pos_embed = self._positions(self.pos_embed.shape[1]).to(device)

    def conditions(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None) -> tuple[Tensor, ...]:
        """Return what each block is given beside the tokens: the sum of all embeddings (B, width), and what its
        attention sees besides."""
        return (self.condition(z, r, t, y),)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        if z.shape[1:] != self.shape:
            raise ValueError(
                f"z has shape {tuple(z.shape)} but this DiT takes (B, {', '.join(map(str, self.shape))})"
            )
        c, *seen = self.conditions(z, r, t, y)
        x = self.x_embedder(z) + self.pos_embed
        for block in self.blocks:
            x = block(x, c, *seen)
        return self._unpatchify(self.final_layer(x, c)).to(z.dtype)


class DiT(Transformer):
    """Vanilla DiT with adaLN-zero for the average velocity; z is (B, channels, H, W). See `Network`.

    Args:
        input_size: side, or (H, W), of the input, in pixels (latent pixels for latents).
        patch: side of a patch; divides H and W.
        channels: of the input and of the output.
        width: features a token; divisible by 4 and by `heads`.
        depth: number of blocks.
        heads: attention heads.
        num_classes: 0 for none. The table has one row more, the unconditional one.
        mlp_ratio: hidden features of a block's MLP, as a multiple of `width`.
        activation: of a block's MLP, from `ACTIVATIONS`.
        guided: take guidance's scale and interval as an input, beside the class; see `Network`.

    Raises:
        ValueError: a size does not fit the patch, the heads or the position table; in `forward`, an input of
            another shape.
    """

    def __init__(
        self,
        input_size: int | Sequence[int],
        patch: int,
        channels: int,
        width: int,
        depth: int,
        heads: int,
        num_classes: int,
        mlp_ratio: float = 4.0,
        activation: str = "gelu-tanh",
        guided: bool = False,
    ) -> None:
        H, W = frame_size(input_size, patch)
        if width % 4:
            raise ValueError(f"width={width} does not suit the 2-D position table: give a multiple of 4")
        config = {
            "input_size": (H, W),
            "patch": patch,
            "channels": channels,
            "width": width,
            "depth": depth,
            "heads": heads,
            "num_classes": num_classes,
            "mlp_ratio": mlp_ratio,
            "activation": activation,
            "guided": guided,
        }
        super().__init__(config, width=width, num_classes=num_classes, guided=guided)
        self.patch = patch
        self.shape = (channels, H, W)
        self.grid = (H // patch, W // patch)
        self.x_embedder = PatchEmbed(patch, channels, width)
        self.register_buffer("pos_embed", self._positions(width), persistent=False)
        self.blocks = nn.ModuleList(Block(width, heads, int(width * mlp_ratio), activation) for _ in range(depth))
        self.final_layer = FinalLayer(width, patch * patch * channels)
        self.init_weights()

    def _positions(self, width: int) -> Tensor:
        return position_table(*self.grid, width)

    def _unpatchify(self, x: Tensor) -> Tensor:
        (h, w), p = self.grid, self.patch
        patches = x.view(x.shape[0], h, w, p, p, self.shape[0])
        return patches.permute(0, 5, 1, 3, 2, 4).reshape(x.shape[0], *self.shape)


def dit(name: str, *, input_size: int | Sequence[int], channels: int, num_classes: int) -> DiT:
    """Return a DiT of a published size: "S", "B", "M", "L" or "XL", a slash, and the patch: "B/2", "XL/4".

    For the other arguments see `DiT`; the sizes are in `PRESETS`.

    Raises:
        UserError: (a ValueError) no such size, with the nearest one; or no patch after the slash.
    """
    size, _, patch = name.partition("/")
    depth, width, heads = PRESETS[choose("DiT size", size, PRESETS, status=2)]
    if not (patch.isdecimal() and int(patch) > 0):
        raise UserError(
            f"DiT name {name!r} has no patch size after a slash: write for instance '{size}/2'", status=2
        )
    return DiT(input_size, int(patch), channels, width, depth, heads, num_classes)


def forward_macs(net_or_config: DiT | Mapping[str, Any]) -> int:
    """Return the multiply-accumulates of one forward pass for one sample: matrix products only, attention
    included.

    This is what the DiT paper prints as "Gflops" (its Table 4: 23.0 for B/2, 118.6 for XL/2 on 4×32×32); a
    FLOP count in the strict sense is twice as high.

    Args:
        net_or_config: a DiT, or the keyword arguments of one (`DiT.config`).
    """
    config = net_or_config.config if isinstance(net_or_config, DiT) else net_or_config
    H, W = frame_size(config["input_size"], config["patch"])
    width, values = config["width"], config["patch"] ** 2 * config["channels"]
    tokens = H * W // config["patch"] ** 2
    times = 2 * (FREQUENCIES * width + width * width)
    if config.get("guided"):
        times += 3 * width + width * width
    attention = tokens * 4 * width * width + 2 * tokens * tokens * width
    mlp = tokens * 2 * width * int(width * config.get("mlp_ratio", 4.0))
    block = attention + mlp + 6 * width * width
    patches = 2 * tokens * width * values  # embedding them, and predicting them
    return times + config["depth"] * block + patches + 2 * width * width
