"""A decoded frame of a video as a viewer shows it: turned, with square pixels, opaque, and cut to a square."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SKEWED = 0.1  # the share of a matrix that may belong to no quarter turn: five degrees


def square(frame: Any, size: int, aspect: Fraction) -> NDArray[np.uint8]:
    """Return the central square of a PyAV frame, RGB uint8 (size, size, 3), resized by Lanczos.

    The square is cut at whole pixels, at (width - side) // 2, as the image protocol has it, and then resized, so
    that the filter sees nothing beyond it.

    Args:
        frame: the frame.
        size: side of the result in pixels.
        aspect: width of a stored pixel over its height; a viewer stretches the frame by it.

    Raises:
        OSError: the frame is turned by something else than quarter turns and mirrorings.
    """
    image, swapped = _upright(_opaque(frame), frame)
    wide = 1 / aspect if swapped else aspect
    width, height = image.size
    side = min(width * wide, Fraction(height))  # of the square, in the height of a pixel
    across, down = max(1, round(side / wide)), max(1, round(side))
    left, top = (width - across) // 2, (height - down) // 2
    cut = image.crop((left, top, left + across, top + down))
    return np.asarray(cut if cut.size == (size, size) else cut.resize((size, size), Image.Resampling.LANCZOS))


def _opaque(frame: Any) -> Image.Image:
    """Return the frame in RGB, over white where it is transparent, as images are."""
    if not any(component.is_alpha for component in frame.format.components):
        return frame.to_image()
    image = Image.fromarray(frame.to_ndarray(format="rgba"))
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _upright(image: Image.Image, frame: Any) -> tuple[Image.Image, bool]:
    """Return the image turned and mirrored as the frame's display matrix says, and whether width and height
    changed places.

    The matrix sends the stored place (x, y), y downwards, to (a x + c y, b x + d y).
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None or not any(entries := np.frombuffer(bytes(matrix), "=i4")[[0, 1, 3, 4]].tolist()):
        return image, False
    a, b, c, d = entries
    swapped = abs(b) + abs(c) > abs(a) + abs(d)
    (across, down), others = ((c, b), (a, d)) if swapped else ((a, d), (b, c))
    if not across or not down or max(map(abs, others)) > _SKEWED * min(abs(across), abs(down)):
        raise OSError(f"it is turned by {math.degrees(math.atan2(b, a)):.0f}°: only quarter turns can be shown")
    if swapped:
        image = image.transpose(Image.Transpose.TRANSPOSE)
    if across < 0:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if down < 0:
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return image, swapped
