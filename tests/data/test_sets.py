"""The built-in data sets and the conversion to and from 8-bit pixels."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from alphaflow.data import TOYS, Dataset, Digits, Toy, from_uint8, to_uint8, toy_points
from alphaflow.errors import UserError


def test_digits_are_scikit_learns_in_their_order() -> None:
    digits: Dataset = Digits()
    x, y = digits.batch(torch.arange(len(digits)))
    images, labels = load_digits(return_X_y=True)
    assert len(digits) == 1797 and digits.num_classes == 10 and len(digits.class_names) == 10
    assert x.shape == (1797, *digits.shape) and x.dtype == torch.float32
    assert np.array_equal((x.numpy().reshape(-1, 64) + 1) * 8, images)
    assert y is not None and y.dtype == torch.int64 and np.array_equal(y.numpy(), labels)
    assert x.min() == -1 and x.max() == 1


def test_digits_are_the_same_wherever_scikit_learn_keeps_its_file(monkeypatch) -> None:
    near = Digits().fingerprint
    monkeypatch.setattr("alphaflow.data.digits.find_spec", lambda name: None)
    assert Digits().fingerprint == near


def test_flip_mirrors_only_the_rows_asked_for() -> None:
    digits = Digits()
    rows = torch.arange(4)
    plain, _ = digits.batch(rows)
    flipped, _ = digits.batch(rows, torch.tensor([True, False, False, True]))
    assert torch.equal(flipped[[1, 2]], plain[[1, 2]])
    assert torch.equal(flipped[[0, 3]], plain[[0, 3]].flip(-1))
    with pytest.raises(ValueError, match="points cannot be flipped"):
        Toy("moons", 4).batch(rows, torch.ones(4, dtype=torch.bool))


@pytest.mark.parametrize("name", TOYS)
def test_toys_are_deterministic_centred_and_of_unit_variance(name: str) -> None:
    data: Dataset = Toy(name, 20_000, seed=3)
    x, y = data.batch(torch.arange(len(data)))
    points, labels = toy_points(name, 20_000, 3)
    assert torch.equal(x, points) and x.dtype == torch.float32 and data.shape == (2,)
    assert x.mean(0).abs().max() < 0.03
    assert x.var(0).mean().item() == pytest.approx(1.0, abs=0.03)
    assert not torch.equal(points, toy_points(name, 20_000, 4)[0])
    if data.num_classes == 0:
        assert y is None and labels is None and data.class_names == ()
    else:
        assert y is not None and labels is not None and torch.equal(y, labels)
        assert y.unique().tolist() == list(range(data.num_classes))
        assert len(data.class_names) == data.num_classes


def test_checkerboard_fills_alternate_squares() -> None:
    points, _ = toy_points("checkerboard", 5000, 0)
    cell = (points.double() * (4 / 3) ** 0.5).floor().long()
    assert torch.all(cell.sum(1) % 2 == 0)
    assert len(cell.unique(dim=0)) == 8


def test_gaussians_lie_around_their_class_centres() -> None:
    points, labels = toy_points("gaussians", 8000, 0)
    assert labels is not None
    for k in range(8):
        mine = points[labels == k]
        angle = torch.tensor(k * torch.pi / 4)
        centre = 1.98**0.5 * torch.stack([angle.cos(), angle.sin()])
        assert torch.allclose(mine.mean(0), centre, atol=0.02)
        assert mine.std(0).mean().item() == pytest.approx(0.1, abs=0.01)


def test_fingerprints_tell_the_data_apart() -> None:
    made: list[Dataset] = [
        Digits(),
        *(Toy(name, 50) for name in TOYS),
        Toy("moons", 51),
        Toy("moons", 50, seed=1),
    ]
    prints = [data.fingerprint for data in made]
    assert len(set(prints)) == len(prints)
    assert Digits().fingerprint == prints[0] and Toy("moons", 50).fingerprint in prints


def test_toy_refusals() -> None:
    with pytest.raises(UserError, match="did you mean 'moons'"):
        Toy("moon")
    with pytest.raises(UserError, match="count 0"):
        Toy("moons", 0)
    with pytest.raises(UserError, match="seed -1"):
        toy_points("moons", 5, -1)


@given(st.integers(0, 2**32 - 1))
def test_pixels_survive_the_round_trip(seed: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    x = from_uint8(images)
    assert x.shape == (2, 3, 5, 4) and x.dtype == torch.float32
    assert x.min() >= -1 and x.max() <= 1
    assert np.array_equal(to_uint8(x), images)


def test_to_uint8_rounds_and_clamps() -> None:
    x = torch.tensor([-9.0, -1.0, -0.999, 0.0, 0.996, 1.0, float("inf")]).reshape(1, 1, 1, 7)
    assert to_uint8(x).ravel().tolist() == [0, 0, 0, 128, 254, 255, 255]


def test_pixel_refusals() -> None:
    with pytest.raises(ValueError, match="NaN"):
        to_uint8(torch.full((1, 1, 2, 2), float("nan")))
    with pytest.raises(ValueError, match="floating-point"):
        to_uint8(torch.zeros(1, 1, 2, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match="must be uint8"):
        from_uint8(np.zeros((1, 2, 2, 1)))  # type: ignore[arg-type]
