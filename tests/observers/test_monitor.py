"""The score of the averaged weights while training goes on: what it is, and that it leaves no trace."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from alphaflow import load, metrics
from alphaflow.cli import run as alphaflow
from alphaflow.data import Digits
from alphaflow.errors import UserError
from alphaflow.files import cache_folder
from alphaflow.method.sampling import sample
from alphaflow.metrics.detectors.catalogue import PUBLISHED
from alphaflow.observers.monitor import Monitor
from alphaflow.parallel.parallel import Parallel
from alphaflow.pixels import to_uint8
from alphaflow.recipes import RECIPES
from alphaflow.rng import KeyedRandom, hash_key, seeded
from alphaflow.runs import checkpoint
from alphaflow.runs.config import Config, ModelConfig, MonitorConfig
from alphaflow.runs.folder import RunFolder
from alphaflow.training.trainer import Trainer
from autoencoders import save_vae
from launched import launch
from published_weights import TinyInception, scripted
from tiny_runs import TINY, lines, same, weights

WATCHED = dataclasses.replace(TINY, monitor=MonitorConfig(every=2, count=70))
PLAIN = dataclasses.replace(TINY, monitor=MonitorConfig())


def train(config: Config, folder: Path, **options) -> Trainer:
    trainer = Trainer.start(config, RunFolder(folder))
    trainer.train(**options)
    return trainer


def column(folder: Path, key: str) -> list[float | None]:
    return [row[key] for row in lines(folder) if key in row]


def without_monitor(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if not key.startswith("monitor")} for row in rows]


def test_a_run_is_the_same_to_the_bit_with_and_without_it(tmp_path):
    train(PLAIN, tmp_path / "plain")
    train(WATCHED, tmp_path / "watched")
    assert same(weights(tmp_path / "plain"), weights(tmp_path / "watched"))
    assert without_monitor(lines(tmp_path / "watched")) == lines(tmp_path / "plain")
    scores, best = (column(tmp_path / "watched", f"monitor_frechet{end}") for end in ("", "_best"))
    assert len(scores) == 4 and best == list(np.minimum.accumulate(scores))
    steps = column(tmp_path / "watched", "monitor_best_step")
    assert steps == [2 * (1 + scores.index(one)) for one in best]
    board = EventAccumulator(str(tmp_path / "watched" / "tensorboard")).Reload()
    shown = [(event.step, event.value) for event in board.Scalars("monitor_frechet")]
    assert shown == [(step, pytest.approx(score)) for step, score in zip((2, 4, 6, 8), scores)]


def test_a_resumed_run_has_the_same_scores_and_the_same_best(tmp_path):
    train(WATCHED, tmp_path / "whole")
    train(WATCHED, tmp_path / "parts", stop_after=3)
    Trainer.resume(RunFolder(tmp_path / "parts")).train(stop_after=2)
    Trainer.resume(RunFolder(tmp_path / "parts")).train()
    assert lines(tmp_path / "whole") == lines(tmp_path / "parts")


def test_it_is_the_distance_between_samples_of_the_average_and_the_data(tmp_path):
    """With the classes of the data, in a fixed random order; two evaluations; also in a run's folder later."""
    config = dataclasses.replace(WATCHED, monitor=MonitorConfig(every=8, count=100, nfe=2))
    train(config, tmp_path)
    data, detector = Digits(), metrics.load_digits_detector()
    labels = data.batch(torch.randperm(len(data), generator=seeded("real"))[:128])[1]
    labels[100:] = labels[:28]  # the rest of a block of 64 is drawn too
    parts = []
    for block in torch.arange(128).split(64):
        noise = KeyedRandom(hash_key(config.seed, "monitor"), block).normal("start", data.shape)
        parts.append(sample(load(tmp_path).net, noise, labels[block], times=(1.0, 0.5, 0.0)))
    fake = detector(to_uint8(torch.cat(parts)[:100])).features
    real = detector(to_uint8(data.batch(torch.arange(len(data)))[0])).features
    assert column(tmp_path, "monitor_frechet") == pytest.approx([metrics.frechet_from_features(real, fake)])


