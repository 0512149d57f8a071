"""`alphaflow train`."""

import argparse
import contextlib
import io
import itertools
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError, choose
from ..recipes import RECIPES
from ..training.config import Config, dotted_names
from . import Parser

if TYPE_CHECKING:
    from ..training.trainer import Trainer

_USAGE = """alphaflow train RECIPE --out DIR [--steps N] [--stop-after N] [--continue] [--dotted.setting VALUE ...]
       alphaflow train --resume DIR [--steps N] [--stop-after N]
       alphaflow train RECIPE --dry-run [--gpus N] [--mfu F] [--dotted.setting VALUE ...]"""


def run(words: list[str]) -> int | None:
    """Train; status 143 when SIGTERM ended it."""
    parser = Parser(
        prog="alphaflow train",
        usage=_USAGE,
        add_help=False,
        allow_abbrev=False,
        description="`alphaflow train RECIPE --help` lists every setting. Recipes: " + ", ".join(RECIPES),
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="the run's folder")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="go on with this run, bit-exactly")
    parser.add_argument(
        "--continue", action="store_true", dest="go_on", help="go on with the run in --out if there is one"
    )
    parser.add_argument("--stop-after", type=int, metavar="N", help="stop after N steps, with a checkpoint")
    parser.add_argument("--dry-run", action="store_true", help="say what the run would cost, and train nothing")
    parser.add_argument("--gpus", type=int, metavar="N", help="with --dry-run: how many there would be (8)")
    parser.add_argument("--mfu", type=float, metavar="F", help="with --dry-run: share of their peak in use (0.4)")
    parser.add_argument("-h", "--help", action="store_true")
    recipe = words[0] if words and not words[0].startswith("-") else None
    known, settings = parser.parse_known_args(words[1:] if recipe else words)
    known.recipe = choose("recipe", recipe, RECIPES, status=2) if recipe else None
    if known.help:
        if known.recipe is None:
            parser.print_help()
        else:
            with contextlib.suppress(SystemExit):
                parse_settings(known.recipe, ["--help"])
        return 0
    if known.stop_after is not None and known.stop_after < 1:
        raise UserError(f"--stop-after {known.stop_after} must be at least 1", status=2)
    if known.dry_run:
        _plan(known, settings)
        return 0
    if known.gpus is not None or known.mfu is not None:
        raise UserError("--gpus and --mfu go with --dry-run: torchrun says how many processes train", status=2)
    trainer = _resume(known, settings) if known.resume is not None else _start(known, settings)
    whole = trainer.train(known.stop_after)
    if trainer.parallel.main:
        print(f"{trainer.folder.path}: {trainer.step} of {trainer.config.steps} steps done")
    return None if whole else 143


def _start(known: argparse.Namespace, settings: list[str]) -> "Trainer":
    if known.recipe is None:
        raise UserError(f"no recipe given: choose one of {', '.join(RECIPES)}, or --resume DIR", status=2)
    config = parse_settings(known.recipe, settings)
    if known.out is None:
        raise UserError(f"no folder given: add --out DIR, for example --out runs/{known.recipe}", status=2)
    from ..training.run import RunFolder
    from ..training.trainer import Trainer

    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0  # by torchrun, after a worker died
    begin = Trainer.go_on if known.go_on or restarted else Trainer.start
    return begin(config, RunFolder(known.out))


def _plan(known: argparse.Namespace, settings: list[str]) -> None:
    """Print what the run would cost. Data that are not there yet are taken to be what the recipe expects."""
    if known.recipe is None:
        raise UserError(f"no recipe to plan: choose one of {', '.join(RECIPES)}", status=2)
    recipe, config = RECIPES[known.recipe], parse_settings(known.recipe, settings)
    from .. import plan
    from ..training.build import build_dataset

    shape, classes = recipe.shape, recipe.num_classes
    if shape is None or config.data != recipe.config.data:
        data = build_dataset(config.data)
        shape, classes = data.shape, data.num_classes
    given = {"gpus": known.gpus, "mfu": known.mfu}
    machine = plan.Machine(**{name: value for name, value in given.items() if value is not None})
    print(plan.describe(plan.plan(config, shape, classes, machine)))


def _resume(known: argparse.Namespace, settings: list[str]) -> "Trainer":
    if known.recipe is not None or known.out is not None:
        raise UserError(
            "--resume takes its recipe, folder and settings from the run: give only --steps, --device, "
            "--accumulate, --parallel.strategy or --distill.teacher",
            status=2,
        )
    parser = Parser(prog="alphaflow train --resume", add_help=False, allow_abbrev=False)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--accumulate", type=int)
    parser.add_argument("--parallel.strategy", choices=("none", "ddp", "fsdp", "hsdp"))
    parser.add_argument("--distill.teacher", metavar="DIR", help="where the teacher is now")
    changes = vars(parser.parse_args(settings))
    from ..training.run import RunFolder
    from ..training.trainer import Trainer

    return Trainer.resume(RunFolder(known.resume), **changes)


def parse_settings(recipe: str, words: list[str]) -> Config:
    """The recipe's config with the settings of the command line; tyro reads the values and prints the help."""
    import tyro

    names = [f"--{name}" for name in dotted_names()]
    words = _spell_out_flags(words)
    for word in words:
        if word.startswith("--") and word != "--help":
            choose(
                "setting",
                word.split("=")[0].replace("_", "-"),
                [*names, "--out", "--stop-after", "--continue"],
                status=2,
            )
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                Config,
                default=RECIPES[recipe].config,
                args=words,
                prog=f"alphaflow train {recipe}",
                config=(tyro.conf.FlagConversionOff,),  # --data.flip True, as in config.yaml
            )
    except SystemExit as end:
        if not end.code:  # --help
            raise
        raise UserError(_one_line(said.getvalue()), status=2) from None


def _spell_out_flags(words: list[str]) -> list[str]:
    """`--compile` alone means `--compile True`."""
    flags = {f"--{name}" for name in dotted_names(only=bool)}
    spelled: list[str] = []
    for word, following in zip(words, [*words[1:], "--"]):
        spelled += [word, "True"] if word in flags and following.startswith("--") else [word]
    return spelled


def _one_line(box: str) -> str:
    """The message below the title of the box that tyro draws, with such lines as the terminal has."""
    lines = [re.sub(r"[│╭╮╰╯─]+|-{3,}", " ", line).strip() for line in box.splitlines()[1:]]
    message = itertools.takewhile(bool, itertools.dropwhile(lambda line: not line, lines))
    text = re.sub(r"^Error parsing \w*Config: ", "", " ".join(message))  # our own words follow
    return text or "the settings could not be read"
