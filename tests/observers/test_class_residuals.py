"""The residual of each class: which one goes astray, and that nothing of how the work was cut shows in it.

That processes find what one finds is seen in test_parallel.py, which compares all lines of metrics.
"""

import base64
import dataclasses
import json
import logging
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alphaflow.cli import run
from alphaflow.data import Digits, Toy
from alphaflow.observers.base import RunView
from alphaflow.observers.class_residuals import FAR, ROWS, SEVERAL, ClassResiduals, class_means
from alphaflow.parallel.parallel import Parallel
from alphaflow.reports.report import write_report
from alphaflow.runs.build import build_dataset
from alphaflow.runs.config import Config, DataConfig
from alphaflow.runs.folder import RunFolder
from alphaflow.training.trainer import Trainer
from tiny_runs import TINY, lines, same, weights

KEYS = {f"residual_class_{what}" for what in ("worst", "worst_id", "median")}
NOISY = 7


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """The digits as files, a folder for each class; those of one class show noise."""
    folder = tmp_path_factory.mktemp("photos")
    noise = np.random.default_rng(0)
    x, y = Digits().batch(torch.arange(400))
    for k, (image, label) in enumerate(zip(((x[:, 0] + 1) * 127.5).byte().numpy(), y.tolist())):
        place = folder / f"digit {label}" / f"{k}.png"
        place.parent.mkdir(exist_ok=True)
        pixels = 255 * noise.integers(0, 2, (8, 8), np.uint8) if label == NOISY else image
        Image.fromarray(pixels).convert("RGB").save(place)
    return folder


def state_of(out: Path) -> dict:
    return json.loads((out / "checkpoints" / "latest" / "state.json").read_text())


def test_a_class_of_noise_is_named_and_shown(photos, tmp_path, caplog):
    words = (
        "--data.size 8 --steps 60 --batch-size 64 --log-every 5 --sample-every 100 --objective.name fm "
        "--model.name dit --model.width 32 --model.depth 1 --model.heads 2 --model.patch 4 --optimizer.lr 4e-3"
    )
    out = tmp_path / "run"
    with caplog.at_level(logging.WARNING, "alphaflow"):
        assert run(["train", "folder", "--data.path", str(photos), "--out", str(out), *words.split()]) == 0
    told = [record.message for record in caplog.records if "has a residual of" in record.message]
    assert len(told) == 1 and told[0].startswith("class 7 (digit 7)")
    last = lines(out)[-1]
    assert last["residual_class_worst_id"] == NOISY
    assert last["residual_class_worst"] > 1.1 * last["residual_class_median"] > 0
    means = class_means(state_of(out))
    assert means is not None and means.argmax() == NOISY and means.max() == last["residual_class_worst"]
    assert np.median(means) == last["residual_class_median"]
    page = write_report(out).read_text()
    section = page[page.index('<h2 id="classes">Residual by class') :]
    svg = base64.b64decode(section[section.index("base64,") + 7 :].split('"')[0]).decode()
    shown = re.findall(r">(\d) digit \1<", svg)
    assert shown[0] == str(NOISY) and sorted(shown) == list("0123456789") and "median of all classes" in svg


# --- the running mean --------------------------------------------------------------------------------------------


def watcher(config: Config = TINY) -> ClassResiduals:
    every, size = config.log_every, config.batch_size
    return ClassResiduals(Digits(), torch.device("cpu"), Parallel(), every=every, batch_size=size)


def at(step: int) -> RunView:
    """All that it asks of a view."""
    return RunView(step, *[None] * 8)  # type: ignore[arg-type]


