"""The tensors of a foreign checkpoint become those of a `DiT` of this package: find, name, fold."""

import math
import re
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError, choose
from .averages import WeightSet
from .layouts import CLASSES, LAYOUTS, POSITIONS, Layout


@dataclass(frozen=True)
class Shape:
    """The sizes of a DiT, as far as its weights tell."""

    patch: int
    channels: int
    width: int
    depth: int
    hidden: int
    """Width of a block's MLP."""
    rows: int
    """Rows of the table of classes; 0: there is none."""
    tokens: int | None
    """Number of tokens; `None`: the file does not hold the positions."""


def choose_layout(chosen: WeightSet, asked: str | None) -> Layout:
    """Return the layout of these weights, by name or by their marks.

    Raises:
        UserError: no layout fits, several do, or the one that was asked for does not.
    """
    fitting = [layout for layout in LAYOUTS.values() if layout.mark in chosen.weights]
    full = [layout for layout in fitting if len(layout.embedders) == max(len(one.embedders) for one in fitting)]
    if asked is not None:
        layout = LAYOUTS[choose("layout", asked, LAYOUTS, status=2)]
        if layout not in full:
            names = ", ".join(one.name for one in full) or "none"
            raise UserError(
                f"the file is not laid out as {asked} (no {layout.mark}, or more than it): {names} fits"
            )
        return layout
    full = [layout for layout in full if not layout.on_request]
    if other := _other_time(chosen):
        raise UserError(f"it has a time embedding {other!r}, which no layout here knows")
    if not full:
        raise UserError(
            f"none of the layouts {', '.join(LAYOUTS)} fits: it has no time embedding under a known name"
        )
    if len(full) > 1:
        raise UserError(
            f"it may be {' or '.join(one.name for one in full)}, which the weights do not tell: say --layout sit "
            "if data is at t = 1 (SiT's own code), --layout repa if noise is (REPA, most flow matching)",
            status=2,
        )
    return full[0]


def _other_time(chosen: WeightSet) -> str:
    """Return the name of a time embedding that no layout has; "" if there is none."""
    names = {name for layout in LAYOUTS.values() for name in layout.embedders}
    pattern = re.compile(r"(\w+_embedder)\.mlp\.(?:layers_)?0\.")
    firsts = [match[1] for name in chosen.weights if (match := pattern.match(name))]
    return next((name for name in firsts if name not in names), "") if len(set(firsts)) > 1 else ""


def shape_of(chosen: WeightSet, layout: Layout) -> Shape:
    """Return the network's sizes.

    Raises:
        UserError: the number of blocks or a size cannot be understood.
    """
    weights = chosen.weights
    if layout.flax:
        patch, _, channels, width = weights["x_embedder.proj.kernel"].shape
    else:
        width, channels, patch, _ = weights["x_embedder.proj.weight"].shape
    numbers = {int(match[1]) for name in weights if (match := re.match(r"blocks\.(?:layers_)?(\d+)\.", name))}
    if numbers != set(range(len(numbers))) or not numbers:
        raise UserError(f"its blocks are numbered {sorted(numbers)}, not from 0 without a gap")
    tables = [name for name, rule in layout.rules.items() if rule.ours == CLASSES]
    rows = weights[tables[0]].shape[0] if tables[0] in weights else 0
    tokens = weights[POSITIONS].shape[-2] if POSITIONS in weights else None
    if tokens is not None and math.isqrt(tokens) ** 2 != tokens:
        raise UserError(f"it has {tokens} tokens, which is no square: only square images are taken in")
    first = "blocks.layers_0.mlp.fc1._flax_linear.bias" if layout.flax else "blocks.0.mlp.fc1.bias"
    hidden = weights[first].shape[0] if first in weights else 4 * width  # if missing, `rename` will say so
    return Shape(patch, channels, width, len(numbers), hidden, rows, tokens)


