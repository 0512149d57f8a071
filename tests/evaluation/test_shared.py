"""Evaluations by several processes, in any batches, of any number of samples: the same figures and memory."""

import filecmp
import gc
import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from alphaflow import load
from alphaflow.cli import run
from alphaflow.data import Digits
from alphaflow.errors import UserError
from alphaflow.evaluation import collecting as examining
from alphaflow.evaluation import evaluate as evaluation
from alphaflow.evaluation import scoring
from alphaflow.evaluation.collecting import Collector
from alphaflow.generation.sampler import Sampler
from alphaflow.metrics import Accumulator, Guesses, inception_score, load_digits_detector
from alphaflow.parallel.share import Share
from alphaflow.rng import seeded
from launched import launch, torchrun

TINY = "--steps 40 --batch-size 32 --model.width 16 --model.depth 1 --model.heads 2 --model.patch 4".split()
TINY += "--optimizer.lr 0.01 --optimizer.warmup 2 --ema.half-life 4 --objective.label-drop 0.1".split()
ALL = "frechet accuracy manifold neighbours kernel inception density limit".split()
SWEEP = [
    "--nfe",
    "1",
    "2",
    "--method",
    "consistency",
    "--guidance",
    "1",
    "2",
    "--count",
    "600",
    "--metrics",
    *ALL,
]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """run/, and copies of it that each evaluation may keep its results in; points/."""
    root = tmp_path_factory.mktemp("home")
    assert run(["train", "digits", "--out", str(root / "run"), *TINY]) == 0
    for name in ("two", "three", "broken"):
        shutil.copytree(root / "run", root / name)
    assert run(["train", "toy", "--out", str(root / "points"), "--steps", "2", "--batch-size", "8"]) == 0
    return root


def words(root: Path, name: str, *more: str) -> list[str]:
    return ["evaluate", str(root / name), *more, "--json", str(root / f"{name}.json")]


@pytest.fixture(scope="module")
def alone(home) -> dict:
    return evaluated(home, "run", run(words(home, "run", *SWEEP, "--out", str(home / "pictures-run"))))


def evaluated(home: Path, name: str, status: int) -> dict:
    assert status == 0
    record = json.loads((home / f"{name}.json").read_text())
    return {**record, "run": ""}


def test_two_processes_find_what_one_finds_to_the_bit(home, alone):
    done = torchrun(2, "-m", "alphaflow", *words(home, "two", *SWEEP, "--out", str(home / "pictures-two")))
    assert done.returncode == 0, done.stderr
    assert evaluated(home, "two", 0) == alone
    assert done.stdout.count("real halves") == 1  # one of them speaks
    assert len(list((home / "two" / "evaluations").iterdir())) == 4
    assert {"frechet", "recall", "accuracy", "frechet_limit"} < set(alone["results"][0]["figures"])
    assert alone["results"][0]["figures"]["frechet"] != alone["results"][1]["figures"]["frechet"]
    same_files(home / "pictures-run", home / "pictures-two")


def same_files(a: Path, b: Path) -> None:
    names = sorted(str(file.relative_to(a)) for file in a.rglob("*") if file.is_file())
    assert names == sorted(str(file.relative_to(b)) for file in b.rglob("*") if file.is_file())
    assert len(names) == 4 * 601
    assert filecmp.cmpfiles(a, b, names, shallow=False)[1:] == ([], [])


