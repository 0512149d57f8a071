"""Where a run's data lie: recorded by absolute paths, told anew when they moved, never among what it writes."""

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alphaflow.cli import run
from alphaflow.errors import UserError
from alphaflow.recipes import RECIPES
from alphaflow.runs import checkpoint
from alphaflow.runs.config import DataConfig
from alphaflow.runs.data_paths import at_home, overlap
from alphaflow.runs.data_record import data_of
from alphaflow.runs.folder import RunFolder
from alphaflow.training.trainer import Trainer
from tiny_runs import TINY

SMALL = (
    "--data.size 8 --steps 2 --batch-size 4 --model.width 16 --model.depth 1 --model.heads 2 --model.patch 4 "
    "--checkpoint-every 2 --device cpu"
).split()


def pictures(folder: Path, seed: int = 0, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    source = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for k in range(3):
            Image.fromarray(source.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / name / f"{k}.png")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run whose data were named from the folder that it was started in."""
    home = tmp_path_factory.mktemp("home")
    pictures(home / "pics")
    before = Path.cwd()
    os.chdir(home)
    try:
        assert run(["train", "folder", "--data.path", "pics", *SMALL, "--out", "run"]) == 0
    finally:
        os.chdir(before)
    return home


def test_a_run_knows_its_data_from_any_folder(trained, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert RunFolder(trained / "run").read_config().data.path == str(trained / "pics")
    assert len(data_of(RunFolder(trained / "run"))) == 6
    assert Trainer.resume(RunFolder(trained / "run")).step == 2


def test_the_same_command_goes_on_from_the_same_folder(trained, monkeypatch):
    monkeypatch.chdir(trained)
    assert run(["train", "folder", "--data.path", "pics", *SMALL, "--out", "run", "--continue"]) == 0
    assert (
        run(["train", "folder", "--data.path", "./pics", *SMALL, "--out", str(trained / "run"), "--continue"]) == 0
    )


def test_data_that_have_moved_are_asked_for_and_told(trained, tmp_path, monkeypatch, capsys):
    shutil.copytree(trained, tmp_path / "home", symlinks=True)
    home = tmp_path / "home"
    monkeypatch.chdir(home)
    config = home / "run" / "config.yaml"
    config.write_text(config.read_text().replace(str(trained), str(home)))
    (home / "pics").rename(home / "moved")
    for words in (["train", "--resume", "run", "--steps", "3"], ["evaluate", "run"], ["diagnose", "run"]):
        assert run(words) == 1
        said = capsys.readouterr().err
        assert str(home / "pics") in said and "where the data have moved, add --data.path PLACE" in said
    few = ["--count", "8", "--nfe", "1", "--metrics", "energy"]
    assert run(["evaluate", "run", "--data.path", "moved", *few]) == 0
    assert run(["train", "--resume", "run", "--steps", "3", "--data.path", "moved"]) == 0
    assert RunFolder(home / "run").read_config().data.path == str(home / "moved")
    assert checkpoint.newest(home / "run" / "checkpoints").step == 3
    assert run(["train", "--resume", "run"]) == 0  # it is written down


@pytest.mark.parametrize(
    ("seed", "classes", "said"),
    [
        (1, ("cat", "dog"), "fingerprint"),
        (0, ("cat", "dog", "eel"), "count 9 here, 6 there; class_names 3 (cat, dog, eel) here"),
    ],
)
def test_other_data_in_their_place_are_refused_and_nothing_is_written(
    trained, tmp_path, capsys, seed, classes, said
):
    other = pictures(tmp_path / "other", seed, classes)
    before = (trained / "run" / "config.yaml").read_bytes()
    for words in (["train", "--resume", str(trained / "run"), "--steps", "3"], ["evaluate", str(trained / "run")]):
        assert run([*words, "--data.path", str(other)]) == 1
        told = capsys.readouterr().err
        assert "the data has changed since this run began" in told and said in told
    assert (trained / "run" / "config.yaml").read_bytes() == before


def test_data_that_lie_nowhere_cannot_have_moved(tmp_path, capsys):
    Trainer.start(dataclasses.replace(TINY, steps=1), RunFolder(tmp_path / "run")).train()
    assert run(["train", "--resume", str(tmp_path / "run"), "--data.path", "x"]) == 2
    assert "this run's data are 'digits', which lie nowhere" in capsys.readouterr().err


# --- what is absolute, and what stays as it is -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("pics", "{here}/pics"),
        ("./a/../pics", "{here}/a/../pics"),
        ("pics/*.parquet", "{here}/pics/*.parquet"),
        ("shard-{{000..003}}.tar", "{here}/shard-{{000..003}}.tar"),
        ("saved#train", "{here}/saved#train"),
        ("/data/pics", "/data/pics"),
        ("hf://owner/name#test", "hf://owner/name#test"),
        ("s3://bucket/a.zip", "s3://bucket/a.zip"),
        ("", ""),
    ],
)
def test_addresses_on_this_machine_become_absolute(tmp_path, monkeypatch, given, kept):
    monkeypatch.chdir(tmp_path)
    config = dataclasses.replace(RECIPES["folder"].config, data=DataConfig(name="folder", path=given.format()))
    assert at_home(config).data.path == kept.format(here=tmp_path)


def test_names_of_files_become_absolute_and_other_names_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.csv").touch()
    data = DataConfig(name="folder", path="pics", labels="labels.csv")
    config = dataclasses.replace(RECIPES["folder"].config, data=data, init="hf://owner/name")
    assert (
        at_home(config).data.labels == str(tmp_path / "labels.csv") and at_home(config).init == "hf://owner/name"
    )
    column = dataclasses.replace(config, data=dataclasses.replace(data, labels="species"))
    assert at_home(column).data.labels == "species"


# --- a run among its data ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", ["pics/run", "pics", ".", "pics/cat/deep/run", "link/run"])
def test_a_run_among_its_data_is_refused_before_anything_is_made(tmp_path, monkeypatch, capsys, out):
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "pics")
    (tmp_path / "link").symlink_to("pics")
    before = sorted(tmp_path.rglob("*"))
    status = 1 if out in ("pics", ".") else 2  # those hold what no run left there, which is seen first
    assert run(["train", "folder", "--data.path", "pics", *SMALL, "--out", out]) == status
    said = capsys.readouterr().err
    assert "choose another --out" in said and ("pics" if out != "." else ". holds link and 1 more") in said
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_beside_its_data_is_none_of_them(tmp_path):
    config = dataclasses.replace(
        RECIPES["folder"].config, data=DataConfig(name="folder", path=str(tmp_path / "pics"))
    )
    pictures(tmp_path / "pics")
    assert overlap(config, tmp_path / "pics-run") is None and overlap(config, tmp_path / "runs" / "pics") is None
    zipped = dataclasses.replace(
        config, data=dataclasses.replace(config.data, path=str(tmp_path / "pics" / "*.zip"))
    )
    assert "lies in the run's own data" in (overlap(zipped, tmp_path / "pics" / "run") or "")


def test_a_run_that_was_made_among_its_data_is_told_to_move(trained, tmp_path, capsys, caplog):
    """As versions before this one made them."""
    home = tmp_path / "home"
    shutil.copytree(trained, home, symlinks=True)
    config = home / "run" / "config.yaml"
    config.write_text(config.read_text().replace(str(trained), str(home)))
    (home / "run").rename(home / "pics" / "run")
    Image.new("RGB", (8, 8)).save(home / "pics" / "run" / "samples" / "step-00000002.png")
    assert run(["train", "--resume", str(home / "pics" / "run"), "--steps", "3"]) == 1
    assert "lies in the run's own data" in (said := capsys.readouterr().err) and "move the run elsewhere" in said
    (home / "pics" / "run").rename(home / "run")
    assert run(["train", "--resume", str(home / "run"), "--steps", "3"]) == 0


@pytest.mark.parametrize("word", ["", "  ", "/", "/..", "~nobody-of-this-name/run"])
def test_folders_that_are_none_are_wrong_words(tmp_path, monkeypatch, capsys, word):
    monkeypatch.chdir(tmp_path)
    for words in (["train", "toy", "--steps", "1", f"--out={word}"], ["train", f"--resume={word}"]):
        assert run(words) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_quoted_tilde_is_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    words = "--steps 1 --batch-size 8 --model.width 8 --model.depth 1 --monitor.every 0 --out=~/run".split()
    assert run(["train", "toy", *words]) == 2
    assert not list(tmp_path.iterdir())


def test_a_folder_with_a_name_in_no_alphabet_is_as_good_as_any(tmp_path):
    """F30: names that are not UTF-8, of the run's folder and of a class."""
    home = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    pictures(home / "pics", classes=("ok", os.fsdecode(b"caf\xe9")))
    out = home / "run"
    assert run(["train", "folder", "--data.path", str(home / "pics"), *SMALL, "--out", str(out)]) == 0
    assert RunFolder(out).read_config().data.path == str(home / "pics")
    assert sorted(RunFolder(out).read_record()["data"]["class_names"]) == ["caf\\xe9", "ok"]
    assert Trainer.resume(RunFolder(out), steps=3).step == 2
    assert isinstance(data_of(RunFolder(out)).class_names[0], str)


def test_a_file_in_the_place_of_a_run_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to"):
        Trainer.start(dataclasses.replace(TINY, steps=1), RunFolder(tmp_path / "file"))
    with pytest.raises(UserError, match="is not a run"):
        Trainer.resume(RunFolder(tmp_path / "file"))