def rename(chosen: WeightSet, layout: Layout, shape: Shape) -> dict[str, Tensor]:
    """Return the tensors under this package's names, float32, without copies where none is needed.

    Raises:
        UserError: some are missing, or there are more than the layout has; all of them are named.
    """
    expected = {
        name.format(n=n): (rule.ours.format(n=n), rule.change)
        for name, rule in layout.rules.items()
        for n in range(shape.depth if "{n}" in name else 1)
    }
    if not shape.rows:
        expected = {name: rule for name, rule in expected.items() if rule[0] != CLASSES}
    present = {name for name in chosen.weights if name.split(".")[0] not in layout.dropped} - {POSITIONS}
    compare_names(chosen, layout.name, set(expected), present)
    renamed = {}
    for name, (new_name, change) in expected.items():
        tensor = chosen.weights[name].read().float()
        renamed[new_name] = change(tensor) if change else tensor
    return renamed


def compare_names(chosen: WeightSet, layout: str, expected: set[str], present: set[str]) -> None:
    """Raise a `UserError` that lists missing and additional names, if there are any."""
    missing, extra = sorted(expected - present), sorted(present - expected)
    for name in missing:
        if chosen.aside and name in chosen.aside:
            kind = str(chosen.aside[name].dtype).removeprefix("torch.")
            raise UserError(
                f"{chosen.where}{name} is stored as {kind}: save the weights as float32, not quantised"
            )
    if missing or extra:
        said = [f"{word} {_some(names)}" for word, names in (("missing:", missing), ("too many:", extra)) if names]
        where = f" in {chosen.where!r}" if chosen.where else ""
        raise UserError(f"the weights{where} do not fit the layout {layout}: {'; '.join(said)}")


def _some(names: list[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def fold(weights: dict[str, Tensor], layout: Layout, shape: Shape, num_classes: int) -> dict[str, Tensor]:
    """Return renamed weights as those of a network u(z, r, t, y) in this package's convention.

    The input stays as it is. A learnt variance is cut off. Reversed time is folded into the first time layer,
    whose sines and cosines of 1 - t are a rotation of those of t, and the velocity's sign into the last layer. A
    network of one time gets an embedding of t - r that is 0 and can learn. A table without a row for "no class"
    gets the mean of its rows.
    """
    folded = dict(weights)
    linear = "final_layer.linear"
    values = shape.patch**2 * shape.channels
    for end in ("weight", "bias"):
        last = folded[f"{linear}.{end}"]
        if len(last) == 2 * values:
            halves = last.reshape(shape.patch**2, 2 * shape.channels, *last.shape[1:])
            last = halves[:, : shape.channels].reshape(values, *last.shape[1:])
        if len(last) != values:
            raise UserError(f"its last layer has {len(last)} outputs, not {values} for patches of {shape.patch}")
        folded[f"{linear}.{end}"] = -last if layout.reversed_time else last
    first = "t_embedder.mlp.0.weight"
    if layout.reversed_time:
        folded[first] = _rotate(folded[first])
    if len(layout.embedders) == 1:
        folded["d_embedder.mlp.0.weight"], folded["d_embedder.mlp.0.bias"] = (
            folded[first],
            folded["t_embedder.mlp.0.bias"],
        )
        for end in ("weight", "bias"):
            folded[f"d_embedder.mlp.2.{end}"] = torch.zeros_like(folded[f"t_embedder.mlp.2.{end}"])
    if shape.rows and shape.rows == num_classes:
        folded[CLASSES] = torch.cat([folded[CLASSES], folded[CLASSES].mean(0, keepdim=True)])
    return folded


def _rotate(weight: Tensor) -> Tensor:
    """Return a layer over cosines and sines of (1 - t)·f as one over those of t·f.

    cos(f - tf) = cos f cos tf + sin f sin tf and sin(f - tf) = sin f cos tf - cos f sin tf.
    """
    half = weight.shape[1] // 2
    f = torch.exp(torch.arange(half, dtype=torch.float64) * (-math.log(10_000.0) / half))
    on_cosines, on_sines = weight.double().chunk(2, dim=1)
    turned = [on_cosines * f.cos() + on_sines * f.sin(), on_cosines * f.sin() - on_sines * f.cos()]
    return torch.cat(turned, dim=1).float()
