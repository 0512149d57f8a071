"""Wrong command lines of every command: the right status, one line that says what is wrong, and nothing made."""

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alphaflow.cli import COMMANDS, run
from latent_sets import make_set
from wrong_lines import by_hand, of_options

TINY = "--batch-size 16 --model.width 16 --model.depth 1 --log-every 1 --monitor.every 0".split()
LINES = [pytest.param(status, words, id=words) for status, words in dict.fromkeys(by_hand())]
OF_OPTIONS = of_options()


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, Path]:
    """A run of the digits, one of points, a model, an evaluation, pictures, latents, a file of words, an empty
    folder; `none` is not there."""
    root = tmp_path_factory.mktemp("lines")
    names = "run toy model evaluation.json pictures latents words.txt empty none".split()
    found = {name.partition(".")[0]: root / name for name in names}
    found["file"] = found.pop("words")
    patches = ["--model.heads", "2", "--model.patch", "4"]
    assert run(["train", "digits", "--out", str(found["run"]), "--steps", "2", *TINY, *patches]) == 0
    assert run(["train", "toy", "--out", str(found["toy"]), "--steps", "2", *TINY]) == 0
    assert run(["export", str(found["run"]), str(found["model"])]) == 0
    words = ["--count", "16", "--nfe", "1", "--metrics", "energy", "--json", str(found["evaluation"])]
    assert run(["evaluate", str(found["run"]), *words]) == 0
    shutil.rmtree(found["run"] / "evaluations", ignore_errors=True)
    (found["run"] / "evaluation.json").unlink()
    for name in ("cat", "dog"):
        (found["pictures"] / name).mkdir(parents=True)
        for k in range(2):
            Image.fromarray(np.full((16, 16, 3), 40 * k, np.uint8)).save(found["pictures"] / name / f"{k}.png")
    make_set(
        found["latents"],
        np.random.default_rng(0).normal(size=(8, 1, 8, 4, 4)).astype(np.float32),
        np.arange(8) % 3,
    )
    found["file"].write_text("words\n")
    found["empty"].mkdir()
    return found


def test_there_are_enough():
    assert len(LINES) >= 475 and all(OF_OPTIONS.values())


@pytest.fixture
def refused(places, tmp_path, monkeypatch, capsys) -> Callable[[str], tuple[int, str]]:
    """Run a line in an empty folder: the status, and its one line; nothing may have been made."""
    here, root = tmp_path / "here", places["run"].parent
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(here))

    def give(line: str) -> tuple[int, str]:
        before = sorted(root.rglob("*"))
        status = run([word.format(out=here / "out", **places) for word in shlex.split(line)])
        said = capsys.readouterr().err
        told = [line for line in said.splitlines() if line]
        assert len(told) == 1 and told[0].startswith("alphaflow: "), (line, status, said)
        assert not list(here.rglob("*")) and sorted(root.rglob("*")) == before, (line, said)
        return status, told[0]

    return give


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("status", "line"), LINES)
def test_a_wrong_line(status, line, refused):
    found, said = refused(line)
    assert found == status, said


def test_what_is_not_there_is_said_to_be_not_there(refused, places):
    assert "none is not there" in refused("compare {evaluation} {none}")[1]
    assert "hf://nosuch is an address of the hub" in refused("import hf://nosuch {out}")[1]


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_wrong_with_any_option(command, refused):
    """Its value is missing, empty, no number, not finite, no choice; its name is cut short or runs on."""
    for line in OF_OPTIONS[command]:
        status, said = refused(line)
        assert status == 2, (line, said)
