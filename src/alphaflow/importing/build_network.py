"""Foreign weights become a network of this package, whose names, shapes and numbers are checked."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..errors import UserError, one_line
from ..models import PRESETS, DiT, ImprovedDiT
from ..models.dit import position_table
from .averages import WeightSet
from .improved import GUIDANCE, canonical, rename_improved, shape_of_improved
from .layouts import POSITIONS, SD, Scale
from .mapping import Shape, choose_layout, fold, rename, shape_of
from .stored import StoredTensor

log = logging.getLogger("alphaflow")

_POSITIONS_OFF = 2.5e-4
"""The largest difference of stored positions from DiT's: half a unit in the last place of float16, in which they
may have been rounded before they were stored."""
_HEADS = ("cfg.model.num_heads", "args.num_heads", "config.num_heads")
_CLASSES = ("cfg.dataset.label_shape.0", "args.num_classes", "config.num_classes")


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What the user says of a checkpoint. Each `None` is found out."""

    layout: str | None = None
    """One of `LAYOUTS`."""
    weights: str | None = None
    """The set to take: "ema" or "net", or what its names begin or end with."""
    heads: int | None = None
    """Heads of the attention."""
    classes: int | None = None
    """The number of classes, without the row for "no class"."""
    side: int | None = None
    """A sample's side, in pixels or latent pixels."""
    latents: Path | None = None
    """A set by `alphaflow encode` whose scale is the network's."""
    vae: str | None = None
    """The autoencoder that decodes the samples: a name, or a folder."""
    guidance: float | None = None
    interval: tuple[float, float] | None = None
    """The guidance that improved MeanFlow's network is conditioned on; see `ImprovedDiT`."""


@dataclass(frozen=True)
class BuiltNetwork:
    """A network of this package over foreign weights."""

    net: DiT | ImprovedDiT
    weights: Mapping[str, Tensor]
    layout: str
    scale: Scale | None
    guides: tuple[float, float] | None = None


def build_dit(chosen: WeightSet, flat: Mapping[str, Any], options: ImportOptions) -> BuiltNetwork:
    """Build a DiT over weights of one of the layouts, with sizes read from them or given by `options`.

    Raises:
        UserError: the weights fit no layout, an option contradicts them, or some are not finite.
    """
    layout = choose_layout(chosen, options.layout)
    shape = shape_of(chosen, layout)
    heads = _heads(options.heads, flat, shape)
    num_classes = _num_classes(options.classes, flat, shape)
    if options.guidance is not None or options.interval is not None:
        raise UserError(f"--guidance and --interval are for imf, and these weights are {layout.name}", status=2)
    weights = fold(rename(chosen, layout, shape), layout, shape, num_classes)
    settings = {
        "input_size": _side(options.side, shape.tokens, shape.patch),
        "patch": shape.patch,
        "channels": shape.channels,
        "width": shape.width,
        "depth": shape.depth,
        "heads": heads,
        "num_classes": num_classes,
        "mlp_ratio": shape.hidden / shape.width,
    }
    net = _over(DiT, settings, weights)
    _check_positions(chosen, shape)
    # In flow matching a row for no class means that labels were dropped; other networks have guidance trained in.
    plain = len(layout.embedders) == 1 and shape.rows > num_classes
    if plain and layout.name == "sit" and shape.channels > 3:
        log.warning(
            "SiT's own sampler guides the first 3 of %d channels, and --guidance here all of them: guided "
            "pictures differ a little from its published ones",
            shape.channels,
        )
    return BuiltNetwork(net, weights, layout.name, layout.scale, (0.0, 1.0) if plain else None)


