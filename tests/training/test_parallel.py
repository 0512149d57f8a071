"""Runs under torchrun on gloo: the number of processes and how they share the work leave the run as it is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from alphaflow.errors import UserError
from alphaflow.objectives import AlphaFlow
from alphaflow.training.parallel import Parallel, Part

TINY = (
    "--steps 6 --batch-size 16 --log-every 1 --checkpoint-every 3 --sample-every 6 "
    "--model.width 16 --model.depth 2 --model.heads 2 --optimizer.warmup 2 --optimizer.lr 0.01"
).split()
KINDS = {
    "meanflow": "--objective.name meanflow --objective.flow-ratio 0.3".split(),
    "alphaflow": "--objective.alpha 0.4 --objective.flow-ratio 0.3".split(),
    "guided": "--objective.alpha 0 --objective.omega 2 --objective.kappa 0.3 --objective.label-drop 0.2".split(),
}


def train(out: Path, processes: int, *words: str, check: bool = True) -> subprocess.CompletedProcess:
    launch = [sys.executable, "-m", "alphaflow"]
    if processes > 1:
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        launch += ["-m", "alphaflow"]
    command = [*launch, "train", *words]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0 or not check, done.stderr
    return done


def fresh(out: Path, processes: int, *words: str) -> Path:
    train(out, processes, "digits", "--out", str(out), *TINY, *words)
    return out


def weights(run: Path, part: str = "model") -> dict[str, Tensor]:
    return load_file(run / "checkpoints" / "latest" / f"{part}.safetensors")


def lines(run: Path) -> list[dict]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    missing = -1.0  # no rows in a bin
    return [
        {key: missing if value is None else value for key, value in row.items() if key != "samples_per_second"}
        for row in rows
    ]


def assert_same_run(ours: Path, theirs: Path) -> None:
    """Up to float32 rounding, which six steps of Adam at a high rate amplify a little."""
    for part in ("model", "ema"):
        mine, other = weights(ours, part), weights(theirs, part)
        assert mine.keys() == other.keys()
        for name in other:
            a, b = mine[name], other[name]
            if name.endswith("qkv.bias"):  # softmax cancels that of the keys: its gradient is rounding
                a, b = (torch.cat([x.chunk(3)[0], x.chunk(3)[2]]) for x in (a, b))
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    assert len(lines(ours)) == len(lines(theirs)) == 6
    for mine, other in zip(lines(ours), lines(theirs)):
        assert mine == pytest.approx(other, rel=1e-3, abs=1e-5)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("alone")
    return {kind: fresh(folder / kind, 1, *words) for kind, words in KINDS.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_train_as_one_does(alone, tmp_path, kind, strategy):
    run = fresh(tmp_path / "run", 2, *KINDS[kind], "--parallel.strategy", strategy)
    assert_same_run(run, alone[kind])


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "hsdp"])
def test_four_processes_train_as_one_does(alone, tmp_path, strategy):
    run = fresh(tmp_path / "run", 4, *KINDS["meanflow"], "--parallel.strategy", strategy)
    assert_same_run(run, alone["meanflow"])


@pytest.mark.parametrize(("processes", "strategy"), [(1, "ddp"), (2, "ddp"), (2, "fsdp")])
def test_parts_of_a_batch_train_as_the_whole_does(alone, tmp_path, processes, strategy):
    words = ["--accumulate", "2", "--parallel.strategy", strategy]
    assert_same_run(fresh(tmp_path / "run", processes, *KINDS["alphaflow"], *words), alone["alphaflow"])


def test_a_run_goes_on_with_another_number_of_processes(alone, tmp_path):
    run = tmp_path / "run"
    fresh(run, 2, *KINDS["meanflow"], "--parallel.strategy", "fsdp", "--stop-after", "3")
    train(run, 1, "--resume", str(run))
    assert_same_run(run, alone["meanflow"])


def test_samples_of_sharded_weights_follow_training(alone, tmp_path):
    """Those of steps 3 and 6 are one process's, to a grey level; a stale copy would show step 3's twice."""
    words = [*KINDS["meanflow"], "--sample-every", "3", "--checkpoint-every", "100"]  # saving would refresh it
    one = fresh(tmp_path / "one", 1, *words)
    two = fresh(tmp_path / "two", 2, *words, "--parallel.strategy", "fsdp")
    for step in (3, 6):
        ours, theirs = (
            np.asarray(Image.open(run / "samples" / f"step-{step:08d}.png"), dtype=int) for run in (two, one)
        )
        assert np.abs(ours - theirs).max() <= 1


def test_resuming_on_as_many_processes_is_exact_to_the_bit(tmp_path):
    words = [*KINDS["meanflow"], "--parallel.strategy", "fsdp"]
    whole, parts = fresh(tmp_path / "whole", 2, *words), tmp_path / "parts"
    fresh(parts, 2, *words, "--stop-after", "3")
    train(parts, 2, "--resume", str(parts))
    for part in ("model", "ema", "optimizer"):
        ours, theirs = weights(parts, part), weights(whole, part)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert lines(parts) == lines(whole)


def test_a_batch_that_does_not_divide_is_refused(tmp_path):
    done = train(tmp_path / "run", 2, "digits", "--out", str(tmp_path / "run"), "--batch-size", "15", check=False)
    assert done.returncode != 0 and "batch_size 15 does not divide into 2 processes" in done.stderr
    assert not (tmp_path / "run").exists()


def test_parts_cover_the_batch_and_its_first_rows_once():
    for n in (1, 2, 3, 4):
        rows = [list(range(12))[Part(k, n).rows] for k in range(n)]
        assert sorted(i for part in rows for i in part) == list(range(12))
        assert [Part(k, n).below(5) for k in range(n)] == [sum(i < 5 for i in part) for part in rows]


@pytest.mark.parametrize("words", [["--compile"], ["--objective.derivative", "reverse"]], ids=str)
def test_what_sharded_weights_cannot_do_is_refused(monkeypatch, words):
    monkeypatch.setenv("WORLD_SIZE", "2")
    objective = AlphaFlow(derivative="reverse") if "reverse" in words else AlphaFlow()
    with pytest.raises(UserError, match="does not go with sharded weights"):
        Parallel("fsdp").suit(objective, compiled="--compile" in words)
    assert Parallel("ddp").suit(objective, compiled=True) is objective
