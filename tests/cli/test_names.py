"""What is asked for by name is what trains, and every place that tells of it says the same."""

import dataclasses
import html
import json
import re
from pathlib import Path

import pytest
import yaml

import alphaflow as af
from alphaflow import UserError
from alphaflow.cli import run
from alphaflow.cli.settings import parse_settings
from alphaflow.cli.train import tell
from alphaflow.method.family import MEMBERS, as_it_runs, member, statement
from alphaflow.recipes import RECIPES
from alphaflow.runs.build import build_objective, state_objective
from alphaflow.runs.config import with_changes

TINY = "--batch-size 16 --model.width 16 --model.depth 1 --model.heads 2 --model.patch 4 --log-every 1".split()


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_member_asked_for_by_name_is_that_member_whole(recipe, name):
    base = RECIPES[recipe].config
    config = parse_settings(recipe, ["--objective.name", name])
    objective = build_objective(config, num_classes=10)
    own = RECIPES[recipe].members.get(name, {})
    departs = any(setting.startswith("objective.") for setting in own)
    if name != base.objective.name:
        published = member(name, config.schedule_steps or config.steps)
        assert (dataclasses.replace(objective, guidance=None) == published) is not departs
        assert ("[published" in state_objective(config, objective)) is departs
    # what is learned, and all that is the data's and the network's, is the recipe's, but for what it states
    guidance = build_objective(base, num_classes=10).guidance
    if guidance is not None and name != base.objective.name:
        guidance = dataclasses.replace(guidance, guide_dropped=False)
    assert objective.guidance == guidance
    assert dataclasses.replace(config, objective=base.objective) == dataclasses.replace(
        with_changes(base, own), objective=base.objective
    )


def test_what_a_recipe_changes_for_a_member_is_said_and_gives_way_to_words():
    said = parse_settings("digits", ["--objective.name", "consistency"])
    assert said.model.predicts == "velocity"
    told = RECIPES["digits"].told(said)
    assert told == "digits for consistency [in the place of]: model.predicts velocity [data]"
    other = parse_settings("digits", ["--objective.name", "consistency", "--model.predicts", "data"])
    assert other.model.predicts == "data" and not RECIPES["digits"].told(other)
    assert not RECIPES["digits"].told(RECIPES["digits"].config)


def test_data_prediction_under_consistency_is_warned_of(caplog):
    for name, predicts, warned in (
        ("consistency", "data", True),
        ("discrete-consistency", "data", True),
        ("consistency", "velocity", False),
        ("meanflow", "data", False),
    ):
        caplog.clear()
        tell("digits", parse_settings("digits", ["--objective.name", name, "--model.predicts", predicts]))
        assert ("is consistent, and training finds it" in caplog.text) == warned


def test_pictures_with_captions_are_not_mirrored_unless_that_is_said():
    assert RECIPES["folder"].config.data.flip
    assert not parse_settings("folder", "--data.path x --data.captions auto".split()).data.flip
    assert parse_settings("folder", "--data.path x --data.captions auto --data.flip".split()).data.flip


@pytest.mark.parametrize("words", ["--objective.name=meanflow", "--objective.name meanflow"])
@pytest.mark.parametrize("later", [True, False])
def test_what_is_set_beside_the_name_holds_wherever_it_stands(words, later):
    beside = "--objective.flow-ratio 0.5 --objective.weight uniform --objective.alpha 0.25".split()
    config = parse_settings("digits", [*words.split(), *beside] if later else [*beside, *words.split()])
    objective = build_objective(config, num_classes=10)
    assert objective == af.MeanFlow(flow_ratio=0.5, weight=af.Weight(kind="uniform"), alpha=0.25)


@pytest.mark.parametrize("name", ["discrete-consistency", "rcgm"])
def test_a_members_step_may_fall_and_others_have_none(name):
    falling = "exponential(0%, 80%, 4, first=0.1, last=0.002)"
    config = parse_settings("digits", ["--objective.name", name, "--objective.delta", falling, "--steps", "100"])
    alpha = build_objective(config, num_classes=10).alpha
    assert [round(alpha.delta(step), 4) for step in (0, 40, 80)] == [0.1, 0.0137, 0.002]
    with pytest.raises(UserError, match=r"objective\.name discrete-consistency or rcgm"):
        parse_settings("digits", ["--objective.name", "meanflow", "--objective.delta", "0.1"])


def test_the_recipes_own_name_changes_nothing():
    assert parse_settings("digits", ["--objective.name", "alphaflow"]) == RECIPES["digits"].config


