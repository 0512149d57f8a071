"""Long work says how far it is: without a terminal by a line of the log, now and then."""

import logging
import time

import pytest

from alphaflow import progress
from alphaflow.cli import run
from alphaflow.progress import ProgressBar, duration


@pytest.fixture(autouse=True)
def _often(monkeypatch, caplog) -> None:
    monkeypatch.setattr(progress, "LOG_EVERY", 0.01)
    caplog.set_level(logging.INFO, logger="alphaflow")


def test_a_line_tells_rate_and_time_left(caplog):
    with ProgressBar("drawing", 1_000, 5_000, unit="samples") as bar:
        bar.update(1_001)  # too soon for a line
        time.sleep(0.02)
        bar.update(2_000, "one note")
        time.sleep(0.02)
        bar.update(5_000)  # whoever prints the result says that it is done
    (line,) = [record.getMessage() for record in caplog.records]
    start, rate, left = line.split(", ", 2)
    assert start == "drawing: 2,000 of 5,000 samples" and left.endswith(" s left; one note")
    done = float(rate.removesuffix("/s"))
    assert 0 < done < 1_000 / 0.02 and float(left.split()[0]) == pytest.approx(3_000 / done, abs=0.6)


def test_one_of_several_processes_speaks(caplog):
    with ProgressBar("drawing", 0, 5, shown=False) as bar:
        time.sleep(0.02)
        bar.update(2)
    assert not caplog.records


@pytest.mark.parametrize(("seconds", "words"), [(20, "20 s"), (200, "3 min"), (3_900, "1 h 5 min")])
def test_times_in_words(seconds, words):
    assert duration(seconds) == words


def test_training_and_sampling_say_how_far_they_are(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(progress, "LOG_EVERY", 0.0)
    small = "--steps 6 --batch-size 8 --log-every 1 --model.width 16 --model.depth 1 --device cpu".split()
    assert run(["train", "toy", "--out", str(tmp_path / "run"), *small]) == 0
    assert run(["sample", str(tmp_path / "run"), "--out", str(tmp_path / "s.npz"), "--count", "500"]) == 0
    said = "\n".join(record.getMessage() for record in caplog.records)
    assert "training: 2 of 6 steps, " in said and "sampling: 64 of 500 samples, " in said