def rows(seed: int, count: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    return torch.rand(count, generator=source).exp(), torch.randint(10, (count,), generator=source)


def test_the_mean_is_that_of_the_rows_weighted_by_their_age():
    config = dataclasses.replace(TINY, log_every=4, batch_size=64)
    one, total, count = watcher(config), torch.zeros(10).double(), torch.zeros(10).double()
    half_life = ROWS * 10 / 64  # longer than from log to log
    for log in range(1, 6):
        total, count = (value * 0.5 ** (4 / half_life) for value in (total, count))
        for step in range(4):
            residual, y = rows(100 * log + step)
            one.add(residual, y)
            total.index_add_(0, y, residual.double())
            count.index_add_(0, y, torch.ones(64).double())
        said = one.observe(at(4 * log))
    expected = total / count
    np.testing.assert_allclose(one.means, expected, rtol=1e-8)
    assert said["residual_class_worst_id"] == int(expected.argmax())
    assert said["residual_class_median"] == pytest.approx(float(np.median(expected)))
    assert watcher(dataclasses.replace(config, log_every=50)).half_life == 50


def test_sums_do_not_depend_on_how_rows_are_cut_or_ordered():
    """Residuals of very different sizes, of which the sum in floats would tell the order."""
    residual, y = rows(1, 300)
    residual = residual * 10.0 ** torch.randint(-6, 4, (300,), generator=torch.Generator().manual_seed(2))
    whole, cut = watcher(), watcher()
    whole.add(residual, y)
    for part in torch.randperm(300, generator=torch.Generator().manual_seed(3)).split(7):
        cut.add(residual[part], y[part])
    assert whole.observe(at(1)) == cut.observe(at(1))
    assert np.array_equal(whole.means, cut.means)
    exact = torch.zeros(10).double().index_add_(0, y, residual.double()) / torch.bincount(y)
    np.testing.assert_allclose(whole.means, exact, rtol=1e-6)


def test_rows_that_are_not_finite_do_not_count_and_rare_classes_are_not_judged():
    one = watcher()
    one.add(torch.tensor([math.nan, math.inf, *[2.0] * 8, 1e9, 3.0]), torch.tensor([*[3] * 10, 5, 6]))
    said = one.observe(at(1))
    assert said == {"residual_class_worst": 2.0, "residual_class_worst_id": 3, "residual_class_median": 2.0}
    assert np.isnan(one.means).sum() == 9  # of two classes one row was seen
    assert all(math.isnan(value) for value in watcher().observe(at(1)).values())


def test_a_class_is_told_once_when_it_stays_above_for_several_logs(caplog):
    one = watcher()
    y = torch.arange(10).repeat(20)
    usual = 1 + 0.01 * torch.arange(10).repeat(20)
    astray = torch.where(y == 4, 1.5, usual)
    caplog.set_level(logging.WARNING, "alphaflow")
    far = [*[True] * (SEVERAL - 1), False, *[True] * (SEVERAL + 3)]
    told = []
    for log, is_far in enumerate(far):
        one._total[:] = one._rows[:] = 0  # each log by itself
        one.add(astray if is_far else usual, y)
        one.observe(at(log + 1))
        told.append(len(caplog.records))
    assert told == [0] * (len(far) - 4) + [1] * 4
    assert caplog.records[0].message.startswith("class 4 (4) has a residual of 1.5, and half of the classes")
    spread = 1.4826 * 0.025
    assert 1.045 + FAR * spread < 1.5  # what the rule asks for


def test_the_state_goes_through_a_checkpoint_in_the_middle_of_an_interval(tmp_path):
    """Logs every 4 steps, checkpoints every 3: what was seen since the last log goes with them."""
    config = dataclasses.replace(TINY, steps=8, log_every=4, checkpoint_every=3)
    Trainer.start(config, RunFolder(tmp_path / "whole")).train()
    Trainer.start(config, RunFolder(tmp_path / "parts")).train(stop_after=3)
    since = state_of(tmp_path / "parts")["observers"]["classes"]["since"]
    assert sum(since[1]) == 3 * config.batch_size
    Trainer.resume(RunFolder(tmp_path / "parts")).train(stop_after=3)
    Trainer.resume(RunFolder(tmp_path / "parts")).train()
    whole, parts = ([row for row in lines(tmp_path / name) if row["step"] % 4 == 0] for name in ("whole", "parts"))
    assert whole == parts and set(whole[0]) > KEYS
    assert state_of(tmp_path / "whole")["observers"] == state_of(tmp_path / "parts")["observers"]
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_without_labels_nothing_is_said(tmp_path):
    config = dataclasses.replace(
        TINY, data=DataConfig(name="toy"), model=dataclasses.replace(TINY.model, name="mlp"), steps=2
    )
    assert isinstance(build_dataset(config.data), Toy) and build_dataset(config.data).num_classes == 0
    Trainer.start(config, RunFolder(tmp_path)).train()
    assert not KEYS & set(lines(tmp_path)[-1])
    assert class_means(state_of(tmp_path)) is None
