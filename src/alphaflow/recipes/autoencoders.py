"""ImageNet-1K at 256 × 256 on latents of other autoencoders: `imagenet-b2` with times shifted for their size.

The more numbers a latent has, the more noise it takes to hide an image, so times move towards noise: t becomes
s t / (1 + (s - 1) t) with s = √(D / 4096), D numbers a latent (Zheng et al., Diffusion Transformers with
Representation Autoencoders, arXiv 2510.11690; the map of SD3, arXiv 2403.03206, section 5.3.2). Of a logit-normal
time that is the logit-normal whose mean is ln s larger.
"""

import dataclasses
import math
from typing import NamedTuple

from ..runs.config import ModelConfig
from .base import Recipe
from .imagenet import CLASSES, IMAGENET

_B2 = next(recipe.config for recipe in IMAGENET if recipe.name == "imagenet-b2")
_MEAN = -0.4  # of MeanFlow's and α-Flow's logit-normal times, for latents of 4 × 32 × 32


class _Latents(NamedTuple):
    shape: tuple[int, int, int]
    patch: int
    hours: float
    """On 8 GPUs, by `alphaflow train NAME --dry-run`; a test compares."""
    of: str


# fmt: off
_SETS = {
    #                          C    h   w   patch hours
    "latents-f8c4":   _Latents((4,   32, 32), 2,  1.4,  "Stable Diffusion's autoencoders, AutoencoderTiny"),
    "latents-f8c16":  _Latents((16,  32, 32), 2,  1.4,  "FLUX.1's, SD3's, Qwen-Image's or Wan 2.1's autoencoder"),
    "latents-f16c32": _Latents((32,  16, 16), 1,  1.4,  "autoencoders of 16-fold compression, 32 channels"),
    "latents-f32c32": _Latents((32,  8,  8),  1,  0.34, "AutoencoderDC (Sana's)"),
    "latents-rae":    _Latents((768, 16, 16), 1,  1.4,  "AutoencoderRAE over a ViT-B"),
}
# fmt: on


def time_shift(shape: tuple[int, ...]) -> float:
    """Return s = √(D / 4096) for samples of D numbers."""
    return math.sqrt(math.prod(shape) / 4096)


def shifted(t: float, s: float) -> float:
    """Return the time t shifted by s: s t / (1 + (s - 1) t)."""
    return s * t / (1 + (s - 1) * t)


def _recipe(name: str) -> Recipe:
    latents = _SETS[name]
    s = time_shift(latents.shape)
    law = f"logit-normal({_MEAN + math.log(s):.4f}, 1)"
    middle = f"{shifted(0.5, s):.3f}".removeprefix("0")
    note = "; MeanFlow alone diverged on such latents (arXiv 2511.13019)" if name == "latents-rae" else ""
    return Recipe(
        name=name,
        summary=f"ImageNet-256 latents of {latents.of}: α-Flow's B, times shifted by {s:.2f}",
        command=f"alphaflow train {name} --data.path LATENTS --out runs/{name}",
        cost=f"{latents.hours:g} hours on 8 GPUs of 989 TFLOP/s at 40 % of it (by --dry-run, not measured)",
        expected=f"not measured here; at 2 NFE sample with --times 1,{middle},0{note}",
        config=dataclasses.replace(
            _B2,
            recipe=name,
            model=ModelConfig(name="dit", depth=12, width=768, heads=12, patch=latents.patch),
            objective=dataclasses.replace(_B2.objective, t_law=law, r_law=law),
        ),
        shape=latents.shape,
        num_classes=CLASSES,
    )


AUTOENCODERS: tuple[Recipe, ...] = tuple(map(_recipe, _SETS))
