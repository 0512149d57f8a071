"""The ImageNet recipes against the published table, and what they do when built."""

import dataclasses
import functools
import re

import pytest
import torch

import published
from alphaflow.cli import run
from alphaflow.costs.estimate import CostEstimate, Machine, evaluations, plan
from alphaflow.errors import UserError
from alphaflow.method.family import MEMBERS
from alphaflow.method.objective import AlphaFlow
from alphaflow.method.schedules import Curve
from alphaflow.method.times import LogitNormal, Times
from alphaflow.method.weighting import Weight
from alphaflow.recipes import RECIPES
from alphaflow.recipes.base import Recipe
from alphaflow.rng import KeyedRandom
from alphaflow.runs.build import build_model, build_objective
from alphaflow.training.loss import Loss

NAMES = [name for name in RECIPES if name.startswith("imagenet")]
BASES = [name for name in NAMES if not RECIPES[name].twin_of]


@functools.cache
def planned(name: str) -> CostEstimate:
    recipe = RECIPES[name]
    return plan(recipe.config, recipe.shape, recipe.num_classes, Machine(gpus=8, mfu=0.4))


def built(recipe: Recipe) -> AlphaFlow:
    return build_objective(recipe.config, recipe.num_classes)


def test_every_published_setting_is_a_recipe_and_has_its_twins() -> None:
    assert set(BASES) == set(published.SETTINGS)
    continued = {"imagenet-xl2-plus"}  # α is 0 all through: it is its own twin
    twins = {f"{name}-{member}" for name in set(BASES) - continued for member in ("meanflow", "shortcut", "fm")}
    assert set(NAMES) == twins | set(BASES)


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_the_published_ones(name: str) -> None:
    recipe = RECIPES[name]
    row, config = published.SETTINGS[recipe.twin_of or name], recipe.config
    model, ours, optimizer = config.model, config.objective, config.optimizer
    assert (model.name, model.activation, model.predicts) == ("dit", "gelu-tanh", "velocity")
    assert (model.depth, model.width, model.heads, model.patch) == row[:4]
    assert (config.steps, config.batch_size, config.seed) == (row.steps, row.batch, published.SEED)
    assert config.precision == "bfloat16" and config.data.name == "latents"
    assert (recipe.shape, recipe.num_classes) == (published.SHAPE, published.CLASSES)
    assert (ours.omega, ours.kappa, ours.guide_from, ours.guide_to) == row.guidance
    assert ours.label_drop == (published.LABEL_DROP if row.guidance[1] else 0)
    assert ours.guide_dropped == (ours.label_drop > 0) and ours.drop_where == "interval"
    assert ours.clip == (None if recipe.twin_of else published.CLIP)
    expected = dict(published.OPTIMIZER)
    if name == "imagenet-xl2-plus":  # a continuation has warmed up before
        expected["warmup"] = 0
    assert {key: getattr(optimizer, key) for key in expected} == expected
    assert optimizer.decay == "constant(1)"


@pytest.mark.parametrize("name", BASES)
def test_curriculum_and_times_are_the_published_ones(name: str) -> None:
    row, objective = published.SETTINGS[name], built(RECIPES[name])
    assert objective.flow_ratio == row.flow_ratio
    law = LogitNormal(*published.T_LAW)
    assert objective.times == Times(coupling="sorted", t=law, r=law, flow=None)
    assert objective.weight == Weight(kind="adaptive", power=published.WEIGHT["power"]) and Weight().c is None
    assert objective.shift == "data"
    if row.anneal is None:
        assert objective.alpha == 0
        return
    start, end = row.anneal
    curve = objective.alpha
    assert isinstance(curve, Curve)
    assert (curve.shape, curve.temperature, curve.clamp) == ("sigmoid", 25, 5e-3)
    assert curve.start == pytest.approx(start, abs=0.5) and curve.end == pytest.approx(end, abs=0.5)
    middle = (start + end) // 2
    assert curve(middle) == pytest.approx(0.5, abs=1e-4)
    # Between 28.8 % and 71.2 % of the way, as the paper's clamp has it.
    assert curve(int(start + 0.285 * (end - start))) == 1 and curve(int(start + 0.715 * (end - start))) == 0
    assert curve(int(start + 0.705 * (end - start))) > 0 and curve(int(start + 0.295 * (end - start))) < 1


@pytest.mark.parametrize("name", BASES)
def test_averages_have_the_published_half_life(name: str) -> None:
    ema = RECIPES[name].config.ema
    assert ema.half_life == published.EMA["half_life"]
    if name == "imagenet-xl2-plus":
        assert min(ema.half_life, ema.ramp * 1) == ema.half_life  # from its first step
    else:
        assert ema.ramp == published.EMA["ramp"]


