"""Runs under torchrun on gloo: the number of processes and how they share the work leave the run as it is.

Starting processes takes longer than what they do here, so one launch of two and one of four do all tasks, and the
tests look at what they left.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from alphaflow.cli import run
from alphaflow.cli.train import parse_settings
from alphaflow.diagnostics import Diagnosis, read_all
from alphaflow.errors import UserError
from alphaflow.parallel.parallel import Parallel, Part
from alphaflow.rng import KeyedRandom, hash_key
from alphaflow.runs import checkpoint
from alphaflow.runs.build import build_dataset, build_model, build_objective
from alphaflow.runs.config import Config, ParallelConfig
from alphaflow.training.throughput import CLOCKED
from launched import launch, shared

TINY = (
    "--steps 6 --batch-size 16 --log-every 1 --checkpoint-every 2 --sample-every 3 "
    "--model.width 16 --model.depth 2 --model.heads 2 --optimizer.warmup 2 --optimizer.lr 0.01 "
    "--ema.profiles 0.05 0.1 --ema.store-every 2"
).split()
GUIDED = "--objective.omega 2 --objective.kappa 0.3 --objective.label-drop 0.2".split()
KINDS = {
    # 4 of 16 rows have r = t at every step, so that compiled it is one graph; with 0.3 of them it would be three
    "meanflow": "--objective.name meanflow --objective.flow-ratio 0.25".split(),
    "alphaflow": "--objective.alpha 0.4 --objective.flow-ratio 0.3".split(),
    "guided": ["--objective.alpha", "0", *GUIDED],
    "told": [
        *"--objective.alpha 0 --model.guided --objective.scales 1 4 --objective.intervals".split(),
        *"--objective.kappa 0.3 --objective.label-drop 0.2".split(),
    ],
    "forward": "--objective.name meanflow --objective.derivative forward".split(),
    # Of 16 rows 15 have r = t and hardly any is guided, so most processes hold none of the others.
    "uneven": [
        *"--objective.alpha 0 --objective.flow-ratio 0.94".split(),
        *GUIDED,
        "--objective.guide-from",
        "0.9",
    ],
    "uneven-forward": [
        *"--objective.name meanflow --objective.derivative forward".split(),
        *"--objective.flow-ratio 0.94".split(),
    ],
    "steered": "--objective.alpha self(every=1) --objective.flow-ratio 0.3".split(),
    "tvm": "--objective.name tvm --objective.derivative difference".split(),
    "uneven-between": "--objective.alpha 0.4 --objective.shift model --objective.flow-ratio 0.94".split(),
}
REFUSED = {
    "compiled": ["--compile"],
    "reverse": ["--objective.derivative", "reverse"],
    "graphed": ["--objective.name", "tvm"],
}
TAUGHT = [*KINDS["meanflow"], "--distill.guidance", "2", "--distill.teacher"]
SHARED = [(kind, strategy) for kind in KINDS for strategy in ("ddp", "fsdp")]


def fresh(out: Path, *words: str) -> dict:
    return {"words": ["train", "digits", "--out", str(out), *TINY, *words]}


def gradient(out: Path, *words: str) -> dict:
    return {"gradient": str(out), "words": [*TINY, "--optimizer.clip", "1e9", *words]}


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Callable[[str], Path]:
    """Runs by one process, each made when first asked for."""
    folder = tmp_path_factory.mktemp("alone")

    def find(kind: str) -> Path:
        if not (folder / kind).exists():
            assert run(fresh(folder / kind, *KINDS[kind])["words"]) == 0
        return folder / kind

    return find


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    return shared(tmp_path_factory, "two", by_two)


def by_two(folder: Path) -> None:
    tasks = []
    for kind, strategy in SHARED:
        tasks.append(fresh(folder / f"{kind}-{strategy}", *KINDS[kind], "--parallel.strategy", strategy))
    for strategy in ("ddp", "fsdp"):
        words = [*KINDS["meanflow"], "--parallel.strategy", strategy]
        tasks.append(fresh(folder / f"parts-{strategy}", *words, "--accumulate", "2"))
        tasks.append(fresh(folder / f"resumed-{strategy}", *words, "--stop-after", "3"))
        tasks.append({"words": ["train", "--resume", str(folder / f"resumed-{strategy}")]})
        tasks.append(fresh(folder / f"to-one-{strategy}", *words, "--stop-after", "3"))
        tasks.append(fresh(folder / f"to-four-{strategy}", *words, "--stop-after", "3"))
        tasks.append(gradient(folder / f"gradient-{strategy}.safetensors", *words))
        tasks.append({"skipped": str(folder / f"skipped-{strategy}.json"), "words": [*TINY, *words]})
    tasks.append(fresh(folder / "recomputed", *KINDS["meanflow"], "--recompute", "--parallel.strategy", "fsdp"))
    blocks = [*KINDS["meanflow"], "--compile-blocks"]
    tasks.append(fresh(folder / "compiled", *blocks, "--recompute", "--parallel.strategy", "fsdp"))
    tasks.append(fresh(folder / "compiled-whole", *KINDS["meanflow"], "--compile"))
    tasks.append(fresh(folder / "to-fsdp", *KINDS["meanflow"], "--stop-after", "3"))
    tasks.append({"words": ["train", "--resume", str(folder / "to-fsdp"), "--parallel.strategy", "fsdp"]})
    half = [*KINDS["meanflow"], "--precision", "bfloat16", "--parallel.strategy", "fsdp"]
    tasks.append(gradient(folder / "half.safetensors", *half))
    for strategy in ("ddp", "fsdp"):
        out = folder / f"diagnosed-{strategy}"
        words = [*KINDS["meanflow"], *"--diagnosis.every 3 --diagnosis.batches 2".split()]
        tasks.append(fresh(out, *words, "--parallel.strategy", strategy))
        words = ["diagnose", str(out), "--batches", "2", "--out", str(out / "again")]
        tasks.append({"words": words})
    tasks.append(fresh(folder / "taught", *TAUGHT, str(folder / "guided-ddp"), "--parallel.strategy", "fsdp"))
    for name, words in REFUSED.items():
        tasks.append({**fresh(folder / f"refused-{name}", *words, "--parallel.strategy", "fsdp"), "status": 2})
    launch(2, tasks, folder)


@pytest.fixture(scope="module")
def four(tmp_path_factory, two) -> Path:
    return shared(tmp_path_factory, "four", partial(by_four, two))


def by_four(two: Path, folder: Path) -> None:
    words = KINDS["meanflow"]
    tasks = [fresh(folder / name, *words, "--parallel.strategy", name) for name in ("ddp", "fsdp")]
    hybrid, pairs = ["--parallel.strategy", "hsdp"], {"machine": 2}
    tasks.append(fresh(folder / "hsdp", *words, *hybrid) | pairs)
    again = ["diagnose", str(folder / "hsdp"), "--batches", "2", "--out", str(folder / "hsdp" / "again")]
    tasks.append({"words": again} | pairs)
    tasks.append(gradient(folder / "hybrid.safetensors", *words, *hybrid, "--accumulate", "2") | pairs)
    tasks += [{"words": ["train", "--resume", str(two / f"to-four-{name}")]} for name in ("ddp", "fsdp")]
    tasks.append(fresh(folder / "uneven", *KINDS["uneven"], "--parallel.strategy", "fsdp", "--accumulate", "2"))
    launch(4, tasks, folder)


def stored(out: Path, part: str = "model") -> dict[str, Tensor]:
    return checkpoint.newest(out / "checkpoints").whole(part)


def lines(out: Path) -> list[dict]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    missing = -1.0  # no rows in a bin
    return [
        {
            key: missing if value is None else value
            for key, value in row.items()
            if key not in CLOCKED and "diagnosis" not in key
        }
        for row in rows
    ]


def assert_same_run(ours: Path, theirs: Path) -> None:
    """Up to float32 rounding, which six steps of Adam at a high rate amplify a little."""
    for part in ("model", "ema", "std-0.05"):
        mine, other = stored(ours, part), stored(theirs, part)
        assert mine.keys() == other.keys() and mine
        for name in other:
            a, b = mine[name], other[name]
            if name.endswith("qkv.bias"):  # softmax cancels that of the keys: its gradient is rounding
                a, b = (torch.cat([x.chunk(3)[0], x.chunk(3)[2]]) for x in (a, b))
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    assert len(lines(ours)) == len(lines(theirs)) == 6
    for mine, other in zip(lines(ours), lines(theirs)):
        assert mine == pytest.approx(other, rel=1e-3, abs=1e-5)
    assert lines(ours)[-1]["residual_class_worst"] >= lines(ours)[-1]["residual_class_median"] > 0


@pytest.mark.parametrize(("kind", "strategy"), SHARED)
def test_two_processes_train_as_one_does(alone, two, kind, strategy):
    assert_same_run(two / f"{kind}-{strategy}", alone(kind))


def test_a_teacher_is_whole_where_the_network_is_sharded(two, tmp_path):
    assert run(fresh(tmp_path / "taught", *TAUGHT, str(two / "guided-ddp"))["words"]) == 0
    assert_same_run(two / "taught", tmp_path / "taught")


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "hsdp"])
def test_four_processes_train_as_one_does(alone, four, strategy):
    assert_same_run(four / strategy, alone("meanflow"))


def test_eight_parts_of_which_most_lack_a_kind_of_row_train_as_the_whole(alone, four):
    assert_same_run(four / "uneven", alone("uneven"))


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_parts_of_a_batch_train_as_the_whole_does(alone, two, strategy):
    assert_same_run(two / f"parts-{strategy}", alone("meanflow"))


def test_parts_of_a_batch_in_one_process_train_as_the_whole_does(alone, tmp_path):
    assert run(fresh(tmp_path / "run", *KINDS["meanflow"], "--accumulate", "4")["words"]) == 0
    assert_same_run(tmp_path / "run", alone("meanflow"))


@pytest.mark.parametrize("how", ["recomputed", "compiled", "compiled-whole"])
def test_processes_that_recompute_or_compile_train_as_a_plain_one(alone, two, how):
    assert_same_run(two / how, alone("meanflow"))


# ---------------------------------------------------------------------- the gradient


def plain_gradient(words: list[str]) -> dict[str, Tensor]:
    """Of the objective on the whole first batch, with nothing of the trainer's: the reference."""
    config: Config = parse_settings("digits", words)
    data = build_dataset(config.data)
    net = build_model(config.model, data.shape, data.num_classes, config.seed)
    from alphaflow.data import Batches

    x, y, ids = Batches(data, config.batch_size, config.seed)(0)
    random = KeyedRandom(hash_key(config.seed, "train"), ids, 0)
    with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bfloat16"):
        loss = build_objective(config, data.num_classes)(net, x, y, step=0, generator=random).loss
    loss.backward()
    return {name: weight.grad for name, weight in net.named_parameters() if weight.grad is not None}


