"""The groups of the compatibility benchmark: which rows each has, and what measures one."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from . import networks
from .backbones import BACKBONES
from .diffusers_images import IMAGES
from .diffusers_videos import VIDEOS
from .own import OWN

Rows = dict[str, Callable[[], dict[str, Any]]]


@dataclass(frozen=True)
class Group:
    """rows: a function of whether only the quick ones are wanted. packages: whose versions are noted."""

    rows: Callable[[bool], Rows]
    packages: tuple[str, ...]


def of_networks(quick: bool) -> Rows:
    tables = OWN | IMAGES | VIDEOS | BACKBONES
    for entry in tables.values():
        with suppress(Exception):  # the row will say so
            entry.make()  # imports what it needs once, before rows are forked
    return {name: partial(networks.measure, entry) for name, entry in tables.items()}


GROUPS: dict[str, Group] = {
    "networks": Group(of_networks, ("torch", "diffusers", "transformers")),
}
