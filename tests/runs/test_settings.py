"""What is declared beside each setting, ranges, names, laws; cases come from that."""

import dataclasses
import math
import subprocess
import sys
import tracemalloc
import types
import typing
from pathlib import Path

import pytest
import torch
import yaml

from alphaflow.cli import run
from alphaflow.cli.settings import parse_settings
from alphaflow.data.toys import TOYS
from alphaflow.derivatives.total import METHODS
from alphaflow.errors import UserError
from alphaflow.method.family import MEMBERS
from alphaflow.metrics.detectors.catalogue import DETECTORS
from alphaflow.models.ema import WIDEST
from alphaflow.recipes import RECIPES
from alphaflow.runs import conditions
from alphaflow.runs.build import build_objective
from alphaflow.runs.config import RECORDED, Config, OptimizerConfig, from_dict, to_dict, with_changes
from alphaflow.runs.constraints import Anything, Law, Name, OneOf, Range, Schedule, Setting, settings_of
from alphaflow.runs.folder import RunFolder
from alphaflow.runs.yaml_settings import EARLIER
from alphaflow.training.trainer import Trainer
from tiny_runs import TINY, same, weights

SETTINGS = {setting.name: setting for setting in settings_of(Config)}
CONFIGS = {name: recipe.config for name, recipe in RECIPES.items()}


def plain(hint: object) -> object:
    """`float | None` and `tuple[float, ...]` are numbers."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return next(one for one in typing.get_args(hint) if one is not type(None))
    return hint


def is_many(setting: Setting) -> bool:
    return typing.get_origin(setting.hint) is tuple


def wrong_values(setting: Setting) -> list[object]:
    """Of the setting's own type, beside what its declaration allows."""
    check = setting.check
    if isinstance(check, Range):
        kind = typing.get_args(setting.hint)[0] if is_many(setting) else plain(setting.hint)
        bounds = [(check.low, -1), (check.above, 0), (check.high, 1), (check.below, 0)]
        found = [kind(bound) + side for bound, side in bounds if bound is not None]
        found += [10**400] if kind is int else [math.nan, math.inf, -math.inf]
        return [(one,) for one in found] if is_many(setting) else found
    if isinstance(check, Schedule):
        beyond = [str(check.low - 1)] + ([str(check.high + 1)] if math.isfinite(check.high) else [])
        curves = [f"linear(0, 5, first={one})" for one in beyond]
        words = ["", "nan", "inf", "linear(0, inf)", "linear(5, 0)", "step(1, 2, 3)", "curve(1)", "("]
        return [*beyond, *curves, *words]
    if isinstance(check, Law):
        laws = ["logit-normal(0)", "logit-normal(nan, 1)", "logit-normal(0, -1)", "uniform(0, 2)", "beta(0, 1)"]
        return [*laws, "logit-normal(99, 1)", "", "constant(2)", "constant", "normal(0, 1)", "uniform(low=x)", "2"]
    if isinstance(check, OneOf):
        return ["no such name", check.names[0] + "x", *([] if check.or_none else [""])]
    if isinstance(check, Name):
        return ["a b", "a/b", "x" * 500]
    assert isinstance(check, Anything)
    return ["a\0b"]


WORDS = [
    name
    for name, one in SETTINGS.items()
    if isinstance(one.check, Anything | Name | OneOf) and name.rpartition(".")[2] not in RECORDED
]


@pytest.mark.parametrize("name", WORDS)
def test_an_empty_word_is_refused_unless_it_is_the_way_to_say_none(name):
    """Of a variable that is not set, it may be; the meaning below the setting says where it is one."""
    recipes = {"data.toy": "toy", "data.path": "folder", "data.labels": "folder"}
    recipe = recipes.get(name, "digits")
    said = ["--monitor.every", "5"] * name.startswith("monitor.")
    said += [f"--{name.replace('_', '-')}", ""]
    if getattr(SETTINGS[name].check, "or_none", False):
        assert SETTINGS[name].value(parse_settings(recipe, said)) == ""
        return
    with pytest.raises(UserError, match=f"{name} (is empty here|'')|unknown {name} ''") as caught:
        parse_settings(recipe, said)
    assert caught.value.status == 2


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_without_a_declaration_has_a_type_that_needs_none(name):
    hint = SETTINGS[name].hint
    if SETTINGS[name].check is None:
        inner = plain(hint)
        assert inner is bool or typing.get_origin(inner) is typing.Literal, f"declare what {name} may be"


