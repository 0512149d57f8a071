"""The script for a lent GPU runs, small, on the CPU; else it would fail on the day."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

GPU = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


@pytest.mark.slow
def test_the_gpu_script_checks_and_times(tmp_path):
    out = tmp_path / "gpu.json"
    words = [sys.executable, str(GPU), "--device", "cpu", "--tiny", "--out", str(out)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    assert "failed" not in str(record)
    assert record["du/dt"]["fused float32"] < 1e-5 and record["du/dt"]["fused bfloat16"] < 1e-2
    assert max(record["compiled"].values()) < 1e-4
    assert record["S/8"]["settings"]["batch"] == 2
