"""Drawn shapes and what they are in words: pictures from prompts, α-Flow from scratch on two cores."""

from dataclasses import replace

from ..runs.config import DataConfig, MonitorConfig
from .base import Recipe
from .digits import DIGITS

SHAPES = Recipe(
    name="shapes",
    summary="drawn shapes of several colours, sizes and places, from words, with a small DiT that reads them",
    command="alphaflow train shapes --out runs/shapes",
    cost="10 minutes on 2 CPU cores (0.33 s a step, by --dry-run, 2026-11-28)",
    expected="at 1 NFE colours right in 0.97 of pictures, shapes 0.94, sizes 0.99, places 0.99, unseen pairs 0.67",
    members=DIGITS.members,
    config=replace(
        DIGITS.config,
        recipe="shapes",
        steps=1800,
        sample_every=300,
        data=DataConfig(name="shapes"),
        model=replace(DIGITS.config.model, patch=16, position_step=16.0),
        # About √(3072 / 64): what shows through 48 times as many numbers takes more noise to hide. Under the times
        # of the digits the network seldom sees noise alone, and does not learn from words where to put things.
        objective=replace(DIGITS.config.objective, time_shift=8.0),
        monitor=MonitorConfig(every=300, count=512),
    ),
)
