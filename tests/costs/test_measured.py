"""`--dry-run` says how long this machine takes, by steps that it takes."""

import dataclasses
import os

import pytest
import torch

from alphaflow.cli import run
from alphaflow.costs import measured
from alphaflow.costs.estimate import Machine, plan
from alphaflow.costs.measured import MeasuredTime, measure, seconds_of_step
from alphaflow.errors import UserError
from alphaflow.method.objective import AlphaFlow
from alphaflow.recipes import RECIPES
from alphaflow.runs.config import Config, DistillConfig

TOY = RECIPES["toy"].config
SHAPE, CLASSES = (2,), 2


def measure_toy(config: Config) -> MeasuredTime | str:
    return measure(config, SHAPE, CLASSES, plan(config, SHAPE, CLASSES, Machine(gpus=1)))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """A clock by which a row takes 1 ms, and 3 ms in the second half of 100 steps; the steps that were taken."""
    taken: list[tuple[int, int]] = []
    timed = measured._timed

    def by_rows(step, rows, at, device):
        timed(step, rows, at, device)
        taken.append((rows, at))
        return rows * (1e-3 if at < 50 else 3e-3)

    monkeypatch.setattr(measured, "_flops_per_second", lambda *_: 1e15)
    monkeypatch.setattr(measured, "_timed", by_rows)
    return taken


def test_steps_are_taken_all_through_the_schedule_at_the_runs_batch(clock):
    found = measure_toy(dataclasses.replace(TOY, steps=100, batch_size=64))
    assert isinstance(found, MeasuredTime)
    assert clock[-5:] == [(64, 10), (64, 30), (64, 50), (64, 70), (64, 90)]
    assert found.seconds == pytest.approx(64 * (2 * 1e-3 + 3 * 3e-3) / 5)
    assert str(found).startswith(
        "14 seconds on 1 CPU thread: 0.141 s a step, mean of 5 steps through the schedule;"
    )


def test_where_a_step_is_long_fewer_rows_stand_for_it(clock):
    found = measure_toy(dataclasses.replace(TOY, steps=100, batch_size=1024))
    assert isinstance(found, MeasuredTime)
    assert found.rows == 128  # at which the last step takes more than a quarter of a second
    assert found.seconds == pytest.approx(1024 * (2 * 1e-3 + 3 * 3e-3) / 5)
    assert "measured on 128 of its 1024 samples" in str(found)


def test_an_alpha_that_steers_itself_is_measured_fallen(clock, monkeypatch):
    """As the plan counts it: the most that it can cost."""
    alphas = []
    evaluate = AlphaFlow.evaluate
    monkeypatch.setattr(
        AlphaFlow, "evaluate", lambda self, net, points: alphas.append(points.alpha) or evaluate(self, net, points)
    )
    steered = dataclasses.replace(TOY.objective, alpha="self")
    measure_toy(dataclasses.replace(TOY, steps=100, batch_size=64, objective=steered))
    assert set(alphas) == {0.0}


def test_a_measurement_by_the_real_clock():
    found = measure_toy(dataclasses.replace(TOY, steps=10, batch_size=8))
    assert isinstance(found, MeasuredTime)
    assert 0 < found.seconds < 60


def test_what_is_not_measured_says_why():
    said = measure_toy(dataclasses.replace(TOY, distill=DistillConfig(teacher="runs/teacher")))
    assert said == "not measured: there is a teacher"


def test_what_takes_years_is_told_by_arithmetic(capsys):
    assert run(["train", "imagenet-b2", "--dry-run", "--device", "cpu", "--precision", "float32"]) == 0
    here = capsys.readouterr().out.splitlines()[-1]
    assert here.startswith("here")
    assert "years at the least" in here
    assert "too long to be measured" in here


def test_a_network_beyond_the_memory_is_not_built(monkeypatch):
    monkeypatch.setattr(measured, "_memory", lambda device: 10**6)
    assert "weights and optimizer take" in str(measure_toy(TOY))


def test_the_command_says_it_for_this_machine_and_not_for_another(capsys):
    assert run(["train", "toy", "--dry-run", "--batch-size", "64"]) == 0
    assert "CPU thread" in capsys.readouterr().out.splitlines()[-1]
    assert run(["train", "toy", "--dry-run", "--gpus", "1"]) == 0
    assert "here" not in capsys.readouterr().out


def test_a_busy_machine_is_told_of(monkeypatch, clock):
    """A load of less than half of the processors is none; a GPU is not held up by it."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(os, "getloadavg", lambda: (1.9, 9.0, 9.0))
    assert measured.busy_words(torch.device("cpu")) == ""
    monkeypatch.setattr(os, "getloadavg", lambda: (3.14, 0.0, 0.0))
    said = "the machine is busy (load average 3.1 on 4 processors), and idle it is quicker"
    assert measured.busy_words(torch.device("cpu")) == said
    assert measured.busy_words(torch.device("cuda")) == ""
    assert str(measure_toy(dataclasses.replace(TOY, steps=100, batch_size=16))).endswith(f"left out; {said}")


def test_where_a_budget_hangs_on_it_steps_are_taken_on_all_rows(clock):
    config = dataclasses.replace(TOY, steps=100, batch_size=1024)
    assert seconds_of_step(config, SHAPE, CLASSES) == pytest.approx(1024 * (2 * 1e-3 + 3 * 3e-3) / 5)
    assert clock[-1][0] == 1024
    with pytest.raises(UserError, match=r"--budget: how many steps it holds is unknown \(not measured: there is"):
        seconds_of_step(dataclasses.replace(TOY, distill=DistillConfig(teacher="t")), SHAPE, CLASSES)
