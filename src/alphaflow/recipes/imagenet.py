"""ImageNet-1K at 256 × 256 on SD-VAE latents: the recipes of the α-Flow paper, and their twins.

Source: α-Flow (arXiv 2510.20771), its tables of settings and results and its released configurations. Where those
disagree the released value is taken. A twin has all settings of its namesake but for the objective: MeanFlow's α,
or the whole of Shortcut's or flow matching's member.
"""

import dataclasses

from ..training.config import Config, DataConfig, EMAConfig, ModelConfig, ObjectiveConfig, OptimizerConfig
from .base import Recipe

SHAPE, CLASSES = (4, 32, 32), 1000

_B4 = ModelConfig(name="dit", depth=12, width=768, heads=12, patch=4)
_B2 = ModelConfig(name="dit", depth=12, width=768, heads=12, patch=2)
_L2 = ModelConfig(name="dit", depth=24, width=1024, heads=16, patch=2)
_XL2 = ModelConfig(name="dit", depth=28, width=1152, heads=16, patch=2)

_PLAIN = ObjectiveConfig(name="alphaflow", alpha="sigmoid(0%, 100%)", flow_ratio="25%")
# The paper's table prints κ = 1 for B/2, at which the scale ω / (1 - κ) has no value; the release has 0.5.
_B2_CFG = dataclasses.replace(_PLAIN, omega=1.0, kappa=0.5, label_drop=0.1, clip=4.0)
# L/2 was not released: whether its targets were clipped is not known, and here they are not.
_L2_CFG = ObjectiveConfig(
    name="alphaflow",
    alpha="sigmoid(50%, 83.33333333%)",  # 600K to 1M of 1.2M steps
    flow_ratio="50%",
    omega=0.2,
    kappa=0.92,
    guide_to=0.8,
    label_drop=0.1,
)
_XL2_CFG = dataclasses.replace(_L2_CFG, guide_to=0.75, clip=4.0)

_HOURS = {
    "imagenet-b4": 0.35,
    "imagenet-b2": 1.5,
    "imagenet-b2-cfg": 6.6,
    "imagenet-l2-cfg": 21,
    "imagenet-xl2-cfg": 31,
    "imagenet-xl2-plus": 8.2,
    "imagenet-b4-meanflow": 0.37,
    "imagenet-b4-shortcut": 0.35,
    "imagenet-b4-fm": 0.3,
    "imagenet-b2-meanflow": 1.6,
    "imagenet-b2-shortcut": 1.4,
    "imagenet-b2-fm": 1.2,
    "imagenet-b2-cfg-meanflow": 6.9,
    "imagenet-b2-cfg-shortcut": 6.4,
    "imagenet-b2-cfg-fm": 5.9,
    "imagenet-l2-cfg-meanflow": 23,
    "imagenet-l2-cfg-shortcut": 21,
    "imagenet-l2-cfg-fm": 21,
    "imagenet-xl2-cfg-meanflow": 33,
    "imagenet-xl2-cfg-shortcut": 30,
    "imagenet-xl2-cfg-fm": 30,
}
"""On 8 GPUs, by `alphaflow train NAME --dry-run`; a test compares."""


def _config(name: str, steps: int, model: ModelConfig, objective: ObjectiveConfig) -> Config:
    """What all share: batches of 256, Adam at a constant rate after a warm-up, bfloat16, the paper's seed."""
    return Config(
        recipe=name,
        steps=steps,
        batch_size=256,
        seed=1,
        precision="bfloat16",
        log_every=100,
        checkpoint_every=10_000,
        sample_every=10_000,
        data=DataConfig(name="latents"),
        model=model,
        objective=objective,
        optimizer=OptimizerConfig(lr=1e-4, warmup=10_000, beta1=0.9, beta2=0.95, clip=16.0),
        ema=EMAConfig(half_life=6931.0, ramp=0.05),
    )


def _recipe(config: Config, summary: str, expected: str, *, twin_of: str = "", init: str = "") -> Recipe:
    name = config.recipe
    return Recipe(
        name=name,
        summary=summary,
        command=f"alphaflow train {name} --data.path LATENTS {init}--out runs/{name}",
        cost=f"{_HOURS[name]:g} hours on 8 GPUs of 989 TFLOP/s at 40 % of it (by --dry-run, not measured)",
        expected=expected,
        config=config,
        twin_of=twin_of,
        shape=SHAPE,
        num_classes=CLASSES,
    )


