"""Folders of real files, written by Pillow in the formats and the states in which they come."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alphaflow.data import Dataset, Images, to_uint8
from alphaflow.data.sources import decode
from alphaflow.errors import UserError

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def plain(colour: tuple[int, ...], size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Image.Image:
    return Image.new(mode, size, colour)


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def save(image: Image.Image, path: Path, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def colour_of(path: Path) -> list[int]:
    """The colour of an image that is to come out plain; the codecs may be 4 levels off."""
    pixels = decode(path, 4)
    assert pixels.shape == (3, 4, 4) and pixels.dtype == np.uint8
    assert np.ptp(pixels.reshape(3, -1).astype(int), axis=1).max() <= 4
    return [int(v) for v in pixels.reshape(3, -1).mean(1).round()]


def test_classes_labels_and_order(tmp_path: Path) -> None:
    save(plain(BLUE), tmp_path / "zebra" / "deep" / "er" / "a.png")
    save(plain(RED), tmp_path / "ant" / "b.PNG")
    save(plain(GREEN), tmp_path / "ant" / "a.webp", lossless=True)
    (tmp_path / "ant" / "notes.txt").write_text("not an image, and not named like one")
    save(plain(WHITE), tmp_path / "ant" / "._a.png")
    save(plain(WHITE), tmp_path / ".cache" / "a.png")
    (tmp_path / "empty").mkdir()
    data = Images(tmp_path, 8)
    checked: Dataset = data
    x, y = checked.batch(torch.tensor([2, 0, 1]))
    assert data.class_names == ("ant", "zebra") and data.num_classes == 2 and len(data) == 3
    assert data.shape == (3, 8, 8) and data.kind == "image" and data.skipped == []
    assert y is not None and y.tolist() == [1, 0, 0] and y.dtype == torch.int64
    assert x[:, :, 0, 0].tolist() == [[-1, -1, 1], [-1, 1, -1], [1, -1, -1]]


def test_images_directly_in_the_root_are_one_unlabelled_set(tmp_path: Path) -> None:
    for k in range(3):
        save(noise(8, 8, k), tmp_path / f"{k}.png")
    data = Images(str(tmp_path), 8)
    x, y = data.batch(torch.arange(3))
    assert y is None and data.num_classes == 0 and data.class_names == ()
    assert np.array_equal(to_uint8(x)[2], np.asarray(noise(8, 8, 2)))


def test_flip(tmp_path: Path) -> None:
    save(noise(8, 8), tmp_path / "a.png")
    data = Images(tmp_path, 8)
    row = torch.tensor([0])
    assert torch.equal(data.batch(row, torch.tensor([True]))[0], data.batch(row)[0].flip(-1))


@pytest.mark.parametrize(("height", "width"), [(8, 20), (20, 8), (8, 8), (8, 9), (9, 8)])
def test_the_crop_is_central_and_unresized_pixels_are_kept(tmp_path: Path, height: int, width: int) -> None:
    path = save(noise(height, width), tmp_path / "a.png")
    top, left = (height - 8) // 2, (width - 8) // 2  # whole pixels, as the α-Flow protocol has it
    expected = np.asarray(noise(height, width))[top : top + 8, left : left + 8]
    assert np.array_equal(decode(path, 8).transpose(1, 2, 0), expected)


@pytest.mark.parametrize(("height", "width"), [(32, 80), (80, 32), (32, 32), (32, 47), (51, 32), (33, 50)])
def test_it_is_the_crop_followed_by_the_lanczos_resize(tmp_path: Path, height: int, width: int) -> None:
    """In that order: the filter sees no pixel beyond the square."""
    path, side = save(noise(height, width), tmp_path / "a.png"), min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(np.asarray(noise(height, width))[top : top + side, left : left + side])
    expected = np.asarray(square.resize((8, 8), Image.Resampling.LANCZOS))
    assert np.array_equal(decode(path, 8).transpose(1, 2, 0), expected)


def test_small_images_are_enlarged(tmp_path: Path) -> None:
    assert decode(save(plain(RED, (3, 2)), tmp_path / "a.png"), 16).shape == (3, 16, 16)


def test_jpeg_webp_and_palette(tmp_path: Path) -> None:
    colour = (200, 100, 50)
    palette = plain(colour).quantize(4)
    assert palette.mode == "P"
    for path in (
        save(plain(colour), tmp_path / "a.jpg", quality=95),
        save(plain(colour), tmp_path / "a.jpeg", quality=95, progressive=True),
        save(plain(colour), tmp_path / "a.webp", quality=95),
        save(palette, tmp_path / "palette.png"),
    ):
        assert np.abs(np.subtract(colour_of(path), colour)).max() <= 4


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    path = save(plain((0, 255, 255, 0), mode="CMYK"), tmp_path / "a.jpg", quality=95)
    assert np.abs(np.subtract(colour_of(path), RED)).max() <= 4


def test_grey_stays_rgb_in_8_16_and_1_bits(tmp_path: Path) -> None:
    deep = Image.fromarray(np.full((8, 8), 100 * 257, np.uint16))
    assert deep.mode == "I;16"
    assert colour_of(save(deep, tmp_path / "16.png")) == [100, 100, 100]
    assert colour_of(save(plain((77,), mode="L"), tmp_path / "8.png")) == [77, 77, 77]
    assert colour_of(save(Image.new("1", (8, 8), 1), tmp_path / "1.png")) == [255, 255, 255]


def test_transparency_lies_over_white(tmp_path: Path) -> None:
    assert colour_of(save(plain((255, 0, 0, 0), mode="RGBA"), tmp_path / "clear.png")) == [255, 255, 255]
    assert colour_of(save(plain((255, 0, 0, 128), mode="RGBA"), tmp_path / "half.png")) == [255, 127, 127]
    assert colour_of(save(plain((40, 255), mode="LA"), tmp_path / "grey.png")) == [40, 40, 40]
    keyed = save(plain(RED), tmp_path / "keyed.png", transparency=RED)
    assert colour_of(keyed) == [255, 255, 255]
    palette = plain(BLUE).quantize(2)
    index = int(np.asarray(palette)[0, 0])
    assert colour_of(save(palette, tmp_path / "palette.png", transparency=index)) == [255, 255, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = noise(8, 12)
    turned = {  # what a camera stores, so that the orientation's correction gives back the upright image
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = upright if turned is None else upright.transpose(turned)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(stored, tmp_path / "a.png", exif=exif)
    assert np.array_equal(decode(path, 8).transpose(1, 2, 0), np.asarray(upright)[:, 2:10])


@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.png"])
def test_the_orientation_is_found_in_every_format(tmp_path: Path, name: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = plain(RED, (8, 8))
    upright.paste(BLUE, (0, 4, 8, 8))
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    path = save(stored, tmp_path / name, exif=exif, quality=95)
    assert (
        np.abs(decode(path, 8).transpose(1, 2, 0) - np.asarray(upright, int)).mean() < 40
    )  # turned wrongly: 85 or more


def test_the_orientation_is_found_in_xmp(tmp_path: Path) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'
    path = save(noise(8, 8), tmp_path / "a.webp", lossless=True, xmp=xmp)
    assert np.array_equal(decode(path, 8).transpose(1, 2, 0), np.asarray(noise(8, 8))[::-1, ::-1])


def break_some(folder: Path) -> None:
    whole = save(noise(64, 64), folder / "whole.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "zero.png").write_bytes(b"")
    (folder / "text.png").write_text("no image at all")
    save(noise(16, 16), folder / "gif.gif").rename(folder / "gif.png")


def test_broken_files_are_named_and_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for k in range(4):
        save(plain((k, 0, 0)), tmp_path / "a" / f"{k}.png")
    break_some(tmp_path / "a")
    save(plain((9, 0, 0)), tmp_path / "b" / "last.png")
    data = Images(tmp_path, 8, tolerance=0.5)
    reasons = {Path(path).name: reason for path, reason in data.skipped}
    assert "truncated" in reasons.pop("truncated.jpg")
    assert reasons == {
        "gif.png": "not a PNG, JPEG or WebP image",
        "text.png": "not a PNG, JPEG or WebP image",
        "zero.png": "the file is empty",
    }
    x, y = data.batch(torch.arange(len(data)))
    assert len(data) == 6 and y is not None and y.tolist() == [0, 0, 0, 0, 0, 1]
    assert to_uint8(x)[[0, 1, 2, 3, 5], 0, 0, 0].tolist() == [0, 1, 2, 3, 9]
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 4
    assert all(str(path) in line for line, (path, _) in zip(errors, data.skipped))


def test_only_the_first_ten_broken_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(plain(RED), tmp_path / "ok.png")
    for k in range(13):
        (tmp_path / f"{k:02}.png").write_bytes(b"")
    assert len(Images(tmp_path, 8, tolerance=1).skipped) == 13
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 11 and errors[-1] == "skipped 3 more unreadable images"


def test_too_many_broken_files_are_an_error(tmp_path: Path) -> None:
    for k in range(18):
        save(plain(RED), tmp_path / f"{k}.png")
    (tmp_path / "x.png").write_bytes(b"")
    (tmp_path / "y.png").write_bytes(b"")
    assert len(Images(tmp_path, 8)) == 18
    (tmp_path / "z.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"3 of 21 images cannot be read.*10%.*x\.png: the file is empty"):
        Images(tmp_path, 8)


def test_nothing_readable_is_an_error_at_any_tolerance(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(UserError, match="1 of 1 images cannot be read"):
        Images(tmp_path, 8, tolerance=1)


def test_a_class_left_without_images_is_an_error(tmp_path: Path) -> None:
    save(plain(RED), tmp_path / "a" / "a.png")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "b.png").write_bytes(b"")
    with pytest.raises(UserError, match="none of its images can be read"):
        Images(tmp_path, 8, tolerance=0.5)


def test_refusals_name_the_value_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no images: put \.png"):
        Images(tmp_path, 8)
    with pytest.raises(UserError, match="missing does not exist"):
        Images(tmp_path / "missing", 8)
    path = save(plain(RED), tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png is of no kind that can be read: give a folder of .*\.zip.*\.npz"):
        Images(path, 8)
    for size in (0, -4, 8.0, True):
        with pytest.raises(UserError, match=f"image size {size!r} is not a positive whole number"):
            Images(tmp_path, size)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="tolerance 10 is not a share"):
        Images(tmp_path, 8, tolerance=10)
    save(plain(RED), tmp_path / "b" / "b.png")
    with pytest.raises(UserError, match=r"a\.png\) beside class folders \(such as b\)"):
        Images(tmp_path, 8)


def test_the_fingerprint_follows_content_labels_and_size(tmp_path: Path) -> None:
    save(noise(8, 8, 0), tmp_path / "one" / "a" / "a.png")
    save(noise(8, 8, 1), tmp_path / "one" / "b" / "b.png")
    save(noise(8, 8, 0), tmp_path / "two" / "a" / "renamed.png")
    save(noise(8, 8, 1), tmp_path / "two" / "b" / "b.png")
    save(noise(8, 8, 0), tmp_path / "three" / "a" / "a.png")
    save(noise(8, 8, 2), tmp_path / "three" / "b" / "b.png")
    first = Images(tmp_path / "one", 8).fingerprint
    assert Images(tmp_path / "two", 8).fingerprint == first
    assert Images(tmp_path / "three", 8).fingerprint != first
    assert Images(tmp_path / "one", 4).fingerprint != first


def test_the_box_crop_halves_then_takes_the_short_side_then_cuts() -> None:
    image = noise(60, 131)
    halved = image.resize((65, 30), Image.Resampling.BOX).resize((32, 15), Image.Resampling.BOX)
    scaled = halved.resize((17, 8), Image.Resampling.BICUBIC)
    expected = np.asarray(scaled)[:, 4:12]
    found = decode(np.asarray(image), 8, "box").transpose(1, 2, 0)
    assert np.array_equal(found, expected)
    assert not np.array_equal(found, decode(np.asarray(image), 8).transpose(1, 2, 0))


def test_both_crops_agree_where_there_is_nothing_to_resize() -> None:
    pixels = np.asarray(noise(8, 14))
    assert np.array_equal(decode(pixels, 8), decode(pixels, 8, "box"))
    assert np.array_equal(decode(pixels, 8).transpose(1, 2, 0), pixels[:, 3:11])


def test_pixels_are_taken_as_they_are_and_grey_becomes_rgb() -> None:
    pixels = np.asarray(noise(8, 8))
    assert np.array_equal(decode(pixels, 8).transpose(1, 2, 0), pixels)
    assert np.array_equal(decode(pixels[..., :1], 8), np.repeat(pixels[None, ..., 0], 3, 0))
    for wrong in (pixels[..., :2], pixels[..., 0], pixels.astype(np.float32)):
        with pytest.raises(OSError, match="not uint8"):
            decode(wrong, 8)


def test_an_unknown_crop_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown crop 'lanczo': did you mean 'lanczos'"):
        Images(tmp_path, 8, crop="lanczo")  # type: ignore[arg-type]


def test_a_jfif_is_a_jpeg(tmp_path: Path) -> None:
    save(plain(GREEN), tmp_path / "a.jpg", quality=95)
    (tmp_path / "a.jpg").rename(tmp_path / "a.jfif")
    assert len(Images(tmp_path, 8)) == 1


def test_grey_samples_are_the_luminance(tmp_path: Path) -> None:
    pixels = np.array([[[0, 0, 0], [255, 255, 255]], [[255, 0, 0], [7, 7, 7]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    colour, grey = Images(str(tmp_path), 2), Images(str(tmp_path), 2, grey=True)
    x, _ = grey.batch(torch.tensor([0]))
    assert grey.shape == (1, 2, 2) and x.shape == (1, 1, 2, 2)
    assert to_uint8(x)[0, ..., 0].tolist() == [[0, 255], [76, 7]]  # 0.299 · 255 = 76.2
    flipped, _ = grey.batch(torch.tensor([0]), torch.tensor([True]))
    torch.testing.assert_close(flipped, x.flip(-1))
    assert grey.fingerprint != colour.fingerprint