@pytest.mark.parametrize("name", [name for name in NAMES if RECIPES[name].twin_of])
def test_a_twin_differs_in_its_objective_alone(name: str) -> None:
    twin, base = RECIPES[name], RECIPES[RECIPES[name].twin_of]
    member = name.removeprefix(base.name + "-")
    same = dataclasses.replace(twin.config, recipe=base.name, objective=base.config.objective)
    assert same == base.config
    objective, own = built(twin), MEMBERS[member]()
    assert objective.alpha == own.alpha
    assert objective.guidance == built(base).guidance
    ratio = built(base).flow_ratio if member == "meanflow" else own.flow_ratio
    assert objective.flow_ratio == ratio
    if member == "meanflow":  # α-Flow's own MeanFlow: with its law of t and its weight
        assert objective == dataclasses.replace(built(base), alpha=0.0, clip=None, times=objective.times)
        assert objective.times == dataclasses.replace(built(base).times, flow=LogitNormal(*published.T_LAW))
    else:
        assert objective == dataclasses.replace(own, guidance=objective.guidance)


@pytest.mark.parametrize("name", BASES)
def test_parameters_and_flops_are_the_published_ones(name: str) -> None:
    row = published.SETTINGS[name]
    made = planned(name)
    assert round(made.parameters / 1e6) == row.millions
    if row.gflop is not None:
        assert made.forward_macs / 1e9 == pytest.approx(row.gflop, rel=0.01)


@pytest.mark.parametrize("name", [*NAMES, "kinetics-700"])
def test_the_cost_beside_a_recipe_is_that_of_its_plan(name: str) -> None:
    recipe = RECIPES[name]
    made = planned(name)
    hours = float(re.match(r"([\d.]+) hours on 8 GPUs of 989 TFLOP/s at 40 %", recipe.cost)[1])
    assert hours == pytest.approx(made.seconds / 3600, rel=0.05)


@pytest.mark.parametrize("name", published.FID)
def test_the_published_figures_stand_beside_the_recipe(name: str) -> None:
    one, two = published.FID[name]
    at_two = "" if two is None else f", {two:.2f} at 2"
    assert f"FID-50K {one:.2f} at 1 NFE{at_two}" in RECIPES[name].expected
    assert "not measured here" in RECIPES[name].expected
    steps = published.TWO_STEPS.get(name)
    if steps and steps[0] == "consistency":
        assert f"--method consistency --times 1,{steps[1]:g},0".replace("0.", ".") in RECIPES[name].expected