def _published(one: float, two: float, note: str = "") -> str:
    return f"published FID-50K {one:.2f} at 1 NFE, {two:.2f} at 2{note}; not measured here"


_NONE = "no published figure"
_CONSISTENCY = " (--method consistency --times 1,.55,0)"
_BASES = (
    _recipe(
        _config("imagenet-b4", 400_000, _B4, _PLAIN),
        "ImageNet-256 latents, α-Flow-B/4 without guidance, 80 epochs",
        _NONE,
    ),
    _recipe(
        _config("imagenet-b2", 400_000, _B2, _PLAIN),
        "ImageNet-256 latents, α-Flow-B/2 without guidance, 80 epochs",
        _published(40.0, 37.1),
    ),
    _recipe(
        _config("imagenet-b2-cfg", 1_200_000, _B2, _B2_CFG),
        "ImageNet-256 latents, α-Flow-B/2 with guidance trained in, 240 epochs",
        _published(5.40, 5.01, " (--times 1,.5,0)"),
    ),
    _recipe(
        _config("imagenet-l2-cfg", 1_200_000, _L2, _L2_CFG),
        "ImageNet-256 latents, α-Flow-L/2 with guidance trained in, 240 epochs",
        _NONE,
    ),
    _recipe(
        _config("imagenet-xl2-cfg", 1_200_000, _XL2, _XL2_CFG),
        "ImageNet-256 latents, α-Flow-XL/2 with guidance trained in, 240 epochs",
        _published(2.95, 2.34, _CONSISTENCY),
    ),
)

_MEANFLOW = {
    "imagenet-b4": _NONE + " at these settings; JAX MeanFlow-B/4, 75 % of rows with r = t: 61.06 at 1 NFE",
    "imagenet-b2": _published(44.4, 42.1, "; with --objective.flow-ratio 75% 43.1 at 1"),
    "imagenet-b2-cfg": _published(6.04, 5.17),
    "imagenet-xl2-cfg": _published(3.47, 2.46),
}
_SHORTCUT = {
    "imagenet-b2": "published FID-50K 59.8 at 1 NFE, after 200K steps of flow matching; not measured here"
}


def _twins(base: Recipe) -> list[Recipe]:
    """The same run with MeanFlow's, Shortcut's and flow matching's objective."""
    ours = base.config.objective
    own = dataclasses.replace(ours, alpha=None, flow_ratio=None)
    members = {
        "meanflow": ("MeanFlow", dataclasses.replace(ours, alpha=None), _MEANFLOW.get(base.name, _NONE)),
        "shortcut": ("Shortcut", own, _SHORTCUT.get(base.name, _NONE)),
        "fm": ("flow matching", own, f"{_NONE} at 1 or 2 NFE: flow matching needs many steps"),
    }
    made = []
    for name, (title, objective, expected) in members.items():
        objective = dataclasses.replace(objective, name=name)
        config = dataclasses.replace(base.config, recipe=f"{base.name}-{name}", objective=objective)
        made.append(_recipe(config, f"{title}'s twin of {base.name}", expected, twin_of=base.name))
    return made


def _plus() -> Recipe:
    """75K more steps at a batch of 1024 with α = 0, from where XL/2 ended: moments and averages go on, so there is
    no second warm-up, and the averages keep their full half-life."""
    before = _BASES[-1].config
    config = dataclasses.replace(
        before,
        recipe="imagenet-xl2-plus",
        steps=75_000,
        batch_size=1024,
        objective=dataclasses.replace(before.objective, alpha="0"),
        optimizer=dataclasses.replace(before.optimizer, warmup=0),
        ema=dataclasses.replace(before.ema, ramp=EMAConfig.half_life),
    )
    return _recipe(
        config,
        "α-Flow-XL/2+: imagenet-xl2-cfg continued for 75K steps with α = 0 and batches of 1024",
        _published(2.58, 2.15, " (--method consistency --times 1,.5,0)") + "; class-balanced labels 2.44 and 1.95",
        init="--init runs/imagenet-xl2-cfg ",
    )


IMAGENET: tuple[Recipe, ...] = (*_BASES, _plus(), *(twin for base in _BASES for twin in _twins(base)))
