"""What a look at a few pictures tells of all."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alphaflow.data.looked import MOST, look_at
from alphaflow.data.sources import open_source
from alphaflow.errors import UserError


def save(file: Path, height: int, width: int, *, grey: bool = False) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    level = np.linspace(0, 255, height * width).astype(np.uint8).reshape(height, width)
    Image.fromarray(level if grey else np.stack([level, level, 255 - level], 2)).save(file)


def test_sizes_and_colours(tmp_path):
    for k, (height, width) in enumerate([(10, 20), (12, 9), (30, 30)]):
        save(tmp_path / f"{k}.png", height, width)
    look = look_at(open_source(str(tmp_path)))
    assert (look.count, look.side, look.alike, look.grey) == (3, 10, False, False)
    assert 0 < look.seconds < 1
    assert str(look) == "3 coloured pictures, the shorter side about 10 pixels"


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_grey_ones_are_known_whatever_their_file_has(tmp_path, suffix):
    """As RGB of equal channels too, which a JPEG keeps up to rounding."""
    save(tmp_path / f"0.{suffix}", 28, 28, grey=True)
    level = np.arange(784, dtype=np.uint8).reshape(28, 28)
    Image.fromarray(np.stack([level] * 3, 2)).save(tmp_path / f"1.{suffix}")
    look = look_at(open_source(str(tmp_path)))
    assert look.grey and look.alike and look.side == 28
    save(tmp_path / f"2.{suffix}", 28, 28)
    assert not look_at(open_source(str(tmp_path))).grey


def test_pictures_all_through_the_set_are_looked_at_and_broken_ones_passed_over(tmp_path):
    array = np.full((3 * MOST, 8, 8, 3), 7, np.uint8)
    array[-1, ..., 0] = 200  # the only one in colour is the last
    np.save(tmp_path / "a.npy", array)
    look = look_at(open_source(str(tmp_path / "a.npy")))
    assert look.count == 3 * MOST and not look.grey
    save(tmp_path / "b/1.png", 16, 16)
    (tmp_path / "b/0.png").write_bytes(b"no picture")
    assert look_at(open_source(str(tmp_path / "b"))).side == 16
    (tmp_path / "b/1.png").write_bytes(b"nor this")
    with pytest.raises(UserError, match=r"none of its images .* can be read \(first .*0.png: not a PNG"):
        look_at(open_source(str(tmp_path / "b")))
