"""Files and folders that settings name and that are not there, or of another kind: said before data are read."""

import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alphaflow.cli import run

SMALL = (
    "--data.size 8 --steps 2 --batch-size 4 --model.width 16 --model.depth 1 --model.heads 2 --model.patch 4 "
    "--device cpu"
).split()
MONITOR = "--monitor.every 1 --monitor.detector inception "


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Pictures, a run on them, one that learns from it, a run without a checkpoint, and a table."""
    root: Path = tmp_path_factory.mktemp("named")
    for name in ("cat", "dog"):
        (root / "pics" / name).mkdir(parents=True)
        for k in range(2):
            Image.fromarray(np.full((8, 8, 3), 40 * k, np.uint8)).save(root / "pics" / name / f"{k}.png")
    (root / "words.txt").write_text("words\n")
    train = ["train", "folder", "--data.path", str(root / "pics"), *SMALL]
    assert run([*train, "--out", str(root / "run")]) == 0
    assert run([*train, "--distill.teacher", str(root / "run"), "--out", str(root / "taught")]) == 0
    shutil.copytree(root / "run", root / "bare", ignore=shutil.ignore_patterns("step-*", "latest"))
    return root


@pytest.fixture
def refused(home, monkeypatch, capsys):
    """Give a line: its status and what it says, when no data were read and nothing was made."""
    monkeypatch.chdir(home)
    monkeypatch.setattr(
        "alphaflow.training.trainer.assemble", lambda *given, **more: pytest.fail("data were read")
    )

    def give(line: str) -> tuple[int, str]:
        before = sorted(home.rglob("*"))
        capsys.readouterr()
        status = run(["train", *shlex.split(line)])
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1 and sorted(home.rglob("*")) == before, said
        return status, said[0]

    return give


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ("--data.path none", 1, "none does not exist: give a folder of"),
        ("--data.path none/*.parquet", 1, "nothing matches none/*.parquet"),
        ("--data.labels none.csv", 1, "--data.labels none.csv is not there: give the table"),
        ("--data.labels none.csv#kind", 1, "--data.labels none.csv is not there: give the table"),
        ("--distill.teacher none", 1, "--distill.teacher none: none is not a run"),
        ("--distill.teacher pics", 1, "--distill.teacher pics: pics is not a run"),
        ("--distill.teacher words.txt", 2, "is a file: `alphaflow import words.txt MODEL`, then give MODEL"),
        ("--distill.teacher bare", 1, "no whole checkpoint"),
        ("--distill.teacher hf://nosuch", 1, "hf://nosuch names no model on the hub"),
        ("--init none", 1, "none is not a run"),
        ("--init pics", 1, "pics is not a run"),
        ("--init words.txt", 2, "--init words.txt is a file"),
        (MONITOR + "--monitor.reference none.npz", 1, "monitor: cannot read statistics from none.npz"),
        (MONITOR + "--monitor.reference pics", 1, "monitor: cannot read statistics from pics"),
        (MONITOR + "--monitor.reference words.txt", 1, "monitor: cannot read statistics from words.txt"),
    ],
)
def test_a_start(refused, words, status, said):
    data = "" if "--data.path" in words else "--data.path pics "
    found, line = refused(f"folder --out out {' '.join(SMALL)} {data}{words}")
    assert found == status and said in line
    assert "--resume" not in line  # there is no run yet that anything has moved away from


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ("run --data.path none", 1, "--data.path none: nothing is there: give the place where the run's data are"),
        ("run --steps 4 --data.path 'none/{a,b}.tar'", 1, "nothing is there"),
        ("run --distill.teacher taught", 1, "run has learnt from its data so far"),
        ("taught --distill.teacher none", 1, "--distill.teacher none: none is not a run"),
        ("taught --distill.teacher words.txt", 2, "--distill.teacher {home}/words.txt is a file"),
        ("taught --distill.teacher bare", 1, "no whole checkpoint"),
    ],
)
def test_going_on(refused, home, words, status, said):
    found, line = refused(f"--resume {words}")
    assert found == status and said.format(home=home) in line


def test_a_teacher_that_is_gone_may_be_told_anew(refused, home):
    (home / "run").rename(home / "moved")
    try:
        status, line = refused("--resume taught")
    finally:
        (home / "moved").rename(home / "run")
    assert status == 1 and "where it has moved, add --distill.teacher PLACE to --resume" in line
