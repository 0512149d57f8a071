"""Moving digits: which they are, and that they move as they should."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from alphaflow.data import Batches, Dataset, MovingDigits, from_uint8, to_uint8
from alphaflow.errors import UserError
from alphaflow.rng import KeyedRandom


def corner(frame: Tensor) -> tuple[int, int]:
    """The upper left of the ink of a frame (H, W)."""
    rows, columns = (frame > -1).nonzero().unbind(1)
    return int(rows.min()), int(columns.min())


def test_every_frame_holds_one_real_digit_of_its_class() -> None:
    data: Dataset = MovingDigits(frames=5, size=17)
    x, y = data.batch(torch.arange(64))
    assert x.shape == (64, *data.shape) == (64, 1, 5, 17, 17) and x.dtype == torch.float32 and data.kind == "video"
    images, labels = load_digits(return_X_y=True)
    known = {image.tobytes(): label for image, label in zip(images.astype(np.float32), labels)}
    for clip, label in zip(x[:, 0], y):
        for frame in clip:
            windows = frame.unfold(0, 8, 1).unfold(1, 8, 1).reshape(-1, 64)
            ink = (frame + 1).sum()
            whole = windows[((windows + 1).sum(1) - ink).abs() < 1e-3]  # those with all of the ink
            found = [known.get(((window + 1) * 8).numpy().tobytes()) for window in whole]
            assert label.item() in found
    assert y.unique().numel() == 10


def test_digits_move_evenly_and_bounce_within_the_frame() -> None:
    data = MovingDigits(frames=12, size=13)
    far = 13 - 8
    random = KeyedRandom(5, torch.arange(500))
    x, y = data.path(random, "x"), data.path(random, "y")
    assert x.min() == y.min() == 0 and x.max() == y.max() == far
    for path in (x, y):
        steps = path.diff(dim=1)
        assert steps.abs().max() == 1
        for row, moves in zip(path.tolist(), steps.tolist()):
            for k in range(1, len(moves)):
                if moves[k] != moves[k - 1]:  # only a wall turns it, and it keeps its speed
                    reached = {row[k - 1], row[k], row[k + 1]}
                    assert min(reached) <= 1 or max(reached) >= far - 1
    standing = (x.diff(dim=1) == 0).all(1) & (y.diff(dim=1) == 0).all(1)
    assert not standing.any()


def test_ink_moves_as_the_path_says() -> None:
    data = MovingDigits(frames=8, size=32)
    x, _ = data.batch(torch.arange(40))
    for clip in x[:, 0]:
        places = [corner(frame) for frame in clip]
        moves = {(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(places)}
        assert all(max(map(abs, move)) <= 1 for move in moves) and moves != {(0, 0)}


def test_a_video_depends_on_seed_and_index_alone() -> None:
    data = MovingDigits(frames=3)
    some, labels = data.batch(torch.tensor([7, 99_999, 3]))
    alone, label = data.batch(torch.tensor([99_999]))
    assert torch.equal(some[1:2], alone) and torch.equal(labels[1:2], label)
    assert not torch.equal(MovingDigits(frames=3, seed=1).batch(torch.tensor([7]))[0], some[:1])
    first = MovingDigits(frames=2).batch(torch.tensor([7]))[0]
    assert torch.equal(first, some[:1, :, :2])  # the same video, shorter


def test_fingerprints_tell_settings_apart() -> None:
    made = [
        MovingDigits(),
        MovingDigits(frames=9),
        MovingDigits(size=17),
        MovingDigits(seed=1),
        MovingDigits(count=9),
    ]
    assert len({data.fingerprint for data in made}) == 5
    assert MovingDigits().fingerprint == made[0].fingerprint


def test_flips_mirror_every_frame_of_the_rows_asked_for() -> None:
    data, rows = MovingDigits(), torch.arange(3)
    plain, _ = data.batch(rows)
    flipped, _ = data.batch(rows, torch.tensor([True, False, True]))
    assert torch.equal(flipped[1], plain[1]) and torch.equal(flipped[0], plain[0].flip(-1))
    assert Batches(data, 4, 0, flip=True)(0).x.shape == (4, *data.shape)


def test_frames_survive_the_way_to_bytes_and_back() -> None:
    x, _ = MovingDigits(frames=3, size=10).batch(torch.arange(4))
    videos = to_uint8(x)
    assert videos.shape == (4, 3, 10, 10, 1)
    assert np.array_equal(to_uint8(from_uint8(videos)), videos)
    assert np.array_equal(videos[:, 1], to_uint8(x[:, :, 1]))


@pytest.mark.parametrize(("settings", "message"), [({"frames": 0}, "0 frames"), ({"size": 8}, "frames of 8")])
def test_settings_that_leave_nothing_to_see(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        MovingDigits(**settings)