def relative_error(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    difference = sum((ours[name] - theirs[name]).double().square().sum() for name in theirs)
    return float((difference / sum(one.double().square().sum() for one in theirs.values())).sqrt())


def test_the_gradient_is_that_of_the_plain_objective_on_the_whole_batch(two, four):
    reference = plain_gradient([*TINY, *KINDS["meanflow"]])
    assert (
        sum(one.abs().max() > 0 for one in reference.values()) >= 2
    )  # the rest begins at zero, as adaLN-zero does
    for file in (*two.glob("gradient-*.safetensors"), four / "hybrid.safetensors"):
        assert relative_error(load_file(file), reference) < 1e-5, file.name


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_row_that_is_not_finite_in_one_process_stops_the_step_of_all(two, strategy):
    found = json.loads((two / f"skipped-{strategy}.json").read_text())
    assert found["left"] and found["bad"] == 1 and found["where"].startswith("row 0: r=")


def test_in_bfloat16_weights_and_their_gradients_stay_float32(two):
    words = [*TINY, *KINDS["meanflow"], "--precision", "bfloat16"]
    ours = load_file(two / "half.safetensors")
    assert {one.dtype for one in ours.values()} == {torch.float32}
    assert relative_error(ours, plain_gradient(words)) < 1e-2


# ---------------------------------------------------------------------- resumption


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_resuming_on_as_many_processes_is_exact_to_the_bit(two, strategy):
    whole, parts = two / f"meanflow-{strategy}", two / f"resumed-{strategy}"
    for part in ("model", "ema", "optimizer", "std-0.05", "std-0.1"):
        ours, theirs = stored(parts, part), stored(whole, part)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert lines(parts) == lines(whole)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_run_of_two_processes_goes_on_with_one_or_four(alone, two, four, strategy):
    assert run(["train", "--resume", str(two / f"to-one-{strategy}")]) == 0
    for name in (f"to-one-{strategy}", f"to-four-{strategy}"):
        assert_same_run(two / name, alone("meanflow"))


def test_a_run_moves_from_ddp_to_fsdp(alone, two):
    assert_same_run(two / "to-fsdp", alone("meanflow"))


# ---------------------------------------------------------------------- files


def test_each_process_writes_its_share(two, four):
    for out, writers in ((two / "meanflow-fsdp", 2), (four / "fsdp", 4), (two / "meanflow-ddp", 2)):
        files = sorted((out / "checkpoints" / "latest").glob("model-*.safetensors"))
        sizes = [sum(one.numel() for one in load_file(file).values()) for file in files]
        assert len(files) == writers
        assert sum(sizes) == sum(one.numel() for one in stored(out).values())  # nothing twice
        assert max(sizes) < 1.5 * sum(sizes) / writers
    files = (four / "hsdp" / "checkpoints" / "latest").glob("model-*.safetensors")
    assert sum(one.numel() for file in files for one in load_file(file).values()) == sum(
        one.numel() for one in stored(four / "hsdp").values()
    )


def test_averages_are_sharded_and_make_the_same_lengths(alone, two):
    from alphaflow.runs.averages import make_average
    from alphaflow.runs.folder import RunFolder

    ours = make_average(RunFolder(two / "meanflow-fsdp"), 0.08)
    theirs = make_average(RunFolder(alone("meanflow")), 0.08)
    assert (ours.step, ours.count) == (theirs.step, theirs.count) == (6, 6)
    for name, weight in theirs.weights.items():
        if not name.endswith("qkv.bias"):
            torch.testing.assert_close(ours.weights[name], weight, rtol=1e-3, atol=1e-5)


def test_pictures_while_training_are_those_of_the_weights_then(alone, two):
    """Also the second one: sharded weights that were gathered for the first must not serve again."""
    for step in (3, 6):
        pictures = [
            torch.tensor(list(Image.open(out / "samples" / f"step-{step:08d}.png").convert("L").tobytes()))
            for out in (two / "meanflow-fsdp", alone("meanflow"))
        ]
        assert (pictures[0] - pictures[1]).abs().max() <= 1


def assert_same_diagnosis(ours: Diagnosis, theirs: Diagnosis) -> None:
    assert (ours.counts, ours.derivative) == (theirs.counts, theirs.derivative)
    for name, cosine in theirs.cosines.items():
        assert asdict(ours.cosines[name]) == pytest.approx(asdict(cosine), abs=1e-5)
    assert asdict(ours.losses["tc"]) == pytest.approx(asdict(theirs.losses["tc"]), rel=1e-4, abs=1e-6)
    for mine, other in zip(ours.curve, theirs.curve):
        assert asdict(mine) == pytest.approx(asdict(other), rel=1e-3, abs=1e-5 * other.signal)
    for group, cosines in theirs.groups.items():
        assert ours.groups[group]["tfm,tc"].mean == pytest.approx(cosines["tfm,tc"].mean, abs=1e-4)


def by_one(out: Path) -> Diagnosis:
    assert run(["diagnose", str(out), "--batches", "2", "--out", str(out / "by-one")]) == 0
    [found] = read_all(out / "by-one")
    return found


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_diagnoses_of_two_processes_are_those_of_one(alone, two, strategy):
    """By the command, and on the way, which leaves training as it is."""
    out = two / f"diagnosed-{strategy}"
    on_the_way, one = read_all(out / "diagnosis"), by_one(out)
    assert_same_run(out, alone("meanflow"))
    assert [found.step for found in on_the_way] == [3, 6]
    for many in (on_the_way[-1], *read_all(out / "again")):
        assert_same_diagnosis(many, one)


def test_a_diagnosis_of_four_processes_in_two_groups_is_that_of_one(four):
    [many] = read_all(four / "hsdp" / "again")
    assert_same_diagnosis(many, by_one(four / "hsdp"))


# ---------------------------------------------------------------------- refusals


def test_processes_that_would_not_share_anything_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"2 processes were started, and parallel\.strategy 'none'"):
        Parallel(ParallelConfig(strategy="none"))
    with pytest.raises(UserError, match=r"batch_size 15 does not divide into 2 processes"):
        Parallel(ParallelConfig(strategy="ddp")).check_batch(15, 1)
    monkeypatch.setenv("WORLD_SIZE", "1")
    for strategy in ("none", "ddp", "fsdp", "hsdp"):
        assert Parallel(ParallelConfig(strategy=strategy)).strategy == "none"  # type: ignore[arg-type]


@pytest.mark.parametrize("name", REFUSED)
def test_what_sharded_weights_cannot_do_is_refused_before_anything_is_written(two, name):
    assert not (two / f"refused-{name}").exists()


def test_parts_cover_the_batch_and_its_first_rows_once():
    for n in (1, 2, 3, 4):
        rows = [list(range(12))[Part(k, n).rows] for k in range(n)]
        assert sorted(i for part in rows for i in part) == list(range(12))
        assert [Part(k, n).below(5) for k in range(n)] == [sum(i < 5 for i in part) for part in rows]
