"""What there is to decide a run on a person's own pictures from."""

import dataclasses
import os
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..data import Told
from ..data.captioned import vocabulary_for
from ..data.loader import class_numbers
from ..data.looked import Look, look_at
from ..data.sources import Source
from ..devices import choose_device
from ..runs.build import image_source
from ..runs.config import Config, with_changes
from .measured import busy_words, device_words

HOUR = 3600.0
"""The budget where none is said, in seconds."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The settings that were said, the pictures, the device and the time."""

    config: Config
    """The recipe's settings, with what a person has said."""
    said: frozenset[str]
    """Which settings were said, by their dotted names."""
    look: Look
    """What the pictures are like; `count` of those that are trained on."""
    told: Told
    """The classes or the captions."""
    device: Literal["cpu", "cuda"]
    device_words: str
    threads: int
    """Processors that decode pictures."""
    busy: str = ""
    """What else the machine does, in words, if much."""
    budget: float = HOUR
    """Seconds that the whole run may take."""

    def with_unsaid(self, changes: dict[str, Any], config: Config | None = None) -> Config:
        """Return these settings, or `config`, with changes by dotted names, but for those that were said."""
        unsaid = {name: value for name, value in changes.items() if name not in self.said}
        return with_changes(config or self.config, unsaid)


def ask(config: Config, said: Collection[str], budget: float = HOUR) -> Asked:
    """Look at the pictures that the settings name, and at the machine.

    Args:
        config: the settings. said: those of them, by dotted names, that a person gave. budget: seconds.

    Raises:
        UserError: there are no pictures, or they cannot be read.
    """
    source, device = image_source(config.data), choose_device(config.device)
    look = look_at(source)
    return Asked(
        config=config,
        said=frozenset(said),
        look=dataclasses.replace(look, count=_count(source, config)),
        told=vocabulary_for(source, config.data.captions) if config.data.captions else len(source.class_names),
        device="cuda" if device.type == "cuda" else "cpu",
        device_words=device_words(device),
        busy=busy_words(device),
        threads=len(os.sched_getaffinity(0)),
        budget=budget,
    )


def _count(source: Source, config: Config) -> int:
    """Return how many pictures a run is trained on: those of the classes that were said."""
    chosen = class_numbers(config.data.classes, source.class_names)
    return int(np.isin(source.labels, chosen).sum()) if chosen and source.labels is not None else len(source)


def shape_of(config: Config) -> tuple[int, int, int]:
    """Return the shape of a picture as the network has it."""
    return (1 if config.data.grey else 3, config.data.size, config.data.size)


def tokens_of(config: Config) -> int:
    """Return the number of patches of a picture."""
    return (config.data.size // config.model.patch) ** 2
