"""Whom a setting concerns: what nothing would heed is refused, and the help says so."""

import pytest

from alphaflow.cli import run
from alphaflow.cli.settings import parse_settings
from alphaflow.errors import UserError
from alphaflow.recipes import RECIPES
from alphaflow.runs.config import Config, from_dict, to_dict
from alphaflow.runs.constraints import settings_of

SETTINGS = {setting.name: setting for setting in settings_of(Config)}

UNHEEDED = {  # a setting that a person gives, where nothing would heed it: recipe, words
    "data.path": ("digits", "--data.path x"),
    "data.labels": ("toy", "--data.labels x.csv"),
    "data.captions": ("shapes", "--data.captions auto"),
    "data.size": ("toy", "--data.size 64"),  # the default, said all the same
    "data.frames": ("folder", "--data.frames 8"),
    "data.rate": ("folder", "--data.rate 8"),
    "data.crop": ("digits", "--data.crop box"),
    "data.grey": ("digits", "--data.grey"),
    "data.flip": ("toy", "--data.flip"),
    "data.tolerance": ("digits", "--data.tolerance 0.1"),
    "data.toy": ("digits", "--data.toy moons"),
    "data.classes": ("toy", "--data.classes 1"),
    "data.balanced": ("toy", "--data.balanced"),
    "model.heads": ("toy", "--model.heads 4"),
    "model.patch": ("digits", "--model.name unet --model.patch 4"),
    "model.activation": ("toy", "--model.activation silu"),
    "model.attention": ("digits", "--model.attention factorised"),
    "model.text_width": ("digits", "--model.text-width 64"),
    "model.position_step": ("digits", "--model.position-step 16"),
    "model.text_depth": ("folder", "--data.path x --model.text-depth 1"),
    "model.guided": ("toy", "--model.guided"),
    "objective.derivative": ("digits", "--objective.alpha 0.5 --objective.derivative reverse"),
    "objective.alpha": ("digits", "--objective.name fm --objective.alpha 0.5"),
    "objective.shift": ("digits", "--objective.alpha 1 --objective.shift model"),
    "objective.delta": ("digits", "--objective.name meanflow --objective.delta 0.1"),
    "objective.blend": ("toy", "--objective.name meanflow --objective.blend 0.5"),
    "objective.trust": ("toy", "--objective.alpha 1 --objective.trust 0.5"),
    "objective.to_data": ("digits", "--objective.name fm --objective.to-data 0.1"),
    "objective.weight_by_time": ("digits", "--objective.name meanflow --objective.weight-by-time tim"),
    "objective.relaxation": ("digits", "--objective.flow-ratio 100% --objective.relaxation 1"),
    "objective.coupling": ("digits", "--objective.name fm --objective.coupling scaled"),
    "objective.r_law": ("digits", "--objective.coupling dyadic --objective.r-law uniform"),
    "objective.weight_power": ("toy", "--objective.weight-power 0.5"),
    "objective.weight_c": ("digits", "--objective.weight uniform --objective.weight-c 0.1"),
    "objective.clip": ("digits", "--objective.alpha 0 --objective.clip 4"),
    "objective.omega": ("toy", "--objective.omega 2"),
    "objective.kappa": ("toy", "--objective.kappa 0.5"),
    "objective.guide_from": ("digits", "--objective.guide-from 0.2"),
    "objective.guide_to": ("digits", "--objective.guide-to 0.8"),
    "objective.label_drop": ("toy", "--objective.label-drop 0.1"),
    "objective.drop_where": ("digits", "--objective.drop-where flow"),
    "objective.guide_dropped": ("digits", "--objective.guide-dropped"),
    "objective.scales": ("toy", "--objective.scales 1 4"),
    "trajectories.solver": ("digits", "--trajectories.solver heun"),
    "trajectories.steps": ("digits", "--trajectories.steps 8"),
    "trajectories.pairs": ("digits", "--trajectories.pairs 8"),
    "ema.ramp": ("digits", "--ema.half-life 0 --ema.ramp 0.1"),
    "ema.store_every": ("digits", "--ema.store-every 10"),
    "monitor.count": ("folder", "--monitor.count 64"),
    "monitor.nfe": ("digits", "--monitor.every 0 --monitor.nfe 2"),
    "monitor.detector": ("folder", "--monitor.detector clip"),
    "monitor.vae": ("digits", "--monitor.vae x"),
    "monitor.reference": ("folder", "--monitor.reference x.npz"),
    "diagnosis.batches": ("digits", "--diagnosis.batches 4"),
}


def test_every_condition_has_a_case():
    assert set(UNHEEDED) == {name for name, setting in SETTINGS.items() if setting.only}


@pytest.mark.parametrize("name", UNHEEDED)
def test_what_nothing_would_heed_is_refused(name):
    recipe, words = UNHEEDED[name]
    with pytest.raises(UserError) as error:
        parse_settings(recipe, words.split())
    said = str(error.value)
    assert error.value.status == 2 and "says nothing here" in said
    assert said.split()[0] == name


@pytest.mark.parametrize("name", UNHEEDED)
def test_help_says_whom_a_setting_concerns_and_its_range(name, capsys):
    assert run(["train", "digits", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert SETTINGS[name].words() in said


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("digits", "--model.name unet --model.depth 2"),
        ("digits", "--model.guided --objective.scales 1 4 --objective.label-drop 0.1"),
        ("toy", "--data.toy moons --objective.label-drop 0.1 --objective.guide-to 0.8"),
        ("digits", "--objective.weight power --objective.weight-power 0.5 --objective.weight-c 0.01"),
        ("moving-digits", "--data.name clips --data.path VIDEOS --data.rate 8 --data.size 24"),
        ("digits", "--diagnosis.every 5 --diagnosis.batches 4 --objective.alpha 1 --objective.derivative forward"),
        ("digits", "--wandb my-project --data.classes 0,3-5 --spike-factor 3"),
        ("digits", "--batch_size 64 --objective.flow_ratio=25% --compile=False"),
    ],
)
def test_what_is_heeded_is_taken(recipe, words):
    parse_settings(recipe, words.split())


def test_a_config_file_may_hold_what_nothing_heeds():
    """It holds all settings, of older versions as well."""
    record = to_dict(RECIPES["toy"].config)
    record["model"]["heads"] = 3
    assert from_dict(record, "config.yaml").model.heads == 3