@pytest.mark.parametrize("name", [*NAMES, "kinetics-700"])
def test_one_step_at_reduced_depth(name: str) -> None:
    """On synthetic latents: model, objective and optimizer from the recipe, at three points of its schedule."""
    recipe = RECIPES[name]
    depth = 2 if recipe.config.model.attention == "factorised" else 1
    small = dataclasses.replace(recipe.config.model, depth=depth, width=32, heads=2, patch=16)
    config = dataclasses.replace(recipe.config, model=small)
    net = build_model(config.model, recipe.shape, recipe.num_classes, config.seed)
    loss = Loss(net, built(recipe), config.seed, precision=config.precision)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    random = KeyedRandom(0, torch.arange(8))
    x, y = random.normal("latents", recipe.shape), torch.arange(8) * 100
    for step in (0, config.steps * 2 // 3, config.steps):
        before = [p.detach().clone() for p in net.parameters()]
        out = loss(x, y, torch.arange(8), step, loss.objective.flow_rows(8, step))
        out.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        assert out.loss.isfinite()
        assert any(not torch.equal(a, b) for a, b in zip(before, net.parameters()))


def test_kinetics_clips_are_those_of_the_paper() -> None:
    recipe = RECIPES["kinetics-700"]
    assert recipe.shape == (4, 17, 256 // 8, 256 // 8) and recipe.num_classes == 700
    assert recipe.config.model.name == "video-dit" and recipe.config.data.frames == 17
    # 17 images' worth of B/2, less what attention over all tokens of a frame would not see in turns.
    image = planned("imagenet-b2").forward_macs
    assert 16 * image < planned("kinetics-700").forward_macs < 17 * image


def test_evaluations_are_those_of_the_theory() -> None:
    """In forward passes a sample, without guidance and with half of the rows at r < t."""

    def passes(member: str, alpha: str | None, **changes: object) -> float:
        base = RECIPES["imagenet-b2"].config
        ours = dataclasses.replace(base.objective, name=member, alpha=alpha, flow_ratio="50%", **changes)
        return evaluations(dataclasses.replace(base, objective=ours), 1000)

    assert passes("fm", "1") == 1
    assert passes("alphaflow", "0.5") == 1.5  # u at the shifted point
    assert passes("meanflow", None) == 1.5  # the tangent
    # On half of the rows u, ∂u/∂r and the velocity at the end; and the backward pass through ∂u/∂r, as two.
    assert passes("tvm", None) == 3
    assert passes("shortcut", None) == 2  # the shift too is the model's
    # A step half way: nothing more before it, half a pass after it.
    assert passes("alphaflow", "step(50%)") == pytest.approx(1.25, abs=0.01)
    # Both branches of guidance, on a share of the rows that never drop their class.
    assert passes("fm", "1", omega=0.2, kappa=0.5, label_drop=0.25) == pytest.approx(1 + 2 * 0.75, abs=0.02)


def test_more_gpus_shorten_the_run_and_sharding_divides_the_states() -> None:
    config = RECIPES["imagenet-b2"].config
    one = plan(config, published.SHAPE, published.CLASSES, Machine(gpus=1, mfu=0.5))
    eight = plan(config, published.SHAPE, published.CLASSES, Machine(gpus=8, mfu=0.25))
    assert one.seconds == pytest.approx(4 * eight.seconds)
    assert one.states == eight.states == 20 * one.parameters
    assert one.activations > 7 * eight.activations
    sharded = dataclasses.replace(config, parallel=dataclasses.replace(config.parallel, strategy="fsdp"))
    assert plan(sharded, published.SHAPE, published.CLASSES, Machine(gpus=8)).states == eight.states / 8
    in_parts = plan(dataclasses.replace(config, accumulate=4), published.SHAPE, published.CLASSES)
    assert in_parts.activations < eight.activations / 2
    again = plan(dataclasses.replace(config, recompute=True), published.SHAPE, published.CLASSES)
    assert again.evaluations == eight.evaluations + 1
    inputs = 32 * 12 * 256 * 768 * 4  # of 12 blocks, 256 tokens in float32, 32 rows a GPU
    assert inputs < again.activations < eight.activations / 4
    slower = plan(dataclasses.replace(config, peak_tflops=98.9), published.SHAPE, published.CLASSES)
    assert slower.seconds == pytest.approx(10 * plan(config, published.SHAPE, published.CLASSES).seconds)


@pytest.mark.parametrize(
    ("machine", "message"),
    [({"gpus": 0}, "--gpus 0"), ({"mfu": 0.0}, "--mfu 0"), ({"mfu": 1.5}, "--mfu 1.5")],
)
def test_a_machine_that_cannot_be(machine: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Machine(**machine)


def test_a_batch_must_divide_among_the_gpus() -> None:
    with pytest.raises(UserError, match="batch_size 256 does not divide into 24 GPUs"):
        plan(RECIPES["imagenet-b2"].config, published.SHAPE, published.CLASSES, Machine(gpus=24))


def test_dry_run_prints_the_plan_without_data_and_writes_nothing(capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["train", "imagenet-xl2-cfg", "--dry-run", "--out", "run", "--gpus", "16", "--mfu", "0.5"]
    assert run(words) == 0
    said = capsys.readouterr().out
    assert "676,440,592 parameters, 119 GFLOP forward" in said
    assert "on 16 GPUs of 989 TFLOP/s at 50 % of it" in said
    hours = float(re.search(r"time +([\d.]+) hours", said)[1])
    assert hours == pytest.approx(planned("imagenet-xl2-cfg").seconds / 3600 * 8 / 16 * 0.4 / 0.5, rel=0.01)
    assert "3 × 10.1 GiB of checkpoints" in said  # two kept, and the next being written
    assert not list(tmp_path.iterdir())


def test_dry_run_asks_the_data_where_they_are(capsys) -> None:
    assert run(["train", "digits", "--dry-run", "--gpus", "1", "--steps", "10"]) == 0
    assert "10 steps of 128 samples" in capsys.readouterr().out
    assert run(["train", "imagenet-b2", "--dry-run", "--data.path", "nowhere"]) != 0


@pytest.mark.parametrize("words", [["--objective.guide-dropped"], ["--objective.drop-where", "flow"]])
def test_where_labels_drop_says_nothing_where_none_does(words: list[str], capsys) -> None:
    assert run(["train", "digits", "--dry-run", *words]) == 2
    assert "says nothing here: it goes with objective.label_drop above 0" in capsys.readouterr().err
    assert run(["train", "digits", "--dry-run", "--gpus", "1", *words, "--objective.label-drop", "0.1"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dry-run"], "no recipe to plan"),
        (["imagenet-b2", "--gpus", "4", "--out", "run"], "--gpus and --mfu go with --dry-run"),
        (["imagenet-b2", "--dry-run", "--gpus", "7"], "batch_size 256 does not divide into 7 GPUs"),
        (["imagenet-b2", "--out", "run"], "--data.path"),
    ],
)
def test_mistakes_in_planning(words: list[str], message: str, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["train", *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
