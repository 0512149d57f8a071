"""The order of large sets, of chosen classes and of balanced drawing: nothing repeated, nothing missing."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from alphaflow.data import Batches, Digits, Latents, Toy
from alphaflow.data.loader import class_numbers
from alphaflow.data.order import Balanced, Epochs, Runs
from alphaflow.errors import UserError
from latent_sets import make_set


@given(
    size=st.integers(1, 300),
    world=st.integers(1, 5),
    accumulate=st.integers(1, 3),
    share=st.integers(1, 20),
    seed=st.integers(0, 2**62),
)
def test_an_epoch_is_whole_whatever_the_world_size(size, world, accumulate, share, seed):
    """Each process takes rows of its own of each batch; together they show every sample once an epoch."""
    parts, batch = world * accumulate, share * world * accumulate
    crew = [Batches(Toy("moons", size), batch, seed) for _ in range(world)]
    single = Batches(Toy("moons", size), batch, seed)
    rows, ids = [], []
    for step in range(2 * size // batch + 1):
        stream = torch.full((batch,), -1)
        for part in range(parts):
            mine = crew[part % world](step, slice(part, None, parts))
            ids.append(mine.sample_ids)
            stream[part::parts] = crew[part % world].order.rows(mine.sample_ids)
        assert torch.equal(stream, single.indices(step))
        rows.append(stream)
    stream = torch.cat(rows)
    assert torch.equal(torch.cat(ids).sort().values, torch.arange(len(stream)))
    for epoch in range(2):
        assert torch.equal(stream[epoch * size : (epoch + 1) * size].sort().values, torch.arange(size))


def test_epochs_and_seeds_of_a_large_set_differ():
    size = 100_000
    order = Epochs(size, 3)
    positions = torch.arange(256) + 7 * size + 123
    assert torch.equal(order.rows(positions), Epochs(size, 3).rows(positions))
    assert len(order.rows(positions).unique()) == 256
    assert not torch.equal(order.rows(positions), order.rows(positions - size))
    assert not torch.equal(order.rows(positions), Epochs(size, 4).rows(positions))
    assert 0.4 < order.flips(positions).float().mean() < 0.6


def test_places_in_an_epoch_are_uniform():
    """Where a row comes in an epoch is uniform over epochs, and so is where its neighbour comes after it."""
    size, epochs = 13, 5_000
    order = Epochs(size, 1)
    shown = torch.stack([order.rows(torch.arange(size) + epoch * size) for epoch in range(epochs)])
    places = shown.argsort(1)
    first, second = places[:, 3], places[:, 4]
    for counts in (first.bincount(minlength=size), ((second - first) % size).bincount(minlength=size)[1:]):
        expected = epochs / len(counts)
        assert ((counts - expected) ** 2 / expected).sum() < chi2.ppf(0.9999, len(counts) - 1)


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    wanted=st.sets(st.integers(0, 4), min_size=1),
    seed=st.integers(0, 9),
)
def test_chosen_classes_are_shown_whole_and_nothing_else(labels, wanted, seed):
    labels = np.array(labels)
    classes = sorted(wanted & set(labels.tolist()))
    if not classes:
        return
    order = Epochs(len(labels), seed, Runs(labels, classes))
    members = np.flatnonzero(np.isin(labels, classes))
    for epoch in range(2):
        shown = order.rows(torch.arange(len(members)) + epoch * len(members))
        assert shown.sort().values.tolist() == members.tolist()


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6), seed=st.integers(0, 9))
def test_balanced_drawing_shows_classes_equally_and_their_rows_in_turn(sizes, seed):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    labels = np.random.default_rng(seed).permutation(labels)
    rows = Balanced(Runs(labels, range(len(sizes))), seed).rows(torch.arange(len(sizes) * 20)).numpy()
    for turn in labels[rows].reshape(20, len(sizes)):
        assert sorted(turn) == list(range(len(sizes))), "each class once a turn"
    for label, size in enumerate(sizes):
        visits = rows[labels[rows] == label]
        for first in range(0, len(visits) - size + 1, size):
            assert sorted(visits[first : first + size]) == np.flatnonzero(labels == label).tolist()


def test_filters_and_balance_of_a_data_set():
    digits = Digits()
    odd = Batches(digits, 64, 0, classes=[1, 3])
    assert set(torch.cat([odd(k).y for k in range(10)]).tolist()) == {1, 3}
    even = Batches(digits, 50, 0, balanced=True, classes=[0, 4, 8, 6, 2])
    for step in range(5):
        assert even(step).y.bincount(minlength=10).tolist() == [10, 0] * 5


def test_a_set_of_latents_takes_its_noise_from_the_visit(tmp_path):
    moments = np.random.default_rng(0).standard_normal((20, 2, 8, 4, 4)).astype(np.float32)
    make_set(tmp_path, moments, np.arange(20) % 3, flips="stored")
    data = Latents(tmp_path)
    small, large = Batches(data, 5, 1, flip=True), Batches(data, 40, 1, flip=True)
    whole = large(0)
    assert torch.equal(torch.cat([small(k).x for k in range(8)]), whole.x)
    assert torch.equal(small(2, slice(1, None, 2)).x, whole.x[11:15:2])
    rows = large.indices(0)
    one, other = (torch.nonzero(rows == 0)[k, 0] for k in range(2))
    assert not torch.equal(whole.x[one], whole.x[other]), "the second epoch draws anew"
    assert Batches(data, 9, 0, balanced=True)(0).y.bincount().tolist() == [3, 3, 3]


def test_classes_in_words():
    names = ("cat", "dog", "emu", "fox", "t-rex")
    assert class_numbers("", names) == []
    assert class_numbers("dog, cat", names) == [0, 1]
    assert class_numbers("3,0-1", names) == [0, 1, 3]
    assert class_numbers("t-rex", names) == [4]
    with pytest.raises(UserError, match="did you mean 'dog'"):
        class_numbers("doq", names)
    for wrong in ("5", "3-9", "3-2"):
        with pytest.raises(UserError, match="classes are 0 … 4"):
            class_numbers(wrong, names)


def test_refusals(tmp_path):
    with pytest.raises(UserError, match="need classes"):
        Batches(Toy("checkerboard", 10), 2, 0, balanced=True)
    with pytest.raises(UserError, match="class 2 has no samples"):
        Runs(np.array([0, 1, 3]), [2])
    make_set(tmp_path, np.zeros((4, 1, 8, 2, 2), np.float32), variance=True)
    with pytest.raises(UserError, match="encode with --flips stored"):
        Batches(Latents(tmp_path), 2, 0, flip=True)
