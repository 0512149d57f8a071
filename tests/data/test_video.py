"""Video files: which frames are taken, what is skipped, and what is kept."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from alphaflow.data import Batches, Dataset, VideoClips, to_uint8
from alphaflow.data.videos.clip_files import find_clips, read_clip
from alphaflow.errors import UserError
from clips import colour, numbers, write_clip


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ALPHAFLOW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "clips"


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two classes with two and three videos of 20 frames, 10 a second."""
    for name, count in (("run", 3), ("jump", 2)):
        for k in range(count):
            write_clip(tmp_path / "videos" / name / f"{k}.mp4", 20 + k)
    return tmp_path / "videos"


# ---------------------------------------------------------------------------------- one clip


@pytest.mark.parametrize(
    ("frames", "rate", "expected"),
    [
        (20, 10, list(range(20))),
        (5, 5, [5, 7, 9, 11, 13]),  # every other frame, from the middle
        (3, 10, [9, 10, 11]),
        (6, 20, [8, 9, 9, 10, 10, 11]),  # quicker than the video: frames stand for longer
        (1, 8, [10]),
    ],
)
def test_frames_are_those_shown_at_their_time_in_the_middle(tmp_path, frames, rate, expected) -> None:
    clip = read_clip(write_clip(tmp_path / "a.mp4", 20), frames, rate, 24)
    assert clip.shape == (frames, 24, 24, 3) and clip.dtype == np.uint8
    found = numbers(clip)
    assert np.diff(found).tolist() == np.diff(expected).tolist()
    assert abs(found[0] - expected[0]) <= 1  # where exactly the middle is depends on rounding


def test_the_central_square_is_taken(tmp_path) -> None:
    clip = read_clip(write_clip(tmp_path / "a.mp4", 4, size=(64, 48), seam=True), 2, 10, 48)
    assert np.abs(clip.astype(int) - clip[:, 24:25, 24:25]).max() < 60  # neither the black nor the white edge
    whole = read_clip(write_clip(tmp_path / "b.mp4", 4, size=(48, 48), seam=True), 2, 10, 48)
    assert whole[0, 24, 1].max() < 60 and whole[0, 24, -2].min() > 190


def test_frames_may_be_taken_from_the_end_of_a_group(tmp_path) -> None:
    """The clip begins between two key frames, where decoding must begin before it."""
    path = write_clip(tmp_path / "a.mp4", 24)
    for count in range(1, 24, 4):
        found = numbers(read_clip(path, count, 10, 16))
        assert np.array_equal(np.diff(found), np.ones(count - 1)) and abs(found[0] - (24 - count) // 2) <= 1


@pytest.mark.parametrize("damage", ["short", "empty", "words", "cut", "no frames"])
def test_what_cannot_be_used_says_why(tmp_path, damage) -> None:
    path = write_clip(tmp_path / "a.mp4", 20)
    content = path.read_bytes()
    frames = 30 if damage == "short" else 4
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "words":
        path.write_text("this is no video\n" * 100)
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 3])
    elif damage == "no frames":
        path = write_clip(tmp_path / "none.mkv", 0)
    with pytest.raises(OSError) as caught:
        read_clip(path, frames, 10, 16)
    assert str(caught.value)
    if damage == "short":
        assert "it lasts 2.00 s, and 30 frames at 10 a second take 2.90" in str(caught.value)


# ---------------------------------------------------------------------------------- many


def test_a_folder_of_classes(folder) -> None:
    data: Dataset = VideoClips(folder, frames=4, rate=5, size=16)
    assert len(data) == 5 and data.class_names == ("jump", "run") and data.shape == (3, 4, 16, 16)
    x, y = data.batch(torch.tensor([4, 0, 2]))
    assert x.shape == (3, 3, 4, 16, 16) and x.dtype == torch.float32 and y.tolist() == [1, 0, 1]
    clips = to_uint8(x)
    direct = read_clip(folder / "run" / "2.mp4", 4, 5, 16)
    assert np.array_equal(clips[0], direct) and np.diff(numbers(clips[0])).tolist() == [2, 2, 2]
    flipped, _ = data.batch(torch.tensor([4, 0]), torch.tensor([True, False]))
    assert torch.equal(flipped[0], x[0].flip(-1)) and torch.equal(flipped[1], x[1])
    assert Batches(data, 7, 0, flip=True)(0).x.shape == (7, 3, 4, 16, 16)


def test_lists_of_videos(folder) -> None:
    (folder / "some.txt").write_text("run/1.mp4\n\njump/0.mp4\n")
    found = find_clips(folder / "some.txt")
    assert [path.name for path in found.paths] == ["1.mp4", "0.mp4"] and found.class_names == ()
    (folder / "some.csv").write_text("label,path\nzebra,run/1.mp4\nape,jump/0.mp4\nzebra,run/0.mp4\n")
    found = find_clips(folder / "some.csv")
    assert found.class_names == ("ape", "zebra") and found.labels.tolist() == [1, 0, 1]
    data = VideoClips(folder / "some.txt", frames=2, size=8)
    assert len(data) == 2 and data.num_classes == 0 and data.batch(torch.tensor([0]))[1] is None


