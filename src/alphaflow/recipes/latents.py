"""Latents of a user's own images, as `alphaflow encode` makes them: the way to large pictures."""

from ..runs.config import Config, DataConfig, EMAConfig, ModelConfig, ObjectiveConfig, OptimizerConfig
from .base import Recipe

LATENTS = Recipe(
    name="latents",
    summary="your own images as latents of an autoencoder (--data.path DST of `alphaflow encode`), with a DiT-B/2",
    command="alphaflow train latents --data.path DST --out runs/latents",
    cost="not measured at its full length: it wants a GPU",
    expected="not measured at its full length",
    config=Config(
        recipe="latents",
        steps=400_000,
        batch_size=256,
        precision="bfloat16",
        log_every=100,
        checkpoint_every=5000,
        sample_every=5000,
        data=DataConfig(name="latents", flip=True),
        model=ModelConfig(name="dit", width=768, depth=12, heads=12, patch=2),
        objective=ObjectiveConfig(name="alphaflow"),
        optimizer=OptimizerConfig(lr=1e-4, warmup=10_000),
        ema=EMAConfig(half_life=6931),
    ),
)
