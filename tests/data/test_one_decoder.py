"""Files are read by one decoder, whoever asks: training, statistics, encoding, or a score of somebody's
pictures."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from alphaflow.data import Images, to_uint8
from alphaflow.data.sources import decode, decode_or_reason, open_source
from alphaflow.errors import UserError
from alphaflow.generation.pictures import read_images

SIZE = 8


def grey(k: int = 0) -> np.ndarray:
    return np.random.default_rng(k).integers(0, 256, (SIZE, SIZE), np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def turned(k: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(Image.fromarray(grey(k)), exif=exif)


def with_alpha(k: int) -> bytes:
    return encoded(Image.fromarray(np.dstack([np.zeros_like(grey(k))] * 3 + [grey(k)])))


FILES: dict[str, Callable[[int], bytes]] = {
    "plain": lambda k: encoded(Image.fromarray(grey(k))),
    "16 bits": lambda k: encoded(Image.fromarray(grey(k).astype(np.uint16) * 257)),
    "alpha": with_alpha,
    "turned": turned,
    "palette": lambda k: encoded(Image.fromarray(np.dstack([grey(k)] * 3)).quantize(16)),
    "keyed": lambda k: encoded(Image.fromarray(np.dstack([grey(k)] * 3)), transparency=(7, 7, 7)),
    "CMYK": lambda k: encoded(Image.fromarray(np.dstack([grey(k)] * 4), mode="CMYK"), "JPEG"),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("channels", [3, 1])
def test_pictures_are_scored_as_they_are_trained_on(tmp_path: Path, kind: str, channels: int) -> None:
    for k in range(9):
        path = tmp_path / "set" / f"{k}.{'jpg' if kind == 'CMYK' else 'png'}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(FILES[kind](k))
    trained = to_uint8(Images(tmp_path / "set", SIZE).batch(torch.arange(9))[0])
    blocks, labels = read_images(tmp_path / "set", (channels, SIZE, SIZE))
    (first, found), *rest = list(blocks)
    assert first == 0 and not rest and labels is None and found.shape == (9, SIZE, SIZE, channels)
    expected = (
        trained if channels == 3 else np.stack([np.asarray(Image.fromarray(x).convert("L")) for x in trained])
    )
    assert sorted(x.tobytes() for x in found) == sorted(np.ascontiguousarray(x).tobytes() for x in expected)


def test_the_same_files_count(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "set", tmp_path / "elsewhere"
    for k in range(8):
        (root / "a").mkdir(parents=True, exist_ok=True)
        (root / "a" / f"{k}.PNG").write_bytes(FILES["plain"](k))
    for hidden in (".ipynb_checkpoints/0-checkpoint.png", "a/._0.png", "__MACOSX/0.png", "a/.hidden.png"):
        (root / hidden).parent.mkdir(exist_ok=True)
        (root / hidden).write_bytes(b"no image")
    elsewhere.mkdir()
    (elsewhere / "8.png").write_bytes(FILES["plain"](8))
    (root / "linked").symlink_to(elsewhere)
    blocks, _ = read_images(root, (3, SIZE, SIZE))
    assert sum(len(found) for _, found in blocks) == len(open_source(str(root), labels="none")) == 9


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"text", "not a PNG, JPEG or WebP image"),
        (encoded(Image.new("RGB", (9, 9)), "GIF"), "not a PNG, JPEG or WebP image"),
    ],
)
def test_a_picture_that_cannot_be_scored_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    for k in range(8):
        (tmp_path / f"{k}.png").write_bytes(FILES["plain"](k))
    (tmp_path / "3.png").write_bytes(content)
    with pytest.raises(UserError, match=rf"cannot read {tmp_path}/3\.png \({reason}\)"):
        list(read_images(tmp_path, (3, SIZE, SIZE))[0])


def test_pictures_too_large_to_be_some_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    for k in range(8):  # 64 pixels: Pillow would warn, by the name of its own file
        (tmp_path / f"{k}.png").write_bytes(FILES["plain"](k))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(read_images(tmp_path, (3, SIZE, SIZE))[0])) == 1
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(UserError, match=r"cannot read .*\.png \(it has more than 40 pixels, which is too many"):
        list(read_images(tmp_path, (3, SIZE, SIZE))[0])
    assert "more than 40 pixels" in str(decode_or_reason(FILES["plain"](0), SIZE))


# ---------------------------------------------------------------- damaged EXIF


def broken_exif(kind: str) -> bytes:
    junk = b"\0\x08\0\x02\x01\x12\0\x03"
    plain = encoded(Image.fromarray(grey()))
    if kind == "eXIf":
        return plain[:33] + chunk(b"eXIf", junk) + plain[33:]
    if kind == "text":
        return plain[:33] + chunk(b"tEXt", b"Raw profile type exif\0\nexif\n  8\nnothex") + plain[33:]
    if kind == "XMP":
        return plain[:33] + chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation='nine'") + plain[33:]
    return encoded(Image.fromarray(np.dstack([grey()] * 3)), kind, exif=b"Exif\0\0" + junk, quality=100)


@pytest.mark.parametrize("kind", ["eXIf", "text", "XMP", "WEBP", "JPEG"])
def test_an_image_with_damaged_exif_is_read_as_it_is_stored(kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = decode_or_reason(broken_exif(kind), SIZE)
    assert not isinstance(found, str), found
    near = np.abs(found.astype(int) - grey()).mean()
    assert near == 0 if kind in ("eXIf", "text", "XMP") else near < 12


@pytest.mark.parametrize("value", [0, 9, 255])
def test_orientations_that_are_none_turn_nothing(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    assert np.array_equal(decode(encoded(Image.fromarray(grey()), exif=exif), SIZE)[0], grey())


# ---------------------------------------------------------------- the crop


def test_the_crop_is_the_protocols() -> None:
    pixels = np.zeros((4, 7, 3), np.uint8)
    pixels[:, ::2] = 255
    assert decode(encoded(Image.fromarray(pixels)), 4)[0, 0].tolist() == [0, 255, 0, 255]


# ---------------------------------------------------------------- other formats in tables


MODES = {
    "TIFF": ["P", "CMYK", "I;16", "I", "L", "RGB", "RGBA", "F"],
    "BMP": ["P", "L", "RGB"],
    "GIF": ["P", "L", "RGB"],
}


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind, modes in MODES.items() for mode in modes])
def test_tiff_bmp_and_gif_in_tables_are_read(tmp_path: Path, kind: str, mode: str) -> None:
    """`datasets` writes TIFF wherever PNG does not hold the mode."""
    plain = Image.new("L", (6, 6), 100)
    made = {
        "P": lambda: plain.convert("RGB").quantize(4),
        "I;16": lambda: Image.new("I;16", (6, 6), 100 * 257),
        "CMYK": lambda: plain.convert("RGB").convert("CMYK"),
    }
    content = encoded(made.get(mode, lambda: plain.convert(mode))(), kind)
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"image": [content, content[: len(content) // 3], FILES["plain"](0)]}), path)
    source = open_source(str(path))
    pixels = decode(source.read(0), 4)
    assert pixels.shape == (3, 4, 4) and np.abs(pixels.astype(int) - 100).max() <= 1
    with pytest.raises(OSError, match=r"."):
        source.read(1)
    assert np.array_equal(decode(source.read(2), SIZE)[0], grey())


@pytest.mark.parametrize(
    ("depth", "colour", "row", "key", "wanted"),
    [
        (2, 0, bytes([0b00011011]), b"\0\1", [0, 255, 170, 255]),
        (4, 0, bytes([0x0F, 0x37]), b"\0\3", [0, 255, 255, 119]),
        (8, 0, bytes([0, 85, 170, 255]), b"\0\x55", [0, 255, 170, 255]),
        (16, 0, struct.pack(">4H", 0, 1000, 30000, 65535), struct.pack(">H", 1000), [0, 255, 117, 255]),
        (
            16,
            2,
            struct.pack(">12H", *[257 * (k // 3) for k in range(12)]),
            struct.pack(">3H", *[257] * 3),
            [0, 255, 2, 3],
        ),
    ],
)
def test_one_transparent_level_lies_over_white_in_any_depth(
    depth: int, colour: int, row: bytes, key: bytes, wanted: list[int]
) -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, depth, colour, 0, 0, 0)) + chunk(b"tRNS", key)
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress((b"\0" + row) * 4)) + chunk(b"IEND", b"")
    assert decode(data, 4).tolist() == [[wanted] * 4] * 3
