"""The detector of moving digits sees what it should: which digit, whether it lasts, where it goes."""

import pytest
import torch

from alphaflow.data import MovingDigits, to_uint8
from alphaflow.metrics import frechet_from_features, load_moving_digits_detector
from alphaflow.metrics.detectors.moving_digits import find_digits, ink_centres

COUNT = 1500


@pytest.fixture(scope="module")
def seen():
    """Real videos, the detector, and what it says of them."""
    x, y = MovingDigits().batch(torch.arange(COUNT))
    detector = load_moving_digits_detector(8, 12)
    return x, y, detector, detector(to_uint8(x))


def test_it_names_the_digits_of_real_videos(seen) -> None:
    _, y, _, said = seen
    assert said.features.shape == (COUNT, 65 + 2 * 8)
    assert (said.logits.argmax(1) == y).double().mean() > 0.98


def test_digits_are_found_wherever_they_are() -> None:
    x, _ = MovingDigits(frames=1, size=8 + 5).batch(torch.arange(50))
    frames = x[:, :, 0]
    centres = ink_centres(frames)
    found = find_digits(frames, centres)
    assert torch.allclose((found + 1).sum((1, 2, 3)), (frames + 1).sum((1, 2, 3)))  # all of the ink
    moved = frames.roll((1, 2), (2, 3))
    inside = (frames[:, :, -1:] == -1).all((1, 2, 3)) & (frames[..., -2:] == -1).all(3).all(2)[:, 0]
    assert inside.sum() > 10
    torch.testing.assert_close(
        ink_centres(moved)[inside], centres[inside] + torch.tensor([1.0, 2.0]), rtol=0, atol=1e-3
    )
    empty = torch.full((1, 1, 13, 13), -1.0)
    assert ink_centres(empty)[0].tolist() == pytest.approx([6, 6])


def test_the_distance_sees_wrong_motion_wrong_digits_and_digits_that_do_not_last(seen) -> None:
    x, _, detector, said = seen
    others, _ = MovingDigits().batch(torch.arange(COUNT, 2 * COUNT))
    real = frechet_from_features(said.features, detector(to_uint8(others)).features)
    source = torch.Generator().manual_seed(0)
    wrong = {
        "still": x[:, :, :1].expand_as(x),
        "out of order": x[:, :, torch.randperm(8, generator=source)],
        "another digit in every other frame": torch.where(
            (torch.arange(8) % 2 == 0)[:, None, None], x, x.roll(1, dims=0)
        ),
        "one class only": x[said.logits.argmax(1) == 1].repeat(20, 1, 1, 1, 1)[:COUNT],
        "noise": torch.rand(x.shape, generator=source) * 2 - 1,
    }
    for name, videos in wrong.items():
        assert frechet_from_features(said.features, detector(to_uint8(videos.contiguous())).features) > 3 * real, (
            name
        )