def test_points_have_the_energy_distance(tmp_path):
    config = dataclasses.replace(
        RECIPES["toy"].config,
        steps=2,
        batch_size=32,
        model=ModelConfig(name="mlp", width=16, depth=1),
        monitor=MonitorConfig(every=1, count=96),
    )
    train(config, tmp_path)
    assert len(column(tmp_path, "monitor_energy")) == 2
    x, y = (torch.randn(n, 3, generator=seeded("energy", n)) for n in (50, 70))
    assert metrics.distances.EnergyTo(y)(x) == pytest.approx(metrics.energy_distance(x, y))


def test_a_network_that_diverged_scores_null_and_leaves_the_best(tmp_path):
    trainer = train(WATCHED, tmp_path, stop_after=6)
    best = column(tmp_path, "monitor_frechet_best")[-1]
    (monitor,) = (one for one in trainer.observers if isinstance(one, Monitor))
    with torch.no_grad():
        next(iter(trainer.ema.module.parameters())).fill_(math.nan)
    found = trainer.observe()
    assert math.isnan(found["monitor_frechet"]) and found["monitor_frechet_best"] == best
    assert monitor.state()["best"] == best and json.dumps(monitor.state())


CREW = "--steps 3 --batch-size 16 --log-every 1 --model.width 16 --model.depth 2 --model.heads 2 --monitor.every 1"


def test_two_processes_score_as_one_does(tmp_path):
    """180 samples are three blocks: in the second round one process has none of its own."""
    words, many = [*CREW.split(), "--optimizer.lr", "1e-3"], ["--monitor.count", "180"]

    def task(name: str, *more: str) -> dict:
        return {"words": ["train", "digits", "--out", str(tmp_path / name), *words, *more]}

    assert alphaflow(task("one", *many)["words"]) == 0
    tasks = [task(name, "--parallel.strategy", name, *many) for name in ("ddp", "fsdp")]
    tasks.append(task("fsdp-plain", "--parallel.strategy", "fsdp", "--monitor.every", "0"))
    launch(2, tasks, tmp_path)
    for name in ("ddp", "fsdp"):
        for end in ("", "_best"):
            ours, theirs = (column(tmp_path / run, f"monitor_frechet{end}") for run in (name, "one"))
            assert len(ours) == 3 and ours == pytest.approx(theirs, rel=1e-3)
    watched, plain = (checkpoint.newest(tmp_path / f"fsdp{end}" / "checkpoints") for end in ("", "-plain"))
    assert all(same(watched.whole(part), plain.whole(part)) for part in ("model", "ema", "optimizer"))


# ---------------------------------------------------------------------- published detectors


