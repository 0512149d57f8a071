"""One run folder, one process: real processes that begin, go on, die and fork in the same folder."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import forked
from alphaflow.errors import UserError
from alphaflow.runs import checkpoint
from alphaflow.runs.folder import RunFolder
from alphaflow.runs.run_lock import acquire_lock, refuse_locked, release_lock
from alphaflow.training.trainer import Trainer
from tiny_runs import TINY, lines

RIVAL = """
import dataclasses, json, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from alphaflow.errors import UserError
from alphaflow.recipes import RECIPES
from alphaflow.runs import run_lock
from alphaflow.runs.config import ModelConfig
from alphaflow.runs.folder import RunFolder
from alphaflow.training.trainer import Trainer
run_lock.PATIENCE = 0.3
me = int(sys.argv[1])
config = dataclasses.replace(RECIPES["toy"].config, steps=6, batch_size=8, log_every=1, checkpoint_every=3,
    sample_every=100, seed=me, model=dataclasses.replace(RECIPES["toy"].config.model, width=8, depth=1))
config = dataclasses.replace(config, monitor=dataclasses.replace(config.monitor, every=0))
print("ready", flush=True)
for line in sys.stdin:
    what, folder, delay = line.split()
    time.sleep(float(delay))
    run = RunFolder(Path(folder))
    try:
        trainer = getattr(Trainer, what)(*([config] if what != "resume" else []), run,
            **({"steps": 12} if what == "resume" else {}))
        time.sleep(0.6)  # as if each step took long
        trainer.train()
        print(json.dumps("done"), flush=True)
    except UserError as error:
        print(json.dumps(str(error)), flush=True)
"""


class Rival:
    """A process that begins or goes on with runs when told to."""

    def __init__(self, number: int) -> None:
        self.process = forked.Popen(
            [sys.executable, "-c", RIVAL, str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, what: str, folder: Path, delay: float) -> None:
        self.process.stdin.write(f"{what} {folder} {delay}\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        return json.loads(self.process.stdout.readline())


@pytest.fixture(scope="module")
def rivals():
    both = [Rival(0), Rival(1)]
    assert [one.process.stdout.readline() for one in both] == ["ready\n"] * 2
    yield both
    for one in both:
        one.process.stdin.close()
        one.process.wait(60)


def contest(rivals: list[Rival], what: str, folder: Path, delay: float) -> int:
    """Who won; the other one was refused, and told who that is."""
    for one, late in zip(rivals, (0.0, delay)):
        one.ask(what, folder, late)
    answers = [one.answer() for one in rivals]
    assert answers.count("done") == 1, answers
    winner = answers.index("done")
    refused = answers[1 - winner]
    assert f"in training already, by process {rivals[winner].process.pid} on " in refused and "since 20" in refused
    return winner


def test_ten_double_starts_give_ten_runs_and_ten_refusals(rivals, tmp_path):
    for round in range(10):
        folder = tmp_path / str(round)
        winner = contest(rivals, "go_on" if round % 3 == 2 else "start", folder, (0, 0.002, 0.02, 0.1)[round % 4])
        assert RunFolder(folder).read_config().seed == winner
        assert [row["step"] for row in lines(folder)] == list(range(1, 7))
        assert checkpoint.newest(folder / "checkpoints").step == 6


def test_double_resumptions_leave_every_line_once(rivals, tmp_path):
    for round in range(3):
        folder = tmp_path / str(round)
        rivals[0].ask("start", folder, 0)
        assert rivals[0].answer() == "done"
        contest(rivals, "resume", folder, (0, 0.02, 0.1)[round])
        assert [row["step"] for row in lines(folder)] == list(range(1, 13))
        assert checkpoint.steps_in(folder / "checkpoints") == [9, 12]


HOLDER = """
import os, sys, time
from pathlib import Path
from alphaflow.runs.run_lock import acquire_lock
acquire_lock(Path(sys.argv[1]))
if os.fork() == 0:  # as workers of loaders do; it must not keep what its parent held
    time.sleep(60)
print(os.getpid(), flush=True)
time.sleep(60)
"""


def test_a_holder_that_is_killed_lets_go_though_its_child_lives(tmp_path):
    process = forked.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert int(process.stdout.readline()) == process.pid
        with pytest.raises(UserError, match=f"by process {process.pid} on"):
            refuse_locked(tmp_path)
        process.kill()
        process.wait()
        end = time.monotonic() + 20
        while time.monotonic() < end:  # a child that was only just forked has not let go yet
            with contextlib.suppress(UserError):
                refuse_locked(tmp_path)
                break
            time.sleep(0.1)
        refuse_locked(tmp_path)
        acquire_lock(tmp_path)
        release_lock(tmp_path)
    finally:
        os.killpg(process.pid, signal.SIGKILL)


def test_one_process_may_ask_again_and_a_removed_folder_is_taken_anew(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    acquire_lock(folder)
    acquire_lock(folder)
    refuse_locked(folder)
    (folder / ".lock").unlink()
    acquire_lock(folder)  # another file
    release_lock(folder)


def test_a_run_lets_go_when_it_ends_or_fails(tmp_path):
    Trainer.start(TINY, RunFolder(tmp_path)).train(stop_after=3)
    ask = (
        "from pathlib import Path; from alphaflow.runs.run_lock import *; import sys; "
        "acquire_lock(Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", ask, str(tmp_path)]
    assert forked.run(command).returncode == 0
    state = tmp_path / "checkpoints" / "latest" / "state.json"
    state.write_text(state.read_text().replace('"data": "', '"data": "other'))
    with pytest.raises(UserError, match="the data has changed"):
        Trainer.resume(RunFolder(tmp_path))
    assert forked.run(command).returncode == 0


def test_the_command_line_refuses_the_second_and_goes_on_after_a_crash(tmp_path):
    out = tmp_path / "run"
    small = "--batch-size 16 --model.width 16 --model.depth 1 --monitor.every 0 --log-every 1".split()
    command = [sys.executable, "-m", "alphaflow", "train", "toy", "--out", str(out), *small, "--continue"]
    first = forked.Popen([*command, "--steps", "100000"], stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while not ((out / "metrics.jsonl").exists() and (out / "metrics.jsonl").read_text().count("\n") > 3):
        assert first.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    second = forked.run([*command, "--steps", "100000"], capture_output=True, text=True)
    assert second.returncode == 1 and second.stderr.count("\n") == 1, second.stderr
    assert f"alphaflow: {out} is in training already, by process {first.pid} on" in second.stderr
    first.kill()
    first.communicate()
    third = forked.run([*command, "--steps", "100000", "--stop-after", "2"], capture_output=True, text=True)
    assert third.returncode == 0, third.stderr
