"""A user's own images, one sub-folder for each class, in pixel space on one GPU or a patient CPU."""

from ..runs.config import Config, DataConfig, EMAConfig, ModelConfig, ObjectiveConfig, OptimizerConfig
from .base import Recipe

FOLDER = Recipe(
    name="folder",
    summary="your own images in class-per-folder form (--data.path DIR --data.size 64), in pixel space",
    command="alphaflow train folder --data.path DIR --out runs/folder",
    cost="not measured at its full length: it wants a GPU",
    expected="not measured at its full length",
    config=Config(
        recipe="folder",
        steps=100_000,
        batch_size=128,
        log_every=50,
        checkpoint_every=2500,
        sample_every=1000,
        data=DataConfig(name="folder", size=64, flip=True),
        model=ModelConfig(name="dit", width=384, depth=12, heads=6, patch=4),
        objective=ObjectiveConfig(name="alphaflow"),
        optimizer=OptimizerConfig(lr=2e-4, warmup=1000),
        ema=EMAConfig(half_life=2000),
    ),
)
