"""The names that other people's diffusion transformers give their weights, and what their numbers mean.

One row of `LAYOUTS` stands for each code. They share DiT's network and differ in the names of the time embeddings,
in which end of the path is t = 1, and in the scale of the latents. Facts are from the papers and the public code.

| layout | code | times | latents |
|---|---|---|---|
| alphaflow | α-Flow's release, MeanFlows as well | t and t - r | mean and variance of each value, in the file |
| meanflow | MeanFlow in PyTorch by Zhu Yu, since 28 May 2025 | t and t - r | times 0.18125 |
| meanflow-early | the same, 24 to 26 May 2025 | t and t - r | by mean and twice the deviation of each channel |
| sit | SiT (Ma et al. 2024), velocity on the linear path | 1 - t | times 0.18215 |
| repa | SiT as in REPA (Yu et al. 2025), and flow matching with noise at t = 1 | t | times 0.18215 |
| jax-meanflow | MeanFlow's own code, in JAX | t and t - r | times 0.18215 |
| soflow | SoFlow (Luo et al. 2025), the solution written x + (s - t) u | t and t - s | times 0.18215 |
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Rule:
    """The name that one tensor gets, and its change on the way."""

    ours: str
    change: Change | None = None


@dataclass(frozen=True)
class Scale:
    """The scale that turns samples back into an autoencoder's latents: latent = x · divisor + offset."""

    words: str
    """The scale as `Fingerprint.scale` has it: a number, or in words what was done."""
    offset: tuple[float, ...]
    divisor: tuple[float, ...]
    vae: str = "sd-vae-ft-ema"
    crop: str = "box"


@dataclass(frozen=True)
class Layout:
    """One way to lay out a DiT's weights."""

    name: str
    mark: str
    """A name that only this layout has, or that several have which only the user can tell apart."""
    rules: Mapping[str, Rule]
    """A rule for each of their names, in which `{n}` is the number of a block."""
    embedders: tuple[str, ...]
    """Names of the time embeddings: that of t, and that of t - r where there is one."""
    scale: Scale | None
    """The latents' scale; `None`: the file has it."""
    dropped: tuple[str, ...] = ()
    """First words of names that belong to training only."""
    reversed_time: bool = False
    """Whether data lie at t = 1 and noise at t = 0, and the velocity points to the data."""
    on_request: bool = False
    """Whether the layout is taken only when it is asked for, because its names are those of another one."""
    flax: bool = False
    """Whether kernels are (in, out) and sequences are called `layers_0`."""


POSITIONS = "pos_embed"
"""The stored positions, fixed sines and cosines: compared with this package's, and left."""
CLASSES = "y_embedder.embedding_table.weight"


def _patches(kernel: Tensor) -> Tensor:
    """Return a convolution's kernel (width, C, p, p) as a Linear's weight (width, C·p·p)."""
    return kernel.flatten(1)


def _flax_patches(kernel: Tensor) -> Tensor:
    """Return a convolution's kernel (p, p, C, width) as a Linear's weight (width, C·p·p)."""
    return kernel.permute(3, 2, 0, 1).flatten(1)


_LINEARS = (
    *(f"blocks.{{n}}.{part}" for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "adaLN_modulation.1")),
    "final_layer.linear",
    "final_layer.adaLN_modulation.1",
)
_OURS = ("t_embedder", "d_embedder")


def _torch_rules(embedders: tuple[str, ...]) -> dict[str, Rule]:
    rules = {"x_embedder.proj.weight": Rule("x_embedder.proj.weight", _patches)}
    rules["x_embedder.proj.bias"] = Rule("x_embedder.proj.bias")
    rules[CLASSES] = Rule(CLASSES)
    same = {f"{theirs}.mlp.{k}": f"{own}.mlp.{k}" for theirs, own in zip(embedders, _OURS) for k in (0, 2)}
    same |= {name: name for name in _LINEARS}
    for theirs, own in same.items():
        for end in ("weight", "bias"):
            rules[f"{theirs}.{end}"] = Rule(f"{own}.{end}")
    return rules


