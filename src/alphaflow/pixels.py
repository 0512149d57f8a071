"""The one place where 8-bit pixels and the model's [-1, 1] meet."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def scale_pixels(pixels: Tensor) -> Tensor:
    """Map uint8 pixels of any shape to float32 in [-1, 1]: p / 127.5 - 1."""
    return pixels.to(torch.float32).div_(127.5).sub_(1.0)


def luminance(pixels: Tensor) -> Tensor:
    """Map RGB, uint8 (B, 3, H, W), to grey, uint8 (B, 1, H, W), by the weights of ITU-R BT.601, rounded.

    Pixels whose three values are equal keep that value.
    """
    weights = torch.tensor([299, 587, 114], dtype=torch.int32)[:, None, None]
    return (((pixels.to(torch.int32) * weights).sum(1, keepdim=True) + 500) // 1000).to(torch.uint8)


def from_uint8(images: NDArray[np.uint8]) -> Tensor:
    """Map images, uint8 (B, H, W, C), or videos, (B, T, H, W, C), to float32 in [-1, 1] with C second.

    `to_uint8` undoes it exactly.

    Raises:
        ValueError: `images` is not a uint8 array of 4 or 5 dimensions.
    """
    if images.dtype != np.uint8 or images.ndim not in (4, 5):
        raise ValueError(f"images must be uint8 (B, H, W, C), not {images.dtype} {images.shape}")
    return scale_pixels(torch.from_numpy(np.moveaxis(images, -1, 1).copy()))


def to_uint8(x: Tensor) -> NDArray[np.uint8]:
    """Map x, floating (B, C, H, W) in [-1, 1], to uint8 (B, H, W, C): round((x + 1) · 127.5), clamped.

    Videos (B, C, T, H, W) become (B, T, H, W, C).

    Raises:
        ValueError: `x` is not a floating-point tensor of 4 or 5 dimensions, or holds NaN, which has no grey level.
    """
    if not x.is_floating_point() or x.ndim not in (4, 5):
        raise ValueError(f"x must be floating-point (B, C, H, W), not {x.dtype} {tuple(x.shape)}")
    levels = x.detach().to(torch.float32).add(1.0).mul(127.5).round().clamp(0, 255)
    if bool(levels.isnan().any()):
        raise ValueError("x holds NaN and cannot be made into pixels: the model that drew it has diverged")
    return levels.to(torch.uint8).movedim(1, -1).contiguous().cpu().numpy()


def mirror(x: Tensor, flip: Tensor | None) -> Tensor:
    """Mirror left-right the rows of x (B, …, W) where `flip`, bool (B,), is true; `None` mirrors none."""
    if flip is None:
        return x
    return torch.where(flip.reshape(-1, *(1,) * (x.ndim - 1)), x.flip(-1), x)


def false_colours(x: Tensor) -> NDArray[np.uint8]:
    """Show latents, floating (B, C, h, w) of about unit variance, as they are: uint8 (B, h, w, 3).

    The first three channels become red, green and blue, from -3 to 3; missing ones repeat the last.
    """
    return to_uint8(x[:, [min(k, x.shape[1] - 1) for k in range(3)]] / 3)
