"""`alphaflow train pictures`: a run that follows a folder, from its first word to samples."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import alphaflow as af
from alphaflow.cli import run
from alphaflow.costs.own_pictures import LEAST
from alphaflow.runs.folder import RunFolder
from tiny_runs import lines, same, weights

TINY = "--model.width 16 --model.depth 1 --model.heads 2 --batch-size 4".split()


def save(file: Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


@pytest.fixture(scope="module")
def grey(tmp_path_factory) -> Path:
    """Ten grey pictures of 28 × 28 in two classes."""
    place = tmp_path_factory.mktemp("grey")
    for k in range(10):
        save(place / ("dark" if k < 5 else "light") / f"{k}.png", np.full((28, 28), 25 * k, np.uint8))
    return place


@pytest.fixture(scope="module")
def colour(tmp_path_factory) -> Path:
    """Six coloured pictures of all shapes, with captions."""
    place = tmp_path_factory.mktemp("colour")
    for k in range(6):
        pixels = np.zeros((40 + 9 * k, 90 - 7 * k, 3), np.uint8)
        pixels[..., k % 3] = 200
        save(place / f"{k}.png", pixels)
        (place / f"{k}.txt").write_text(f"{('red', 'green', 'blue')[k % 3]} all over")
    return place


def train(data: Path, out: Path, *words: str) -> int:
    return run(["train", "pictures", "--data.path", str(data), "--out", str(out), *TINY, *words])


@pytest.fixture(scope="module")
def whole(grey, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert train(grey, out, "--steps", "4") == 0
    return out


def test_grey_pictures_with_classes_become_a_run_that_draws_grey_pictures(whole):
    config = RunFolder(whole).read_config()
    assert (config.data.size, config.data.grey, config.data.flip, config.model.patch) == (28, True, False, 4)
    assert config.objective.time_shift == pytest.approx(3.5)
    record = RunFolder(whole).read_record()["data"]
    assert record["shape"] == [1, 28, 28] and record["class_names"] == ["dark", "light"]
    images = af.load(whole)(labels=[0, 1, 1])
    assert images.shape == (3, 28, 28, 1) and images.dtype == np.uint8


def test_a_resumed_run_is_the_same_to_the_bit(whole, grey, tmp_path, capsys):
    out = tmp_path / "run"
    assert train(grey, out, "--steps", "4", "--stop-after", "1") == 0
    assert run(["train", "--resume", str(out)]) == 0
    assert same(weights(out), weights(whole)) and lines(out) == lines(whole)


def test_a_budget_is_kept_in_the_run_and_measured_once(grey, tmp_path, capsys, caplog):
    out = tmp_path / "run"
    caplog.set_level("INFO", "alphaflow")
    words = ("--budget", "20m", "--data.size", "8", "--stop-after", "1")
    assert train(grey, out, *words) == 0
    said = caplog.text
    assert "see how long they take" in said
    assert all(f"{name:10} " in said for name in ("pictures", "network", "training", "time"))
    config = RunFolder(out).read_config()
    assert config.steps >= LEAST and config.schedule_steps == config.steps
    assert f"training   {config.steps:,} steps of 4" in said
    caplog.clear()
    assert train(grey, out, *words, "--continue") == 0
    assert run(["train", "--resume", str(out), "--stop-after", "1"]) == 0
    assert "see how long" not in caplog.text
    assert RunFolder(out).read_config() == dataclasses.replace(config, data=RunFolder(out).read_config().data)
    assert len(lines(out)) == 3
    assert train(grey, out, *words, "--continue", "--optimizer.lr", "1e-5") == 1
    assert "holds a run with other settings (optimizer)" in capsys.readouterr().err


def test_a_dry_run_prints_the_plan_and_makes_nothing(colour, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", "pictures", "--data.path", str(colour), *TINY, "--dry-run"]
    assert run([*words, "--budget", "90", "--data.size", "16"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["pictures", "network", "training", "time"]
    assert run([*words, "--data.captions", "auto", "--steps", "7"]) == 0
    found = capsys.readouterr().out.splitlines()
    assert "6 coloured pictures, the shorter side about 55 pixels, captions of 5 words; as 32×32 RGB" in found[0]
    assert found[2].startswith("training   7 steps of 4, each picture 4.7 times")
    assert found[3].startswith("here") and "a step, mean of 5 steps" in found[3]
    assert not list(tmp_path.iterdir())


def test_captions_are_trained_on(colour, tmp_path):
    out = tmp_path / "run"
    assert train(colour, out, "--data.captions", "auto", "--steps", "2") == 0
    assert af.load(out)(prompts=["red all over"]).shape == (1, 32, 32, 3)


def test_without_labels_and_with_own_choices(colour, tmp_path):
    out = tmp_path / "run"
    words = "--steps 2 --data.size 24 --data.flip --optimizer.warmup 1 --sample-every 2 --data.labels none"
    assert train(colour, out, *words.split()) == 0
    config, record = RunFolder(out).read_config(), RunFolder(out).read_record()["data"]
    assert (config.data.size, config.data.flip, config.model.patch, config.model.width) == (24, True, 3, 16)
    assert (config.optimizer.warmup, config.sample_every) == (1, 2)
    assert record["num_classes"] == 0 and record["shape"] == [3, 24, 24]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("train pictures --out OUT", "no images given: add --data.path DIR"),
        (
            "train pictures --data.path DATA --out OUT --budget soon",
            "--budget 'soon' is no length of time: give 30m",
        ),
        (
            "train pictures --data.path DATA --out OUT --budget 1h --steps 5",
            "--budget and --steps both say how long",
        ),
        ("train digits --out OUT --budget 1h", "--budget goes with pictures: give --steps N"),
        ("train --resume OUT --budget 1h", "--budget: a run keeps its steps"),
        ("train pictures --out OUT --data.name digits", "pictures chooses the size of a dit"),
        ("train pictures --data.path DATA --out OUT --model.name unet", "pictures chooses the size of a dit"),
        ("train pictures --data.path DATA --dry-run --gpus 2", "--gpus and --mfu: pictures is planned for this"),
        (
            "train pictures --data.path DATA --out OUT --steps 3 --data.size 61",
            "61×61 cannot be cut into 49 to 256",
        ),
        ("train pictures --data.path DATA --out OUT --steps 3 --model.patch 5 --data.size 28", "patches of 5"),
        ("train pictures --data.path DATA --out OUT --distill.teacher RUN", "(not measured: there is a teacher)"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_line(words, said, grey, whole, tmp_path, capsys):
    places = {"OUT": tmp_path / "out", "DATA": grey, "RUN": whole}
    assert run([str(places.get(word, word)) for word in words.split()]) == 2
    error = capsys.readouterr().err.splitlines()
    assert said in error[-1] and error[-1].startswith("alphaflow: ")
    assert not (tmp_path / "out").exists()


def test_several_processes_are_asked_for_steps(grey, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert train(grey, tmp_path / "out") == 2
    assert "several processes would each measure another speed: give --steps N" in capsys.readouterr().err


def test_a_run_that_is_there_is_not_planned_over(whole, grey, capsys):
    assert train(grey, whole, "--steps", "4") == 1
    assert "already holds a run: go on with --resume" in capsys.readouterr().err