def flax_name(name: str) -> str:
    """Return Flax's name of the layer that torch calls `name`: a number in a sequence becomes `layers_0`."""
    return ".".join(f"layers_{word}" if word.isdigit() or word == "{n}" else word for word in name.split("."))


def _flax_rules(embedders: tuple[str, ...]) -> dict[str, Rule]:
    rules = {"x_embedder.proj.kernel": Rule("x_embedder.proj.weight", _flax_patches)}
    rules["x_embedder.proj.bias"] = Rule("x_embedder.proj.bias")
    rules["y_embedder.embedding_table._flax_embedding.embedding"] = Rule(CLASSES)
    same = {f"{theirs}.mlp.{k}": f"{own}.mlp.{k}" for theirs, own in zip(embedders, _OURS) for k in (0, 2)}
    same |= {name: name for name in _LINEARS}
    for theirs, own in same.items():
        rules[f"{flax_name(theirs)}._flax_linear.kernel"] = Rule(f"{own}.weight", Tensor.t)
        rules[f"{flax_name(theirs)}._flax_linear.bias"] = Rule(f"{own}.bias")
    return rules


SD = Scale("0.18215", (0.0,) * 4, (1 / 0.18215,) * 4)
"""The scale that the makers of Stable Diffusion's autoencoders give."""
ZHU_YU = Scale("0.18125", (0.0,) * 4, (1 / 0.18125,) * 4)
"""Zhu Yu's scale since 28 May 2025 (commit bc5f279), with which all results of that repository were made.

It is one digit off Stable Diffusion's.
"""
_ZHU_YU_EARLY = Scale(
    "half of (latent - mean) / std, with constants of its own",
    (0.86488, -0.27787343, 0.21616915, 0.3738409),
    (2 * 4.85503674, 2 * 5.31922414, 2 * 3.93725398, 2 * 3.9870003),
)
_TIMES = {
    "alphaflow": ("noise_labels_embedder", "noise_labels_next_embedder"),
    "meanflow": ("t_embedder", "r_embedder"),
    "jax-meanflow": ("t_embedder", "h_embedder"),
    "flow": ("t_embedder",),
    "soflow": ("t_embedder", "s_embedder"),
}

LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout(
            name="alphaflow",
            mark="noise_labels_embedder.mlp.0.weight",
            rules=_torch_rules(_TIMES["alphaflow"]),
            embedders=_TIMES["alphaflow"],
            scale=None,
        ),
        Layout(
            name="meanflow",
            mark="r_embedder.mlp.0.weight",
            rules=_torch_rules(_TIMES["meanflow"]),
            embedders=_TIMES["meanflow"],
            scale=ZHU_YU,
            dropped=("projectors",),
        ),
        Layout(
            name="meanflow-early",
            mark="r_embedder.mlp.0.weight",
            rules=_torch_rules(_TIMES["meanflow"]),
            embedders=_TIMES["meanflow"],
            scale=_ZHU_YU_EARLY,
            dropped=("projectors",),
            on_request=True,
        ),
        Layout(
            name="soflow",
            mark="s_embedder.mlp.0.weight",
            rules=_torch_rules(_TIMES["soflow"]),
            embedders=_TIMES["soflow"],
            scale=replace(SD, vae="sd-vae-ft-mse"),
        ),
        Layout(
            name="sit",
            mark="t_embedder.mlp.0.weight",
            rules=_torch_rules(_TIMES["flow"]),
            embedders=_TIMES["flow"],
            scale=SD,
            reversed_time=True,
        ),
        Layout(
            name="repa",
            mark="t_embedder.mlp.0.weight",
            rules=_torch_rules(_TIMES["flow"]),
            embedders=_TIMES["flow"],
            scale=SD,
            dropped=("projectors",),
        ),
        Layout(
            name="jax-meanflow",
            mark="h_embedder.mlp.layers_0._flax_linear.kernel",
            rules=_flax_rules(_TIMES["jax-meanflow"]),
            embedders=_TIMES["jax-meanflow"],
            scale=SD,
            flax=True,
        ),
    )
}
