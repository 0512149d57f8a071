"""A small U-Net for pixels (after Ho et al. 2020, arXiv 2006.11239; scale-shift conditioning)."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alphaflow.models.dit import Attention
from alphaflow.models.embeddings import Network


class GroupNorm(nn.Module):
    """Group normalisation with a scale and a shift a channel, over (B, C, *spatial).

    The same function as `torch.nn.GroupNorm` with eps 1e-5, written on `layer_norm` without parameters:
    torch's has no forward-mode derivative for channels-last input, nor inside a compiled loss (torch 2.13).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.groups = math.gcd(channels, max(1, min(32, channels // 4)))  # at least four channels a group
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        grouped = x.reshape(x.shape[0], self.groups, -1)
        normal = F.layer_norm(grouped, grouped.shape[-1:]).view(x.shape)
        per_channel = (-1, *(1,) * (x.ndim - 2))
        return normal * self.weight.view(per_channel) + self.bias.view(per_channel)


class ResidualBlock(nn.Module):
    """Norm, SiLU, conv twice, the second norm modulated by c: (B, C_in, H, W) to (B, C_out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, c_width: int) -> None:
        super().__init__()
        self.norm1 = GroupNorm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(c_width, 2 * out_channels))
        self.norm2 = GroupNorm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        same = in_channels == out_channels
        self.skip = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        shift, scale = self.modulation(c)[:, :, None, None].chunk(2, 1)
        h = self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))
        return self.skip(x) + h


class SpatialAttention(nn.Module):
    """Residual self-attention between all positions of (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = GroupNorm(channels)
        self.attn = Attention(channels, channels // 32 if channels % 32 == 0 else 1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        return x + self.attn(tokens).transpose(1, 2).reshape(x.shape)


class UNet(Network):
    """A small U-Net for the average velocity; z is (B, channels, H, W). See `Network`.

    Any H and W fit that halve evenly between levels; one network takes several sizes. Self-attention is at the
    lowest resolution only. The output is zero at initialisation.

    Args:
        channels: channels of the input and of the output.
        width: features at full resolution.
        multipliers: features at each level, as multiples of `width`; resolution halves between levels.
        blocks: residual blocks a level on the way down (one more on the way up).
        num_classes: 0 for none. The table has one row more, the unconditional one.
        guided: take guidance's scale and interval as an input, beside the class; see `Network`.

    Raises:
        ValueError: there is no level; in `forward`, channels differ, or H or W is not divisible by 2**(levels−1).
    """

    def __init__(
        self,
        channels: int,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 1,
        num_classes: int = 0,
        guided: bool = False,
    ) -> None:
        if not multipliers or blocks < 1:
            raise ValueError(
                f"multipliers={tuple(multipliers)} and blocks={blocks}: "
                "give at least one level, and one block a level"
            )
        c_width = 4 * width
        config = {
            "channels": channels,
            "width": width,
            "multipliers": tuple(multipliers),
            "blocks": blocks,
            "num_classes": num_classes,
            "guided": guided,
        }
        super().__init__(config, width=c_width, num_classes=num_classes, guided=guided)
        self.channels = channels
        self.divisor = 2 ** (len(multipliers) - 1)
        levels = [width * m for m in multipliers]
        self.in_conv = nn.Conv2d(channels, width, 3, padding=1)
        self.down, skips = self._build_down(width, levels, blocks, c_width)
        self.mid1 = ResidualBlock(levels[-1], levels[-1], c_width)
        self.mid_attn = SpatialAttention(levels[-1])
        self.mid2 = ResidualBlock(levels[-1], levels[-1], c_width)
        self.up = self._build_up(levels, blocks, c_width, skips)
        self.out_norm = GroupNorm(levels[0])
        self.out_conv = nn.Conv2d(levels[0], channels, 3, padding=1)
        for parameter in self.out_conv.parameters():
            nn.init.zeros_(parameter)

    @staticmethod
    def _build_down(width: int, levels: list[int], blocks: int, c_width: int) -> tuple[nn.ModuleList, list[int]]:
        """Return the way down, and the channels of the skip connections in the order they are made."""
        down, skips, features = nn.ModuleList(), [width], width
        for level, out in enumerate(levels):
            for _ in range(blocks):
                down.append(ResidualBlock(features, out, c_width))
                features = out
                skips.append(out)
            if level < len(levels) - 1:
                down.append(nn.Conv2d(out, out, 3, stride=2, padding=1))
                skips.append(out)
        return down, skips

    @staticmethod
    def _build_up(levels: list[int], blocks: int, c_width: int, skips: list[int]) -> nn.ModuleList:
        """Return the way up; every residual block first takes one skip connection, the last made first."""
        up, skips, features = nn.ModuleList(), list(skips), levels[-1]
        for level, out in reversed(list(enumerate(levels))):
            for _ in range(blocks + 1):
                up.append(ResidualBlock(features + skips.pop(), out, c_width))
                features = out
            if level > 0:
                up.append(nn.Conv2d(out, out, 3, padding=1))
        return up

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        self._check(z)
        c = self.condition(z, r, t, y)
        x = self.in_conv(z)
        skips = [x]
        for layer in self.down:
            x = layer(x, c) if isinstance(layer, ResidualBlock) else layer(x)
            skips.append(x)
        x = self.mid2(self.mid_attn(self.mid1(x, c)), c)
        for layer in self.up:
            if isinstance(layer, ResidualBlock):
                x = layer(torch.cat([x, skips.pop()], dim=1), c)
            else:
                x = layer(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.out_conv(F.silu(self.out_norm(x))).to(z.dtype)

    def _check(self, z: Tensor) -> None:
        if z.ndim != 4 or z.shape[1] != self.channels:
            raise ValueError(f"z has shape {tuple(z.shape)} but this UNet takes (B, {self.channels}, H, W)")
        halvings = self.divisor.bit_length() - 1
        for side in z.shape[2:]:
            if side % self.divisor:
                raise ValueError(
                    f"z has shape {tuple(z.shape)}: {side} cannot be halved {halvings} times: "
                    f"pad H and W to multiples of {self.divisor}, or give fewer multipliers"
                )
