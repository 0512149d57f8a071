"""The groups of the compatibility benchmark: which rows each has, and what measures one."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from alphaflow.runtimes import PRECISIONS

from . import autoencoders, networks, runtimes
from .backbones import BACKBONES
from .diffusers_images import IMAGES
from .diffusers_videos import SOUND, VIDEOS
from .own import OWN

Rows = dict[str, Callable[[], dict[str, Any]]]


@dataclass(frozen=True)
class Group:
    """rows: a function of whether only the quick ones are wanted. packages: whose versions are noted.
    start: how a row's process begins; torch.export hangs in a fork.
    """

    rows: Callable[[bool], Rows]
    packages: tuple[str, ...]
    start: str = "fork"


def of_networks(quick: bool) -> Rows:
    tables = OWN | IMAGES if quick else OWN | IMAGES | SOUND | VIDEOS | BACKBONES
    for entry in tables.values():
        with suppress(Exception):  # the row will say so
            entry.make()  # imports what it needs once, before rows are forked
    return {name: partial(networks.measure, entry) for name, entry in tables.items()}


def of_autoencoders(quick: bool) -> Rows:
    import diffusers  # noqa: F401  (once, before rows are forked)

    return {name: partial(autoencoders.measure, name) for name in autoencoders.tiny.TINY}


def of_runtimes(quick: bool) -> Rows:
    rows: Rows = {}
    for name in ["DiT"] if quick else runtimes.NETWORKS:
        for runtime, precisions in PRECISIONS.items():
            for precision in precisions:
                rows[f"{name}, {runtime} {precision}"] = partial(runtimes.in_precision, name, runtime, precision)
        rows[f"{name}, openvino unasked"] = partial(runtimes.unasked, name)
    return rows


def of_schedulers(quick: bool) -> Rows:
    rows: Rows = {f"export of a {name}": partial(runtimes.exported_pipeline, name) for name in runtimes.NETWORKS}
    for make in ("FlowMatchEulerDiscreteScheduler", "FlowMapEulerDiscreteScheduler"):
        rows[f"{make}, sigmas given"] = partial(runtimes.stepped, make, True)
        rows[f"{make}, a number of steps"] = partial(runtimes.stepped, make, False)
        rows[f"{make}, shift 3, sigmas given"] = partial(runtimes.stepped, make, True, 3.0)
    return rows


GROUPS: dict[str, Group] = {
    "networks": Group(of_networks, ("torch", "diffusers", "transformers")),
    "autoencoders": Group(of_autoencoders, ("torch", "diffusers")),
    "runtimes": Group(of_runtimes, ("torch", "onnxruntime", "openvino"), "spawn"),
    "schedulers": Group(of_schedulers, ("torch", "diffusers")),
}
