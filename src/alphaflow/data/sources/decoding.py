"""An encoded image, or pixels in any shape, becomes a square of uint8 RGB."""

import io
import os
import warnings
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from alphaflow.errors import UserError, choose, one_line

from .jpeg import plain_jpeg

if TYPE_CHECKING:
    from PIL import Image

Crop = Literal["lanczos", "box"]
"""The way in which an image becomes a square: see `decode`."""

DECODER = 3
"""The decoder's version. It changes when the same file gives other pixels, so that old and new ones are never
mixed."""
CROPPED: dict[str, str] = {"lanczos": "lanczos at whole pixels", "box": "box"}
"""The words by which a crop is recorded. Up to version 1 of the decoder lanczos began at half a pixel where the
difference of the sides is odd, which was recorded as "lanczos".
"""

_ORIENTATION = 0x0112  # the tag of EXIF
_MAY_SAY = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}  # where Pillow looks for it
FORMATS = ("PNG", "JPEG", "WEBP")
_OTHERS = {b"II*\0": "TIFF", b"MM\0*": "TIFF", b"BM": "BMP", b"GIF8": "GIF"}
_TURNS = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"} | {
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""Pillow's turn that brings an image upright, by its orientation in EXIF."""
_PILLOW = r"PIL(\.|$)"


