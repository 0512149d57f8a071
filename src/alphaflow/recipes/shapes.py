"""Drawn shapes and what they are in words: pictures from prompts, α-Flow from scratch on two cores."""

from dataclasses import replace

from ..runs.config import DataConfig, MonitorConfig
from .base import Recipe
from .digits import DIGITS

SHAPES = Recipe(
    name="shapes",
    summary="drawn shapes of several colours, sizes and places, from words, with a small DiT that reads them",
    command="alphaflow train shapes --out runs/shapes",
    cost="13 minutes on 2 CPU cores, a minute of them before the first step (2026-11-28)",
    expected="at 1 NFE colours right in 0.71, shapes in 0.76, sizes in 0.71 of pictures; places not learned: 0.15",
    members=DIGITS.members,
    config=replace(
        DIGITS.config,
        recipe="shapes",
        steps=2400,
        sample_every=400,
        data=DataConfig(name="shapes"),
        model=replace(DIGITS.config.model, patch=16),
        monitor=MonitorConfig(every=400, count=512),
    ),
)