@pytest.fixture
def inception(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file of Inception's kind that counts as the published one, in the cache."""
    torch.manual_seed(0)
    content = scripted(TinyInception())
    entry = PUBLISHED["inception"]
    hashed = dataclasses.replace(entry.weights, sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(PUBLISHED, "inception", dataclasses.replace(entry, weights=hashed))
    file = cache_folder("detectors") / entry.weights.file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for k in range(12):
        folder = tmp_path / "photos" / ("cat" if k % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / f"{k}.png")
    return tmp_path / "photos"


SMALL = (
    "--steps 2 --batch-size 4 --log-every 1 --model.width 16 --model.depth 1 --model.heads 2 --device cpu".split()
)


def words(recipe: str, data: Path, out: Path, monitor: Mapping[str, object], *more: str) -> list[str]:
    said = [word for key, value in monitor.items() for word in (f"--monitor.{key}", str(value))]
    return ["train", recipe, "--data.path", str(data), "--out", str(out), *SMALL, *said, *more]


def test_images_are_seen_by_the_detector_that_is_named(tmp_path, inception, photos, capsys):
    size = ("--data.size", "16")
    watch = {"every": 1, "count": 8, "detector": "inception"}
    assert alphaflow(words("folder", photos, tmp_path / "own", watch, *size)) == 0
    scores = column(tmp_path / "own", "monitor_frechet")
    assert len(scores) == 2 and min(scores) > 0

    stats = ["stats", str(photos), str(tmp_path / "r.npz"), "--detector", "inception", "--size"]
    assert alphaflow([*stats, "16"]) == 0
    given = watch | {"reference": tmp_path / "r.npz"}
    assert alphaflow(words("folder", photos, tmp_path / "given", given, *size)) == 0
    assert column(tmp_path / "given", "monitor_frechet") == pytest.approx(scores)
    assert alphaflow([*stats, "24"]) == 0
    assert alphaflow(words("folder", photos, tmp_path / "other", given, *size)) == 1
    assert "the reference has resolution 24, and this 16" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_latents_are_decoded_for_the_detector(tmp_path, inception, photos, capsys):
    save_vae(tmp_path / "vae")
    encode = ["encode", str(photos), str(tmp_path / "latents"), "--vae", str(tmp_path / "vae"), "--size", "32"]
    assert alphaflow(encode) == 0
    watch = {"every": 1, "count": 8, "detector": "inception"}
    small = ["--precision", "float32", "--model.patch", "2"]
    assert alphaflow(words("latents", tmp_path / "latents", tmp_path / "run", watch, *small)) == 0
    assert len(column(tmp_path / "run", "monitor_frechet")) == 2
    plain = {"every": 1, "count": 8}
    assert alphaflow(words("latents", tmp_path / "latents", tmp_path / "plain", plain, *small)) == 0
    assert len(column(tmp_path / "plain", "monitor_energy")) == 2
    assert same(weights(tmp_path / "run"), weights(tmp_path / "plain"))
    (tmp_path / "vae").rename(tmp_path / "moved")
    assert alphaflow(words("latents", tmp_path / "latents", tmp_path / "gone", watch, *small)) == 2
    assert "looks at decoded latents" in capsys.readouterr().err and not (tmp_path / "gone").exists()
    watch["vae"] = tmp_path / "moved"
    assert alphaflow(words("latents", tmp_path / "latents", tmp_path / "found", watch, *small)) == 0
    assert lines(tmp_path / "found") == lines(tmp_path / "run")


def test_a_reference_of_other_features_is_refused(tmp_path, inception, photos, capsys):
    np.savez(tmp_path / "theirs.npz", mu=np.zeros(7), sigma=np.eye(7))
    watch = {"every": 1, "detector": "inception", "reference": tmp_path / "theirs.npz"}
    assert alphaflow(words("folder", photos, tmp_path / "run", watch, "--data.size", "16")) == 1
    assert "the reference has features 7, and this 6" in capsys.readouterr().err


def refusal(recipe: str, **settings: object) -> str:
    config = dataclasses.replace(RECIPES[recipe].config, monitor=MonitorConfig(every=1, **settings))
    from alphaflow.runs.build import build_dataset

    with pytest.raises(UserError) as caught:
        Monitor(config.monitor, build_dataset(config.data), torch.device("cpu"), Parallel())
    return str(caught.value)


def test_what_cannot_be_scored_is_refused_before_training(tmp_path, inception):
    assert "takes images (N, H, W, 3), not (N, 8, 8, 1)" in refusal("digits", detector="inception")
    assert "this run generates points" in refusal("toy", detector="inception")
    np.savez(tmp_path / "r.npz", mu=np.zeros(2), sigma=np.eye(2))
    assert "this run generates points" in refusal("toy", reference=str(tmp_path / "r.npz"))
    for name, value in {"every": -1, "count": 7, "nfe": 0}.items():
        with pytest.raises(UserError, match=rf"monitor\.{name} {value} must be at least"):
            dataclasses.replace(TINY, monitor=MonitorConfig(**{name: value}))