@pytest.fixture(scope="module")
def three(home, alone) -> Path:
    """Three processes, whose shares are uneven: a sweep, one that was broken off, a folder of images, mistakes."""
    broken = words(home, "broken", "--count", "16", "--metrics", "accuracy")
    assert run([*broken, "--nfe", "1"]) == 0
    (kept,) = (home / "broken" / "evaluations").iterdir()
    kept.write_text(json.dumps({**json.loads(kept.read_text()), "figures": {"accuracy": 0.125}}))
    images = str(home / "pictures-run" / "ema-consistency-2nfe")
    from_folder = ["evaluate", str(home / "run"), "--from-folder", images, "--metrics", *ALL, "--json"]
    assert run([*from_folder, str(home / "folder-1.json")]) == 0
    many = ["evaluate", str(home / "points"), "--count", "70", "--nfe", "1", "--json"]
    assert run([*many, str(home / "points-1.json")]) == 0
    shutil.rmtree(home / "points" / "evaluations")
    tasks = [
        {"words": words(home, "three", *SWEEP)},
        {"words": [*broken, "--nfe", "1", "2"]},
        {"words": [*from_folder, str(home / "folder-3.json")]},
        {"words": [*many, str(home / "points-3.json")]},
        {"words": words(home, "run", "--count", "8", "--nfe", "1", "--out", str(home / "photos")), "status": 1},
    ]
    (home / "photos" / "ema-ode-1nfe").mkdir(parents=True)
    (home / "photos" / "ema-ode-1nfe" / "mine.png").touch()
    launch(3, tasks, home)
    return home


@pytest.mark.slow
def test_three_processes_share_unevenly_and_find_the_same(three, alone):
    assert evaluated(three, "three", 0) == alone
    for name in ("folder", "points"):
        one, other = (json.loads((three / f"{name}-{n}.json").read_text()) for n in (1, 3))
        assert one == other


@pytest.mark.slow
def test_several_processes_go_on_where_one_broke_off(three):
    found = evaluated(three, "broken", 0)["results"]
    assert found[0]["figures"] == {"accuracy": 0.125}  # as the file says, by now
    assert found[1]["nfe"] == 2 and found[1]["figures"]["accuracy"] != 0.125


@pytest.mark.slow
def test_images_that_were_written_score_as_those_that_were_drawn(three, alone):
    """In another order, by which intervals and metrics of pairs go."""
    (drawn,) = [r for r in alone["results"] if r["nfe"] == 2 and r["guidance"] == 1]
    (read,) = json.loads((three / "folder-1.json").read_text())["results"]
    assert read["count"] == 600 and read["labels"] == "in the file names"
    for name in ("frechet", "accuracy", "inception_score", "precision", "neighbour"):
        assert read["figures"][name] == pytest.approx(drawn["figures"][name], rel=1e-9)


def test_samples_may_come_in_any_batches():
    data, detector = Digits(), load_digits_detector()
    x, y = data.batch(torch.arange(1000))
    found = []
    for size in (1, 7, 64, 1000):
        one = Collector(ALL, detector, pixels=True, labels=y, whole=True)
        for first in range(0, 1000, size):
            one.add(first, x[first : first + size])
        found.append(one.samples())
    for other in found[1:]:
        assert torch.equal(found[0].values, other.values) and torch.equal(found[0].features, other.features)
        for a, b in zip(found[0].moments, other.moments):
            assert torch.equal(a.mean, b.mean) and torch.equal(a.scatter, b.scatter) and a.count == b.count
        assert found[0].guesses.inception_score() == other.guesses.inception_score()
        assert found[0].guesses.accuracy() == other.guesses.accuracy()
    assert torch.equal(found[0].values[3], x[3].flatten().double()) or found[0].values.abs().max() == 1


def test_blocks_come_whole_and_in_order():
    one = Collector(["energy"], None, pixels=False)
    one.add(0, torch.zeros(40, 2))
    with pytest.raises(ValueError, match="samples jump from 40 to 64"):
        one.add(64, torch.zeros(64, 2))
    one.add(40, torch.zeros(24, 2))
    one.add(128, torch.zeros(3, 2))
    assert one.samples().count == 67
    with pytest.raises(ValueError, match="samples jump from 131 to 64"):
        one.add(64, torch.zeros(64, 2))
    with pytest.raises(ValueError, match="no samples"):
        Collector(["energy"], None, pixels=False).samples()
    with pytest.raises(ValueError, match="3 samples from 32 are no block"):
        Guesses(10).add(torch.zeros(3, 10), 32)


