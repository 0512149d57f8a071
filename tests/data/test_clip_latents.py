"""Frames of videos as images, and latents of frames as clips."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from alphaflow.data import Digits
from alphaflow.data.videos import latents as module
from alphaflow.data.videos.clip_files import read_clip
from alphaflow.data.videos.latents import ClipFrames, ClipLatents
from alphaflow.errors import UserError
from clips import write_clip


@pytest.fixture
def folder(tmp_path):
    for k in range(4):
        write_clip(tmp_path / "videos" / "ab"[k % 2] / f"{k}.mp4", 10 + k)
    return tmp_path / "videos"


def test_frames_come_clip_by_clip_with_their_classes(folder) -> None:
    source = ClipFrames(folder, frames=3, rate=5, size=16)
    assert len(source) == 12 and source.class_names == ("a", "b")
    assert source.labels.tolist() == [0] * 6 + [1] * 6
    assert source.name(4) == f"{folder / 'a' / '2.mp4'}#1"
    for clip, name in enumerate(("a/0", "a/2", "b/1", "b/3")):
        whole = read_clip(folder / f"{name}.mp4", 3, 5, 16)
        for k in range(3):
            assert np.array_equal(source.read(3 * clip + k), whole[k])


def test_a_clip_is_decoded_once_whoever_asks_and_a_broken_one_fails_whole(folder, monkeypatch) -> None:
    (folder / "a" / "1broken.mp4").write_bytes(b"no video")
    source, decoded = ClipFrames(folder, frames=4, rate=10, size=8), []

    def counting(path, *words):
        decoded.append(path.name)
        return read_clip(path, *words)

    def read(index: int) -> str:
        try:
            return str(source.read(index).mean())
        except OSError:
            return "broken"

    monkeypatch.setattr(module, "read_clip", counting)
    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(read, range(len(source))))
    assert sorted(decoded) == ["0.mp4", "1.mp4", "1broken.mp4", "2.mp4", "3.mp4"]
    assert [k for k, word in enumerate(said) if word == "broken"] == [4, 5, 6, 7]
    monkeypatch.setattr(module, "_KEPT", 1)
    source = ClipFrames(folder, frames=4, rate=10, size=8)
    assert read(0) == said[0] and read(19) == said[19] and read(0) == said[0] and len(source._clips) == 1


def test_digests_tell_settings_and_files_apart(folder) -> None:
    def digest(**changes: object) -> str:
        return ClipFrames(folder, **{"frames": 3, "rate": 5, "size": 16, **changes}).digest

    first = digest()
    assert digest() == first and len({first, digest(frames=4), digest(rate=6)}) == 3
    write_clip(folder / "a" / "0.mp4", 15)
    assert digest() != first
    with pytest.raises(UserError, match="clips of 0 frames"):
        digest(frames=0)


def test_consecutive_latents_are_the_frames_of_a_clip() -> None:
    frames = Digits()  # 1,797 = 3 · 599 images stand for latents
    data = ClipLatents(frames, 3)
    assert len(data) == 599 and data.shape == (1, 3, 8, 8) and data.num_classes == 10 and data.kind == frames.kind
    x, y = data.batch(torch.tensor([5, 598]))
    for row, clip in enumerate((5, 598)):
        alone, labels = frames.batch(torch.arange(3 * clip, 3 * clip + 3))
        assert torch.equal(x[row].transpose(0, 1), alone) and y[row] == labels[0]
    mirrored, _ = data.batch(torch.tensor([5, 598]), torch.tensor([True, False]))
    assert torch.equal(mirrored[0], x[0].flip(-1)) and torch.equal(mirrored[1], x[1])
    assert data.fingerprint != ClipLatents(frames, 599).fingerprint
    with pytest.raises(UserError, match="1797 latents cannot be cut into clips of 17 frames"):
        ClipLatents(frames, 17)
