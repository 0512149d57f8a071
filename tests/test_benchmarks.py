"""Scripts that take long or need a lent GPU run here, small, on the CPU; else they would fail on the day."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import forked
from alphaflow import cli
from reference import GaussianFlow

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
GPU = BENCHMARKS / "gpu.py"


@pytest.mark.slow
def test_the_gpu_script_checks_and_times(tmp_path):
    out = tmp_path / "gpu.json"
    words = [sys.executable, str(GPU), "--device", "cpu", "--tiny", "--out", str(out)]
    done = forked.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    assert "failed" not in str(record)
    assert record["du/dt"]["fused float32"] < 1e-5 and record["du/dt"]["fused bfloat16"] < 1e-2
    assert max(record["compiled"].values()) < 1e-4
    assert record["waiting"] == {"waits a step": 0, "where": []}  # there is nothing to wait for
    assert record["S/8"]["settings"]["batch"] == 2


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "digits"
    small = "--steps 3 --batch-size 16 --model.width 16 --model.depth 1 --model.heads 2 --ema.profiles 0.05 0.1"
    assert cli.run(["train", "digits", "--out", str(out), *small.split()]) == 0
    return out


def test_the_picture_of_the_family_goes_from_one_limit_to_the_other(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("one_family", BENCHMARKS / "one_family.py")
    picture = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(picture)
    small = torch.tensor([1e-4, 1e-3], dtype=torch.float64)
    for name, alphas in (("Eulerian", small), ("Lagrangian", 1 - small)):
        near, less_near = picture.distances(alphas)[name]
        assert near < 1e-3 and less_near / near == pytest.approx(10, rel=0.05)  # each at first order
    picture.draw(tmp_path / "family.png")
    assert Image.open(tmp_path / "family.png").width > 1000
    monkeypatch.setattr(picture, "MODE", 0.0)
    z, t = torch.randn(5, 1, dtype=torch.float64), torch.rand(5, dtype=torch.float64)
    exact = GaussianFlow(torch.zeros(1, dtype=torch.float64), torch.tensor([picture.WIDTH], dtype=torch.float64))
    torch.testing.assert_close(picture.velocity(z, t, t), exact(z, t, t))


def results(script: str, out: Path, *words: str) -> dict:
    command = [sys.executable, str(BENCHMARKS / script), *words, "--out", str(out)]
    done = forked.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


@pytest.mark.slow
def test_the_growth_of_a_step(tmp_path):
    record = results("scale.py", tmp_path / "s.json", "--tiny", "--rounds", "1", "--threads", "1")
    tokens = {row["tokens"]: row for row in record["rows"] if row["varied"] == "tokens"}
    assert list(tokens) == [16, 64, 256] and tokens[256]["bytes"] > tokens[16]["bytes"] > 0
    assert record["exponents"]["bytes by tokens"] < 1.3  # attention's tokens² would make it 2
    wide, usual = (next(row for row in record["rows"] if row["varied"] == name) for name in ("weights", "tokens"))
    assert wide["weights"] > 2 * usual["weights"] and wide["held"] > usual["held"]


@pytest.mark.slow
def test_the_table_of_protocols(digits, tmp_path):
    """What does not depend on how well the network is trained is as the page says."""
    rows = results("protocols.py", tmp_path / "p.json", str(digits), "--count", "512", "--pieces", "200")["rows"]
    found = {(row["part"], row["setting"]): row["frechet"] for row in rows}
    filters = {name: value for (part, name), value in found.items() if part == "filter, digits"}
    assert filters["box"] < 1e-4 < filters["bicubic, antialiased"] < filters["bilinear, antialiased"]
    assert filters["bilinear, antialiased"] < filters["bilinear, not antialiased"] < filters["nearest"]
    qualities = [found["file, digits", f"JPEG, quality {quality}"] for quality in (95, 90, 75)]
    assert qualities == sorted(qualities)
    assert abs(found["precision", "mean and covariance in float32"] / rows[0]["frechet"] - 1) < 1e-3
    assert found["perfect", "real digits, drawn with replacement"] < min(
        value for (part, _), value in found.items() if part in ("base", "seed", "EMA", "N")
    )


@pytest.mark.slow
def test_the_evaluations_bars(digits, tmp_path):
    words = "--tiny --dimensions 64 --samples 256 --count 256 --ladder 256".split()
    record = results("evaluation.py", tmp_path / "e.json", str(digits), *words)
    assert record["digits"]["settings"] == 6 and set(record["memory"]["peak_mb"]) == {"256"}
    assert record["distance"]["full rank"]["distance"] < record["distance"]["rank-deficient"]["distance"]
    assert record["overhead"]["streaming_share"] > 0


@pytest.mark.slow
def test_the_claims_harness_resumes_repeats_and_makes_its_tables(tmp_path):
    def claims(*words: str, out: str = "runs.jsonl") -> str:
        command = [sys.executable, str(BENCHMARKS / "claims"), *words, "--out", str(tmp_path / out)]
        done = forked.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    small = ("run", "--steps", "48", "--workers", "1", "--seeds", "1", "--sets")
    chosen = ["MeanFlow", "steered by bias", "steered by curvature", "norms balanced"]
    chosen += ["conflict projected", "flow matching, then distilled"]
    claims(*small, "toy", "--settings", *chosen)
    claims(*small, "digits", "digits, uneven", "--settings", "classes balanced", "told of guidance")
    assert claims(*small, "toy", "--settings", *chosen) == ""  # nothing is left to run
    lines = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    found = {line["setting"]: line for line in lines}
    steps = {name: line["steps"] for name, line in found.items()}
    # In forward passes a step of MeanFlow costs 3 + 0.75. Gradients of two losses cost 2 more, here with α < 1 in
    # 71.2 % of the run. A run that begins at r = t costs 3 in one half, 3 + 0.75 and the teacher in the other.
    assert steps["MeanFlow"] == 48 and steps["norms balanced"] == round(48 * 3.75 / (5 + 0.75 * 0.712))
    assert steps["flow matching, then distilled"] == round(48 * 3.75 / (1.5 + 1.875 + 0.5))
    figures = found["told of guidance"]["figures"]
    assert figures["ema@1.5 ode 1 0"] != figures["ema ode 1 0"]
    assert found["steered by bias"]["alphas"] and len(found["MeanFlow"]["cosines"]) == 8
    claims("confirm", "--steps", "8", "--workers", "1", "--seeds", "1", "--sets", "toy")
    with (tmp_path / "runs.jsonl").open() as file:
        later = [line for line in map(json.loads, file) if line["seed"] == 5]
    assert {line["setting"] for line in later} == {"sigmoid 25-50 %", "MeanFlow", "MeanFlow, r=t 50%"}
    with (tmp_path / "runs.jsonl").open("a") as file:
        file.writelines(json.dumps(line | {"seed": 6}) + "\n" for line in later)
    tables = claims("tables")
    assert tables.count("| MeanFlow | ") >= 4
    assert tables.count("| toy | 1 | sigmoid 25-50 % | ") == tables.count("| toy | 2 | sigmoid 25-50 % | ") == 1
    assert "| sigmoid 25-50 % | – | " in tables  # the other tables leave these seeds out

    claims(*small, "toy", "--settings", "steered by bias", out="again.jsonl")
    again = json.loads((tmp_path / "again.jsonl").read_text())
    assert all(again[key] == found["steered by bias"][key] for key in ("steps", "figures", "alphas"))


def test_the_page_of_what_works_with_what_is_what_was_run():
    spec = importlib.util.spec_from_file_location("page", BENCHMARKS / "compatible" / "page.py")
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    record = BENCHMARKS / "results" / "compatibility.jsonl"
    rows = [json.loads(line) for line in record.read_text().splitlines()]
    text = page.write(rows)
    assert (BENCHMARKS.parent / "docs" / "compatibility.md").read_text() == text
    assert all(f"| {row['name']} | " in text for row in rows if "failed" not in row)
    broken = page.write([*rows, rows[0] | {"name": "another", "failed": "took more than 1 s"}])
    assert "another: not supported (took more than 1 s)" in broken
