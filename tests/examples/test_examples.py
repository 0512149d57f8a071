"""Every example runs, and trains something."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))


def test_plain_loop(tmp_path):
    accuracy, distance = importlib.import_module("plain_loop").main(steps=300, out=tmp_path / "digits.png")
    assert accuracy > 0.7 and distance < 2.6  # flow matching stays at 3.9 with one evaluation
    assert (tmp_path / "digits.png").stat().st_size > 1000


def test_waveforms(tmp_path):
    """Blurred waves would lack power: the phase of a class is random, its mean silence."""
    right, power = importlib.import_module("waveforms").main(steps=250, out=tmp_path / "waves.png")
    assert right > 0.8 and 0.7 < power < 1.2
    assert (tmp_path / "waves.png").exists()


@pytest.mark.parametrize("network, steps", [("unet", 40), ("dit", 80)])
def test_networks_of_diffusers(network, steps):
    pytest.importorskip("diffusers")
    main = importlib.import_module("diffusers_networks").main
    (_, before), (_, after) = main(network, 0), main(network, steps)
    assert after < 0.6 * before


def test_accelerate():
    pytest.importorskip("accelerate")
    accuracy, _ = importlib.import_module("accelerate_loop").main(steps=120, cpu=True)
    assert accuracy > 0.2  # chance: 0.1


def test_fabric():
    pytest.importorskip("lightning_fabric")
    accuracy, _ = importlib.import_module("fabric_loop").main(steps=120, accelerator="cpu")
    assert accuracy > 0.2  # chance: 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["-m", "torch.distributed.run", "--nproc-per-node", "2", "accelerate_loop.py", "--cpu"],
        ["fabric_loop.py", "--processes", "2", "--accelerator", "cpu"],
    ],
    ids=["accelerate", "fabric"],
)
def test_two_processes_train_one_network(words, tmp_path):
    """The examples end with an error if their averages differ; 30 steps reach α = 0, hence derivatives."""
    words = [*words, "--steps", "30", "--out", str(tmp_path / "digits.png")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=EXAMPLES, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "2 processes hold the same weights" in done.stdout
    assert (tmp_path / "digits.png").exists()


def test_every_example_is_run_here():
    tested = Path(__file__).read_text()
    scripts = {path.stem for path in EXAMPLES.glob("*.py")} - {"judge"}
    assert scripts and all(script in tested for script in scripts)
    readme = (EXAMPLES / "README.md").read_text()
    assert all(f"({script}.py)" in readme for script in scripts)
