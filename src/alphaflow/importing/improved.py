"""Improved MeanFlow's weights, as its JAX code stores them and as its PyTorch branch renames them.

The facts are from arXiv 2512.02012, github.com/Lyy-iiis/imeanflow and its `convert.py`.
"""

import re
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from ..errors import UserError
from .averages import WeightSet
from .layouts import Change
from .mapping import compare_names
from .stored import StoredTensor

ALIASES = {
    "k_embedder": "omega_embedder",
    "cfg_start_cond_tokens": "t_min_tokens",
    "cfg_end_cond_tokens": "t_max_tokens",
    "time_cond_tokens": "time_tokens",
    "class_cond_tokens": "class_tokens",
    "kappa_cond_tokens": "omega_tokens",
    "attn_gate": "attn_scale",
    "mlp_gate": "mlp_scale",
}
"""Earlier names of the same tensors."""
ENDS = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
WRAPPED = ("_flax_linear", "_flax_embedding")
_NUMBERED = re.compile(r"(shared_blocks|u_heads|v_heads|layers)_(\d+)")
SECOND = ("v_heads", "v_final_layer")
"""First words in the names of the instantaneous velocity's weights, which only training needs."""
GUIDANCE = {12: (8.0, (0.4, 0.65)), 24: (10.5, (0.4, 0.6)), 32: (10.5, (0.4, 0.6)), 48: (8.0, (0.42, 0.62))}
"""The guidance scale and interval that its evaluation uses for one step (B, M, L and XL), by depth."""

_BLOCK = (
    *(f"attn.{part}.weight" for part in ("q_proj", "k_proj", "v_proj", "out_proj", "q_norm", "k_norm")),
    *(f"mlp.{part}.weight" for part in ("w1", "w2", "w3")),
    *("norm1.weight", "norm2.weight", "attn_scale", "mlp_scale"),
)
_TOKENS = tuple(f"{name}_tokens" for name in ("class", "omega", "t_min", "t_max", "time"))
_TIMES = ("h_embedder", "omega_embedder", "cfg_t_start_embedder", "cfg_t_end_embedder")


@dataclass(frozen=True)
class ImprovedShape:
    """The sizes of an `ImprovedDiT`. Its weights tell all of them but the side of the input."""

    patch: int
    channels: int
    width: int
    depth: int
    head_depth: int
    heads: int
    num_classes: int
    hidden: int


def is_improved(chosen: WeightSet) -> bool:
    """Return whether these are weights of improved MeanFlow's transformer."""
    return any(name.startswith(("u_heads.", "u_heads_")) for name in chosen.weights)


def canonical(chosen: WeightSet) -> WeightSet:
    """Return the same weights under the PyTorch branch's names and in its orders of axes."""
    renamed = {}
    for name, stored in chosen.weights.items():
        words = [ALIASES.get(word, word) for word in name.split(".") if word not in WRAPPED]
        words = [_NUMBERED.sub(r"\1.\2", word).removeprefix("layers.") for word in words]
        change: Change | None = None
        if words[-1] == "kernel" and len(stored.shape) == 2:
            change = Tensor.t
        elif words[-1] == "kernel" and len(stored.shape) == 4:
            change = partial(torch.permute, dims=(3, 2, 0, 1))
        elif words[-1] in _TOKENS and len(stored.shape) == 3:
            change = partial(torch.squeeze, dim=0)
        words[-1] = ENDS.get(words[-1], words[-1])
        renamed[".".join(words)] = stored if change is None else _changed(stored, change)
    return replace(chosen, weights=renamed)


def _changed(stored: StoredTensor, change: Change) -> StoredTensor:
    read = partial(_read, stored, change)
    return StoredTensor(tuple(change(torch.empty(stored.shape, device="meta")).shape), stored.dtype, read)


def _read(stored: StoredTensor, change: Change) -> Tensor:
    return change(stored.read())


def shape_of_improved(chosen: WeightSet) -> ImprovedShape:
    """Return the sizes that `canonical` weights tell."""
    weights = chosen.weights
    counts = [
        len({name.split(".")[1] for name in weights if name.startswith(f"{kind}.")})
        for kind in ("shared_blocks", "u_heads")
    ]
    try:
        width, channels, patch, _ = weights["x_embedder.proj.weight"].shape
        heads = width // weights["u_heads.0.attn.q_norm.weight"].shape[0]
        rows, hidden = (
            weights["y_embedder.embedding_table.weight"].shape[0],
            weights["u_heads.0.mlp.w1.weight"].shape[0],
        )
    except KeyError as error:
        raise UserError(
            f"the weights in {chosen.where!r} do not fit the layout imf: missing: {error.args[0]}"
        ) from None
    return ImprovedShape(patch, channels, width, sum(counts), counts[1], heads, rows - 1, hidden)


def rename_improved(chosen: WeightSet, shape: ImprovedShape) -> dict[str, Tensor]:
    """Return `canonical` tensors under this package's names, float32.

    Raises:
        UserError: some are missing, or there are more; all of them are named.
    """
    kinds = {"shared_blocks": shape.depth - shape.head_depth, "u_heads": shape.head_depth}
    same = [f"{kind}.{n}.{part}" for kind, count in kinds.items() for n in range(count) for part in _BLOCK]
    same += [*_TOKENS, "y_embedder.embedding_table.weight", "x_embedder.proj.weight", "x_embedder.proj.bias"]
    same += [f"{name}.mlp.{k}.{end}" for name in _TIMES for k in (0, 2) for end in ("weight", "bias")]
    same += [f"u_final_layer.{part}" for part in ("norm.weight", "linear.weight", "linear.bias")]
    present = {name for name in chosen.weights if name.split(".")[0] not in SECOND}
    compare_names(chosen, "imf", set(same), present)
    read = {name: chosen.weights[name].read().float() for name in same}
    read["x_embedder.proj.weight"] = read["x_embedder.proj.weight"].flatten(1)
    return {
        name.replace("h_embedder.", "d_embedder.", 1) if name.startswith("h_") else name: x
        for name, x in read.items()
    }
