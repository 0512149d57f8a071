"""The DiT on videos: positions in time, and attention over all tokens or by turns within and across frames."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alphaflow.errors import choose
from alphaflow.models.dit import Block, FinalLayer, Transformer, frame_size, position_table

Span = Literal["joint", "factorised"]
Axis = Literal["frames", "places"]


def time_table(frames: int, width: int) -> Tensor:
    """Return fixed sin-cos positions of frames, (frames, width) float32; width even. Sines, then cosines."""
    frequencies = 10_000.0 ** -(torch.arange(width // 2, dtype=torch.float64) / (width // 2))
    angles = torch.arange(frames, dtype=torch.float64)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


class FramePatchEmbed(nn.Module):
    """A Linear over each patch of each frame: (B, C, T, H, W) to (B, T·N, width)."""

    def __init__(self, patch: int, channels: int, width: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Linear(channels * patch * patch, width)

    def forward(self, z: Tensor) -> Tensor:
        B, C, T, H, W = z.shape
        p = self.patch
        patches = z.reshape(B, C, T, H // p, p, W // p, p).permute(0, 2, 3, 5, 1, 4, 6)
        return self.proj(patches.reshape(B, T * (H // p) * (W // p), C * p * p))


class AxisAttention(nn.Module):
    """Multi-head self-attention along one axis of a grid of tokens, (B, frames·places, width), frames outermost.

    The other axis joins the heads and not the batch: the batch's rows stay its rows, as tangents need
    (`alphaflow.derivatives.dual`), and attention's kernels still see four dimensions.

    Args:
        grid: the numbers of frames and of places.
        along: the axis along which tokens attend to each other.
    """

    def __init__(self, width: int, heads: int, grid: tuple[int, int], along: Axis) -> None:
        super().__init__()
        self.heads, self.grid, self.along = heads, grid, along
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self._fold(part) for part in self.qkv(x).chunk(3, -1))
        return self.proj(self._unfold(F.scaled_dot_product_attention(q, k, v)))

    def _fold(self, x: Tensor) -> Tensor:
        """Return (B, frames·places, width) as (B, other axis·heads, axis, width / heads)."""
        tokens = x.view(x.shape[0], *self.grid, self.heads, -1)
        order = (0, 2, 3, 1, 4) if self.along == "frames" else (0, 1, 3, 2, 4)
        return tokens.permute(order).flatten(1, 2)

    def _unfold(self, x: Tensor) -> Tensor:
        frames, places = self.grid
        tokens = x.unflatten(1, (places if self.along == "frames" else frames, self.heads))
        order = (0, 3, 1, 2, 4) if self.along == "frames" else (0, 1, 3, 2, 4)
        return tokens.permute(order).reshape(x.shape[0], frames * places, -1)


class VideoDiT(Transformer):
    """A DiT for the average velocity of videos; z is (B, channels, frames, H, W). See `Network`.

    Each frame is cut into patches as an image is; a token's position is that of its patch plus that of its frame.
    Weights have a DiT's names and shapes, so those of one trained on images fit.

    Args:
        input_size: side, or (H, W), of a frame.
        frames: number of frames.
        patch: side of a patch; divides H and W.
        channels: channels of the input and of the output.
        width: features a token; divisible by 4 and by `heads`.
        depth: number of blocks.
        heads: attention heads.
        num_classes: 0 for none. The table has one row more, the unconditional one.
        attention: "joint": every token sees every other, at a cost that grows with the square of the frames.
            "factorised": blocks see by turns the tokens of the same frame and those at the same place in all
            frames (the first variant of Latte, arXiv 2401.03048).
        activation: activation of a block's MLP, from `dit.ACTIVATIONS`.
        guided: take guidance's scale and interval as an input, beside the class; see `Network`.

    Raises:
        ValueError: a size does not fit the patch, the heads or the position table; a single block of factorised
            attention would see no other frame; in `forward`, the input has another shape.
    """

    def __init__(
        self,
        input_size: int | Sequence[int],
        frames: int,
        patch: int,
        channels: int,
        width: int,
        depth: int,
        heads: int,
        num_classes: int,
        attention: Span = "joint",
        activation: str = "gelu-tanh",
        guided: bool = False,
    ) -> None:
        H, W = frame_size(input_size, patch)
        choose("attention", attention, get_args(Span))
        if width % 4 or heads < 1 or width % heads:
            raise ValueError(f"width={width} with heads={heads}: give a width that divides by 4 and by the heads")
        if frames < 1:
            raise ValueError(f"frames={frames} is no video: give 1 or more")
        if attention == "factorised" and depth < 2:
            raise ValueError(f"depth={depth} leaves factorised attention no block across frames: give 2 or more")
        config = {
            "input_size": (H, W),
            "frames": frames,
            "patch": patch,
            "channels": channels,
            "width": width,
            "depth": depth,
            "heads": heads,
            "num_classes": num_classes,
            "attention": attention,
            "activation": activation,
            "guided": guided,
        }
        super().__init__(config, width=width, num_classes=num_classes, guided=guided)
        self.patch = patch
        self.shape = (channels, frames, H, W)
        self.grid = (frames, H // patch, W // patch)
        self.x_embedder = FramePatchEmbed(patch, channels, width)
        self.register_buffer("pos_embed", self._positions(width), persistent=False)
        tokens = (frames, self.grid[1] * self.grid[2])
        blocks = []
        for k in range(depth):
            along: Axis = "frames" if k % 2 else "places"
            across = AxisAttention(width, heads, tokens, along) if attention == "factorised" else None
            blocks.append(Block(width, heads, 4 * width, activation, across))
        self.blocks = nn.ModuleList(blocks)
        self.final_layer = FinalLayer(width, patch * patch * channels)
        self.init_weights()

    def _positions(self, width: int) -> Tensor:
        """Return the places of tokens in their frames plus those of frames in time, (T·N, width)."""
        frames, rows, columns = self.grid
        places, times = position_table(rows, columns, width), time_table(frames, width)
        return (times[:, None] + places[None]).flatten(0, 1)

    def _unpatchify(self, x: Tensor) -> Tensor:
        p = self.patch
        patches = x.view(x.shape[0], *self.grid, p, p, self.shape[0])
        return patches.permute(0, 6, 1, 2, 4, 3, 5).reshape(x.shape[0], *self.shape)
