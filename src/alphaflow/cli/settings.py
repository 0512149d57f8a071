"""The settings of a run as words: `--dotted.name VALUE`, and the help that lists them. tyro reads the values."""

import ast
import contextlib
import dataclasses
import inspect
import io
import itertools
import re
import typing
from functools import cache
from typing import Any

from ..errors import UserError, choose
from ..recipes import RECIPES
from ..runs.combinations import check_told
from ..runs.config import RECORDED, Config, dotted_names, with_changes
from ..runs.constraints import check_said, settings_of
from ..runs.network_checks import check_fits_data
from .streams import wide_enough

OWN = ("--out", "--resume", "--stop-after", "--continue", "--dry-run", "--budget", "--gpus", "--mfu")
"""Words of `alphaflow train` that are no settings."""


def parse_settings(recipe: str, words: list[str]) -> Config:
    """Return the recipe's config with the settings of the command line.

    Raises:
        UserError: with status 2: an unknown setting, a value that it cannot have, or one that nothing would heed.
    """
    words = _spell_out_flags(words)
    said = _names(words)
    config = _build(Config, {"recipe": recipe, **_read(recipe, words)})
    check_said(config, said)
    check_told(config)
    if not RECIPES[recipe].planned:  # then the size and the patches are still to be chosen
        check_fits_data(config)
    return config


def settings_said(words: list[str]) -> set[str]:
    """Return the settings that the words give, by their dotted names."""
    return _names(_spell_out_flags(words))


def setting_words() -> list[str]:
    """Every setting as it is given: `--objective.flow-ratio`."""
    return [f"--{name}" for name in dotted_names()]


def print_help(recipe: str) -> None:
    """Every setting with its meaning, its range, whom it concerns and what it is in this recipe."""
    with contextlib.suppress(SystemExit):
        _read(recipe, ["--help"])


def _names(words: list[str]) -> set[str]:
    """Return the settings that are given, by their dotted names; an error for what is none."""
    said = set()
    for word in words:
        if not word.startswith("--"):
            continue
        name = word.split("=")[0].replace("_", "-")
        if name == "--recipe":
            raise UserError("the recipe is the first word: alphaflow train RECIPE --out DIR", status=2)
        choose("setting", name, [*setting_words(), *OWN], status=2)
        said.add(name.removeprefix("--").replace("-", "_"))
    return said


def _read(recipe: str, words: list[str]) -> dict[str, Any]:
    """Return the values of all settings, in dictionaries: what is wrong with them is ours to say."""
    import tyro

    registry = tyro.constructors.ConstructorRegistry()
    registry.struct_rule(_fields)
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told), registry, wide_enough():
            values: Any = tyro.cli(
                Config,
                default=_defaults(recipe, words),
                args=words,
                prog=f"alphaflow train {recipe}",
                description="",
                config=(tyro.conf.FlagConversionOff,),  # --data.flip True, as in config.yaml
            )
            return values
    except SystemExit as end:
        if not end.code:  # --help
            raise
        raise UserError(_one_line(told.getvalue(), words), status=2) from None


def _defaults(recipe: str, words: list[str]) -> Config:
    """Return the recipe for the member that the words name, before single settings change it.

    Pictures with captions are not mirrored, since these may say left and right.
    """
    name = _given("objective.name", words) or RECIPES[recipe].config.objective.name
    config = RECIPES[recipe].for_member(name)
    if _given("stage", words) == "trajectories":
        config = with_changes(config, {"objective": config.objective.of_trajectories()})
    return with_changes(config, {"data.flip": False} if _given("data.captions", words) else {})


def _fields(info: Any) -> Any:
    """How tyro makes a group of settings: into a dictionary, with our words about each."""
    from tyro.constructors import StructConstructorSpec, StructFieldSpec

    kind = info.type
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__module__ == Config.__module__):
        return None
    hints, about = typing.get_type_hints(kind), _about(kind)
    declared = {one.name: one.words() for one in settings_of(kind)}
    fields = []
    for field in dataclasses.fields(kind):
        if field.name in RECORDED:
            continue
        words = f" [{declared[field.name]}]" if declared.get(field.name) else ""
        text = " ".join(about.get(field.name, "").split()) + words
        fields.append(StructFieldSpec(field.name, hints[field.name], getattr(info.default, field.name), text))
    return StructConstructorSpec(instantiate=dict, fields=tuple(fields))


@cache
def _about(kind: type) -> dict[str, str]:
    """Return what stands below each field in the source."""
    body = ast.parse(inspect.getsource(kind)).body[0].body  # type: ignore[attr-defined]
    return {
        field.target.id: str(text.value.value)
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }


def _build(kind: type, values: dict[str, Any]) -> Any:
    hints = typing.get_type_hints(kind)
    made = {
        key: _build(hints[key], value) if dataclasses.is_dataclass(hints[key]) else value
        for key, value in values.items()
    }
    return kind(**made)


def _spell_out_flags(words: list[str]) -> list[str]:
    """`--compile` alone means `--compile True`, and so does `--compile true`."""
    flags = {f"--{name}" for name in dotted_names(only=bool)}
    spelled: list[str] = []
    for word, following in zip(words, [*words[1:], "--"]):
        alone = word.replace("_", "-") in flags and following.startswith("--")
        spelled += [word, "True"] if alone else [word]
    for k, word in enumerate(spelled):
        name, equals, value = word.partition("=")
        if equals and name.replace("_", "-") in flags:
            spelled[k] = f"{name}={_as_python(value)}"
        elif k and spelled[k - 1].replace("_", "-") in flags:
            spelled[k] = _as_python(word)
    return spelled


def _as_python(word: str) -> str:
    """Return `true` and `false` as YAML and shells write them."""
    return word.capitalize() if word.lower() in ("true", "false") else word


def _one_line(box: str, words: list[str]) -> str:
    """Return the message below the title of the box that tyro draws, with such lines as the terminal has."""
    lines = [re.sub(r"[│╭╮╰╯─]+|-{3,}", " ", line).strip() for line in box.splitlines()[1:]]
    message = " ".join(itertools.takewhile(bool, itertools.dropwhile(lambda line: not line, lines)))
    wrong = re.match(r"Error parsing --(\S+?):", message)
    if wrong is None:
        return message or "the settings could not be read"
    name = wrong[1].replace("-", "_")
    hint = {one.name: one.hint for one in settings_of(Config)}[name]
    kind = "a whole number" if hint is int else "a number" if hint is float else "numbers"
    return f"{name} {_given(wrong[1], words)!r} is not what it must be: give {kind}"


def _given(name: str, words: list[str]) -> str:
    """Return what follows a setting's name, cut short; the last time where it is given again, which counts."""
    spelled = [word.replace("_", "-") if word.startswith("--") else word for word in words]
    for k, word in reversed(list(enumerate(spelled))):
        if word.startswith(f"--{name}="):
            return words[k].partition("=")[2][:40]
        if word == f"--{name}":
            return " ".join(itertools.takewhile(lambda one: not one.startswith("--"), words[k + 1 :]))[:40]
    return ""
