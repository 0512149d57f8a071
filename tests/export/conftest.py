"""Runs to export: of a tiny network, a few steps long, with figures."""

import dataclasses
from pathlib import Path

import pytest

from alphaflow.evaluation.results import Evaluation, Result
from alphaflow.recipes import RECIPES
from alphaflow.runs.config import Config, DataConfig, EMAConfig, ModelConfig, OptimizerConfig
from alphaflow.runs.folder import RunFolder
from alphaflow.training.trainer import Trainer

TINY = dataclasses.replace(
    RECIPES["digits"].config,
    steps=6,
    batch_size=16,
    checkpoint_every=6,
    sample_every=6,
    model=ModelConfig(name="dit", width=16, depth=1, heads=2, patch=4),
    optimizer=OptimizerConfig(lr=1e-2),
    ema=EMAConfig(half_life=2, profiles=(0.1, 0.25), store_every=1),
)


def train(folder: Path, config: Config) -> Path:
    Trainer.start(config, RunFolder(folder)).train()
    return folder


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the digits, with two figures measured."""
    folder = train(tmp_path_factory.mktemp("runs") / "digits", TINY)
    result = Result(
        nfe=1,
        method="ode",
        times=None,
        count=100,
        labels="balanced",
        seed=0,
        weights="ema",
        rounding="uint8",
        guidance=2.0,
        figures={"frechet": 12.345678},
        intervals={"frechet": (12.0, 13.0)},
    )
    halves = {"frechet": 0.25, "recall": 0.875}
    Evaluation(
        run=str(folder),
        step=6,
        detector="digits-cnn",
        data="68cf",
        real_count=1797,
        results=[result],
        halves=halves,
    ).write(folder / "evaluation.json")
    return folder


@pytest.fixture(scope="session")
def points(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on points in the plane, without classes."""
    config = dataclasses.replace(
        RECIPES["toy"].config,
        steps=2,
        batch_size=16,
        sample_every=2,
        model=ModelConfig(name="mlp", width=8, depth=1),
    )
    assert config.data == DataConfig(name="toy")
    return train(tmp_path_factory.mktemp("runs") / "toy", config)
