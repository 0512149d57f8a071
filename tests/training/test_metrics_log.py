"""The log of a run: what is on disk, and what happens when the disk takes no more."""

import json
import math
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from alphaflow.errors import UserError
from alphaflow.training.metrics_log import MetricsLog


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_resumed_log_is_cut_where_training_goes_on(tmp_path):
    first = MetricsLog(tmp_path, 0)
    for step in (1, 2, 3):
        first.write(step, {"residual": float(step), "residual_t0": math.nan})
    first.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "resid')  # by a process that was killed
    second = MetricsLog(tmp_path, 2)
    second.write(3, {"residual": 30.0, "residual_t0": 0.5})
    second.close()
    assert [row["residual"] for row in lines(tmp_path)] == [1.0, 2.0, 30.0]
    assert [row["residual_t0"] for row in lines(tmp_path)] == [None, None, 0.5]
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [(event.step, event.value) for event in board.Scalars("residual")] == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_a_lost_folder_is_told_once_and_its_lines_wait_for_it(tmp_path, caplog):
    out = tmp_path / "run"
    out.mkdir()
    log = MetricsLog(out, 0)
    log.write(1, {"residual": 1.0})
    out.rename(tmp_path / "away")
    for step in (2, 3):
        log.write(step, {"residual": 1.0})
    assert caplog.text.count("cannot write metrics") == 1
    (tmp_path / "away").rename(out)
    log.write(4, {"residual": 1.0})
    log.close()
    assert [row["step"] for row in lines(out)] == [1, 2, 3, 4]
    board = EventAccumulator(str(out / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("residual")] == [1, 2, 3, 4]


def test_weights_and_biases_takes_the_same_numbers_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    log = MetricsLog(tmp_path, 0, project="alphaflow-test", settings={"seed": 3})
    for step in (5, 10):
        log.write(step, {"residual": 1 / step, "residual_t0": math.nan})
    run = log._wandb
    assert (run.project, dict(run.config)) == ("alphaflow-test", {"seed": 3})
    assert run.summary["residual"] == 0.1 and "residual_t0" not in dict(run.summary)
    log.close()
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    again = MetricsLog(tmp_path, 10, project="alphaflow-test")
    assert again._wandb.id == run.id
    again.close()


def test_without_its_package_the_error_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install 'alphaflow\[wandb\]'"):
        MetricsLog(tmp_path, 0, project="p")
