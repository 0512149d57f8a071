"""Real launches that are killed, stopped, starved of disk and lied to, and end as an undisturbed run does."""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import forked
from alphaflow.runs import checkpoint
from children import restore

pytestmark = pytest.mark.slow

SETTINGS = (
    "--steps 60 --batch-size 32 --log-every 1 --checkpoint-every 6 --sample-every 1000 --ema.profiles 0.1 "
    "--model.width 32 --model.depth 2 --model.heads 2 --objective.name meanflow --parallel.timeout 0.25"
).split()
PATIENCE = 120  # seconds, for a busy machine; nothing here waits so long otherwise


class Launch:
    """`torchrun --nproc-per-node 2 -m alphaflow train …`, with its processes in reach.

    Torchrun itself, which forks its workers (see `forked.py`), but for tests of what becomes of the launcher.
    """

    def __init__(
        self,
        out: Path,
        *words: str,
        launcher: tuple[str, ...] = (),
        said: Path | None = None,
        start: type[subprocess.Popen] = forked.Popen,
    ) -> None:
        self.out = out
        self.said = said or out.with_suffix(".stderr")
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *launcher]
        command = [*torchrun, "-m", "alphaflow", "train", "digits", "--out", str(out), *SETTINGS, *words]
        self.process = start(
            command,
            stdout=subprocess.DEVNULL,
            stderr=self.said.open("w"),
            preexec_fn=restore,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TORCHELASTIC_ERROR_FILE": ""},
        )

    def workers(self) -> list[int]:
        """Its children, in the order of ranks."""
        return sorted(int(pid) for pid in _processes() if _parent(pid) == self.process.pid)

    def step(self) -> int:
        """The last step that it logged."""
        try:
            lines = (self.out / "metrics.jsonl").read_text().splitlines()
        except OSError:
            return 0
        return max((int(found[1]) for line in lines if (found := re.match(r'{"step": (\d+),', line))), default=0)

    def wait_for(self, what: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not what():
            assert self.process.poll() is None, self.words()
            assert time.monotonic() < end, self.words()
            time.sleep(0.005)

    def finish(self, patience: float = PATIENCE) -> int:
        return self.process.wait(patience)

    def words(self) -> str:
        return self.said.read_text()


def _processes() -> list[str]:
    return [path.name for path in Path("/proc").glob("[0-9]*")]


def _parent(pid: str) -> int:
    try:
        return int(Path("/proc", pid, "stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return -1


def stored(out: Path) -> dict[str, Tensor]:
    whole = checkpoint.newest(out / "checkpoints")
    assert whole.step == 60
    return {f"{part}/{name}": one for part in whole.parts() for name, one in whole.whole(part).items()}


def assert_equal(ours: Path, theirs: Path) -> None:
    mine, other = stored(ours), stored(theirs)
    assert mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in other)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    launch = Launch(tmp_path_factory.mktemp("undisturbed") / "run")
    assert launch.finish() == 0, launch.words()
    return launch.out


def test_a_killed_worker_is_started_again_and_goes_on(undisturbed, tmp_path):
    launch = Launch(tmp_path / "run", launcher=("--max-restarts=3",))
    launch.wait_for(lambda: launch.step() >= 20)
    os.kill(launch.workers()[1], signal.SIGKILL)
    assert launch.finish() == 0, launch.words()
    assert_equal(launch.out, undisturbed)


def test_a_killed_launcher_takes_its_workers_along_and_the_next_goes_on(undisturbed, tmp_path):
    launch = Launch(tmp_path / "run", start=subprocess.Popen)
    launch.wait_for(lambda: launch.step() >= 19)
    workers = launch.workers()
    launch.process.kill()
    launch.finish()
    end = time.monotonic() + 10
    while any(Path("/proc", str(pid)).exists() and _parent(str(pid)) > 0 for pid in workers):
        assert time.monotonic() < end, "orphans train on"
        time.sleep(0.05)
    kept = checkpoint.newest(launch.out / "checkpoints").step
    assert kept >= 12  # that of step 18 may have been half written; it waited for the one before
    again = Launch(tmp_path / "run", "--continue")
    assert again.finish() == 0, again.words()
    assert_equal(launch.out, undisturbed)


def test_a_truncated_checkpoint_is_named_and_the_one_before_used(undisturbed, tmp_path):
    launch = Launch(tmp_path / "run", "--stop-after", "33")
    assert launch.finish() == 0, launch.words()
    file = launch.out / "checkpoints" / "latest" / "optimizer-00002-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    again = Launch(tmp_path / "run", "--continue")
    assert again.finish() == 0, again.words()
    assert "step-00000033 is damaged (optimizer-00002-of-00002.safetensors differs" in again.words()
    assert_equal(launch.out, undisturbed)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1600k", "tmpfs", str(disk)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no right to mount a small file system")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_ends_a_run_with_a_whole_checkpoint_and_room_lets_it_go_on(undisturbed, small_disk):
    words = small_disk.parent / "words"  # a full disk would swallow these too
    launch = Launch(small_disk / "run", "--keep-checkpoints", "20", "--ema.store-every", "1000", said=words)
    assert launch.finish() == 1, launch.words()
    assert "could not be written" in launch.words() and "No space left on device" in launch.words()
    kept = checkpoint.newest(launch.out / "checkpoints").step
    assert 0 < kept < 60
    assert f"the newest whole one is of step {kept}: make room, and go on from there" in launch.words()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    again = Launch(small_disk / "run", "--keep-checkpoints", "20", "--ema.store-every", "1000", "--continue")
    assert again.finish() == 0, again.words()
    assert_equal(launch.out, undisturbed)


def test_a_signal_to_the_launcher_ends_all_with_a_checkpoint(undisturbed, tmp_path):
    """SIGTERM; the script for SLURM, below, sends SIGUSR1."""
    signals = "--signals-to-handle=SIGTERM,SIGINT,SIGUSR1"
    launch = Launch(tmp_path / "run", launcher=(signals,), start=subprocess.Popen)
    launch.wait_for(lambda: launch.step() >= 8)
    launch.process.send_signal(signal.SIGTERM)
    assert launch.finish() != 0
    kept = checkpoint.newest(launch.out / "checkpoints").step
    assert kept >= 8 and kept == launch.step()  # not one step is lost
    again = Launch(tmp_path / "run", "--continue")
    assert again.finish() == 0, again.words()
    assert_equal(launch.out, undisturbed)


def test_a_signal_to_one_worker_ends_all_with_status_143(tmp_path):
    launch = Launch(tmp_path / "run")
    launch.wait_for(lambda: launch.step() >= 8)
    os.kill(launch.workers()[1], signal.SIGUSR1)
    assert launch.finish() != 0
    assert "exitcode  : 143" in launch.words()
    assert checkpoint.newest(launch.out / "checkpoints").step == launch.step() < 60


@pytest.mark.parametrize("disturbed", [True, False])
def test_the_slurm_script_goes_on_after_preemption_and_stays_down_after_an_error(undisturbed, tmp_path, disturbed):
    """The script itself, with SLURM's two programs played by a few lines: here is no SLURM."""
    programs = tmp_path / "bin"
    programs.mkdir()
    asked = tmp_path / "requeued"
    for name, text in {
        "srun": 'exec "$@"',
        "scontrol": f"[ $1 = requeue ] && touch {asked} || echo localhost",
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    slurm = {
        "SLURM_NNODES": "1",
        "SLURM_GPUS_ON_NODE": "2",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "localhost",
    }
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, **slurm, "PATH": path, "PORT": str(port), "OMP_NUM_THREADS": "1"}
    out, script = tmp_path / "run", Path(__file__).parents[2] / "examples" / "slurm" / "train.sbatch"
    words = ["bash", str(script), "digits", str(out), *SETTINGS]
    if not disturbed:
        assert subprocess.run([*words, "--batch-size", "31"], env=env, capture_output=True).returncode != 0
        assert not asked.exists()
        return
    with (tmp_path / "said").open("w") as said:
        job = subprocess.Popen(words, env=env, stdout=said, stderr=said, preexec_fn=restore)
        end = time.monotonic() + PATIENCE
        while not (out / "metrics.jsonl").exists() or (out / "metrics.jsonl").read_text().count("\n") < 8:
            assert job.poll() is None and time.monotonic() < end, (tmp_path / "said").read_text()
            time.sleep(0.01)
        launcher = next(pid for pid in _processes() if _parent(pid) == job.pid)
        os.kill(int(launcher), signal.SIGUSR1)
        assert job.wait(PATIENCE) != 0
    assert asked.exists(), (tmp_path / "said").read_text()
    assert subprocess.run(words, env=env, capture_output=True).returncode == 0
    assert_equal(out, undisturbed)


def test_a_hung_process_is_named(tmp_path):
    hung = []
    for rank in (0, 1):  # both at once, for this is mostly waiting
        launch = Launch(tmp_path / f"run{rank}")
        launch.wait_for(lambda launch=launch: launch.step() >= 8)
        hung.append((rank, launch, launch.workers()[rank]))
        os.kill(hung[-1][-1], signal.SIGSTOP)
    for rank, launch, pid in hung:
        assert launch.finish() != 0
        assert f"rank {rank} (pid {pid} on" in launch.words() and "no sign of life" in launch.words()
        assert not Path("/proc", str(pid)).exists()


def test_twenty_kills_at_random_leave_no_trace(undisturbed, tmp_path):
    source = random.Random(7)
    launch = Launch(tmp_path / "run", launcher=("--max-restarts=20",))
    for kill in range(20):
        aim = 3 * kill + source.randint(1, 3)
        before = set(launch.workers()) if kill else set()
        launch.wait_for(lambda aim=aim: launch.step() >= min(aim, 45) and len(launch.workers()) == 2)
        time.sleep(source.random() * 0.05)
        victims = launch.workers()
        os.kill(source.choice(victims), signal.SIGKILL)
        gone = set(victims) | before
        launch.wait_for(lambda gone=gone: len(set(launch.workers()) - gone) == 2)
    assert launch.finish() == 0, launch.words()
    assert_equal(launch.out, undisturbed)
