"""Batches that a thread makes ahead are those that one would have made on the spot."""

import threading
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alphaflow.data import Batches, Digits, Toy
from alphaflow.training.prefetch import Prefetcher, prefetch_on

DIGITS = Digits()


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other))


@given(
    asked=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2)), min_size=1, max_size=12),
    depth=st.integers(1, 5),
)
def test_whatever_is_asked_for_and_in_whatever_order(asked, depth):
    """After a roll-back the steps jump; the check of the first batch takes it as a whole."""
    parts = [slice(k, None, 2) for k in range(2)]
    plain = Batches(DIGITS, 16, 3, flip=True)
    ahead = Prefetcher(Batches(DIGITS, 16, 3, flip=True), parts, pin=False, depth=depth)
    for step, which in asked:
        part = [*parts, slice(None)][which]
        assert same(ahead(step, part), plain(step, part))


def test_the_next_batches_are_there_before_they_are_asked_for():
    made = []

    class Slow(Toy):
        def batch(self, indices, flip=None):
            made.append(threading.current_thread().name)
            return super().batch(indices, flip)

    ahead = Prefetcher(Batches(Slow("moons", 64), 8, 0), [slice(0, None, 2), slice(1, None, 2)], pin=False)
    ahead(0, slice(0, None, 2))
    waited = time.monotonic()
    while len(made) < 3 and time.monotonic() - waited < 30:
        time.sleep(0.01)
    assert len(made) == 3 and all(name.startswith("batches") for name in made)
    ahead(0, slice(1, None, 2))
    ahead(1, slice(0, None, 2))
    waited = time.monotonic()
    while len(made) < 5 and time.monotonic() - waited < 30:
        time.sleep(0.01)
    assert len(made) == 5, "each part is made once"


def test_what_goes_wrong_in_the_thread_is_said_where_the_batch_is_asked_for():
    class Broken(Toy):
        def batch(self, indices, flip=None):
            raise ValueError("the disk is gone")

    with pytest.raises(ValueError, match="the disk is gone"):
        Prefetcher(Batches(Broken("moons", 64), 8, 0), [slice(None)], pin=False)(0)


def test_only_a_gpu_is_fed_ahead():
    batches = Batches(DIGITS, 16, 3)
    assert prefetch_on(torch.device("cpu"), batches, [slice(None)]) is batches
    assert isinstance(prefetch_on(torch.device("cuda"), batches, [slice(None)]), Prefetcher)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_for_a_gpu_are_pinned():
    batch = prefetch_on(torch.device("cuda"), Batches(DIGITS, 16, 3), [slice(None)])(0)
    assert batch.x.is_pinned() and batch.y.is_pinned()