def test_shares_are_whole_groups_and_make_up_everything(monkeypatch):
    class Pretended:
        def __init__(self, rank: int, world: int) -> None:
            self.rank, self.world = rank, world

    for world in (1, 2, 3, 5, 8):
        shares = [Share(Pretended(rank, world)).blocks(64 * 20 + 1) for rank in range(world)]
        assert sorted(first for one in shares for first in one) == list(range(0, 64 * 20 + 1, 64))
        groups = [{first // 64 % 8 for first in one} for one in shares]
        assert sum(len(one) for one in groups) == 8
    with pytest.raises(UserError, match="9 processes were started, and samples go to at most 8"):
        Share(Pretended(0, 9))


def test_memory_does_not_grow_with_the_number_of_samples(home, monkeypatch):
    """All tensors alive while samples are drawn, at their most, for 1,024 and for 8,192 of them."""
    monkeypatch.setattr(scoring, "KEPT", 512)
    monkeypatch.setattr(examining, "KEPT", 512)
    monkeypatch.setitem(scoring.AT_MOST, "image", 512)
    generator, peaks = load(home / "run"), []
    plain = type(generator).chunks
    for count in (1024, 8192):
        peaks.append(0)

        def weighed(self, *words):
            for k, chunk in enumerate(plain(self, *words)):
                if k % 16 == 15:
                    peaks[-1] = max(peaks[-1], held())
                yield chunk

        monkeypatch.setattr(type(generator), "chunks", weighed)
        options = {"sweep": [Sampler()], "names": ALL, "count": count}
        evaluation.evaluate(generator, Digits(), run="", **options)
    labels = 8 * (8192 - 1024)
    assert 0 < peaks[1] - peaks[0] <= labels + 1024


def held() -> int:
    """Bytes of all storages of tensors."""
    tensors = [one for one in gc.get_objects() if type(one) in (torch.Tensor, torch.nn.Parameter)]
    return sum({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}.values())


def test_large_samples_are_kept_in_smaller_numbers():
    assert examining.kept_values((3, 256, 256)) == 682 and examining.kept_values((1, 8, 8)) == 10_000
    assert examining.kept_values((3, 64, 4096, 4096)) == 64


def test_sums_of_groups_are_those_of_all_logits():
    logits = torch.randn(1000, 5, generator=torch.Generator().manual_seed(0)).double() * 3
    labels = torch.arange(1000) % 5
    parts = [Guesses(5), Guesses(5)]
    for first in range(0, 1000, 64):
        rows = slice(first, first + 64)
        parts[first // 64 % 2].add(logits[rows], first, labels[rows])
    parts[0].reduce(lambda sums: sums.add_(parts[1]._sums))
    assert parts[0].inception_score() == inception_score(logits)
    assert parts[0].accuracy().value == float((logits.argmax(1) == labels).double().mean())
    assert parts[0].classes == 5 and Accumulator(7).dimensions == 7
    chances = logits.softmax(1)
    by_hand = (chances * (chances.log() - chances.mean(0).log())).sum(1).mean().exp()
    assert math.isclose(parts[0].inception_score().value, float(by_hand), rel_tol=1e-12)


@pytest.mark.slow
def test_a_process_that_cannot_read_its_images_says_so_and_ends_all(three):
    images = three / "damaged"
    shutil.copytree(three / "pictures-run" / "ema-consistency-1nfe", images)
    files = sorted(file.relative_to(images) for file in images.rglob("*.png"))
    order = torch.randperm(len(files), generator=seeded("images of a folder")).tolist()
    bad = images / files[order[70]]  # of the second block, hence of the second process
    bad.write_text("no image")
    done = torchrun(2, "-m", "alphaflow", "evaluate", str(three / "run"), "--from-folder", str(images))
    said = [line for line in done.stderr.splitlines() if line.startswith("alphaflow: ")]
    assert done.returncode != 0 and sum(f"cannot read {bad}" in line for line in said) == 1
    assert all("another process has gone" in line for line in said if str(bad) not in line)
