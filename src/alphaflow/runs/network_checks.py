"""Whether a network suits the samples, from settings alone, before any data are read."""

import os
from typing import Any

from ..errors import UserError

LARGEST = 10**11
"""Of depth × width²: a tenth of the weights that a transformer then has."""
DIGIT = 8
"""Pixels along the side of a digit that moves."""
_SQUARES = {"dit": 18, "video-dit": 18, "mlp": 4, "unet": 0, "adapted": 0}
"""Matrices of width × width in a block, at least."""
_DIMENSIONS = {"dit": 3, "video-dit": 4, "mlp": 1, "unet": 3}


def check_fits_data(config: Any) -> None:
    """Refuse a network that cannot take the samples, or that no machine holds.

    Raises:
        UserError: with status 2, by the names of the settings that do not go together.
    """
    model = config.model
    if model.name == "adapted":  # its folder tells, and it says itself what it takes
        return
    _check_size(model)
    if config.data.name == "moving-digits" and config.data.size <= DIGIT:
        raise UserError(
            f"digits of {DIGIT} pixels cannot move in frames of {config.data.size}: give --data.size "
            f"{DIGIT + 1} or more",
            status=2,
        )
    shape = _shape(config.data)
    dimensions = _dimensions(config.data)
    if _DIMENSIONS[model.name] != dimensions:
        what = shape or {1: "points", 3: "pictures", 4: "videos"}[dimensions]
        fitting = " or ".join(name for name, count in _DIMENSIONS.items() if count == dimensions)
        raise UserError(
            f"a network of kind {model.name!r} does not fit samples of shape {what} (data.name "
            f"{config.data.name}): choose model.name {fitting}",
            status=2,
        )
    if (config.data.name == "shapes" or config.data.captions) and model.name != "dit":
        raise UserError(f"a network of kind {model.name!r} reads no captions: choose model.name dit", status=2)
    if model.name in ("dit", "video-dit"):
        _check_transformer(model, shape[-1] if shape else None)
    if model.name == "unet" and shape and shape[-1] % 2 ** (model.depth - 1):
        side = shape[-1]
        raise UserError(
            f"images of {side}×{side} do not halve {model.depth - 1} times: choose a smaller model.depth",
            status=2,
        )


def check_memory(config: Any) -> None:
    """Refuse a network whose weights alone, without what else training holds, are more than this machine has.

    Raises:
        UserError: with status 2.
    """
    model = config.model
    copies = 5 if config.device == "cpu" else 1  # gradients, two moments and the average lie beside them
    needed = 4 * copies * _SQUARES[model.name] * model.depth * model.width**2
    present = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > present:
        raise UserError(
            f"model.width {model.width} and model.depth {model.depth} take {needed / 2**30:,.0f} GiB at least, "
            f"and this machine has {present / 2**30:,.0f}: choose smaller ones",
            status=2,
        )


def _check_size(model: Any) -> None:
    if model.depth * model.width**2 > LARGEST:
        raise UserError(
            f"model.width {model.width} and model.depth {model.depth} make more than "
            f"{10 * LARGEST:.0e} weights: choose smaller ones",
            status=2,
        )


def _check_transformer(model: Any, side: int | None) -> None:
    if model.width % 4 or model.width % model.heads:
        raise UserError(
            f"model.width {model.width} does not divide by 4 and by model.heads {model.heads}: change one of them",
            status=2,
        )
    if model.text_width % 32:
        raise UserError(f"model.text_width {model.text_width} is no multiple of 32: give one", status=2)
    if side is not None and side % model.patch:
        raise UserError(
            f"samples of {side}×{side} cannot be cut into patches of {model.patch}: choose another model.patch, "
            "or as data.size a multiple of it, where that says the side",
            status=2,
        )
    if model.name == "video-dit" and model.attention == "factorised" and model.depth < 2:
        raise UserError(
            f"model.depth {model.depth} leaves factorised attention no block across frames: give 2 or more",
            status=2,
        )


def _dimensions(data: Any) -> int:
    return {"toy": 1, "moving-digits": 4, "clips": 4, "clip-latents": 4}.get(data.name, 3)


def _shape(data: Any) -> tuple[int, ...] | None:
    """Of a sample; None for latents, which say themselves what they are."""
    known: dict[str, tuple[int, ...]] = {
        "toy": (2,),
        "digits": (1, 8, 8),
        "fashion": (1, 28, 28),
        "shapes": (3, 32, 32),
        "moving-digits": (1, data.frames, data.size, data.size),
        "folder": (1 if data.grey else 3, data.size, data.size),
        "clips": (3, data.frames, data.size, data.size),
    }
    return known.get(data.name)
