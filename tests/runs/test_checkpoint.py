"""Checkpoints as files: pieces from several writers, faults of the disk, rotation. Real threads, real files."""

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import forked
from alphaflow.errors import UserError
from alphaflow.processes import Processes
from alphaflow.runs import checkpoint
from alphaflow.runs.checkpoint import Checkpoint, NotWrittenError, Piece
from alphaflow.training.saver import Saver


def pieces(value: float, size: int = 6) -> dict[str, dict[str, Piece]]:
    weight = torch.arange(size, dtype=torch.float32) + value
    return {"model": {"w": Piece(weight, (size,)), "count": Piece(torch.tensor(value), ())}}


class Crowd:
    """Several writers in threads of this process, who exchange what they say."""

    def __init__(self, world: int) -> None:
        self._said: list[Any] = [None] * world
        self._barrier = threading.Barrier(world, timeout=30)
        self.peers = [Member(rank, world, self) for rank in range(world)]

    def exchange(self, rank: int, value: Any) -> list[Any]:
        self._said[rank] = json.loads(json.dumps(value))
        self._barrier.wait()
        said = list(self._said)
        self._barrier.wait()
        return said


@dataclass(frozen=True)
class Member(Processes):
    crowd: Crowd | None = None

    def exchange(self, value: Any) -> list[Any]:
        return self.crowd.exchange(self.rank, value)


def write_together(folder: Path, step: int, shares: list[dict[str, dict[str, Piece]]]) -> list[Exception | None]:
    crowd, errors = Crowd(len(shares)), [None] * len(shares)

    def run(rank: int) -> None:
        try:
            checkpoint.write(folder, step, shares[rank], {"x": 1}, processes=crowd.peers[rank])
        except Exception as error:
            errors[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(shares))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def shared_out(whole: torch.Tensor, world: int) -> list[dict[str, dict[str, Piece]]]:
    """By rows as `torch.chunk` cuts them: the last writers may hold fewer, or none."""
    size = -(-len(whole) // world)
    shares = []
    for rank in range(world):
        start = min(rank * size, len(whole))
        shares.append({"model": {"w": Piece(whole[start : start + size], tuple(whole.shape), start)}})
    shares[-1]["model"]["count"] = Piece(torch.tensor(3.0), ())
    return shares


@pytest.mark.parametrize("world", [1, 2, 3, 5, 8])
def test_what_several_wrote_reads_as_one_and_in_any_other_cut(tmp_path, world):
    whole = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    assert write_together(tmp_path / "c", 5, shared_out(whole, world)) == [None] * world
    stored = checkpoint.newest(tmp_path / "c")
    assert stored.step == 5 and stored.state["x"] == 1 and stored.parts() == ["model"]
    assert torch.equal(stored.whole("model")["w"], whole)
    assert stored.read("model", "count").item() == 3
    for first in range(8):
        for stop in range(first, 9):
            assert torch.equal(stored.read("model", "w", slice(first, stop)), whole[first:stop])
    assert stored.whole("optimizer") == {}
    assert len(list(stored.path.glob("*.safetensors"))) == world


def test_if_one_writer_fails_all_learn_of_it_and_nothing_is_left(tmp_path):
    write_together(tmp_path, 1, shared_out(torch.ones(4), 2))
    shares = shared_out(torch.ones(4), 2)
    shares[1]["model"]["w"] = Piece(None, (4,), 2)  # type: ignore[arg-type]
    errors = write_together(tmp_path, 2, shares)
    assert all(isinstance(error, NotWrittenError) and "rank 1: AttributeError" in str(error) for error in errors)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-00000001"]
    assert checkpoint.newest(tmp_path).step == 1


def test_a_checkpoint_that_could_not_be_finished_never_becomes_latest(tmp_path):
    checkpoint.write(tmp_path, 1, pieces(1), {})
    broken = {**pieces(2), "optimizer": {"m": Piece(None, (1,))}}  # type: ignore[arg-type]
    with pytest.raises(NotWrittenError, match="AttributeError"):  # half-way, at the second file
        checkpoint.write(tmp_path, 2, broken, {})
    assert str((tmp_path / "latest").readlink()) == "step-00000001"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-00000001"]


def test_a_file_of_one_writer_cut_short_damages_the_whole(tmp_path, caplog):
    for step in (1, 2):
        write_together(tmp_path, step, shared_out(torch.ones(4), 2))
    file = tmp_path / "latest" / "model-00002-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    assert checkpoint.newest(tmp_path).step == 1
    assert "step-00000002 is damaged (model-00002-of-00002.safetensors differs" in caplog.text


def test_rows_that_nobody_wrote_are_noticed(tmp_path):
    shares = shared_out(torch.ones(4), 2)
    del shares[1]["model"]["w"]
    write_together(tmp_path, 1, shares)
    with pytest.raises(UserError, match="rows 0 to 4 of model/w are not all there"):
        checkpoint.newest(tmp_path).whole("model")


def test_rotation_keeps_the_newest(tmp_path):
    for step in range(1, 13):
        checkpoint.write(tmp_path, step, pieces(step), {}, keep=2)
    assert checkpoint.steps_in(tmp_path) == [11, 12]
    assert str((tmp_path / "latest").readlink()) == "step-00000012"


def test_what_a_killed_writer_left_is_cleared_and_never_read(tmp_path):
    checkpoint.write(tmp_path, 1, pieces(1), {})
    (tmp_path / ".step-00000002.tmp").mkdir()
    (tmp_path / ".step-00000002.tmp" / "model.safetensors").write_bytes(b"half")
    assert checkpoint.newest(tmp_path).step == 1
    checkpoint.write(tmp_path, 3, pieces(3), {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-00000001", "step-00000003"]


def test_a_damaged_checkpoint_is_replaced_by_the_same_step_again(tmp_path):
    for value in (1.0, 2.0):
        checkpoint.write(tmp_path, 4, pieces(value), {})
    assert checkpoint.newest(tmp_path).read("model", "count").item() == 2
    assert [path.name for path in tmp_path.glob(".*")] == []


# ---------------------------------------------------------------------- the thread


def test_the_copy_is_taken_at_once_and_written_later(tmp_path):
    saver, parts = Saver(tmp_path), pieces(1)
    saver.save(1, parts, {"note": "a"})
    parts["model"]["w"].tensor.fill_(-1)  # the next step's work
    saver.finish()
    stored = checkpoint.newest(tmp_path)
    assert torch.equal(stored.read("model", "w"), torch.arange(6.0) + 1)
    assert stored.state["note"] == "a"


def test_at_most_one_is_being_written_and_all_of_them_are(tmp_path):
    saver = Saver(tmp_path)
    for step in range(1, 9):
        saver.save(step, pieces(step, size=100_000), {})
        assert sum(thread.name == "checkpoint" for thread in threading.enumerate()) <= 1
    saver.finish()
    assert checkpoint.steps_in(tmp_path) == list(range(1, 9))
    for step in range(1, 9):
        assert Checkpoint(tmp_path / f"step-{step:08d}").read("model", "w")[0] == step


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 1 MB; where mounting is not allowed, a limit on the size of files."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, check=False
        ).returncode
        == 0
        if os.geteuid() == 0 and shutil.which("mount")
        else False
    )
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if not mounted:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**19, before[1]))
    yield disk
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)
    if mounted:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_leaves_the_last_checkpoint_whole_and_training_goes_on(small_disk, caplog):
    saver = Saver(small_disk / "checkpoints")
    saver.save(1, pieces(1), {})
    saver.save(2, pieces(2, size=500_000), {})  # 2 MB
    saver.wait()
    assert "the checkpoint of step 2 could not be written" in caplog.text
    assert "the newest whole one is of step 1; training goes on" in caplog.text
    assert [path.name for path in saver.folder.glob(".*")] == []  # what was written of it gave its room back
    saver.save(3, pieces(3), {})
    saver.finish()
    assert checkpoint.newest(saver.folder).step == 3


