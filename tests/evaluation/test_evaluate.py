"""Evaluations as a user asks for them: sweeps, protocols, folders of images, runs side by side."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from alphaflow import load
from alphaflow.cli import run
from alphaflow.data import Digits
from alphaflow.evaluation.comparison import compare
from alphaflow.evaluation.evaluate import evaluate, settings
from alphaflow.generation.generator import Generator, draw
from alphaflow.generation.sampler import Sampler
from alphaflow.pixels import to_uint8

TINY = "--batch-size 16 --model.width 16 --model.depth 1 --model.heads 2 --model.patch 4 --log-every 1".split()


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "digits"
    words = ["--steps", "4", "--ema.profiles", "0.05", "0.1"]
    assert run(["train", "digits", "--out", str(out), *words, *TINY]) == 0
    return out


def scores(words: str, file: Path) -> dict:
    assert run(["evaluate", *words.split(), "--json", str(file)]) == 0
    return json.loads(file.read_text())


def test_a_sweep_scores_every_combination(digits, tmp_path, capsys):
    file = tmp_path / "e.json"
    words = f"{digits} --nfe 1 2 --midpoint .3 .7 --method ode consistency --ema 0.05 own --count 16"
    words += " --metrics accuracy"
    words += f" --csv {tmp_path / 'e.csv'} --plot {tmp_path / 'e.png'} --labels random"
    record = scores(words, file)
    found = [(r["weights"], r["method"], r["nfe"], r["times"]) for r in record["results"]]
    grids = [(1, None), (2, None), (2, [1.0, 0.3, 0.0]), (2, [1.0, 0.7, 0.0])]
    expected = [(w, m, *g) for w in ("ema 0.05", "ema") for m in ("ode", "consistency") for g in grids]
    assert found == expected
    lines = list(csv.DictReader((tmp_path / "e.csv").open()))
    assert [float(line["value"]) for line in lines] == [r["figures"]["accuracy"] for r in record["results"]]
    assert {line["labels"] for line in lines} == {"random by seed and sample"}
    assert lines[2]["times"] == "1 0.3 0" and lines[0]["rounding"] == "uint8, as in a PNG"
    assert Image.open(tmp_path / "e.png").size[0] > 100
    assert "1 → 0.3 → 0, ema 0.05" in capsys.readouterr().out
    assert not (digits / "evaluation.json").exists()  # which is for the run's own weights alone


def test_a_sweep_that_was_broken_off_goes_on(digits, tmp_path, monkeypatch):
    drawn = []
    chunks = Generator.chunks

    def counted(self, labels, sampler, *rest):
        drawn.append(sampler.nfe)
        if sampler.nfe == 3:
            raise KeyboardInterrupt
        return chunks(self, labels, sampler, *rest)

    words = ["evaluate", str(digits), "--count", "24", "--metrics", "frechet"]
    monkeypatch.setattr(Generator, "chunks", counted)
    assert run([*words, "--nfe", "1", "2", "3"]) == 130
    assert run([*words, "--nfe", "1", "2", "4", "--json", str(tmp_path / "a.json")]) == 0
    assert drawn == [1, 2, 3, 4]
    dataset = Digits()
    again = evaluate(load(digits), dataset, run="", sweep=settings((1, 2, 4)), names=["frechet"], count=24)
    results = json.loads((tmp_path / "a.json").read_text())["results"]
    assert [r.figures for r in again.results] == [r["figures"] for r in results]


def test_what_was_kept_is_not_taken_for_other_weights(digits, tmp_path):
    generator, dataset = load(digits), Digits()
    options = {"run": "", "sweep": settings((1,)), "names": ["frechet"], "count": 32, "keep": tmp_path}
    one = evaluate(generator, dataset, **options).results[0]
    with torch.no_grad():
        next(generator.net.parameters()).add_(1.0)
    assert evaluate(generator, dataset, **options).results[0] != one
    assert len(list(tmp_path.iterdir())) == 2


def test_labels_follow_their_protocol(digits, monkeypatch):
    dataset, seen = Digits(), []
    chunks = Generator.chunks

    def spied(self, labels, *rest):
        seen.append(labels)
        return chunks(self, labels, *rest)

    monkeypatch.setattr(Generator, "chunks", spied)
    for words in ("data", "balanced", "random"):
        evaluate(load(digits), dataset, run="", sweep=settings((1,)), names=["accuracy"], count=100, labels=words)
    assert torch.bincount(seen[1]).tolist() == [10] * 10
    assert len({tuple(labels.tolist()) for labels in seen}) == 3


def test_every_metric_of_the_data_themselves_is_perfect(digits, tmp_path):
    """The real digits, written as PNGs by another program: one copy of each."""
    dataset = Digits()
    x, y = dataset.batch(torch.arange(len(dataset)))
    folder = tmp_path / "images"
    folder.mkdir()
    for k, image in enumerate(to_uint8(x)):
        Image.fromarray(image[..., 0]).save(folder / f"{k:05d}-class{int(y[k])}.png")
    metrics = "frechet accuracy manifold density kernel inception neighbours limit"
    record = scores(f"{digits} --from-folder {folder} --metrics {metrics}", tmp_path / "e.json")
    (result,) = record["results"]
    figures = result["figures"]
    assert result["count"] == 1797 and result["labels"] == "in the file names"
    assert figures["frechet"] == pytest.approx(0, abs=1e-9) and figures["neighbour"] == 0
    assert figures["precision"] == figures["recall"] == figures["coverage"] == 1
    assert figures["density"] > 0.9 and figures["accuracy"] > 0.99 and figures["copies"] == 1
    assert figures["inception_score"] == pytest.approx(record["halves"]["inception_score"], rel=0.02)
    assert figures["kernel"] < 0  # unbiased only for independent samples, and so is the limit:
    assert -0.12 < figures["frechet_limit"] < 0  # minus the bias at 1,797, of which docs/digits.md says 0.064
    assert set(result["errors"]) == set(figures) - {"frechet_limit"}
    (folder / "00000-class0.png").rename(folder / "00000.png")
    words = ["evaluate", str(digits), "--from-folder", str(folder), "--metrics", "accuracy", "manifold"]
    assert run([*words, "--json", str(tmp_path / "f.json")]) == 0
    assert set(json.loads((tmp_path / "f.json").read_text())["results"][0]["figures"]) == {"precision", "recall"}


class _Noisy(nn.Module):
    """Draws digits of the data, blurred by noise: z_0 = z_1 - u."""

    def __init__(self, scale: float, seed: int) -> None:
        super().__init__()
        self.dataset, self.scale = Digits(), scale
        self.source = torch.Generator().manual_seed(seed)

    def forward(self, z, r, t, y):
        x, _ = self.dataset.batch(torch.randint(len(self.dataset), (len(z),), generator=self.source))
        return z - (x + self.scale * torch.randn(x.shape, generator=self.source))


def noisy(digits: Path, scale: float, seed: int) -> dict:
    generator = replace(load(digits), net=_Noisy(scale, seed))
    found = evaluate(generator, Digits(), run="", sweep=settings((1,)), names=["frechet", "manifold"], count=1024)
    return json.loads(json.dumps(found, default=vars))


def test_a_comparison_tells_differences_from_noise(digits, tmp_path, capsys):
    a, same, worse = noisy(digits, 0.1, 0), noisy(digits, 0.1, 1), noisy(digits, 0.3, 2)
    assert {row.verdict for row in compare(a, same)} == {"within the noise"}
    verdicts = {row.figure: row.verdict for row in compare(a, worse)}
    assert verdicts["frechet"] == verdicts["precision"] == "A better"
    assert {row.figure: row.verdict for row in compare(worse, a)}["frechet"] == "B better"
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file, record in zip(files, (a, worse)):
        file.write_text(json.dumps(record))
    assert run(["compare", *map(str, files), "--figures", "frechet"]) == 0
    said = capsys.readouterr().out
    assert "A better" in said and "precision" not in said


def test_comparisons_that_mean_nothing_are_refused(digits, tmp_path, capsys):
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    record = scores(f"{digits} --count 16 --metrics accuracy", a)
    for change, words in (
        ({"real_count": 5}, "these do not compare: real_count is 1797 in A and 5 in B"),
        ({"results": [{**record["results"][0], "labels": "balanced"}]}, "no setting in common: A has 1 NFE, ode"),
        ({"results": [{**record["results"][0], "figures": {}}]}, "no figure in common among all"),
    ):
        b.write_text(json.dumps({**record, **change}))
        assert run(["compare", str(a), str(b)]) != 0
        assert words in capsys.readouterr().err
    assert run(["compare", str(a), str(tmp_path)]) == 1
    assert "run `alphaflow evaluate" in capsys.readouterr().err
    b.write_text("[]")
    assert run(["compare", str(a), str(b)]) == 1
    assert "holds no evaluation" in capsys.readouterr().err
    assert run(["compare", str(a), str(a)]) == 0  # 16 samples have no interval
    assert "no interval" in capsys.readouterr().out


def test_mistakes(digits, tmp_path, capsys):
    few = tmp_path / "few"
    few.mkdir()
    for words, said in (
        ("--midpoint 1.5", "midpoint 1.5 must lie between 0 and 1"),
        ("--times 1,0 --nfe 1", "--nfe and --times both say"),
        ("--labels even", "unknown labels 'even'"),
        ("--ema x", "'x' is no number: give own, or shares of the run like .05"),
        (f"--from-folder {few} --nfe 1", "--nfe does not go with --from-folder"),
        (f"--from-folder {few}", "holds no images"),
        (f"--from-folder {few / 'none'}", "does not exist"),
        (f"--times 1,.5,.2,0 --plot {tmp_path / 'p.png'} --count 8 --metrics accuracy", "nothing to plot"),
    ):
        assert run(["evaluate", str(digits), *words.split()]) != 0
        assert said in capsys.readouterr().err
    for k in range(8):
        Image.fromarray(np.zeros((9, 8), np.uint8)).save(few / f"{k}.png")
    assert run(["evaluate", str(digits), "--from-folder", str(few)]) == 1
    assert "is 9 × 8, the run's data 8 × 8" in capsys.readouterr().err
    (few / "0.png").write_bytes(b"no image")
    assert run(["evaluate", str(digits), "--from-folder", str(few)]) == 1
    assert "cannot read" in capsys.readouterr().err


def test_chunks_are_the_samples(digits):
    generator = load(digits)
    labels = torch.arange(150) % 10
    parts = list(generator.chunks(labels, Sampler(nfe=2)))
    assert [len(part) for part in parts] == [64, 64, 22]
    assert torch.equal(torch.cat(parts), generator.samples(labels, 2))
    assert draw(generator.net, generator.shape, None, Sampler(), count=0).shape == (0, 1, 8, 8)
