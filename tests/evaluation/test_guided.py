"""Sampling under plain guidance, and the pictures of a sweep."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alphaflow import load
from alphaflow.cli import run
from alphaflow.data import Digits
from alphaflow.errors import UserError
from alphaflow.evaluation.comparison import compare
from alphaflow.evaluation.evaluate import evaluate, settings
from alphaflow.generation.generator import Generator
from alphaflow.generation.sampler import Sampler
from alphaflow.reports.html import setting

TINY = "--steps 40 --batch-size 32 --model.width 16 --model.depth 1 --model.heads 2 --model.patch 4".split()
TINY += "--optimizer.lr 0.01 --optimizer.warmup 2 --ema.half-life 4".split()
DROPPED = "--objective.label-drop 0.2 --objective.guide-from 0.3 --objective.guide-to 0.9".split()


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """dropped/ was trained for guidance between 0.3 and 0.9, plain/ was not, points/ has no classes."""
    root = tmp_path_factory.mktemp("home")
    for name, words in (("dropped", [*TINY, *DROPPED]), ("plain", TINY)):
        assert run(["train", "digits", "--out", str(root / name), *words]) == 0
    assert run(["train", "toy", "--out", str(root / "points"), "--steps", "2", "--batch-size", "8"]) == 0
    return root


def test_guided_samples_are_the_formula_s(home):
    """One Euler step from inside the interval, with v = v(∅) + 3 (v(c) - v(∅)), and one from outside it."""
    generator = load(home / "dropped")
    y, null = torch.arange(64) % 10, torch.full((64,), 10)
    for start in (0.8, 1.0):
        options = {"method": "euler", "times": (start, 0.0)}
        guided = generator.samples(y, guidance=3.0, **options)
        plain, free = (generator.samples(labels, **options) for labels in (y, null))
        expected = free + 3 * (plain - free) if start == 0.8 else plain
        torch.testing.assert_close(guided, expected, rtol=1e-4, atol=1e-5)
    assert (free - plain).abs().max() > 1e-3
    assert torch.equal(generator.samples(y, 2, guidance=1.0), generator.samples(y, 2))


def test_a_sweep_over_guidance_scales(home, tmp_path, capsys):
    words = ["evaluate", str(home / "dropped"), "--nfe", "2", "--midpoint", ".5", "--method", "euler"]
    words += ["--guidance", "0", "1", "2.5", "--count", "64", "--metrics", "accuracy", "frechet"]
    files = {ending: tmp_path / f"e.{ending}" for ending in ("json", "csv", "png")}
    words += ["--json", str(files["json"]), "--csv", str(files["csv"]), "--plot", str(files["png"])]
    assert run(words) == 0
    record = json.loads(files["json"].read_text())
    assert [r["guidance"] for r in record["results"]] == [0, 1, 2.5] * 2
    free, plain, guided = (r["figures"]["frechet"] for r in record["results"][:3])
    assert len({free, plain, guided}) == 3
    assert [row["guidance"] for row in csv.DictReader(files["csv"].open())][::2] == ["0.0", "1.0", "2.5"] * 2
    said = capsys.readouterr().out
    assert "2 NFE, euler, t = 1 → 0.5 → 0, guidance 2.5" in said and "guidance 1 " not in said
    height = Image.open(files["png"]).size[1]
    assert run([*words[:-1], str(tmp_path / "one.png"), "--guidance", "1"]) == 0
    assert height == pytest.approx(Image.open(tmp_path / "one.png").size[1] * 3 / 2, abs=2)  # a row more

    older = [{k: v for k, v in r.items() if k != "guidance"} for r in record["results"][1::3]]
    rows = compare(record, {**record, "results": older})
    assert {(row.setting, row.a - row.b) for row in rows} == {("2 NFE, euler", 0), (rows[-1].setting, 0)}
    assert rows[-1].setting == "2 NFE, euler, t = 1 → 0.5 → 0"
    assert compare(record, record)[-1].setting.endswith("guidance 2.5")
    assert setting(record["results"][2]) == "2 NFE, euler, guidance 2.5"  # in the report
    assert setting({"nfe": 1, "method": "ode"}) == "1 NFE"


def test_guidance_is_refused_where_nothing_was_trained_for_it(home, tmp_path, capsys):
    for words, said in (
        (["plain", "--guidance", "1", "1.5"], "it was trained without label_drop: leave --guidance out"),
        (["points", "--guidance", "2"], "its data have no classes"),
        (["dropped", "--guidance", "-1"], "guidance -1 must be a number of at least 0"),
        (["dropped", "--guidance", "nan"], "guidance nan must be finite"),
    ):
        assert run(["evaluate", str(home / words[0]), *words[1:], "--nfe", "1", "--count", "16"]) == 2
        assert said in capsys.readouterr().err
    assert run(["evaluate", str(home / "points"), "--guidance", "1", "--nfe", "1", "--count", "16"]) == 0
    assert run(["sample", str(home / "plain"), "--out", str(tmp_path / "g.npz"), "--guidance", "2"]) == 2
    assert "needs a network that knows samples without a class" in capsys.readouterr().err
    assert run(["sample", str(home / "dropped"), "--out", str(tmp_path / "g.npz"), "--guidance", "2"]) == 0
    expected = load(home / "dropped")(torch.arange(64) % 10, guidance=2.0)
    assert np.array_equal(np.load(tmp_path / "g.npz")["images"], expected)


def test_pictures_are_written_by_setting_and_class(home, tmp_path, monkeypatch):
    words = ["evaluate", str(home / "dropped"), "--count", "70", "--metrics", "accuracy", "--labels", "balanced"]
    words += ["--times", "1,.5,0", "--guidance", "1.5", "--out", str(tmp_path / "pictures")]
    assert run(words) == 0
    folder = tmp_path / "pictures" / "ema-ode-2nfe-t1-0.5-0-guidance1.5"
    assert {one.name for one in folder.iterdir()} == {*map(str, range(10)), "protocol.json"}
    expected = load(home / "dropped")(torch.arange(70) % 10, times=(1, 0.5, 0), guidance=1.5)
    found = [Image.open(folder / str(k % 10) / f"{k:06d}-class{k % 10}.png") for k in range(70)]
    assert np.array_equal(np.stack([np.asarray(one) for one in found]), expected[..., 0])
    protocol = json.loads((folder / "protocol.json").read_text())
    assert protocol["complete"] and protocol["guidance"] == 1.5 and protocol["labels"] == "balanced"

    drawn, chunks = [], Generator.chunks
    monkeypatch.setattr(Generator, "chunks", lambda self, *rest: drawn.append(rest) or chunks(self, *rest))
    assert run(words) == 0 and not drawn  # all is there
    (folder / "protocol.json").write_text(json.dumps({**protocol, "complete": False}))
    assert run(words) == 0 and len(drawn) == 1  # its figures were, its pictures not
    assert json.loads((folder / "protocol.json").read_text()) == protocol
    assert run(words[:-2]) == 0 and len(drawn) == 1


def test_pictures_of_others_are_left_alone(home, tmp_path, capsys):
    shutil.copytree(home / "dropped", tmp_path / "run")
    words = ["evaluate", str(tmp_path / "run"), "--count", "8", "--metrics", "accuracy", "--nfe", "1"]
    words += ["--out", str(tmp_path / "pictures")]
    assert run(words) == 0
    assert run([*words, "--seed", "1"]) == 1
    assert "holds something else than these samples" in capsys.readouterr().err
    (tmp_path / "pictures" / "ema-ode-1nfe" / "protocol.json").write_text("{")
    assert run(words) == 1
    assert "remove it, or choose another --out" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert run([*words[:-1], str(tmp_path / "file")]) == 1
    assert "cannot write" in capsys.readouterr().err
    assert run(["evaluate", str(home / "points"), "--out", str(tmp_path / "p"), "--count", "8"]) == 2
    assert "--out is for pictures" in capsys.readouterr().err


def test_pictures_of_videos_are_rows_of_frames(tmp_path):
    words = "--steps 1 --batch-size 4 --model.width 16 --model.depth 1 --model.heads 2".split()
    assert run(["train", "moving-digits", "--out", str(tmp_path / "run"), *words]) == 0
    generator = load(tmp_path / "run")
    out = tmp_path / "pictures"
    assert (
        run(
            [
                "evaluate",
                str(tmp_path / "run"),
                "--count",
                "8",
                "--nfe",
                "1",
                "--metrics",
                "accuracy",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    files = sorted((out / "ema-ode-1nfe").rglob("*.png"))
    assert len(files) == 8
    width, height = Image.open(files[0]).size
    assert width > height * (generator.shape[1] - 1)


def test_a_sweep_says_how_far_it_is(home, monkeypatch):
    """Over all its settings; those found from before are no work."""
    from alphaflow.evaluation import evaluate as evaluation

    told = []

    class Spied(evaluation.ProgressBar):
        def __init__(self, label, done, total, unit="steps", *, shown=True):
            super().__init__(label, done, total, unit, shown=shown)
            if label == "evaluating":
                told.append(total)

        def update(self, done, note=""):
            super().update(done, note)
            if note:
                told.append((done, note))

        def less(self, count):
            super().less(count)
            told.append(-count)

    monkeypatch.setattr(evaluation, "ProgressBar", Spied)
    options = {"run": "", "names": ["accuracy"], "count": 100, "keep": home / "kept"}
    evaluate(load(home / "plain"), Digits(), sweep=settings((2,)), **options)
    assert told == [100, (64, "2 NFE, ode, ema"), (100, "2 NFE, ode, ema")]
    told.clear()
    evaluate(load(home / "plain"), Digits(), sweep=settings((1, 2, 4)), **options)
    notes = ["1 NFE, ode, ema", "4 NFE, ode, ema"]
    assert told == [300, (64, notes[0]), (100, notes[0]), -100, (164, notes[1]), (200, notes[1])]


def test_guidance_from_python_is_refused_too(home):
    with pytest.raises(UserError, match="trained without label_drop"):
        load(home / "plain").samples(8, guidance=2)


def test_an_interval_that_no_result_would_record_is_refused(home):
    with pytest.raises(UserError, match=r"interval \(0\.2, 0\.8\): a result records no interval"):
        evaluate(load(home / "dropped"), Digits(), run="", sweep=[Sampler(guidance=1.5, interval=(0.2, 0.8))])