CHECKED = [name for name, setting in SETTINGS.items() if setting.check is not None]


@pytest.mark.parametrize("name", CHECKED)
def test_every_setting_of_every_recipe_refuses_what_its_declaration_excludes(name):
    for recipe, config in CONFIGS.items():
        for value in wrong_values(SETTINGS[name]):
            with pytest.raises(UserError) as error:
                with_changes(config, {name: value})
            assert error.value.status == 2 and name in str(error.value), (recipe, value, str(error.value))


@pytest.mark.parametrize("name", [name for name in CHECKED if isinstance(SETTINGS[name].check, Range)])
def test_the_bounds_themselves_are_allowed(name):
    setting, check = SETTINGS[name], SETTINGS[name].check
    for bound in (check.low, check.high):
        if bound is None or name == "accumulate":  # which must divide the batch
            continue
        kind = typing.get_args(setting.hint)[0] if is_many(setting) else plain(setting.hint)
        value = (kind(bound),) if is_many(setting) else kind(bound)
        try:
            config = with_changes(CONFIGS["digits"], {name: value})
        except UserError as error:
            assert "must be" not in str(error), error  # with other settings it may not go
        else:
            assert setting.value(config) == value


@pytest.mark.parametrize("name", [name for name, one in SETTINGS.items() if plain(one.hint) is not str])
def test_a_word_of_another_kind_is_refused_by_name(name):
    if name in RECORDED:
        return
    word = "perhaps"
    with pytest.raises(UserError) as error:
        parse_settings("digits", [f"--{name.replace('_', '-')}", word])
    said = str(error.value)
    assert error.value.status == 2 and word in said and name in said.replace("-", "_") and "\n" not in said


@pytest.mark.parametrize("name", SETTINGS)
def test_a_file_that_holds_another_type_is_refused_with_the_setting_named(name):
    """`true` is no 1, and 1 no true; a word is no number."""
    hint = plain(SETTINGS[name].hint)
    wrong = [1, 0.5, "true"] if hint is bool else [True, ["x"], {"a": 1}]
    wrong += ["1"] if hint in (int, float) or is_many(SETTINGS[name]) else [7]
    for value in wrong:
        record = to_dict(CONFIGS["digits"])
        *groups, key = name.split(".")
        inner = record
        for group in groups:
            inner = inner[group]
        inner[key] = value
        with pytest.raises(UserError) as error:
            from_dict(record, "config.yaml")
        assert error.value.status == 1 and key in str(error.value) and "config.yaml" in str(error.value)


def test_a_file_with_a_value_out_of_range_is_named():
    record = to_dict(CONFIGS["digits"])
    record["optimizer"]["lr"] = -1
    with pytest.raises(UserError, match=r"config.yaml: optimizer.lr -1 must be above 0") as error:
        from_dict(record, "config.yaml")
    assert error.value.status == 1


@pytest.mark.parametrize("text", ["lr: 1e-4", "lr: '0.001'", "1: 2", "null: 1", "lr: .nan", "lr: 1" + "0" * 400])
def test_a_file_written_by_hand_is_refused_in_one_line(text):
    record = to_dict(CONFIGS["digits"])
    record["optimizer"] |= yaml.safe_load(text)
    with pytest.raises(UserError) as error:
        from_dict(record, "config.yaml")
    assert "\n" not in str(error.value)
    if "e-4" in text:
        assert "1.0e-04" in str(error.value)


BOMB = "a: &a [x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join(8 * [f'*{a}'])}]\n" for a, b in zip("abcdefghijk", "bcdefghijkl")
)


@pytest.mark.parametrize(
    "text",
    [
        BOMB + "settings: {steps: *l}",  # 8^12 words, were they written out
        BOMB + "settings: {optimizer: *l}",
        BOMB + "settings: *l",
        "settings: " + "[" * 20_000,
        "settings: {steps: 1" + "0" * 5000 + "}",
        "settings: {steps: 2001-99-99}",
        "settings: {steps: &a [*a]}",
        "settings: {? [1, 2] : 3}",
        "#" * 2**21,
        "\udce9",
    ],
    ids=lambda text: text[:12] + text[-24:],
)
def test_a_small_file_of_settings_takes_no_gigabytes_and_is_refused_in_one_line(text, tmp_path):
    (tmp_path / "config.yaml").write_bytes(text.encode(errors="surrogateescape"))
    tracemalloc.start()
    try:
        with pytest.raises(UserError) as error:
            RunFolder(tmp_path).read_config()
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()
    said = str(error.value)
    assert "config.yaml" in said and "\n" not in said and len(said) < 1000


