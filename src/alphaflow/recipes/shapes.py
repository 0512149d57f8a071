"""Drawn shapes and what they are in words: pictures from prompts, α-Flow from scratch on two cores."""

from dataclasses import replace

from ..runs.config import DataConfig, MonitorConfig
from .base import Recipe
from .digits import DIGITS

SHAPES = Recipe(
    name="shapes",
    summary="drawn shapes of several colours, sizes and places, from words, with a small DiT that reads them",
    command="alphaflow train shapes --out runs/shapes",
    cost="24 minutes on one CPU thread by --dry-run, on a busy machine (2026-11-28); not run at full length",
    expected="not measured at full length; after 32,000 of 307,200 samples half of all attributes right",
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
