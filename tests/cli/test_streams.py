"""Terminals of few signs, streams that are closed, full or read by nobody, environments that hold nonsense."""

import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from alphaflow.cli import run
from alphaflow.files import shell_word

TINY = "--steps 2 --batch-size 8 --model.width 8 --model.depth 1 --monitor.every 0"
AF = f"{sys.executable} -m alphaflow"


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("streams") / "toy"
    assert run(["train", "toy", "--out", str(out), *TINY.split()]) == 0
    return out


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("--help", 0),
        ("recipes", 0),
        ("train --help", 0),
        ("train digits --help", 0),
        ("train digits --out {out} --optimizer.lr \u221e", 2),
        ("train digits --out {out} --data.path caf\udce9", 2),
        ("sample caf\udce9 --out {out}.npz", 1),
        ("train toy --dry-run --gpus 1", 0),
        ("evaluate {toy} --count 16 --nfe 1 --metrics energy", 0),
    ],
)
def test_signs_that_a_terminal_has_not_end_no_command(encoding, words, status, toy, tmp_path, monkeypatch):
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    given = [word.format(out=tmp_path / "out", toy=toy) for word in words.split()]
    assert run(given) == status
    for stream in (out, err):
        stream.flush()
    said = (out if status == 0 else err).buffer.getvalue().decode(encoding)
    assert said and "Error" not in said and "Traceback" not in said


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, env=os.environ | environment, capture_output=True, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("streams", "status", "words"),
    [
        ("2>&-", 0, "a: 2 of 2 steps done\n"),
        (">&-", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
        ("| head -c 1", 0, "a"),
        ("> /dev/full", 1, ""),
    ],
)
def test_a_run_is_whole_whatever_becomes_of_its_words(streams, status, words, tmp_path):
    done = shell(f"set -o pipefail; {AF} train toy --out a {TINY} {streams}", tmp_path)
    assert done.returncode == status and done.stdout == words and "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr and (tmp_path / "a" / "checkpoints" / "latest").exists()
    if status:
        assert "cannot print the result" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("streams", ["2>&-", ">&- 2>&-", "| head -1", "2>/dev/full"])
def test_a_wrong_line_is_refused_whatever_becomes_of_its_words(streams, tmp_path):
    done = shell(f"set -o pipefail; {AF} train toy --out a --optimizer.lr 0 {streams}", tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr and not list(tmp_path.iterdir())


@pytest.mark.parametrize("readers", ["| head -1", "| true"])
def test_nobody_needs_to_read_to_the_end(readers, tmp_path):
    done = shell(f"set -o pipefail; {AF} recipes {readers}", tmp_path)
    assert done.returncode == 0 and done.stderr == ""


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("RANK", "x"),
        ("RANK", "3"),
        ("RANK", "-1"),
        ("WORLD_SIZE", "0"),
        ("WORLD_SIZE", "two"),
        ("WORLD_SIZE", ""),
        ("TORCHELASTIC_RESTART_COUNT", "x"),
    ],
)
def test_an_environment_that_holds_nonsense_is_one_line(name, word, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(name, word)
    assert run(["train", "toy", "--out", str(tmp_path / "a"), *TINY.split()]) == 1
    said = capsys.readouterr().err
    assert said.startswith("alphaflow: ") and name in said and len(said.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.timeout(60)
@pytest.mark.parametrize("columns", ["0", "1", "x", "100000"])
def test_help_and_errors_come_whatever_width_a_terminal_says(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    assert run(["train", "toy", "--help"]) == 0
    assert "--optimizer.lr" in capsys.readouterr().out
    assert run(["train", "toy", "--out", "x", "--batch-size", "many"]) == 2
    said = capsys.readouterr().err
    assert said == "alphaflow: batch_size 'many' is not what it must be: give a whole number\n"
    assert os.environ["COLUMNS"] == columns


def test_a_folder_that_is_gone_is_named(tmp_path, monkeypatch, capsys):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert run(["train", "toy", "--out", "x", *TINY.split()]) == 2
    assert "a folder that is gone" in capsys.readouterr().err


def test_resume_has_help_of_its_own(capsys):
    for words in (
        ["--resume", "--help"],
        ["--resume", "x", "-h"],
        ["--help", "--resume"],
        ["--resume=x", "--help"],
    ):
        assert run(["train", *words]) == 0
        said = capsys.readouterr().out
        assert "alphaflow train --resume DIR" in said and "--init DIR" in said and "--steps" in said


def test_other_settings_on_resumption_are_told_how_a_new_run_begins(toy, capsys):
    assert run(["train", "--resume", str(toy), "--optimizer.lr", "1e-5", "--batch-size=8"]) == 2
    said = capsys.readouterr().err
    assert f"alphaflow train RECIPE --init {toy} --optimizer.lr 1e-5 --batch-size=8 --out DIR" in said
    assert "--optimizer.lr, --batch-size: a run keeps its settings" in said


@pytest.mark.parametrize("place", ["plain", "two words/it's", "~home", "-dash"])
def test_the_last_line_of_training_says_what_next(place, tmp_path, monkeypatch, caplog):
    """In commands that do what they say when they are given as they stand."""
    monkeypatch.chdir(tmp_path)
    assert run(["train", "toy", f"--out=./{place}", *TINY.split(), "--stop-after", "1"]) == 0
    resume, *others = commands(caplog.messages[-1])
    assert resume[:3] == ["alphaflow", "train", "--resume"]
    assert run(resume[1:]) == 0
    sample, evaluate, report = commands(caplog.messages[-1])
    assert [sample, evaluate, report] == others
    assert run(sample[1:]) == 0 and (tmp_path / "samples.png").is_file()
    assert run([*evaluate[1:], "--count", "16"]) == 0 and (tmp_path / place / "evaluation.json").is_file()
    assert run(report[1:]) == 0 and (tmp_path / place / "report.html").is_file()


def commands(line: str) -> list[list[str]]:
    """Of `next: …; …`."""
    start, _, rest = line.partition(": ")
    assert start == "next"
    return [shlex.split(one) for one in rest.split("; ")]


@pytest.mark.parametrize(
    "name", ["plain", "two words", "it's", "~", "-x", b"caf\xe9", b"it's \\ \xff$(x)", "caf\u00e9", "a\nb"]
)
def test_a_path_is_a_word_of_a_shell(name, tmp_path):
    name = os.fsdecode(name)
    done = subprocess.run(["bash", "-c", f"printf '%s' {shell_word(name)}"], capture_output=True, check=True)
    assert done.stdout == os.fsencode(name)
    shell_word(name).encode()


@pytest.mark.parametrize("path", ["", os.pathsep])
def test_what_lies_in_the_working_folder_is_no_package(path, tmp_path):
    """A run called like one that torch asks after, and a file called like a module of Python's: `python -m` looks
    there first, and so does an empty word of PYTHONPATH."""
    for name in ("token.py", "random.py", "numpy.py"):
        (tmp_path / name).write_text("raise SystemExit(7)\n")
    path = os.environ.get("PYTHONPATH", "") + path
    done = shell(f"{AF} train toy --out pydot {TINY} && {AF} export pydot safe", tmp_path, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    done = shell(f"{AF} export pydot torchvision --format program", tmp_path, PYTHONPATH=path)
    assert done.returncode == 0 and (tmp_path / "torchvision" / "model.pt2").is_file(), done.stderr
