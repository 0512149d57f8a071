"""From the tensors of a foreign checkpoint to those of a `DiT` of ours: find, name, fold."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError, choose
from .foreign_pickles import Stored
from .layouts import CLASSES, LAYOUTS, POSITIONS, Layout

WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""What DDP, torch.compile, FSDP and recomputation put into names."""
AVERAGED = ("ema", "ema_params", "model_ema", "ema_model", "ema_state_dict")
TRAINING = ("opt", "optimizer", "optimizers", "opt_state", "optimizer_states")
"""Words in the names of sets of tensors: of averaged weights, and of what is no network."""
_FIRSTS = ("x_embedder.proj.weight", "x_embedder.proj.kernel")


@dataclass(frozen=True)
class Found:
    """A set of weights in a checkpoint. where: what their names begin with. weights: by the rest of it."""

    where: str
    weights: Mapping[str, Stored]


@dataclass(frozen=True)
class Shape:
    """The sizes of a DiT, as far as its weights tell."""

    patch: int
    channels: int
    width: int
    depth: int
    hidden: int
    """Of a block's MLP."""
    rows: int
    """Of the table of classes; 0: none."""
    tokens: int | None
    """None: the file does not hold the positions."""


def unwrapped(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The same leaves without the wrappers' words in their names."""
    return {
        ".".join(word for word in name.split(".") if word not in WRAPPERS): value for name, value in flat.items()
    }


def find_weights(flat: Mapping[str, Any]) -> tuple[Found | None, Found | None]:
    """The network's weights and the averaged ones among everything that a checkpoint holds, `unwrapped`.

    Raises:
        UserError: neither is there, or either is there more than once.
    """
    roots: dict[bool, list[str]] = {True: [], False: []}
    for name in flat:
        first = next((one for one in _FIRSTS if name == one or name.endswith("." + one)), None)
        root = name.removesuffix(first) if first else None
        words = root.split(".") if root is not None else TRAINING
        if not set(words) & set(TRAINING):
            roots[bool(set(words) & set(AVERAGED))].append(str(root))
    for found in roots.values():
        if len(found) > 1:
            raise UserError(
                f"it holds several networks ({', '.join(map(repr, found))}): save the one you want alone"
            )
    made = [_below(flat, found[0]) if found else None for found in (roots[False], roots[True])]
    if made == [None, None]:
        some = ", ".join(list(flat)[:6])
        raise UserError(f"no diffusion transformer in it: no name ends in {_FIRSTS[0]}; there are {some}, …")
    return made[0], made[1]


def _below(flat: Mapping[str, Any], root: str) -> Found:
    inside = {name.removeprefix(root): value for name, value in flat.items() if name.startswith(root)}
    return Found(root, {name: value for name, value in inside.items() if isinstance(value, Stored)})


def choose_layout(found: Found, wanted: str | None) -> Layout:
    """The layout of these weights, by name or by their marks.

    Raises:
        UserError: none fits, or several do, or the one that was asked for does not.
    """
    fitting = [layout for layout in LAYOUTS.values() if layout.mark in found.weights]
    full = [layout for layout in fitting if len(layout.embedders) == max(len(one.embedders) for one in fitting)]
    if wanted is not None:
        layout = LAYOUTS[choose("layout", wanted, LAYOUTS, status=2)]
        if layout not in full:
            names = ", ".join(one.name for one in full) or "none"
            raise UserError(
                f"the file is not laid out as {wanted} (no {layout.mark}, or more than it): {names} fits"
            )
        return layout
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


def shape_of(found: Found, layout: Layout) -> Shape:
    """The network's sizes.

    Raises:
        UserError: the block count or a size cannot be understood.
    """
    weights = found.weights
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
    hidden = weights[first].shape[0] if first in weights else 4 * width  # `rename` will say that it is missing
    return Shape(patch, channels, width, len(numbers), hidden, rows, tokens)


def rename(found: Found, layout: Layout, shape: Shape) -> dict[str, Tensor]:
    """Their tensors under our names, float32, without copies where none is needed.

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
    present = {name for name in found.weights if name.split(".")[0] not in layout.dropped} - {POSITIONS}
    compare_names(found.where, layout.name, set(expected), present)
    made = {}
    for name, (ours, change) in expected.items():
        tensor = found.weights[name].read().float()
        made[ours] = change(tensor) if change else tensor
    return made


def compare_names(where: str, layout: str, expected: set[str], present: set[str]) -> None:
    """Refuse a set of names with gaps or additions, and list them."""
    missing, extra = sorted(expected - present), sorted(present - expected)
    if missing or extra:
        said = [f"{word} {_some(names)}" for word, names in (("missing:", missing), ("too many:", extra)) if names]
        raise UserError(f"the weights in {where or 'it'!r} do not fit the layout {layout}: {'; '.join(said)}")


def _some(names: list[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def fold(weights: dict[str, Tensor], layout: Layout, shape: Shape, num_classes: int) -> dict[str, Tensor]:
    """Make of renamed weights those of a network u(z, r, t, y) in our convention; the input stays as it is.

    A learnt variance is cut off. Reversed time is folded into the first time layer, whose sines and cosines of
    1 - t are a rotation of those of t, and the velocity's sign into the last layer. A network of one time gets an
    embedding of t - r that is 0 and can learn. A table without a row for "no class" gets the mean of its rows.
    """
    made = dict(weights)
    linear = "final_layer.linear"
    values = shape.patch**2 * shape.channels
    for end in ("weight", "bias"):
        last = made[f"{linear}.{end}"]
        if len(last) == 2 * values:
            halves = last.reshape(shape.patch**2, 2 * shape.channels, *last.shape[1:])
            last = halves[:, : shape.channels].reshape(values, *last.shape[1:])
        if len(last) != values:
            raise UserError(f"its last layer has {len(last)} outputs, not {values} for patches of {shape.patch}")
        made[f"{linear}.{end}"] = -last if layout.reversed_time else last
    first = "t_embedder.mlp.0.weight"
    if layout.reversed_time:
        made[first] = _rotate(made[first])
    if len(layout.embedders) == 1:
        made["d_embedder.mlp.0.weight"], made["d_embedder.mlp.0.bias"] = made[first], made["t_embedder.mlp.0.bias"]
        for end in ("weight", "bias"):
            made[f"d_embedder.mlp.2.{end}"] = torch.zeros_like(made[f"t_embedder.mlp.2.{end}"])
    if shape.rows and shape.rows == num_classes:
        made[CLASSES] = torch.cat([made[CLASSES], made[CLASSES].mean(0, keepdim=True)])
    return made


def _rotate(weight: Tensor) -> Tensor:
    """A layer over cosines and sines of (1 - t)·f as one over those of t·f.

    cos(f - tf) = cos f cos tf + sin f sin tf and sin(f - tf) = sin f cos tf - cos f sin tf.
    """
    half = weight.shape[1] // 2
    f = torch.exp(torch.arange(half, dtype=torch.float64) * (-math.log(10_000.0) / half))
    on_cosines, on_sines = weight.double().chunk(2, dim=1)
    turned = [on_cosines * f.cos() + on_sines * f.sin(), on_cosines * f.sin() - on_sines * f.cos()]
    return torch.cat(turned, dim=1).float()
