"""Recipes for latents of other autoencoders: their times are shifted as the size of a latent asks for."""

import dataclasses
import re

import pytest
import torch

from alphaflow.cli import run
from alphaflow.method.times import LogitNormal
from alphaflow.recipes import RECIPES
from alphaflow.recipes.autoencoders import AUTOENCODERS
from alphaflow.rng import KeyedRandom
from alphaflow.runs.build import build_model, build_objective
from alphaflow.training.loss import Loss

NAMES = [recipe.name for recipe in AUTOENCODERS]
SHIFTS = {  # of 4·32², 16·32², 32·16², 32·8², 768·16² numbers
    "latents-f8c4": 1.0,
    "latents-f8c16": 2.0,
    "latents-f16c32": 2**0.5,
    "latents-f32c32": 0.5**0.5,
    "latents-rae": 48**0.5,
}


def test_the_sizes_are_those_that_the_names_say() -> None:
    assert list(SHIFTS) == NAMES and set(NAMES) <= set(RECIPES)
    for name in NAMES[:4]:
        factor, channels = map(int, re.match(r"latents-f(\d+)c(\d+)", name).groups())
        assert RECIPES[name].shape == (channels, 256 // factor, 256 // factor)
    assert RECIPES["latents-rae"].shape == (768, 16, 16)


@pytest.mark.parametrize("name", NAMES)
def test_times_are_those_of_the_base_run_shifted_towards_noise(name: str) -> None:
    """t → s t / (1 + (s - 1) t) with s = √(D / 4096), on both times."""
    objective, s = build_objective(RECIPES[name].config, 1000), SHIFTS[name]
    p = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    t = LogitNormal(-0.4, 1.0).quantile(p)
    for law in (objective.times.t, objective.times.r):
        torch.testing.assert_close(law.quantile(p), s * t / (1 + (s - 1) * t), atol=1e-4, rtol=0)
    middle = float(re.search(r"--times 1,([\d.]+),0", RECIPES[name].expected)[1])
    assert middle == pytest.approx(s * 0.5 / (1 + (s - 1) * 0.5), abs=6e-4)


def test_of_stable_diffusion_s_latents_it_is_the_published_run() -> None:
    base, ours = RECIPES["imagenet-b2"].config, RECIPES["latents-f8c4"].config
    assert dataclasses.replace(ours, recipe=base.recipe, objective=base.objective) == base
    assert build_objective(ours, 1000) == build_objective(base, 1000)


@pytest.mark.parametrize("name", ["latents-f32c32", "latents-rae"])  # the others cost what imagenet-b2 does
def test_dry_run_says_without_data_what_stands_beside_the_recipe(name: str, capsys) -> None:
    assert run(["train", name, "--dry-run", "--gpus", "8", "--mfu", "0.4"]) == 0
    minutes = float(re.search(r"time +([\d.]+) minutes on 8 GPUs", capsys.readouterr().out)[1])
    hours = float(re.match(r"([\d.]+) hours on 8 GPUs of 989 TFLOP/s at 40 %", RECIPES[name].cost)[1])
    assert hours == pytest.approx(minutes / 60, rel=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_one_step_at_reduced_depth(name: str) -> None:
    recipe = RECIPES[name]
    small = dataclasses.replace(recipe.config.model, depth=1, width=32, heads=2)
    config = dataclasses.replace(recipe.config, model=small)
    net = build_model(config.model, recipe.shape, recipe.num_classes, config.seed)
    loss = Loss(net, build_objective(config, 1000), config.seed, precision=config.precision)
    random = KeyedRandom(0, torch.arange(4))
    x, y = random.normal("latents", recipe.shape), torch.arange(4) * 100
    out = loss(x, y, torch.arange(4), 200_000, loss.objective.flow_rows(4, 200_000))
    out.loss.backward()
    assert out.loss.isfinite()
    assert any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in net.parameters())
