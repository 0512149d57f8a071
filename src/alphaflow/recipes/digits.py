"""scikit-learn's 1,797 handwritten digits, 8 × 8 pixels: the demo, α-Flow from scratch on two cores."""

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

_VELOCITY = {"model.predicts": "velocity"}
"""The network is u: then f(z, t) = z - t u is z at t = 0 whatever the weights are, which consistency needs, and a
uniform weight is not ruled by the rows at small t, where u = (z - f) / t is steep."""

DIGITS = Recipe(
    name="digits",
    summary="scikit-learn's handwritten digits, class-conditional, with a small DiT",
    command="alphaflow train digits --out runs/digits",
    cost="two to five minutes on 2 CPU cores (105 s and 268 s on two processors, 2026-11-21 and 2026-11-28)",
    expected="class accuracy 0.98 at 1 NFE, 0.99 at 2; Fréchet distance 0.09 at 1, 0.08 at 2 (real halves: 0.24)",
    bounds={"accuracy": (0.97, 1.0), "frechet": (0.0, 0.118), "copies": (0.0, 0.05)},
    members={
        **dict.fromkeys(
            ("consistency", "discrete-consistency", "shortcut", "lagrangian", "tvm", "rcgm"), _VELOCITY
        ),
        "splitmeanflow": {"objective.weight": "uniform"},
    },
    config=Config(
        recipe="digits",
        steps=1600,
        batch_size=128,
        checkpoint_every=500,
        sample_every=250,
        data=DataConfig(name="digits"),
        model=ModelConfig(name="dit", width=192, depth=4, heads=4, patch=4, predicts="data", activation="silu"),
        objective=ObjectiveConfig(
            name="alphaflow",
            alpha="sigmoid(-20%, 80%)",
            shift="velocity",
            weight="scaled",
            weight_power=0.5,
            t_law="logit-normal(-0.1, 1)",
            r_law="logit-normal(-1.2, 1)",
            relaxation=0.25,
        ),
        optimizer=OptimizerConfig(lr=2e-3, warmup=50, decay="linear(50%, 100%, last=0.05)"),
        ema=EMAConfig(half_life=200, ramp=0.1),
        monitor=MonitorConfig(every=200, count=512),
    ),
)
