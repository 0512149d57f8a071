"""The judgement of steps and residuals, on sequences whose right answer is known."""

import json
import math
import os
import random
import signal
import threading

import pytest

from alphaflow.training.guard import SIGNALS, Guard, SpikeWatch, on_signal, status_of
from children import handled


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


def test_a_leap_is_told_and_calls_for_nothing(caplog):
    guard = Guard(10, spike_factor=10)
    for step, residual in enumerate([*noisy(50), 99.0]):
        guard.watch(step, residual, 0.0)
    assert "leapt to 99 at step 50" in caplog.text
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


def test_a_run_that_may_not_be_kept_says_the_first_reason():
    guard = Guard(3)
    guard.condemn("w is not finite")
    guard.condemn("another")
    assert guard.reason == "w is not finite"


def test_a_run_goes_back_once_and_once_more_if_it_took_no_good_step_from_there():
    guard = Guard(2)
    assert guard.bound(9) == math.inf
    guard.note_rollback(6)
    guard.accepts(math.nan), guard.accepts(math.nan)
    assert guard.bound(8) == 6  # the seventh and the eighth were bad: only from before the sixth
    assert guard.bound(9) is None  # the seventh was good
    guard.note_rollback(4, before=1)
    guard.accepts(math.nan), guard.accepts(math.nan)
    assert guard.bound(6) is None


def test_the_exit_status_is_that_of_the_first_signal():
    assert status_of([signal.SIGINT, signal.SIGTERM]) == 130
    assert [status_of([number]) for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1)] == [129, 143, 143]
    assert status_of([]) == 143  # another process was told


def test_a_second_interrupt_ends_at_once():
    event = threading.Event()
    own = handled(signal.SIGINT, signal.default_int_handler)
    with own, pytest.raises(KeyboardInterrupt), on_signal(event) as caught:
        os.kill(os.getpid(), signal.SIGINT)
        assert event.wait(5) and caught == [signal.SIGINT]
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(5)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_what_the_process_was_told_to_ignore_it_ignores(number):
    """nohup, and jobs that a shell's script puts in the background."""
    with handled(number, signal.SIG_IGN):
        event = threading.Event()
        with on_signal(event):
            os.kill(os.getpid(), number)
            assert not event.wait(0.2)
        assert signal.getsignal(number) == signal.SIG_IGN


@pytest.mark.parametrize("number", SIGNALS)
def test_signals_are_noted_within_the_block_only(number):
    event = threading.Event()
    with handled(number, signal.SIG_DFL):
        with on_signal(event):
            os.kill(os.getpid(), number)
            assert event.wait(5)
        assert signal.getsignal(number) is signal.SIG_DFL
