"""Tests that need several processes start them by torchrun, as users do; it forks them, see `forked.py`."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from filelock import FileLock

import forked

CREW = Path(__file__).with_name("crew.py")
"""Runs several commands in the same processes: starting these takes longer than what the tests do in them."""


def torchrun(processes: int, *words: str) -> subprocess.CompletedProcess[str]:
    """What a command under torchrun said, once it has ended."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return forked.run([*command, *words], capture_output=True, text=True, timeout=1150)


def shared(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that the first test to ask for it makes, for the tests in all of pytest-xdist's workers."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder, made = root / f"shared-{name}", root / f"shared-{name}.made"
    with FileLock(f"{folder}.lock"):
        if not made.exists():
            folder.mkdir()
            make(folder)
            made.touch()
    return folder


def launch(processes: int, tasks: Sequence[dict], folder: Path) -> None:
    """Let so many processes do the tasks, see `crew.py`."""
    file = folder / f"tasks-{processes}.json"
    file.write_text(json.dumps(tasks))
    done = torchrun(processes, str(CREW), str(file))
    assert done.returncode == 0, done.stderr