EARLIER_VALUES = {
    "keep_every": 5,
    "spike_rollback": True,
    "tf32": False,
    "data.memory": 0,
    "parallel.shard_size": 2,
    "monitor.detector_path": "d",
}


@pytest.mark.parametrize("name", EARLIER)
def test_a_setting_of_an_earlier_version_is_passed_over_and_told_where_it_did_something(name, caplog):
    config, (usual, instead) = CONFIGS["digits"], EARLIER[name]
    *groups, key = name.split(".")
    for value in (usual, EARLIER_VALUES[name]):
        caplog.clear()
        record = to_dict(config)
        (record[groups[0]] if groups else record)[key] = value
        assert from_dict(record, f"{name}.yaml") == from_dict(record, f"{name}.yaml") == config
        told = [f"{name}.yaml: {name} {value!r} was a setting of earlier versions and is passed over: {instead}"]
        assert caplog.messages == (told if value != usual else [])
    assert name not in SETTINGS


def test_recipes_and_what_they_wrote_keep_loading():
    for config in CONFIGS.values():
        assert from_dict(yaml.safe_load(yaml.safe_dump(to_dict(config))), "config.yaml") == config


# ---------------------------------------------------------------------------------- names that others have too


def test_names_are_those_that_the_parts_know():
    assert set(conditions.ALPHAS) == set(MEMBERS)
    assert set(conditions.TOYS) == set(TOYS) and set(conditions.WAYS) == set(METHODS)
    assert set(conditions.DETECTORS) == set(DETECTORS) and conditions.WIDEST == WIDEST


@pytest.mark.parametrize("name", MEMBERS)
def test_alpha_of_each_member_lies_where_the_conditions_think(name):
    """Over the run, for a member as it comes; row by row where it is drawn."""
    config = with_changes(CONFIGS["digits"], {"objective": dataclasses.replace(Config().objective, name=name)})
    objective = build_objective(config, 10)
    if isinstance(objective.alpha, float | int) or callable(objective.alpha):
        values = {objective.alpha_at(k) for k in (0, config.steps)}
    else:
        t = torch.linspace(0.01, 1, 100, dtype=torch.float64)
        rows = objective.alpha.rows(_Even(100), torch.zeros_like(t), t, 0)
        values = {float(rows.min()), float(rows.max())}
    low, high = min(conditions.ALPHAS[name]), max(conditions.ALPHAS[name])
    assert low <= min(values) + 1e-9 and max(values) <= high + 1e-9


class _Even:
    """Even numbers instead of drawn ones."""

    def __init__(self, count: int) -> None:
        self.count = count

    def uniform(self, stream: str) -> torch.Tensor:
        return torch.linspace(0.001, 0.999, self.count, dtype=torch.float64)


# ---------------------------------------------------------------------------------- before anything loads


def test_a_wrong_value_is_told_before_torch_is_loaded(tmp_path):
    lines = ["--optimizer.lr -1", "--objective.t-law logit-normal(0)", "--objective.alpha self(growth=0)"]
    lines += ["--model.patch 3", "--objective.name meanfow", "--data.size 64", "--optimizer.decay linear(1,nan)"]
    script = "import sys\nfrom alphaflow.cli import run\n"
    for words in lines:
        script += f"assert run(['train', 'digits', '--out', {str(tmp_path / 'x')!r}, *{words.split()!r}]) == 2\n"
    script += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n" and len(done.stderr.splitlines()) == len(lines)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("recipe", "words", "message"),
    [
        ("folder", "--data.path none --data.size 18", "patches of 4"),
        ("folder", "--data.path none --model.name mlp", "choose model.name dit or unet"),
        ("moving-digits", "--model.name dit", "choose model.name video-dit"),
        ("moving-digits", "--model.attention factorised --model.depth 1", "give 2 or more"),
        ("digits", "--model.width 7", "does not divide by 4"),
        ("digits", "--model.heads 5", "model.heads 5"),
        ("digits", "--model.width 65536 --model.depth 1024", "choose smaller ones"),
    ],
)
def test_a_network_that_does_not_suit_the_data_is_told_before_they_are_read(recipe, words, message):
    with pytest.raises(UserError, match=message) as error:
        parse_settings(recipe, words.split())
    assert error.value.status == 2