def test_a_run_does_not_end_as_if_its_last_steps_were_kept(small_disk):
    saver = Saver(small_disk / "checkpoints")
    saver.save(1, pieces(1), {})
    saver.save(2, pieces(2, size=500_000), {})
    with pytest.raises(
        UserError, match=r"step 2 could not be written .* newest whole one is of step 1: make room"
    ):
        saver.finish()
    assert checkpoint.newest(saver.folder).step == 1


def test_a_lost_folder_is_not_made_anew_in_the_wrong_place(tmp_path, caplog):
    run = tmp_path / "network" / "run"
    run.mkdir(parents=True)
    saver = Saver(run / "checkpoints")
    saver.save(1, pieces(1), {})
    saver.wait()
    (tmp_path / "network").rename(tmp_path / "away")
    saver.save(2, pieces(2), {})
    saver.wait()
    assert "step 2 could not be written" in caplog.text and "there is none before it" in caplog.text
    assert not (tmp_path / "network").exists()
    (tmp_path / "away").rename(tmp_path / "network")
    saver.save(3, pieces(3), {})
    saver.finish()
    assert checkpoint.steps_in(saver.folder) == [1, 3]


WRITER = """
import sys, torch
from dataclasses import dataclass
from pathlib import Path
from alphaflow.runs import checkpoint as c
folder = Path(sys.argv[1])
for step in range((c.steps_in(folder) or [0])[-1] + 1, 10**6):
    weight = torch.full((50_000,), float(step))
    c.write(folder, step, {"model": {"w": c.Piece(weight, (50_000,))}}, {}, keep=2)
    print(step, flush=True)
"""


def test_a_writer_killed_at_any_moment_leaves_a_whole_newest_one(tmp_path):
    """A process that does nothing but write checkpoints, killed at several moments of it."""
    last = 0
    for k in range(4):
        process = forked.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        told = [int(process.stdout.readline()) for _ in range(3)]
        time.sleep(0.0017 * k)
        process.kill()
        process.communicate()
        stored = checkpoint.newest(tmp_path)
        assert stored.step >= told[-1] == last + 3
        assert torch.equal(stored.read("model", "w"), torch.full((50_000,), float(stored.step)))
        last = stored.step


def test_files_are_those_of_safetensors(tmp_path):
    """Of every kind of number, of no size and of no rows; a hash is that of the file."""
    floats = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    kinds = (*floats, torch.int64, torch.int32, torch.uint8, torch.bool)
    tensors = {str(kind): torch.arange(6).reshape(2, 3).to(kind) for kind in kinds}
    tensors |= {"scalar": torch.tensor(3.0), "empty": torch.zeros(0, 3), "é": torch.randn(4, 700_000).T}
    parts = {"model": {name: Piece(one, tuple(one.shape)) for name, one in tensors.items()}}
    written = checkpoint.write(tmp_path / "checkpoints", 1, parts, {}) / "model.safetensors"
    read = load_file(written)
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], one) and read[name].dtype == one.dtype for name, one in tensors.items())
    hashes = json.loads((written.parent / "state.json").read_text())["sha256"]
    assert hashes == {written.name: hashlib.sha256(written.read_bytes()).hexdigest()}
