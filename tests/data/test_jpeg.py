"""JPEGs that simplejpeg decodes have the pixels that Pillow gives; all others are left to Pillow."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from alphaflow.data.sources import decode, jpeg
from alphaflow.data.sources.decoding import open_rgb
from alphaflow.data.sources.jpeg import plain_jpeg

FORMS = {
    "4:2:0": {"subsampling": 2},
    "4:2:2": {"subsampling": 1},
    "4:4:4": {"subsampling": 0},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 1},
    "coarse": {"quality": 5},
    "with a comment and a profile": {"comment": b"x" * 300, "icc_profile": bytes(70_000)},
}


def picture(height: int, width: int, mode: str = "RGB") -> Image.Image:
    """Smooth and rough at once."""
    rows, columns = np.mgrid[:height, :width]
    waves = [127 + 90 * np.sin(rows / (3 + k) + columns / (5 - k)) for k in range(3)]
    noise = np.random.default_rng(height * width).normal(0, 20, (height, width, 3))
    pixels = (np.stack(waves, -1) + noise).clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)  # type: ignore[arg-type]
    return buffer.getvalue()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [(64, 64), (33, 50), (1, 1), (17, 16)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_pixels_are_pillows(form, size, mode):
    data = encoded(picture(*size, mode), **FORMS[form])
    with Image.open(io.BytesIO(data)) as opened:
        expected = np.asarray(opened.convert("RGB"))
    np.testing.assert_array_equal(plain_jpeg(data), expected)


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(picture(20, 30), exif=exif)


OTHERS = {
    "turned by EXIF": turned,
    "CMYK": lambda: encoded(picture(20, 30, "CMYK")),
    "levels kept as RGB": lambda: encoded(picture(20, 30), keep_rgb=True),
    "cut short": lambda: encoded(picture(20, 30))[:-200],
    "no picture": lambda: encoded(picture(20, 30))[:300],
    "a head alone": lambda: b"\xff\xd8\xff\xe0\x00",
    "no JPEG": lambda: b"\x89PNG\r\n\x1a\n",
    "nothing": lambda: b"",
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_pillow_must_look_at_is_left_to_it(kind):
    assert plain_jpeg(OTHERS[kind]()) is None


def test_pictures_of_more_pixels_than_pillow_takes_are_left_to_it(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 599)
    assert plain_jpeg(encoded(picture(20, 30))) is None
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)
    assert plain_jpeg(encoded(picture(20, 30))) is not None


@pytest.mark.parametrize("crop", ["lanczos", "box"])
@pytest.mark.parametrize("size", [(16, 16), (40, 23)])
def test_the_decoder_says_the_same_without_it(monkeypatch, crop, size):
    data, out = encoded(picture(*size)), np.zeros((3, 16, 16), np.uint8)
    found = decode(data, 16, crop, out)
    assert found is out
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    jpeg._decoder.cache_clear()
    try:
        assert plain_jpeg(data) is None
        np.testing.assert_array_equal(found, decode(data, 16, crop))
        assert open_rgb(data).size == size[::-1]
    finally:
        jpeg._decoder.cache_clear()
