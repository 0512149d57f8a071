"""Points in the plane: seconds on any machine, and the result can be seen at a glance."""

from ..runs.config import (
    Config,
    DataConfig,
    EMAConfig,
    ModelConfig,
    MonitorConfig,
    ObjectiveConfig,
    OptimizerConfig,
)
from .base import Recipe

TOY = Recipe(
    name="toy",
    summary="2-D points: checkerboard, moons, gaussians or spirals (--data.toy), with an MLP",
    command="alphaflow train toy --out runs/toy",
    cost="one to three minutes on 2 CPU cores (165 s with scoring on a busy machine, 2026-11-21)",
    expected="energy distance 0.003 at 1 NFE, 0.001 at 2 (real halves: 0.0007)",
    bounds={"energy": (0.0, 0.01)},
    members={
        "consistency": {"optimizer.lr": 5e-4},  # at 2e-3 it diverges, and so does the next
        "discrete-consistency": {"optimizer.lr": 5e-4},
        "splitmeanflow": {"objective.weight": "definition"},
    },
    config=Config(
        recipe="toy",
        steps=2000,
        batch_size=1024,
        log_every=50,
        checkpoint_every=1000,
        sample_every=500,
        data=DataConfig(name="toy"),
        model=ModelConfig(name="mlp", width=128, depth=3),
        objective=ObjectiveConfig(name="alphaflow", weight="definition"),
        optimizer=OptimizerConfig(lr=2e-3, warmup=50),
        ema=EMAConfig(half_life=100),
        monitor=MonitorConfig(every=250, count=2048),
    ),
)
