"""Tests that need several processes start them by torchrun, as users do."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

CREW = Path(__file__).with_name("training") / "crew.py"
"""Runs several commands in the same processes: starting these takes longer than what the tests do in them."""


def torchrun(processes: int, *words: str) -> subprocess.CompletedProcess[str]:
    """What a command under torchrun said, once it has ended."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run([*command, *words], capture_output=True, text=True, timeout=300)


def launch(processes: int, tasks: Sequence[dict], folder: Path) -> None:
    """Let so many processes do the tasks, see `training/crew.py`."""
    file = folder / f"tasks-{processes}.json"
    file.write_text(json.dumps(tasks))
    done = torchrun(processes, str(CREW), str(file))
    assert done.returncode == 0, done.stderr
