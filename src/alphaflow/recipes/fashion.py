"""Fashion-MNIST, 60,000 real pictures of 28 × 28 pixels, with the settings of the digits: α-Flow on two cores."""

from dataclasses import replace

from ..runs.config import DataConfig, MonitorConfig
from .base import Recipe
from .digits import DIGITS

FASHION = Recipe(
    name="fashion",
    summary="Fashion-MNIST, 60,000 grey pictures of clothes, class-conditional, with a small DiT",
    command="alphaflow train fashion --out runs/fashion",
    cost="39 minutes on 2 CPU cores by --dry-run (2026-11-28), not run at its full length",
    expected="not measured at full length; after 1,200 steps Fréchet distance 1.4 at 1 NFE (real halves: 0.04)",
    members=DIGITS.members,
    config=replace(
        DIGITS.config,
        recipe="fashion",
        steps=5000,
        sample_every=500,
        data=DataConfig(name="fashion", flip=True),
        model=replace(DIGITS.config.model, patch=7),
        monitor=MonitorConfig(every=500, count=2048),
    ),
)
