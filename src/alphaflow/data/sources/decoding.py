"""From an encoded image, or pixels in any shape, to a square of uint8 RGB."""

import io
import os
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from alphaflow.errors import UserError, choose

if TYPE_CHECKING:
    from PIL import Image

Crop = Literal["lanczos", "box"]
"""How an image becomes a square: see `decode`."""

_ORIENTATION = 0x0112  # the tag of EXIF
_MAY_SAY = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}  # where Pillow looks for it
FORMATS = ("PNG", "JPEG", "WEBP")


def decode(
    data: bytes | NDArray[np.uint8] | str | os.PathLike[str],
    size: int,
    crop: Crop = "lanczos",
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Bring one image to RGB uint8 (3, size, size).

    It is turned as its EXIF orientation says, brought to 8-bit RGB (16-bit levels divided by 257, palettes and
    CMYK converted, transparency over white), resized so that its short side is `size`, and cropped about its
    centre.

    Args:
        data: an encoded PNG, JPEG or WebP; pixels, uint8 (H, W, 3) or (H, W, 1); or the path of a file.
        size: side in pixels, at least 1.
        crop: "lanczos" resizes the central square in one go with the Lanczos filter, as the α-Flow protocol does.
            "box" is ADM's crop, which DiT and SiT use: halve with the box filter while the short side is at least
            2 · size, then bicubic to the short side, then cut out the centre.
        out: where to put it, uint8 (3, size, size), contiguous; `None`: into a new array.

    Raises:
        OSError: no whole PNG, JPEG or WebP image. Pillow's decoders raise other exceptions too on files that are
            damaged in unusual ways; `decode_or_reason` turns them all into words.
    """
    from PIL import Image

    if isinstance(data, np.ndarray):
        return _square(_from_pixels(data), size, crop, out)
    with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=FORMATS) as opened:
        opened.load()
        return _square(_to_rgb(_upright(opened)), size, crop, out)


def _square(image: "Image.Image", size: int, crop: Crop, out: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    square = image if image.size == (size, size) else _CROPS[crop](image, size)
    pixels = np.empty((3, size, size), np.uint8) if out is None else out
    flat, count = pixels.data.cast("B"), size * size
    for k, name in enumerate(
        "RGB"
    ):  # half the time of one array transposed; a plain copy keeps the interpreter's lock
        flat[k * count : (k + 1) * count] = square.tobytes("raw", name)
    return pixels


def _upright(image: "Image.Image") -> "Image.Image":
    """Turned as its EXIF orientation says. Pillow's own function takes a twentieth of a small image's time to
    find that there is nothing to do, and then copies it."""
    from PIL import ImageOps

    if not _MAY_SAY & image.info.keys() or image.getexif().get(_ORIENTATION, 1) == 1:
        return image
    return ImageOps.exif_transpose(image)


def decode_or_reason(
    data: bytes | NDArray[np.uint8],
    size: int,
    crop: Crop = "lanczos",
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8] | str:
    """`decode`, or why it cannot be, in words that follow a file's name."""
    from PIL import UnidentifiedImageError

    try:
        if len(data) == 0:
            return "the file is empty"
        return decode(data, size, crop, out)
    except UnidentifiedImageError:
        return "not a PNG, JPEG or WebP image"
    except Exception as error:  # a damaged file can make a decoder raise nearly anything
        return " ".join(str(error).split()) or type(error).__name__


def check_size_and_crop(size: object, crop: str) -> None:
    """A `UserError` for a size that is no positive whole number or an unknown crop."""
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise UserError(f"image size {size!r} is not a positive whole number: give pixels, such as 64")
    choose("crop", crop, get_args(Crop))


def _lanczos(image: "Image.Image", size: int) -> "Image.Image":
    from PIL import Image

    # The box is the largest centred square. The filter sees the pixels beyond it, so this equals a resize
    # of the whole image and a crop, without rounding the crop and without the wide intermediate.
    left, top = (image.width - min(image.size)) / 2, (image.height - min(image.size)) / 2
    box = (left, top, image.width - left, image.height - top)
    return image.resize((size, size), Image.Resampling.LANCZOS, box=box)


def _box(image: "Image.Image", size: int) -> "Image.Image":
    from PIL import Image

    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


_CROPS = {"lanczos": _lanczos, "box": _box}


def _from_pixels(pixels: NDArray[np.uint8]) -> "Image.Image":
    from PIL import Image

    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        raise OSError(f"pixels are {pixels.dtype} {pixels.shape}, not uint8 (H, W, 3) or (H, W, 1)")
    return _to_rgb(Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))


def _to_rgb(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would clip it at 255
        levels = np.asarray(image).astype(np.float64) / 257.0
        image = Image.fromarray(levels.round().clip(0, 255).astype(np.uint8))
    if {"A", "a"} & set(image.getbands()) or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")
