"""Kinetics-700: 17 frames of 256 × 256 on per-frame SD-VAE latents, with a video DiT.

α-Flow (arXiv 2510.20771) trains on such clips with a DiT that has a temporal sin-cos embedding, and scores by FVD.
What else it set we do not know: size, attention and schedule are ours, those of `imagenet-b2` where they apply.
"""

import dataclasses

from ..runs.config import DataConfig, ModelConfig
from .base import Recipe
from .imagenet import IMAGENET

_B2 = next(recipe.config for recipe in IMAGENET if recipe.name == "imagenet-b2")

KINETICS = Recipe(
    name="kinetics-700",
    summary="Kinetics-700 clips, 17 frames of 256 × 256 as latents of each frame, with a video DiT of B/2's size",
    command="alphaflow train kinetics-700 --data.path LATENTS --out runs/kinetics-700",
    cost="24 hours on 8 GPUs of 989 TFLOP/s at 40 % of it (by --dry-run, not measured)",
    expected="not measured here; the settings are ours, so the paper's FVD says nothing of them",
    config=dataclasses.replace(
        _B2,
        recipe="kinetics-700",
        accumulate=2,
        data=DataConfig(name="clip-latents", frames=17),
        model=ModelConfig(name="video-dit", depth=12, width=768, heads=12, patch=2, attention="factorised"),
    ),
    shape=(4, 17, 32, 32),
    num_classes=700,
)
