"""`train --profile N`: where the time of a step goes, and that looking changes nothing."""

import gzip
import json
import re

import pytest

from alphaflow.cli import run
from alphaflow.training.profiling import table
from tiny_runs import same, weights

SMALL = "--batch-size 16 --model.width 16 --model.depth 1 --model.heads 2 --checkpoint-every 4".split()


def event(name: str, ts: float, dur: float, *, cat: str = "cpu_op", tid: int = 1) -> dict[str, object]:
    return {"ph": "X", "name": name, "ts": ts, "dur": dur, "cat": cat, "tid": tid}


STEP = [
    event("forward", 0, 3000, cat="user_annotation"),
    event("aten::linear", 100, 2000),
    event("aten::addmm", 600, 1000),
    event("autograd::engine::evaluate_function: AddmmBackward0", 3500, 4000),
    event("aten::mm", 4000, 3000),
    event("Optimizer.step#AdamW.step", 8000, 1500, cat="user_annotation"),
    event("aten::_fused_adamw_", 8100, 1000),
    event("aten::lerp_", 9600, 400),
]


def test_phases_and_own_times_add_up():
    said = table([*STEP, {"ph": "M", "name": "process_name"}], steps=1)
    assert said.startswith("a step: 10 ms, mean of 1")
    found = {name: (float(share), float(ms)) for name, share, ms in ROW.findall(said)}
    assert found["forward"] == (30, 3) and found["backward"] == (40, 4) and found["optimizer"] == (15, 1.5)
    assert found["other"] == (15, 1.5)  # averages, and what no operation is in
    assert re.search(r"backward +30.0 % +3 ms +1 × +aten::mm", said)
    assert re.search(r"forward +10.0 % +1 ms +1 × +aten::linear", said)  # without the product within it
    assert "kernels" not in said


ROW = re.compile(r"^  (\w+) +([\d.]+) % +([\d.]+) ms$", re.M)


def test_kernels_of_a_gpu_are_listed_by_their_own_time():
    kernels = [event("gemm", 500 * k, 400, cat="kernel", tid=7) for k in range(4)]
    said = table([*STEP, *kernels], steps=2)
    assert said.startswith("a step: 5 ms, mean of 2")
    assert re.search(r"kernels on the GPU:\n +16.0 % +0.8 ms +gemm", said)


def test_threads_do_not_nest_in_one_another():
    said = table([*STEP, event("aten::mm", 200, 100, tid=2)], steps=1)
    assert re.search(r"other +1.0 % +0.1 ms +1 × +aten::mm", said)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    home = tmp_path_factory.mktemp("runs")
    for name, more in (("plain", []), ("profiled", ["--profile", "3"])):
        assert run(["train", "digits", "--out", str(home / name), "--steps", "9", *SMALL, *more]) == 0
    return home


def test_the_trace_is_one_that_viewers_read_and_the_table_says_what_it_shows(runs):
    trace = json.loads(gzip.decompress((runs / "profiled" / "profile" / "trace.json.gz").read_bytes()))
    names = [event.get("name", "") for event in trace["traceEvents"]]
    assert names.count("forward") == 3
    assert sum(name.startswith("Optimizer.step") for name in names) == 3
    said = (runs / "profiled" / "profile" / "table.txt").read_text()
    assert said.strip() == table(trace["traceEvents"], 3)
    shares = {name: float(share) for name, share, _ in ROW.findall(said)}
    assert sum(shares.values()) == pytest.approx(100, abs=0.3)
    assert min(shares["forward"], shares["backward"]) > 5


def test_the_run_takes_the_same_steps_as_without(runs):
    assert same(weights(runs / "plain"), weights(runs / "profiled"))


def test_more_steps_than_there_are_is_refused(tmp_path, capsys):
    words = ["train", "digits", "--out", str(tmp_path / "run"), "--steps", "9", *SMALL]
    assert run([*words, "--profile", "5"]) == 2
    assert "--profile 5 records steps after the first 5, and there are 9 in all: give fewer" in (
        capsys.readouterr().err
    )
    assert run([*words, "--profile", "2", "--stop-after", "6"]) == 2
    assert not (tmp_path / "run").exists()
    assert run(["train", "digits", "--dry-run", "--profile", "2"]) == 2


def test_a_resumed_run_is_recorded_where_it_is(tmp_path):
    out = str(tmp_path / "run")
    assert run(["train", "digits", "--out", out, "--steps", "16", *SMALL, "--stop-after", "4"]) == 0
    assert run(["train", "--resume", out, "--profile", "8"]) == 2
    assert run(["train", "--resume", out, "--profile", "2", "--stop-after", "8"]) == 0
    assert (tmp_path / "run" / "profile" / "table.txt").exists()
