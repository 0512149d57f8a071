"""Videos as a viewer shows them: turned, with square pixels, within their edit lists, in the order of display."""

import logging

import av
import numpy as np
import pytest

from alphaflow.cli import run
from alphaflow.data import VideoClips
from alphaflow.data.videos.clip_files import find_clips, read_clip
from alphaflow.data.videos.latents import ClipFrames
from alphaflow.errors import UserError
from clips import cut, numbers, turned, write_clip, write_pixels


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ALPHAFLOW_CACHE", str(tmp_path / "cache"))


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


TURNS = {  # (a, b, c, d) sends what lies at (x, y) to (a x + c y, b x + d y), y downwards
    "upright": ((1, 0, 0, 1), lambda x: x),
    "a quarter clockwise": ((0, 1, -1, 0), lambda x: np.rot90(x, -1, (1, 2))),
    "half": ((-1, 0, 0, -1), lambda x: x[:, ::-1, ::-1]),
    "a quarter the other way": ((0, -1, 1, 0), lambda x: np.rot90(x, 1, (1, 2))),
    "mirrored": ((-1, 0, 0, 1), lambda x: x[:, :, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda x: x[:, ::-1]),
    "transposed": ((0, 1, 1, 0), lambda x: x.transpose(0, 2, 1, 3)),
    "transposed and turned by half": ((0, -1, -1, 0), lambda x: x.transpose(0, 2, 1, 3)[:, ::-1, ::-1]),
    "a quarter, but for a little": ((0.01, 1, -1, 0.01), lambda x: np.rot90(x, -1, (1, 2))),
}


@pytest.mark.parametrize("turn", TURNS)
def test_frames_are_turned_and_mirrored_as_the_display_matrix_says(tmp_path, turn) -> None:
    matrix, expected = TURNS[turn]
    plain = write_pixels(tmp_path / "a.mov", noise(6, 14, 20, 3), codec="png", pix_fmt="rgb24")
    frames = noise(6, 14, 20, 3)
    found = read_clip(turned(plain, *matrix), 3, 10, 14)
    square = expected(frames)[2:5]
    top, left = (square.shape[1] - 14) // 2, (square.shape[2] - 14) // 2
    numbers = [
        k for k in (1, 2) if np.array_equal(found, expected(frames)[k : k + 3, top : top + 14, left : left + 14])
    ]
    assert len(numbers) == 1, "to the pixel, of some three frames in the middle"


@pytest.mark.parametrize("suffix", ["mov", "mkv"])
@pytest.mark.parametrize("degrees", [90, -90, 180])
def test_a_turn_that_pyav_itself_has_written(tmp_path, suffix, degrees) -> None:
    """Against the clock, as PyAV counts it; Matroska keeps it otherwise than MP4 does."""
    pixels = noise(14, 20, 3)
    with av.open(str(tmp_path / f"a.{suffix}"), "w") as container:
        stream = container.add_stream("png" if suffix == "mov" else "ffv1", rate=10)
        stream.height, stream.width = 14, 20
        stream.pix_fmt = "rgb24" if suffix == "mov" else "bgr0"
        stream.set_display_rotation(degrees)
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    expected = np.rot90(pixels, degrees // 90)
    top, left = (expected.shape[0] - 14) // 2, (expected.shape[1] - 14) // 2
    found = read_clip(tmp_path / f"a.{suffix}", 1, 10, 14)[0]
    assert np.array_equal(found, expected[top : top + 14, left : left + 14])


def test_every_way_to_read_videos_sees_the_turn(tmp_path) -> None:
    write_pixels(tmp_path / "a.mov", noise(6, 14, 20, 3), codec="png", pix_fmt="rgb24")
    turned(tmp_path / "a.mov", 0, 1, -1, 0)
    (tmp_path / "list.txt").write_text("turned-a.mov\n")
    direct = read_clip(tmp_path / "turned-a.mov", 2, 10, 14)
    source = ClipFrames(tmp_path / "list.txt", frames=2, rate=10, size=14)
    assert np.array_equal(np.stack([source.read(0), source.read(1)]), direct)
    assert np.array_equal(VideoClips(tmp_path / "list.txt", frames=2, rate=10, size=14)._pixels[0], direct)
    plain = read_clip(tmp_path / "a.mov", 2, 10, 14)
    assert np.array_equal(np.rot90(plain, -1, (1, 2)), direct)


def test_a_turn_that_cannot_be_shown_leaves_the_video_out(tmp_path) -> None:
    plain = write_pixels(tmp_path / "a.mov", noise(4, 8, 8, 3), codec="png", pix_fmt="rgb24")
    with pytest.raises(OSError, match="it is turned by 30°: only quarter turns"):
        read_clip(turned(plain, 0.866, 0.5, -0.5, 0.866), 2, 10, 8)


@pytest.mark.parametrize(("matrix", "aspect"), [(None, 2), ((0, 1, -1, 0), 2), ((0, -1, 1, 0), 3)])
def test_pixels_become_square_before_and_after_a_turn(tmp_path, matrix, aspect) -> None:
    """A disc that a viewer sees is a disc: as wide as high, and in the middle."""
    height, width = 48, 120 // aspect
    x = (np.arange(width) + 0.5 - width / 2) * aspect
    y = np.arange(height) + 0.5 - height / 2
    disc = (np.hypot(x[None], y[:, None]) < 20).astype(np.uint8) * 255
    frames = np.repeat(disc[None, :, :, None], 3, axis=3).repeat(4, axis=0)
    path = write_pixels(tmp_path / "a.mov", frames, codec="png", pix_fmt="rgb24", aspect=aspect)
    with av.open(str(path)) as container:
        assert container.streams.video[0].sample_aspect_ratio == aspect
    seen = read_clip(path if matrix is None else turned(path, *matrix), 1, 10, 48)[0, :, :, 0] > 127
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    assert abs(len(rows) - 40) <= 2 and abs(len(columns) - 40) <= 2
    assert abs(rows.mean() - 23.5) <= 0.5 and abs(columns.mean() - 23.5) <= 0.5
    assert abs(seen.sum() - np.pi * 20**2) < 60


def test_the_square_is_cut_at_whole_pixels(tmp_path) -> None:
    stripes = np.zeros((3, 4, 7, 3), np.uint8)
    stripes[:, :, ::2] = 255
    path = write_pixels(tmp_path / "a.mkv", stripes)
    assert read_clip(path, 1, 10, 4)[0, 0, :, 0].tolist() == [0, 255, 0, 255]


def test_what_is_seen_through_lies_over_white(tmp_path) -> None:
    frames = np.zeros((3, 8, 8, 4), np.uint8)
    frames[:, :, 4:, 3] = 255
    path = write_pixels(tmp_path / "a.mov", frames, codec="png", pix_fmt="rgba")
    assert read_clip(path, 1, 10, 8)[0, 0, :, 0].tolist() == [255] * 4 + [0] * 4


# ---------------------------------------------------------------------------------- which frames


@pytest.mark.parametrize(("before", "after"), [(0, 0), (6, 0), (0, 7), (9, 4)])
def test_the_middle_is_that_of_what_the_edit_list_shows(tmp_path, before, after) -> None:
    """x264 with B-frames: what is cut off is in the file, before time 0 and after the end, and is not shown."""
    path = write_clip(tmp_path / "a.mp4", 24)
    shown = list(range(before, 24 - after))
    clip = read_clip(cut(path, before, after), len(shown), 10, 16)
    assert numbers(clip) == shown
    with pytest.raises(OSError, match="it lasts"):
        read_clip(cut(path, before, after), len(shown) + 2, 10, 16)
    (middle,) = numbers(read_clip(cut(path, before, after), 1, 10, 16))
    assert abs(middle - (shown[0] + shown[-1]) / 2) <= 1


@pytest.mark.parametrize("suffix", ["mp4", "avi", "ts", "mkv", "flv"])
def test_b_frames_come_in_the_order_of_display(tmp_path, suffix) -> None:
    """AVI gives the times of decoding for those of display."""
    path = write_clip(tmp_path / f"a.{suffix}", 24)
    assert numbers(read_clip(path, 24, 10, 16)) == list(range(24))
    for count in range(1, 24):
        found = numbers(read_clip(path, count, 10, 16))
        assert found == list(range(found[0], found[0] + count)) and abs(found[0] - (24 - count) / 2) <= 1


# ---------------------------------------------------------------------------------- classes


@pytest.mark.parametrize(
    "parts",
    [
        ("train", "val"),
        ("train_256", "val_256"),
        ("Training", "test-set"),
        ("trainA", "testA"),
        ("ILSVRC2012_train", "ILSVRC2012_val"),
        ("x_train", "x_test"),
        ("train.v1", "val.v1", "notes"),
    ],
)
def test_parts_of_a_data_set_are_no_classes(tmp_path, parts) -> None:
    for part in parts:
        write_clip(tmp_path / "k" / part / "run" / "0.mp4", 4)
    first = next(part for part in parts if "train" in part.lower())
    for read in (
        lambda: find_clips(tmp_path / "k"),
        lambda: VideoClips(tmp_path / "k", frames=2, size=8),
        lambda: ClipFrames(tmp_path / "k", frames=2, rate=8, size=8),
    ):
        with pytest.raises(
            UserError, match=f"splits of a data set .*, which are no classes: give one of them, .*/{first}$"
        ):
            read()
    assert find_clips(tmp_path / "k" / first).class_names == ("run",)
    with pytest.raises(UserError, match=f"splits of a data set .*/k/{first}$"):  # in a lone folder
        find_clips(tmp_path)


def test_a_class_may_be_called_train(tmp_path) -> None:
    for name in ("train", "bus", "test tube"):
        write_clip(tmp_path / name / "0.mp4", 2)
    assert find_clips(tmp_path).class_names == ("bus", "test tube", "train")


def test_numbers_are_in_their_order_in_folders_and_lists(tmp_path) -> None:
    for name in ("10", "9", "0"):
        write_clip(tmp_path / "v" / name / "0.mp4", 2)
    files = find_clips(tmp_path / "v")
    assert files.class_names == ("0", "9", "10") and files.labels.tolist() == [0, 1, 2]
    assert [path.parent.name for path in files.paths] == ["0", "9", "10"]
    (tmp_path / "v" / "l.csv").write_text("path,label\n10/0.mp4,10\n9/0.mp4,9\n")
    assert find_clips(tmp_path / "v" / "l.csv").class_names == ("9", "10")


def test_what_is_passed_over_and_what_was_found_is_said(tmp_path, caplog) -> None:
    caplog.set_level(logging.INFO, logger="alphaflow")
    for name in ("run", "jump"):
        write_clip(tmp_path / "v" / name / "0.mp4", 4)
    (tmp_path / "v" / "emu").mkdir()
    data = VideoClips(tmp_path / "v", frames=2, size=8)
    assert "passed over 1 folders without videos (emu)" in caplog.text
    assert data.found == f"{tmp_path / 'v'}: 2 videos, 2 classes (jump, run)"
    write_clip(tmp_path / "w" / "UCF" / "run" / "0.mp4", 4)
    find_clips(tmp_path / "w")
    assert "one class, UCF, holds all videos" in caplog.text and f"give {tmp_path / 'w' / 'UCF'}" in caplog.text


def test_other_pixels_have_another_fingerprint_and_a_copy_the_same(tmp_path) -> None:
    """Names, sizes and times of change may be equal: what counts is what is shown."""

    def made(name: str, **changes: object) -> str:
        (tmp_path / name).mkdir()
        path = write_pixels(tmp_path / name / "a.mov", noise(4, 8, 8, 3), codec="png", pix_fmt="rgb24")
        if changes:
            turned(path, *changes["matrix"]).replace(path)
        return VideoClips(tmp_path / name, frames=2, size=8).fingerprint

    assert made("a") == made("b") != made("c", matrix=(-1, 0, 0, 1))
    sizes = {(tmp_path / name / "a.mov").stat().st_size for name in "abc"}
    assert len(sizes) == 1


def test_the_command_says_it_in_one_line(tmp_path, capsys) -> None:
    write_clip(tmp_path / "k" / "train" / "run" / "0.mp4", 4)
    words = ["encode", str(tmp_path / "k"), str(tmp_path / "out"), "--vae", "/nowhere", "--frames", "2"]
    assert run(words) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
