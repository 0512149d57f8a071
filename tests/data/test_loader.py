"""The data order: a pure function of (seed, step) that shows every sample once an epoch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alphaflow.data import Batches, Dataset, Digits, Toy
from alphaflow.errors import UserError

DIGITS: Dataset = Digits()


@settings(max_examples=50, deadline=None)
@given(size=st.integers(1, 40), batch_size=st.integers(1, 100), seed=st.integers(0, 2**63))
def test_every_epoch_shows_every_sample_exactly_once(size: int, batch_size: int, seed: int) -> None:
    batches = Batches(Toy("moons", size), batch_size, seed)
    stream = torch.cat([batches.indices(step) for step in range(3 * size // batch_size + 1)])
    for epoch in range(3):
        assert stream[epoch * size : (epoch + 1) * size].sort().values.tolist() == list(range(size))


@settings(max_examples=30, deadline=None)
@given(steps=st.lists(st.integers(0, 200), min_size=1, max_size=6), batch_size=st.integers(1, 100))
def test_a_step_is_the_same_in_any_order_and_after_a_restart(steps: list[int], batch_size: int) -> None:
    data = Toy("gaussians", 37)
    used = Batches(data, batch_size, 5)
    for step in steps:
        again, fresh = used(step), Batches(data, batch_size, 5)(step)
        assert torch.equal(again.x, fresh.x)
        assert again.y is not None and fresh.y is not None and torch.equal(again.y, fresh.y)
        assert torch.equal(again.sample_ids, fresh.sample_ids)


def test_the_stream_does_not_depend_on_the_batch_size() -> None:
    data = Toy("spirals", 101)
    small, large = Batches(data, 7, 3), Batches(data, 350, 3)
    assert torch.equal(torch.cat([small.indices(k) for k in range(50)]), large.indices(0))


def test_flips_belong_to_the_position_and_change_between_epochs() -> None:
    plain = Batches(DIGITS, 1797, 1)
    small, large = Batches(DIGITS, 599, 1, flip=True), Batches(DIGITS, 1797, 1, flip=True)
    mirrored = []
    for epoch in range(2):
        x, still = large(epoch).x, plain(epoch).x
        assert torch.equal(torch.cat([small(3 * epoch + k).x for k in range(3)]), x)
        flipped = (x != still).flatten(1).any(1)
        assert torch.equal(x[flipped], still[flipped].flip(-1))
        assert 0.45 < flipped.float().mean() < 0.55
        by_row = torch.zeros(1797, dtype=torch.bool)
        by_row[plain.indices(epoch)] = flipped
        mirrored.append(by_row)
    assert 0.45 < (mirrored[0] != mirrored[1]).float().mean() < 0.55


def test_epochs_and_seeds_differ() -> None:
    batches = Batches(DIGITS, 1797, 0)
    assert not torch.equal(batches.indices(0), batches.indices(1))
    assert not torch.equal(batches.indices(0), Batches(DIGITS, 1797, 1).indices(0))


def test_sample_ids_are_the_positions_of_the_stream() -> None:
    batch = Batches(DIGITS, 1000, 0)(5)
    assert batch.sample_ids.tolist() == list(range(5000, 6000))
    assert batch.sample_ids.dtype == torch.int64


def test_x_and_y_belong_to_the_indices() -> None:
    batches = Batches(DIGITS, 64, 0)
    batch = batches(40)
    x, y = DIGITS.batch(batches.indices(40))
    assert y is not None and batch.y is not None
    assert torch.equal(batch.x, x) and torch.equal(batch.y, y)


def test_the_order_is_the_one_of_earlier_versions() -> None:
    assert Batches(Toy("moons", 10), 10, 0).indices(0).tolist() == [1, 9, 4, 7, 2, 0, 3, 6, 5, 8]


def test_refusals() -> None:
    with pytest.raises(UserError, match="batch size 0"):
        Batches(DIGITS, 0, 0)
    with pytest.raises(UserError, match="flip mirrors images"):
        Batches(Toy("moons", 10), 2, 0, flip=True)
    with pytest.raises(ValueError, match="step -1"):
        Batches(DIGITS, 4, 0).indices(-1)
