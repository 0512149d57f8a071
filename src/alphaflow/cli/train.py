"""`alphaflow train`."""

import argparse
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ..errors import UserError, choose
from ..files import shell_word
from ..recipes import RECIPES
from ..runs.conditions import ALPHAS
from ..runs.network_checks import check_memory
from . import Parser
from .planning import as_it_began, check_budget, planned
from .settings import parse_settings, print_help, setting_words, settings_said
from .streams import say
from .words import budget, count, number, target

if TYPE_CHECKING:
    from ..runs.config import Config
    from ..runs.folder import RunFolder
    from ..training.trainer import Trainer

log = logging.getLogger("alphaflow")

WARM = 5
"""Steps before the first that --profile records: they choose the way to du/dt and grow buffers."""
_USAGE = """alphaflow train RECIPE --out DIR [--steps N] [--stop-after N] [--continue] [--profile N]
                               [--dotted.setting VALUE ...]
       alphaflow train pictures --data.path ADDRESS --out DIR [--budget TIME] [--dotted.setting VALUE ...]
       alphaflow train --resume DIR [--steps N] [--stop-after N] [--profile N]
       alphaflow train RECIPE --dry-run [--gpus N] [--mfu F] [--dotted.setting VALUE ...]"""


def run(words: list[str]) -> int | None:
    """Train; status 143 when SIGTERM ended it, 130 when Ctrl-C did, 129 when its terminal closed."""
    started = time.monotonic()
    resumes = any(word == "--resume" or word.startswith("--resume=") for word in words)
    if resumes and {"-h", "--help"} & {*words}:
        _resume_parser().print_help()
        return 0
    parser = _parser()
    recipe = words[0] if words and not words[0].startswith("-") else None
    known, settings = parser.parse_known_args(words[1:] if recipe else words)
    known.recipe, known.started = _recipe(recipe) if recipe is not None else None, started
    if known.help:
        if known.recipe is None:
            parser.print_help()
        else:
            print_help(known.recipe)
        return 0
    _check(known)
    check_budget(known.recipe, known.budget, settings, resumes=known.resume is not None)
    if known.dry_run:
        _plan(known, settings)
        return 0
    trainer = _resume(known, settings) if known.resume is not None else _start(known, settings)
    _refuse_few(known, trainer.config.steps - trainer.step)
    if known.profile:
        _record(trainer, known.profile)
    whole = trainer.train(known.stop_after)
    if trainer.parallel.main:
        said = f"{trainer.folder.path}: {trainer.step} of {trainer.config.steps} steps done"
        say(said, heard=whole)  # what ended it may have closed the terminal as well
        if whole:
            log.info("%s", _next(trainer.folder.path, done=trainer.step == trainer.config.steps))
    return None if whole else trainer.status


def _refuse_few(known: argparse.Namespace, left: int) -> None:
    """Refuse to record more steps than there will be."""
    ahead = min(left, known.stop_after or left)
    if known.profile and ahead < WARM + known.profile:
        raise UserError(
            f"--profile {known.profile} records steps after the first {WARM}, and there are {ahead} in all: give "
            "fewer, or more steps",
            status=2,
        )


def _record(trainer: "Trainer", steps: int) -> None:
    """Have the first process record so many steps."""
    from ..training.profiling import Profiler

    if trainer.parallel.main:
        trainer.observers.append(Profiler(trainer.loss, WARM, steps))


def _next(run: Path, *, done: bool) -> str:
    """Return what to do with a run now, in commands as a shell takes them."""
    place = str(run)
    word = shell_word(f"./{place}" if place.startswith(("-", "~")) else place)
    commands = [
        f"alphaflow sample {word} --out samples.png",
        f"alphaflow evaluate {word}",
        f"alphaflow report {word}",
    ]
    return f"next: {'; '.join(commands if done else [f'alphaflow train --resume {word}', *commands])}"