def test_broken_and_short_videos_are_named_and_left_out(folder, capsys) -> None:
    (folder / "jump" / "broken.mp4").write_bytes(b"nothing")
    write_clip(folder / "run" / "0short.mp4", 3)
    data = VideoClips(folder, frames=10, rate=10, size=8, tolerance=0.5)
    assert len(data) == 5 and len(data.skipped) == 2
    said = capsys.readouterr().err
    assert "broken.mp4: " in said and "0short.mp4: it lasts 0.30 s" in said
    x, y = data.batch(torch.arange(5))
    assert y.tolist() == [0, 0, 1, 1, 1]
    for clip, path in zip(to_uint8(x), ["jump/0", "jump/1", "run/0", "run/1", "run/2"]):
        assert np.array_equal(clip, read_clip(folder / f"{path}.mp4", 10, 10, 8))
    with pytest.raises(UserError, match=r"2 of 7 videos cannot be used, more than the tolerated 10%"):
        VideoClips(folder, frames=10, rate=10, size=8)


def test_videos_are_decoded_once_and_again_when_they_change(folder, cache, monkeypatch) -> None:
    first = VideoClips(folder, frames=3, size=8)
    assert len(list(cache.glob("*.npy"))) == 1 and isinstance(first._pixels, np.memmap)

    def never(*words: object) -> None:
        raise AssertionError("decoded again")

    with monkeypatch.context() as patch:
        patch.setattr("alphaflow.data.videos.dataset.read_clip", never)
        again = VideoClips(folder, frames=3, size=8)
        assert again.fingerprint == first.fingerprint
        assert torch.equal(again.batch(torch.arange(5))[0], first.batch(torch.arange(5))[0])
        with pytest.raises(AssertionError, match="decoded again"):
            VideoClips(folder, frames=3, size=9)
    write_clip(folder / "run" / "1.mp4", 25)
    changed = VideoClips(folder, frames=3, size=8)
    assert changed.fingerprint != first.fingerprint
    assert numbers(to_uint8(changed.batch(torch.tensor([3]))[0])[0]) == numbers(
        read_clip(folder / "run" / "1.mp4", 3, 8, 8)
    )


def test_a_process_killed_while_decoding_leaves_nothing_that_is_taken_for_whole(folder, cache) -> None:
    code = (
        "import os, alphaflow.data.videos.dataset as v\n"
        "v.os.cpu_count = lambda: 1\n"
        "real, count = v.read_clip, []\n"
        "def dying(*words):\n"
        "    count.append(1)\n"
        "    if len(count) == 3: os._exit(9)\n"
        "    return real(*words)\n"
        "v.read_clip = dying\n"
        f"v.VideoClips({str(folder)!r}, frames=3, size=8)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, env=os.environ).returncode == 9
    assert not list(cache.glob("*.json"))
    data = VideoClips(folder, frames=3, size=8)
    for k, path in enumerate(find_clips(folder).paths):
        assert np.array_equal(to_uint8(data.batch(torch.tensor([k]))[0])[0], read_clip(path, 3, 8, 8))


@pytest.mark.parametrize(
    ("prepare", "settings", "message"),
    [
        (lambda root: None, {"address": "gone"}, "does not exist"),
        (lambda root: (root / "empty").mkdir(), {"address": "empty"}, "holds no videos"),
        (lambda root: write_clip(root / "videos" / "loose.mp4", 2), {}, "beside class folders"),
        (lambda root: (root / "a.txt").write_text("\n"), {"address": "a.txt"}, "lists no videos"),
        (lambda root: (root / "a.txt").write_text("no.mp4"), {"address": "a.txt"}, "which is not there"),
        (lambda root: (root / "a.csv").write_text("file\nx"), {"address": "a.csv"}, "headings path,label"),
        (lambda root: (root / "a.pdf").write_text(""), {"address": "a.pdf"}, "is no list of videos"),
        (
            lambda root: (root / "a.csv").write_text("path,label\nvideos/run/0.mp4,x\nvideos/run/1.mp4,"),
            {"address": "a.csv"},
            "no label for videos/run/1.mp4",
        ),
        (lambda root: None, {"frames": 0}, "clips of 0 frames"),
        (lambda root: None, {"rate": 0.0}, "0 a second"),
        (lambda root: None, {"tolerance": 2}, "tolerance 2"),
        (lambda root: None, {"frames": 500}, "5 of 5 videos cannot be used"),
        (
            lambda root: [write_clip(root / "videos" / "sit" / "a.mp4", 1)],
            {"frames": 9, "tolerance": 0.9},
            "class 'sit': none of its videos",
        ),
    ],
)
def test_mistakes(folder, tmp_path, prepare, settings, message) -> None:
    prepare(tmp_path)
    settings = {"address": "videos", **settings}
    with pytest.raises(UserError, match=message):
        VideoClips(tmp_path / settings.pop("address"), **settings)


def test_colours_of_the_test_videos_can_be_told_apart() -> None:
    known = np.array([colour(k) for k in range(24)])
    distances = np.abs(known[:, None] - known[None]).sum(2) + 1000 * np.eye(24)
    assert distances.min() >= 15