def decode(
    data: bytes | NDArray[np.uint8] | str | os.PathLike[str],
    size: int,
    crop: Crop = "lanczos",
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Bring one image to RGB uint8 (3, size, size).

    It is turned as its EXIF orientation says, brought to 8-bit RGB (16-bit levels divided by 257, palettes and
    CMYK converted, transparency over white), cropped to the central square and resized. Orientations that cannot
    be read count as none, as in every viewer.

    Args:
        data: an encoded PNG, JPEG or WebP; pixels, uint8 (H, W, 3) or (H, W, 1); or the path of a file.
        size: side in pixels, at least 1.
        crop: "lanczos" cuts out the central square, at whole pixels, and resizes it with the Lanczos filter, as
            the α-Flow protocol does. "box" is ADM's crop, which DiT and SiT use: halve with the box filter while
            the short side is at least 2 · size, then bicubic to the short side, then cut out the centre.
        out: the array to write into, uint8 (3, size, size), contiguous; `None`: a new one.

    Raises:
        OSError: the data are no whole PNG, JPEG or WebP image. Pillow's decoders raise other exceptions too on
            files that are damaged in unusual ways; `decode_or_reason` turns them all into words.
    """
    plain = plain_jpeg(data) if isinstance(data, bytes) else None
    if plain is not None and plain.shape[:2] == (size, size):
        pixels = np.empty((3, size, size), np.uint8) if out is None else out
        np.copyto(pixels, plain.transpose(2, 0, 1))
        return pixels
    if plain is not None:
        data = plain
    if isinstance(data, np.ndarray):
        return _square(_from_pixels(data), size, crop, out)
    return _square(open_rgb(data), size, crop, out)


def open_rgb(data: bytes | str | os.PathLike[str], formats: tuple[str, ...] = FORMATS) -> "Image.Image":
    """Return an encoded image, or that in a file, upright and as 8-bit RGB.

    It is the one way in for training, statistics, encoding and evaluation, and raises what `decode` raises.
    """
    from PIL import Image

    _quieten()
    with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=formats) as opened:
        _scale_transparent(opened)
        opened.load()
        return _to_rgb(_upright(opened), deep=opened.format != "TIFF")


def _scale_transparent(image: "Image.Image") -> None:
    """Bring the one transparent level of a packed PNG to the scale of its pixels.

    Pillow leaves a level of 2, 4 or 16 bits as the file has it.
    """
    value = image.info.get("transparency")
    tile = getattr(image, "tile", None)
    if image.format != "PNG" or not tile or not isinstance(value, int | tuple):
        return
    kind = tile[0].args
    if kind in ("L;2", "L;4") and isinstance(value, int):
        image.info["transparency"] = value * (85 if kind == "L;2" else 17)
    elif kind == "RGB;16B" and isinstance(value, tuple):
        image.info["transparency"] = tuple(level >> 8 for level in value)  # as the pixels are brought to 8 bits


def other_format(data: bytes) -> bytes | NDArray[np.uint8]:
    """Return a TIFF, BMP or GIF as pixels, uint8 (H, W, 3), and other files as they are.

    Raises:
        OSError: the data begin like one, and cannot be decoded.
    """
    kind = next((kind for start, kind in _OTHERS.items() if data.startswith(start)), None)
    if kind is None:
        return data
    try:
        return np.asarray(open_rgb(data, (kind,)))
    except Exception as error:  # a damaged file can make a decoder raise nearly anything
        raise OSError(one_line(error)) from None


def central_square(image: "Image.Image") -> "Image.Image":
    """Return the largest square about the centre, at whole pixels: it begins at (w - side) // 2, (h - side) //
    2."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image if image.width == image.height else image.crop((left, top, left + side, top + side))


def _square(image: "Image.Image", size: int, crop: Crop, out: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    square = image if image.size == (size, size) else _CROPS[crop](image, size)
    pixels = np.empty((3, size, size), np.uint8) if out is None else out
    flat, count = pixels.data.cast("B"), size * size
    for k, name in enumerate(
        "RGB"
    ):  # half the time of transposing one array; a plain copy would hold the interpreter's lock
        flat[k * count : (k + 1) * count] = square.tobytes("raw", name)
    return pixels


def _upright(image: "Image.Image") -> "Image.Image":
    """Return the image turned as its EXIF orientation says.

    Pillow's own function takes a twentieth of a small image's time to find that there is nothing to do, and then
    copies it; and it stops at EXIF that is damaged.
    """
    from PIL import Image

    if not _MAY_SAY & image.info.keys():
        return image
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF makes Pillow raise nearly anything
        return image
    return image if turn is None else image.transpose(Image.Transpose[turn])


def _quieten() -> None:
    """Silence Pillow's warnings, which name its own files and not the image.

    What cannot be read is an error all the same, and is reported with its name.
    """
    silenced = any(getattr(entry[3], "pattern", None) == _PILLOW for entry in warnings.filters)
    if not silenced:
        warnings.filterwarnings("ignore", module=_PILLOW)


def decode_or_reason(
    data: bytes | NDArray[np.uint8],
    size: int,
    crop: Crop = "lanczos",
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8] | str:
    """Return what `decode` gives or, where it fails, the reason in words that follow a file's name."""
    try:
        if len(data) == 0:
            return "the file is empty"
        return decode(data, size, crop, out)
    except Exception as error:  # a damaged file can make a decoder raise nearly anything
        return reason_of(error)


def reason_of(error: Exception) -> str:
    """Return in words, which follow a file's name, why an image could not be decoded."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "not a PNG, JPEG or WebP image"
    if isinstance(error, Image.DecompressionBombError):
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        return f"it has more than {limit:,} pixels, which is too many for a photograph"
    return one_line(error)


def check_size_and_crop(size: object, crop: str) -> None:
    """Raise a `UserError` for a size that is no positive whole number, or for an unknown crop."""
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise UserError(f"image size {size!r} is not a positive whole number: give pixels, such as 64")
    choose("crop", crop, get_args(Crop))


def _lanczos(image: "Image.Image", size: int) -> "Image.Image":
    from PIL import Image

    square = central_square(image)
    return square if square.width == size else square.resize((size, size), Image.Resampling.LANCZOS)


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


def _to_rgb(image: "Image.Image", *, deep: bool = True) -> "Image.Image":
    """Return an image as 8-bit RGB.

    Args:
        image: the image, in any mode.
        deep: whether whole numbers of 32 bits stand for 16, rather than for 8 where they fit.
    """
    from PIL import Image

    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would clip it at 255
        levels = np.asarray(image).astype(np.float64)
        if deep or image.mode.startswith("I;") or levels.max(initial=0) > 255:
            levels /= 257.0
        key = image.info.get("transparency")
        if isinstance(key, int):  # a level of 16 bits, which the conversions below lose
            levels[np.asarray(image) == key] = 255.0
        image = Image.fromarray(levels.round().clip(0, 255).astype(np.uint8))
    if {"A", "a"} & set(image.getbands()) or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")