@pytest.mark.parametrize(
    ("objective", "name", "marked"),
    [
        (af.MeanFlow(), "meanflow", {}),
        (af.MeanFlow(times=af.Times()), "meanflow", {"times where": "max(logit-normal(-0.4, 1))"}),
        (af.MeanFlow(flow_ratio=0.25), "meanflow", {"r = t on": "75 % of rows"}),
        (af.MeanFlow(alpha=0.5, clip=4), "meanflow", {"α": "0", "clip": "none"}),
        (af.AlphaFlow(alpha=af.schedules.sigmoid(20, 90), flow_ratio=0.5, clip=4), "alphaflow", {}),
        (af.AlphaFlow(alpha=af.schedules.sigmoid(-20, 90)), "alphaflow", {"α": "sigmoid(0, 100)"}),
        (af.AlphaFlow(alpha=0.5), "alphaflow", {"α": "sigmoid(0, 100)"}),
        (af.Shortcut(shift="data"), "shortcut", {"ṽ": "model"}),
        (af.ImprovedMeanFlow(relaxation=0.5), "imeanflow", {"relaxation": "none"}),
        (af.FACM(cosine=0.0), "facm", {"cosine": "1"}),
        (af.FlowMatching(times=af.Times(t=af.times.Uniform())), "fm", {"times": "logit-normal(-0.4, 1)"}),
    ],
)
def test_departures_from_the_published_member_are_marked(objective, name, marked):
    told = statement(objective, name, 100).removeprefix(f"{name}: ")
    found = [part.rstrip("]").split(" [published: ") for part in told.split("; ") if "[published" in part]
    assert len(found) == len(marked)
    for said, own in found:
        assert own == next(value for part, value in marked.items() if said.startswith(part))


def test_every_setting_of_an_objective_shows_in_its_statement():
    """One that did not could change a run without a word, now or on resumption."""
    changes = {
        "alpha": 0.3,
        "flow_ratio": 0.4,
        "times": af.Times(flow=af.times.Uniform()),
        "shift": "model",
        "weight": af.Weight(power=0.5),
        "clip": 2.0,
        "guidance": af.Guidance(null=10, omega=1.5),
        "teacher": lambda z, r, t, y=None: z,
        "relaxation": 0.5,
        "cosine": 0.5,
        "jumps": 2,
        "max_change": 1.0,
        "trust": 0.5,
        "blend": 0.5,
        "full_gradient": True,
    }
    silent = {"derivative"}  # how it is computed, and not what
    assert {field.name for field in dataclasses.fields(af.AlphaFlow)} == set(changes) | silent
    for name, value in changes.items():
        plain = af.AlphaFlow(alpha=0.1, shift="velocity" if name == "blend" else "data")
        plain = af.Lagrangian() if name == "full_gradient" else plain
        told = statement(dataclasses.replace(plain, **{name: value}), "alphaflow", 100)
        assert as_it_runs(told) != as_it_runs(statement(plain, "alphaflow", 100)), name


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(af.Guidance)])
def test_every_setting_of_guidance_shows_too(field):
    changes = {"omega": 2.0, "kappa": 0.5, "t_min": 0.1, "t_max": 0.9, "drop": 0.2, "scales": (1.0, 3.0)}
    changes |= {"drop_where": "flow"}
    plain = af.Guidance(null=10, scales=(1.0, 4.0)) if field in ("scales", "intervals") else af.Guidance(null=10)
    if field != "null":  # the class that means none: given by the data
        other = dataclasses.replace(plain, **{field: changes.get(field, True)})
        assert str(other) != str(plain)


@pytest.fixture(scope="module")
def meanflow(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "mf"
    words = ["--objective.name", "meanflow", "--objective.label-drop", "0.1", "--steps", "3", *TINY]
    assert run(["train", "digits", "--out", str(out), *words]) == 0
    return out


def test_a_run_trains_prints_and_records_what_was_named(meanflow, tmp_path):
    lines = [json.loads(line) for line in (meanflow / "metrics.jsonl").read_text().splitlines()]
    assert [line["alpha"] for line in lines if "alpha" in line] == [0.0] * 3
    assert {line["flow_ratio"] for line in lines if "flow_ratio" in line} == {0.75}
    told = yaml.safe_load((meanflow / "config.yaml").read_text())["objective"]
    assert told.startswith("meanflow: α 0; ṽ data; r = t on 75 % of rows; ")
    assert told.endswith("guidance ω 1, κ 0, 0 < t < 1, 10 % of labels dropped")
    assert run(["report", str(meanflow)]) == 0
    assert told in html.unescape((meanflow / "report.html").read_text()).replace("\xa0", " ")
    assert run(["export", str(meanflow), str(tmp_path / "model")]) == 0
    assert told in (tmp_path / "model" / "README.md").read_text()


def test_shortcut_by_name_stays_at_one_half(tmp_path, caplog):
    out = tmp_path / "run"
    assert run(["train", "digits", "--out", str(out), "--objective.name", "shortcut", "--steps", "3", *TINY]) == 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert {line["alpha"] for line in lines if "alpha" in line} == {0.5}
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("objective ")]
    assert said == [f"objective {yaml.safe_load((out / 'config.yaml').read_text())['objective']}"]


def test_a_run_does_not_go_on_with_another_objective_than_it_began_with(meanflow, capsys):
    file = meanflow / "config.yaml"
    before = file.read_text()
    file.write_text(re.sub(r"^objective: .*$", "objective: 'meanflow: α 0.5'", before, flags=re.M))
    assert run(["train", "--resume", str(meanflow), "--steps", "4"]) == 1
    assert "began with the objective 'meanflow: α 0.5', and its settings now stand for 'meanflow: α 0;" in (
        capsys.readouterr().err
    )
    file.write_text(before)
