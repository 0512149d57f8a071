"""Whether a model's record says what a record can say: a file that somebody wrote by hand asks for no more memory
than its weights, and its faults are named."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from ..errors import UserError
from .folder import is_vocabulary

KINDS = ("image", "latent", "video", "points")
LARGEST = 1 << 27
"""Numbers in a sample: of 16 frames of 1024 × 1024 pixels in colour there are a third as many."""
MOST = 1 << 20
"""Classes, features, pixels a side."""
LARGEST_TABLE = 1 << 29
"""Numbers in a table of positions, 2 GiB."""
FRACTIONS = ("mlp_ratio", "guidance", "interval", "position_step")
"""Settings that need not be whole."""
COUNTS = ("depth", "head_depth", "blocks")
"""Settings that say how often a part with weights of its own is there."""


def check_record(record: Any, path: object) -> None:
    """Refuse a `ModelRecord` whose values are of the wrong kind or size.

    Raises:
        UserError: names the first one.
    """
    data = record.data
    wrong = [
        words
        for fits, words in (
            (_is_count(record.step, 1 << 62), f"step {_short(record.step)}"),
            (isinstance(record.weights, str), f"weights {_short(record.weights)}"),
            (_is_interval(record.guides, 0, 1), f"guides {_short(record.guides)}"),
            (_is_interval(record.scales, -math.inf, math.inf), f"scales {_short(record.scales)}"),
            (isinstance(record.intervals, bool), f"intervals {_short(record.intervals)}"),
            (isinstance(record.licence, str), f"licence {_short(record.licence)}"),
            *(
                (isinstance(getattr(record, name), dict), f"{name} {_short(getattr(record, name))}")
                for name in ("origin", "metrics", "versions")
            ),
            (_is_shape(data["shape"]), f"shape {_short(data['shape'])}"),
            (data["kind"] in KINDS, f"kind {_short(data['kind'])}"),
            (_is_count(data["num_classes"], MOST), f"num_classes {_short(data['num_classes'])}"),
            (_are_names(data["class_names"], data["num_classes"]), f"class_names {_short(data['class_names'])}"),
        )
        if not fits
    ]
    wrong += [
        f"the network's {name} {_short(value)}"
        for name, value in record.network["settings"].items()
        if not (name == "network" and _is_network(value))
        and (not _is_setting(value) or (isinstance(value, float) and name not in FRACTIONS))
    ]
    if not wrong and data.get("vocabulary") is not None and not is_vocabulary(data["vocabulary"]):
        wrong.append(f"vocabulary {_short(data['vocabulary'])}")
    if not wrong and "latents" in data:
        wrong += _wrong_latents(data["latents"], data["shape"])
    if wrong:
        raise UserError(f"{path}: {wrong[0]} cannot be: export the model again")


def check_sizes(settings: Mapping[str, Any], tensors: int, path: object) -> None:
    """Refuse a network of more parts than there are tensors to fill them."""
    inner = settings.get("network", {})
    counts = {name: settings.get(name, 0) for name in COUNTS}
    for name, value in (counts | {name: value for name, value in inner.items() if "layers" in name}).items():
        if isinstance(value, int) and value > tensors:
            raise UserError(f"{path}: {name} {value} is more than the {tensors} tensors of its weights")


def check_positions(count: int, path: object) -> None:
    """Refuse a table of positions, which no weights bound, beyond `LARGEST_TABLE`."""
    if count > LARGEST_TABLE:
        raise UserError(f"{path}: positions of {count:,} numbers are more than can be placed")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _is_count(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30


def _is_interval(value: Any, least: float, most: float) -> bool:
    if value is None:
        return True
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(map(_is_number, value)):
        return False
    return bool(least <= value[0] <= value[1] <= most)


def _is_shape(value: Any) -> bool:
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= 4:
        return False
    return all(_is_count(one, MOST) and one for one in value) and math.prod(value) <= LARGEST


def _are_names(value: Any, count: Any) -> bool:
    return (
        isinstance(value, list | tuple) and len(value) in (0, count) and all(isinstance(one, str) for one in value)
    )


def _is_setting(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return len(value) <= 64 and all(map(_is_setting, value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return 0 <= value <= MOST
    return isinstance(value, str | bool) or value is None


def _is_network(value: Any) -> bool:
    """Return whether these are settings of a network of other code: plain values by their names."""
    return isinstance(value, dict) and len(value) <= 64 and all(map(_is_setting, value.values()))


def _is_scale(table: tuple[int, ...], shape: Any) -> bool:
    """Return whether a table of this shape scales samples (C, …, h, w): of each channel, of each place, or of each
    place of a pattern that repeats."""
    if len(table) == 3:
        return table[0] == shape[0] and all(one and not side % one for one, side in zip(table[1:], shape[-2:]))
    return table == (shape[0],)


def _wrong_latents(latents: Any, shape: Any) -> list[str]:
    if not isinstance(latents, dict):
        return [f"latents {_short(latents)}"]
    words = {name: latents.get(name) for name in ("vae", "vae_name")}
    wrong = [f"latents' {name} {_short(value)}" for name, value in words.items() if not isinstance(value, str)]
    for name in ("offset", "divisor"):
        try:
            table = torch.tensor(latents[name], dtype=torch.float64)
        except (KeyError, TypeError, ValueError, RuntimeError, OverflowError):
            return [*wrong, f"latents' {name} {_short(latents.get(name))}"]
        fits = _is_scale(tuple(table.shape), shape) and bool(table.isfinite().all())
        if not fits or (name == "divisor" and not bool((table > 0).all())):
            wrong.append(f"latents' {name} {_short(latents[name])}")
    return wrong
