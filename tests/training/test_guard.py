"""The judgement of steps and residuals, on sequences whose right answer is known."""

import json
import math
import os
import random
import signal
import threading

import pytest

from alphaflow.training.guard import SIGNALS, Guard, SpikeWatch, on_signal


def test_only_bad_steps_in_a_row_count():
    guard = Guard(max_bad=3)
    norms = [1.0, math.nan, math.inf, 2.0, math.nan, math.nan]
    assert [guard.accepts(norm) for norm in norms] == [True, False, False, True, False, False]
    assert guard.bad == 2 and not guard.reason
    assert not guard.accepts(math.nan)
    assert guard.reason == "3 steps in a row had a non-finite loss or gradient"
    guard.note_rollback()
    assert (guard.bad, guard.rolled_back, guard.reason) == (0, 1, "")


def leaps(watch: SpikeWatch, residuals: list[float], alpha: float = 0.0) -> list[int]:
    return [k for k, residual in enumerate(residuals) if watch.leap(residual, alpha) is not None]


def noisy(count: int, seed: int = 0) -> list[float]:
    """Log-normal residuals around 1, as wide as those of small batches."""
    source = random.Random(seed)
    return [math.exp(source.gauss(0, 0.4)) for _ in range(count)]


def test_noise_is_no_leap_and_a_leap_is_one():
    assert leaps(SpikeWatch(10), noisy(5000)) == []
    residuals = noisy(200)
    residuals[150:153] = [40.0, 55.0, 90.0]  # they stay out of the window: the third is told as the first
    assert leaps(SpikeWatch(10), residuals) == [150, 151, 152]
    assert leaps(SpikeWatch(0), residuals) == []


def test_a_level_that_rises_slowly_is_followed():
    assert 1.01**500 > 100
    assert leaps(SpikeWatch(10), [value * 1.01**k for k, value in enumerate(noisy(500))]) == []


def test_a_passage_to_another_alpha_is_no_leap():
    watch = SpikeWatch(10)
    assert leaps(watch, [1e-4 * value for value in noisy(100)], alpha=0.006) == []
    assert leaps(watch, noisy(100), alpha=0.0) == []  # ten thousand times higher, as at α = 0 it is
    assert leaps(watch, [50.0], alpha=0.0) == [0]


def test_a_leap_calls_for_one_rollback_where_asked_for(caplog):
    for wanted in (False, True):
        guard = Guard(10, spike_factor=10, spike_rollback=wanted)
        for step, residual in enumerate([*noisy(50), 99.0]):
            guard.watch(step, residual, 0.0)
        assert "leapt to 99 at step 50" in caplog.text
        assert bool(guard.reason) == wanted
        guard.note_rollback()
        for step, residual in enumerate([*noisy(50), 99.0]):
            guard.watch(step, residual, 0.0)
        assert not guard.reason


def test_a_guard_goes_on_where_it_was():
    first, second = Guard(3, spike_factor=10), Guard(3, spike_factor=10)
    for step, residual in enumerate(noisy(40)):
        first.watch(step, residual, 0.0)
    first.accepts(math.nan)
    second.load(json.loads(json.dumps(first.state())))
    assert second.state() == first.state()
    assert second._spikes.leap(60.0, 0.0) == first._spikes.leap(60.0, 0.0) is not None
    third = Guard(3)
    third.load({"bad_steps": 2})  # of a version that knew no more
    assert third.bad == 2


@pytest.mark.parametrize("number", SIGNALS)
def test_signals_are_noted_within_the_block_only(number):
    event, before = threading.Event(), signal.getsignal(number)
    with on_signal(event):
        os.kill(os.getpid(), number)
        assert event.wait(5)
    assert signal.getsignal(number) is before
