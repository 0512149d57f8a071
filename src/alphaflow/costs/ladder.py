"""The networks among which a run on a person's own pictures chooses."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from ..runs.build import build_model
from ..runs.config import Config
from .asked import Asked, shape_of, tokens_of


class Rung(NamedTuple):
    """A network of the ladder, and the fewest pictures that it is for."""

    width: int
    depth: int
    heads: int
    pictures: int


LADDER = (
    Rung(128, 4, 4, 0),
    Rung(192, 4, 4, 0),
    Rung(256, 6, 4, 500),
    Rung(384, 8, 6, 5_000),
    Rung(512, 12, 8, 20_000),
    Rung(768, 12, 12, 100_000),
)
"""The networks, from the smallest. The second is that of the digits."""
USUAL = {"cpu": 1, "cuda": 3}
"""The rung where nothing is measured."""


def _rungs(asked: Asked) -> list[Rung]:
    """Return the networks to choose among: a single one where a person has said something of it."""
    named = {name for name in ("width", "depth", "heads") if f"model.{name}" in asked.said}
    if not named:
        return [rung for rung in LADDER if rung.pictures <= asked.look.count]
    model, rung = asked.config.model, LADDER[USUAL[asked.device]]
    if "width" in named:
        nearest = min(LADDER, key=lambda one: abs(math.log(one.width / model.width)))
        rung = nearest._replace(width=model.width, heads=_heads(model.width))
    return [rung._replace(**{name: getattr(model, name) for name in named})]


def _heads(width: int) -> int:
    """Return the heads of a width: of about 64 features each, and four at least where the width allows it."""
    most = max(4, width // 64)
    return next(heads for heads in range(most, 0, -1) if width % heads == 0)


def networks(asked: Asked, config: Config) -> list[Config]:
    """Return the settings with each network to choose among, from the one with the shortest steps.

    That is the smallest network with half a batch, for little time; where a batch is said, there is none.
    """
    every = [_on_rung(asked, config, rung) for rung in _rungs(asked)]
    halved = asked.with_unsaid({"batch_size": config.batch_size // 2}, every[0])
    return every if halved == every[0] else [halved, *every]


def usual(asked: Asked, among: Sequence[Config]) -> int:
    """Return which is taken where nothing is measured, and measured first where something is."""
    halved = len({one.batch_size for one in among}) - 1
    return min(USUAL[asked.device] + halved, len(among) - 1)


def _on_rung(asked: Asked, config: Config, rung: Rung) -> Config:
    """Return the settings with this network, and the learning rate that its width asks for."""
    changes: dict[str, Any] = {f"model.{name}": getattr(rung, name) for name in ("width", "depth", "heads")}
    rate = min(1.0, 192 / rung.width) * config.optimizer.lr  # the digits' width has the recipe's
    return asked.with_unsaid(changes | {"optimizer.lr": round(rate, 6)}, config)


def work(config: Config) -> float:
    """Return what a step costs, in no unit: to guess how long one takes by how long another does."""
    width, tokens = config.model.width, tokens_of(config)
    token = 12 * width**2 + 2 * width * tokens
    return config.batch_size * config.model.depth * (tokens * token + 6 * width**2)


_WEIGHTS: dict[tuple[Any, ...], int] = {}


def weights_of(config: Config, asked: Asked) -> int:
    """Return the number of weights of a run's network; none is made."""
    told = asked.told
    key = (config.model, shape_of(config), told if isinstance(told, int) else (told.size, told.length))
    if key not in _WEIGHTS:
        with torch.device("meta"):
            net = build_model(config.model, shape_of(config), told)
        _WEIGHTS[key] = sum(weight.numel() for weight in net.parameters())
    return _WEIGHTS[key]
