"""A person's own pictures, whatever they are: size, network and length follow data, device and budget."""

from dataclasses import replace

from ..runs.config import DataConfig, MonitorConfig
from .base import Recipe
from .digits import DIGITS

PICTURES = Recipe(
    name="pictures",
    summary="your own pictures, with a DiT whose size and steps follow them, the device and a budget of time",
    command="alphaflow train pictures --data.path ADDRESS --out runs/pictures --budget 1h",
    cost="what --budget says: 1h without it",
    expected="follows the pictures and the budget (docs/pictures.md)",
    members=DIGITS.members,
    planned=True,
    config=replace(
        DIGITS.config,
        recipe="pictures",
        # What the plan replaces; see `costs/own_pictures.py`.
        steps=1000,
        batch_size=64,
        data=DataConfig(name="folder", size=32),
        model=replace(DIGITS.config.model, patch=1),
        monitor=MonitorConfig(),
    ),
)