# ---------------------------------------------------------------------------------- a clip of 0


def test_a_clip_of_zero_bounds_nothing(tmp_path: Path):
    """As a bound that no gradient reaches."""
    for name, clip in (("off", 0.0), ("far", 1e30), ("near", 1e-3)):
        config = dataclasses.replace(TINY, steps=3, optimizer=OptimizerConfig(lr=1e-2, clip=clip, beta2=0.5))
        Trainer.start(config, RunFolder(tmp_path / name)).train()
    off, far, near = (weights(tmp_path / name) for name in ("off", "far", "near"))
    assert same(off, far) and not same(off, near)


def test_what_to_begin_from_is_looked_at_before_data_and_network(tmp_path, monkeypatch):
    """And once more with the data, for what only they show."""
    Trainer.start(TINY, RunFolder(tmp_path / "run")).train(stop_after=1)
    empty = RunFolder(tmp_path / "none")
    Trainer.start(TINY, empty)
    (tmp_path / "file").write_text("words")
    monkeypatch.setattr(
        "alphaflow.training.trainer.assemble", lambda *given, **more: pytest.fail("data were read")
    )
    for place, width, said in (
        ("run", 32, "has width 16 and this run's has 32"),
        ("file", 16, "is a file"),
        ("nowhere", 16, "is not a run"),
        ("none", 16, "no whole checkpoint"),
    ):
        config = with_changes(TINY, {"init": str(tmp_path / place), "model.width": width})
        with pytest.raises(UserError, match=said):
            Trainer.start(config, RunFolder(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_run_begins_where_nothing_of_others_lies(tmp_path):
    """What a start that died leaves, hidden files and logs are nobody's data."""
    run_folder = RunFolder(tmp_path / "run")
    run_folder.refuse_others()
    for folder in (run_folder.checkpoints, run_folder.samples):
        folder.mkdir(parents=True)
    for name in (".lock", ".config.yaml.tmp", "train.log", "7.out"):
        (run_folder.path / name).touch()
    run_folder.refuse_others()
    for name, said in (("zebra.png", "zebra.png, which"), ("cat", "cat and 1 more, which")):
        (run_folder.path / name).mkdir()
        with pytest.raises(UserError, match=f"run holds {said} no run left there"):
            run_folder.refuse_others()
    (run_folder.samples / "mine.png").touch()
    with pytest.raises(UserError, match="cat and 2 more"):
        run_folder.refuse_others()
    run_folder.config_file.touch()  # a run: `refuse_existing` says so
    run_folder.refuse_others()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--out z digits", "the recipe comes first: alphaflow train digits --out"),
        ("--steps 2 digits", "the recipe comes first: alphaflow train digits --out"),
        ("--data.name digits --out z", "no recipe given"),
        (
            "digits-meanflow --out z",
            "recipe 'digits-meanflow': give digits with --objective.name meanflow",
        ),
        ("digits --seed 100000000000000000000", "seed 100000000000000000000 must be at most 9223372036854775807"),
    ],
)
def test_what_newcomers_write_is_told_in_their_words(line, said, capsys):
    assert run(["train", *line.split()]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("words", ["--data.flip {}", "--data.flip={}"])
def test_booleans_are_taken_as_shells_write_them(words):
    for value in ("true", "false", "True", "False"):
        assert parse_settings("digits", words.format(value).split()).data.flip is (value.lower() == "true")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--batch-size 12", "planned for 6 (--gpus)"),
        ("--batch-size 12 --device cpu", "planned for 1 (--gpus)"),
        ("--batch-size 16", "on 8 GPUs"),
    ],
)
def test_a_plan_takes_as_many_gpus_as_divide_the_batch(words, said, capsys):
    assert run(["train", "toy", "--dry-run", "--mfu", "0.4", *words.split()]) == 0
    told = capsys.readouterr().out
    assert said in told and ("planned for" in told) is ("planned for" in said)
