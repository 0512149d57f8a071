"""Videos into files, and back with other programs' eyes."""

import builtins
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from alphaflow.errors import UserError
from alphaflow.generation.pictures import film_strips
from alphaflow.generation.videos import moving_grid, write_videos


@pytest.fixture
def videos() -> NDArray[np.uint8]:
    """Four colour videos of 5 frames, 50 × 61 pixels: a bright square that moves; odd sides on purpose."""
    made = np.full((4, 5, 50, 61, 3), 30, np.uint8)
    for k in range(4):
        for frame in range(5):
            made[k, frame, 8 * frame : 8 * frame + 12, 10 * k : 10 * k + 14] = (250, 60 * k, 20)
    return made


def gif_frames(path: Path) -> list[NDArray[np.uint8]]:
    with Image.open(path) as opened:
        found = []
        for k in range(opened.n_frames):
            opened.seek(k)
            found.append(np.asarray(opened.convert("RGB")))
        assert opened.info["loop"] == 0
        return found


def test_a_gif_shows_every_frame_of_all_videos_at_its_rate(videos, tmp_path) -> None:
    out = tmp_path / "new" / "grid.gif"
    write_videos(videos, np.arange(4), out, columns=2, rate=5)
    frames = gif_frames(out)
    with Image.open(out) as opened:
        assert opened.info["duration"] == 200
    expected = [np.asarray(picture) for picture in moving_grid(videos, 2)]
    assert len(frames) == 5 and frames[0].shape == expected[0].shape
    for seen, meant in zip(frames, expected):
        assert np.abs(seen.astype(int) - meant).max() <= 8  # of one palette


def test_grey_videos_survive_a_gif_exactly(tmp_path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (3, 4, 50, 50, 1), dtype=np.uint8)
    write_videos(grey, np.arange(3), tmp_path / "grid.gif")
    for seen, meant in zip(gif_frames(tmp_path / "grid.gif"), moving_grid(grey)):
        assert np.array_equal(seen[..., 0], np.asarray(meant))


def test_an_mp4_has_all_frames_and_even_sides(videos, tmp_path) -> None:
    out = tmp_path / "grid.mp4"
    write_videos(videos, np.arange(4), out, columns=4, rate=12.5)
    with av.open(str(out)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert float(stream.average_rate) == 12.5
    expected = [np.asarray(picture) for picture in moving_grid(videos, 4)]
    height, width, _ = expected[0].shape
    assert len(frames) == 5 and frames[0].shape[0] - height in (0, 1) and frames[0].shape[1] - width in (0, 1)
    assert frames[0].shape[0] % 2 == frames[0].shape[1] % 2 == 0
    for seen, meant in zip(frames, expected):
        assert np.abs(seen[:height, :width].astype(int) - meant).mean() < 8


def test_arrays_strips_and_single_files(videos, tmp_path) -> None:
    write_videos(videos, np.array([3, 1, 3, 1]), tmp_path / "all.npz")
    with np.load(tmp_path / "all.npz", allow_pickle=False) as stored:
        assert np.array_equal(stored["videos"], videos) and stored["labels"].tolist() == [3, 1, 3, 1]
    write_videos(videos, np.arange(4), tmp_path / "strips.png")
    strips = np.asarray(Image.open(tmp_path / "strips.png"))
    assert strips.shape == (4 * 51 + 1, 5 * 62 + 1, 3)  # a row for each video, a pixel between
    assert np.array_equal(strips[1:51, 1 + 62 : 1 + 62 + 61], videos[0, 1])
    assert np.array_equal(strips, np.asarray(film_strips(videos)))
    write_videos(videos, np.array([3, 1, 3, 1]), tmp_path / "single")
    assert [path.name for path in sorted((tmp_path / "single").iterdir())] == [
        "000000-class3.gif",
        "000001-class1.gif",
        "000002-class3.gif",
        "000003-class1.gif",
    ]
    assert len(gif_frames(tmp_path / "single" / "000001-class1.gif")) == 5


@pytest.mark.parametrize(
    ("name", "rate", "message"),
    [("grid.avi", 8, "end its name in .npz, .gif, .mp4, .png"), ("grid.gif", 0, "--rate 0")],
)
def test_what_cannot_be_written(videos, tmp_path, name, rate, message) -> None:
    with pytest.raises(UserError, match=message):
        write_videos(videos, np.arange(4), tmp_path / name, rate=rate)
    assert not list(tmp_path.iterdir())


def test_without_pyav_the_error_names_the_command(videos, tmp_path, monkeypatch) -> None:
    real = builtins.__import__

    def without(name: str, *words: object):
        if name == "av":
            raise ImportError(name)
        return real(name, *words)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install 'alphaflow\[video\]'"):
        write_videos(videos, np.arange(4), tmp_path / "grid.mp4")
    write_videos(videos, np.arange(4), tmp_path / "grid.gif")  # needs none
