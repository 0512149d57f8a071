"""A disk that takes no more ends no run, and what could not be written is written when it can be."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import disk_walk
import forked
from alphaflow.files import write_whole
from alphaflow.runs import checkpoint
from alphaflow.runs.best_effort import AppendOnlyFile

WALK = disk_walk.__file__


def walk(folder: Path, part: str = "") -> list[dict]:
    done = forked.run([sys.executable, WALK, str(folder), part], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(one: dict) -> None:
    """At the end of a run the disk has room again."""
    assert not one["left"], one
    if not one["begun"]:  # nothing is left of a run that could not begin
        assert one["ended"].startswith("cannot write to ") and not one["there"], one
        return
    last = (
        "could not be written" in one["ended"] and "make room, and go on from there with --resume" in one["ended"]
    )
    assert not one["ended"] or last, one
    assert not one.get("again") and one["same"] and one["lines"] == [1, 2, 3, 4, 5, 6], one
    lost = any("step 3 could not be written" in words and "averages" in words for words in one["words"])
    lost = lost and one.get("from", 3) >= 3  # what goes on from before then writes them
    assert one["averages"] == ([6] if lost else [3, 6]), one
    told = [words.split(" (")[0] for words in one["words"] if words.startswith("cannot write")]
    assert len(told) == len(set(told)), one  # each thing once


@pytest.mark.slow
def test_a_full_disk_at_any_moment(tmp_path):
    moments = walk(tmp_path)
    assert len(moments) > 25
    for kind in ("config.yaml", "metrics", "tfevents", ".png", "model.", "optimizer.", "std-0.1", "state.json"):
        assert any(kind in one["path"] for one in moments), kind
    for one in moments:
        check(one)


@pytest.mark.slow
def test_a_full_disk_while_a_diagnosis_is_written(tmp_path):
    moments = walk(tmp_path, "diagnosis")
    assert {Path(one["path"]).suffixes[0] for one in moments} >= {".json", ".csv"}
    for one in moments:
        check(one)


@pytest.fixture
def tiny_disk(tmp_path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(disk)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no right to mount a small file system")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.slow
def test_the_command_of_the_report_goes_on_and_ends_with_what_is_kept(tiny_disk):
    words = (
        "--steps 60 --batch-size 64 --checkpoint-every 5 --sample-every 30 --monitor.every 0 --model.width 32 "
        "--model.depth 1"
    )
    run = tiny_disk / "x"
    command = [sys.executable, "-m", "alphaflow", "train"]
    done = forked.run([*command, "toy", "--out", str(run), *words.split()], capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr and "OSError: [Errno 28]" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("alphaflow: the checkpoint of step 60 could not be written")
    assert done.stderr.count("cannot write samples") == 1
    subprocess.run(["mount", "-o", "remount,size=64m", str(tiny_disk)], check=True)
    again = forked.run([*command, "--resume", str(run)], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert checkpoint.newest(run / "checkpoints").step == 60
    assert not [path for path in run.rglob("*") if path.name.endswith(".tmp")]


def test_an_entry_that_was_written_in_part_is_taken_back(tmp_path):
    """By the same limit, in a process of its own."""
    code = (
        "import resource, sys; from pathlib import Path; from alphaflow.runs.best_effort import AppendOnlyFile\n"
        "diary = AppendOnlyFile(Path(sys.argv[1])); diary.add(b'first\\n')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9, resource.RLIM_INFINITY))\n"
        "try: diary.add(b'second\\n'); sys.exit('written')\n"
        "except OSError: assert Path(sys.argv[1]).read_bytes() == b'first\\n'\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "diary.add(b'third\\n')\n"
    )
    done = forked.run([sys.executable, "-c", code, str(tmp_path / "log")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "log").read_text().split() == ["first", "second", "third"]


def disk_is_full(file):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_is_there_whole_or_as_it_was(tmp_path, monkeypatch):
    file = tmp_path / "config.yaml"
    write_whole(file, b"old")
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", disk_is_full)
        with pytest.raises(OSError, match="No space left"):
            write_whole(file, b"new")
    assert file.read_bytes() == b"old" and list(tmp_path.iterdir()) == [file]
    AppendOnlyFile(tmp_path / "away" / "log")  # makes nothing before there is something to write
    assert not (tmp_path / "away").exists()