def build_improved(chosen: WeightSet, options: ImportOptions) -> BuiltNetwork:
    """Build improved MeanFlow's network over its weights, which tell all sizes.

    Raises:
        UserError: an option contradicts them, or some are not finite.
    """
    if options.layout not in (None, "imf") or options.heads is not None or options.classes is not None:
        raise UserError(
            "these weights are improved MeanFlow's, which tell all sizes: leave --layout, --heads and "
            "--classes away",
            status=2,
        )
    chosen = canonical(chosen)
    shape = shape_of_improved(chosen)
    weights = rename_improved(chosen, shape)
    guidance, interval = GUIDANCE.get(shape.depth, (1.0, (0.0, 1.0)))
    guidance = guidance if options.guidance is None else options.guidance
    interval = options.interval or interval
    settings = {**vars(shape), "input_size": _side(options.side, None, shape.patch)}
    net = _over(ImprovedDiT, {**settings, "guidance": guidance, "interval": interval}, weights)
    return BuiltNetwork(net, weights, "imf", SD)


N = TypeVar("N", DiT, ImprovedDiT)


def _over(kind: type[N], settings: Mapping[str, Any], weights: Mapping[str, Tensor]) -> N:
    """Build a network over these tensors, which are not copied.

    Raises:
        UserError: there is no such network, a tensor has another shape than it needs, or is not finite.
    """
    try:
        with torch.device("meta"):
            net = kind(**settings)
        net.load_state_dict(weights, assign=True)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"no {kind.__name__} can be made of it ({one_line(error)})") from None
    if damaged := [name for name, weight in weights.items() if not weight.isfinite().all()]:
        raise UserError(f"{damaged[0]} has numbers that are not finite: are the weights damaged?")
    return net.eval().requires_grad_(False)


def first_number(flat: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """Return the first number among the leaves of these names."""
    values = (flat.get(name) for name in names)
    values = (
        value.read().item() if isinstance(value, StoredTensor) and value.shape == () else value for value in values
    )
    return next((value for value in values if isinstance(value, int | float)), None)


def _heads(asked: int | None, flat: Mapping[str, Any], shape: Shape) -> int:
    heads = asked or first_number(flat, _HEADS)
    heads = heads or {(depth, width): n for depth, width, n in PRESETS.values()}.get((shape.depth, shape.width))
    if heads is None:
        raise UserError(
            f"depth {shape.depth} and width {shape.width} are no published size, and weights do not tell the "
            "number of attention heads: add --heads N",
            status=2,
        )
    if heads < 1 or shape.width % heads:
        raise UserError(f"--heads {heads} does not divide the width {shape.width}", status=2)
    return int(heads)


def _num_classes(asked: int | None, flat: Mapping[str, Any], shape: Shape) -> int:
    if not shape.rows:
        return 0
    count = asked or first_number(flat, _CLASSES) or (1000 if shape.rows == 1000 else shape.rows - 1)
    if count not in (shape.rows, shape.rows - 1):
        raise UserError(
            f"{count} classes do not fit a table of {shape.rows} rows: say --classes {shape.rows - 1} where "
            f"the last row is that of no class, and --classes {shape.rows} where there is none",
            status=2,
        )
    if count == shape.rows:
        log.warning('the table has no row for "no class": the mean of all stands in for it')
    return int(count)


def _side(asked: int | None, tokens: int | None, patch: int) -> int:
    if tokens is None:
        if asked is None:
            log.warning("the file does not tell the size of a sample: taken as 32 × 32 (--side says otherwise)")
        return asked or 32
    side = math.isqrt(tokens) * patch
    if asked not in (None, side):
        raise UserError(f"--side {asked} does not fit the file, whose samples are {side} × {side}", status=2)
    return side


def _check_positions(chosen: WeightSet, shape: Shape) -> None:
    if POSITIONS in chosen.weights:
        side = math.isqrt(shape.tokens or 0)
        stored, exact = chosen.weights[POSITIONS].read(), position_table(side, side, shape.width)
        off = float((stored.float().reshape(exact.shape) - exact).abs().max())
        if not off <= max(_POSITIONS_OFF, torch.finfo(stored.dtype).eps):
            raise UserError(f"its positions are not DiT's sines and cosines (off by {off:.2g}): not taken in")