def _parser() -> Parser:
    parser = Parser(
        prog="alphaflow train",
        usage=_USAGE,
        add_help=False,
        description="`alphaflow train RECIPE --help` lists every setting. Recipes: " + ", ".join(RECIPES),
    )
    parser.add_argument("--out", type=target, metavar="DIR", help="the run's folder")
    parser.add_argument("--resume", type=target, metavar="DIR", help="go on with this run, bit-exactly")
    parser.add_argument(
        "--continue", action="store_true", dest="go_on", help="go on with the run in --out if there is one"
    )
    parser.add_argument("--stop-after", type=count(), metavar="N", help="stop after N steps, with a checkpoint")
    parser.add_argument("--profile", type=count(), metavar="N", help="record N steps: where does their time go?")
    parser.add_argument(
        "--budget",
        type=budget,
        metavar="TIME",
        help="pictures: how long it may take, 30m or 2h30m; 90 are minutes (1h)",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what the run would cost, and train nothing")
    gpus, mfu = count(1, 10**6), number(float, above=0, high=1)
    parser.add_argument("--gpus", type=gpus, metavar="N", help="with --dry-run: how many there would be (8)")
    parser.add_argument("--mfu", type=mfu, metavar="F", help="with --dry-run: share of their peak in use (0.4)")
    parser.add_argument("-h", "--help", action="store_true")
    return parser


def _recipe(name: str) -> str:
    """Return the recipe of that name; of a recipe and a member in one word the error says how to have both."""
    if name not in RECIPES:
        for recipe, dash, member in ((one, *name[len(one) :].partition("-")[1:]) for one in RECIPES):
            if name == f"{recipe}{dash}{member}" and member in ALPHAS:
                raise UserError(f"unknown recipe {name!r}: give {recipe} with --objective.name {member}", status=2)
    return choose("recipe", name, RECIPES, status=2)


def _refuse_no_recipe(settings: list[str], otherwise: str) -> NoReturn:
    """Say that it is missing, or that it stands elsewhere than first: where no option takes it for its value."""
    for before, word in zip(["", *settings], settings):
        if word in RECIPES and before not in setting_words():
            raise UserError(f"the recipe comes first: alphaflow train {word} --out DIR …", status=2)
    raise UserError(f"{otherwise}: choose one of {', '.join(RECIPES)}, or --resume DIR", status=2)


def _check(known: argparse.Namespace) -> None:
    """Refuse words that do not go together, before anything heavy loads."""
    if not known.dry_run and (known.gpus is not None or known.mfu is not None):
        raise UserError("--gpus and --mfu go with --dry-run: torchrun says how many processes train", status=2)
    if known.dry_run and (known.resume or known.go_on or known.stop_after or known.profile):
        raise UserError(
            "--dry-run trains nothing: leave --resume, --continue, --stop-after and --profile away", status=2
        )
    if known.resume is not None and known.go_on:
        raise UserError("--resume and --continue both say which run goes on: give one of them", status=2)
    if known.resume is not None and (known.recipe is not None or known.out is not None):
        raise UserError(
            "--resume takes its recipe, folder and settings from the run: give only "
            f"{', '.join(_CHANGEABLE[:-1])} or {_CHANGEABLE[-1]}",
            status=2,
        )


def _start(known: argparse.Namespace, settings: list[str]) -> "Trainer":
    if known.recipe is None:
        _refuse_no_recipe(settings, "no recipe given")
    config = parse_settings(known.recipe, settings)
    if known.out is None:
        raise UserError(f"no folder given: add --out DIR, for example --out runs/{known.recipe}", status=2)
    if not RECIPES[known.recipe].planned:
        check_memory(config)
        _refuse_few(known, config.steps)
    tell(known.recipe, config)
    from ..runs.folder import RunFolder

    folder = RunFolder(known.out)
    folder.refuse_others()
    from ..processes import environment_number

    restarted = environment_number("TORCHELASTIC_RESTART_COUNT", 0) > 0  # by torchrun, after a worker died
    goes_on = known.go_on or restarted
    if RECIPES[known.recipe].planned:
        config = _chosen(known, config, settings_said(settings), folder, goes_on=goes_on)
    from ..training.trainer import Trainer

    return (Trainer.go_on if goes_on else Trainer.start)(config, folder)


def _chosen(
    known: argparse.Namespace, config: "Config", said: set[str], folder: "RunFolder", *, goes_on: bool
) -> "Config":
    """Return what a run of a planned recipe is, and say so; of a run that is there, what it was."""
    if goes_on and folder.holds_run():
        return as_it_began(folder.path, config, said)
    from ..runs.data_paths import refuse_overlap

    folder.refuse_existing()
    refuse_overlap(config, folder.path)
    plan = planned(config, said, known.budget, known.started)
    for line in plan.lines:
        log.info("%s", line)
    check_memory(plan.config)
    _refuse_few(known, plan.config.steps)
    return plan.config


CONSISTENT = ("consistency", "discrete-consistency")
"""Members whose target is the network's own word for all rows with r < t, down to r = 0."""


def tell(recipe: str, config: "Config") -> None:
    """Say what is not as the recipe has it for the sake of what was asked for, and what cannot work as asked."""
    if told := RECIPES[recipe].told(config):
        log.info("%s", told)
    if config.data.captions and RECIPES[recipe].config.data.flip and not config.data.flip:
        log.info("%s with captions [in the place of]: data.flip False [True]", recipe)
    if config.objective.name in CONSISTENT and config.model.predicts == "data":
        log.warning(
            "--model.predicts data with %s: a network that says the same of everything is consistent, and "
            "training finds it; --model.predicts velocity holds it to the data",
            config.objective.name,
        )


def _plan(known: argparse.Namespace, settings: list[str]) -> None:
    """Print what the run would cost. Data that are not there yet are taken to be what the recipe expects."""
    if known.recipe is None:
        _refuse_no_recipe(settings, "no recipe to plan")
    recipe, config = RECIPES[known.recipe], parse_settings(known.recipe, settings)
    tell(recipe.name, config)
    if recipe.planned:
        _print_chosen(known, config, settings_said(settings))
        return
    from ..costs import estimate
    from ..data import Images, Told, told_of
    from ..runs.build import build_dataset

    shape: Sequence[int] | None = recipe.shape
    classes: Told = recipe.num_classes
    if shape is None or config.data != recipe.config.data:
        data = build_dataset(config.data)
        if isinstance(data, Images):
            print(data.found)
        shape, classes = data.shape, told_of(data)
    given = {"gpus": known.gpus or _dividing(config, estimate.Machine.gpus), "mfu": known.mfu}
    if known.gpus is None and given["gpus"] != estimate.Machine.gpus:
        print(
            f"batch_size {config.batch_size} does not divide by {estimate.Machine.gpus} GPUs: planned for "
            f"{given['gpus']} (--gpus)"
        )
    machine = estimate.Machine(**{name: value for name, value in given.items() if value is not None})
    plan = estimate.plan(config, shape, classes, machine)
    print(estimate.describe(plan), flush=True)
    if known.gpus is None and known.mfu is None:  # these ask about another machine
        from ..costs.measured import measure

        print(f"{'here':10} {measure(config, shape, classes, plan)}")


def _print_chosen(known: argparse.Namespace, config: "Config", said: set[str]) -> None:
    """Print what a planned recipe would train, and how long that takes on this machine."""
    if known.gpus is not None or known.mfu is not None:
        raise UserError(f"--gpus and --mfu: {known.recipe} is planned for this machine alone", status=2)
    plan = planned(config, said, known.budget, known.started)
    print("\n".join(plan.lines), flush=True)
    if "steps" in said:
        from ..costs import estimate
        from ..costs.measured import measure

        run = (plan.config, plan.shape, plan.told)
        print(f"{'here':10} {measure(*run, estimate.plan(*run, estimate.Machine(gpus=1)))}")


def _dividing(config: "Config", most: int) -> int:
    """Over how many GPUs a batch divides: at most so many; one where a run on a CPU does not over all."""
    fitting = [one for one in range(most, 0, -1) if config.batch_size % (one * config.accumulate) == 0]
    if most in fitting or not fitting:  # or over none: the plan says so
        return most
    return 1 if config.device == "cpu" else fitting[0]


_CHANGEABLE = ("--steps", "--device", "--accumulate", "--parallel.strategy", "--data.path", "--distill.teacher")
"""What may be another from where a run goes on: it changes nothing of what is computed."""


def _resume_parser() -> Parser:
    parser = Parser(
        prog="alphaflow train --resume",
        usage="alphaflow train --resume DIR [--stop-after N] [--steps N] [--device D] [--accumulate N] …",
        description="Go on with a run, from its newest whole checkpoint. It keeps the settings that it has; to "
        "change others, begin a new run with --init DIR.",
        add_help=False,
    )
    parser.add_argument("--steps", type=count(), metavar="N", help="steps of the whole run: a longer one goes on")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="where to train")
    parser.add_argument(
        "--accumulate", type=count(1, 2**24), metavar="N", help="parts of a batch, for less memory"
    )
    parser.add_argument("--parallel.strategy", choices=("none", "ddp", "fsdp", "hsdp"), help="of many processes")
    parser.add_argument("--data.path", metavar="PLACE", help="where the data are now")
    parser.add_argument("--distill.teacher", metavar="DIR", help="where the teacher is now")
    return parser


def _resume(known: argparse.Namespace, settings: list[str]) -> "Trainer":
    known_changes, others = _resume_parser().parse_known_args(settings)
    if others:
        _refuse_changes(known.resume, others)
    from ..runs.folder import RunFolder
    from ..training.trainer import Trainer

    return Trainer.resume(RunFolder(known.resume), **vars(known_changes))


def _refuse_changes(run: Path, words: list[str]) -> None:
    """Refuse settings that a run keeps, and words that are no settings."""
    names = [word.split("=")[0] for word in words if word.startswith("-")]
    if not names:
        raise UserError(f"{words[0]!r} after --resume {run} is no setting: leave it out", status=2)
    for name in names:
        choose("setting", name.replace("_", "-"), setting_words(), status=2)
    raise UserError(
        f"{', '.join(names)}: a run keeps its settings, and only {', '.join(_CHANGEABLE)} may change with "
        f"--resume; to begin a new run where this one ended: alphaflow train RECIPE --init {run} "
        f"{' '.join(words)} --out DIR",
        status=2,
    )
