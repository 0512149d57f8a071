"""Runs of a tiny DiT on the digits that take a second, and what they left."""

import dataclasses
import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from alphaflow.recipes import RECIPES
from alphaflow.runs.config import EMAConfig, ModelConfig, MonitorConfig, OptimizerConfig
from alphaflow.training.throughput import CLOCKED

TINY = dataclasses.replace(
    RECIPES["digits"].config,
    steps=8,
    batch_size=16,
    log_every=1,
    checkpoint_every=3,
    sample_every=4,
    model=ModelConfig(name="dit", width=16, depth=1, heads=2, patch=4),
    optimizer=OptimizerConfig(lr=1e-2, warmup=2),
    ema=EMAConfig(half_life=5),
)
_TOY = RECIPES["toy"].config
TINY_TOY = dataclasses.replace(
    _TOY,
    steps=8,
    batch_size=16,
    log_every=1,
    checkpoint_every=2,
    sample_every=100,
    model=dataclasses.replace(_TOY.model, width=16, depth=1),
    monitor=MonitorConfig(),
)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    latest = folder / "checkpoints" / "latest"
    # cloned, for safetensors maps the file
    parts = {
        f"{path.stem}/{k}": v.clone() for path in latest.glob("*.safetensors") for k, v in load_file(path).items()
    }
    assert {"model", "ema", "optimizer"} <= {name.split("/")[0] for name in parts}
    return parts


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def lines(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in CLOCKED} for row in rows]
