"""`alphaflow train` of a recipe whose size, network and steps are chosen when it starts: `pictures`."""

import time
from typing import TYPE_CHECKING

from ..errors import UserError
from ..recipes import RECIPES
from ..runs.config import with_changes
from ..runs.network_checks import check_fits_data

if TYPE_CHECKING:
    from pathlib import Path

    from ..costs.own_pictures import Fitted
    from ..runs.config import Config


def check_budget(recipe: str | None, budget: float | None, words: list[str], *, resumes: bool) -> None:
    """Refuse a budget where nothing is chosen by it. words: the settings that are given.

    Raises:
        UserError: with status 2.
    """
    names = [name for name, one in RECIPES.items() if one.planned]
    if budget is None:
        return
    if resumes:
        refused = ": a run keeps its steps; give --steps N for another number"
    elif recipe is not None and recipe not in names:
        refused = f" goes with {', '.join(names)}: give --steps N; --dry-run says how long steps take here"
    elif any(word.partition("=")[0] == "--steps" for word in words):
        refused = " and --steps both say how long to train: give one of them"
    else:
        return
    raise UserError(f"--budget{refused}", status=2)


def planned(config: "Config", said: set[str], budget: float | None, started: float) -> "Fitted":
    """Return the run that was chosen, after a look at the pictures and, unless its steps are said, a measurement.

    Args:
        config: the settings. said: those that were given. budget: seconds; None: an hour.
        started: when the command began, on the monotonic clock.

    Raises:
        UserError: settings do not fit such a recipe, the pictures cannot be read, or there is too little time.
    """
    _check(config, said)
    from ..costs.asked import HOUR, ask
    from ..costs.measured import seconds_of_step
    from ..costs.own_pictures import fit

    seconds = budget or HOUR
    fitted = fit(ask(config, said, seconds), seconds_of_step, left=lambda: seconds - (time.monotonic() - started))
    check_fits_data(fitted.config)
    return fitted


def as_it_began(run: "Path", config: "Config", said: set[str]) -> "Config":
    """Return the settings of a run that is there, with those that are said: nothing is chosen anew."""
    from operator import attrgetter

    from ..runs.folder import RunFolder

    return with_changes(RunFolder(run).read_config(), {name: attrgetter(name)(config) for name in said})


def _check(config: "Config", said: set[str]) -> None:
    """Refuse what a plan cannot be made of, before anything heavy loads."""
    from ..processes import environment_number

    if config.data.name != "folder" or config.model.name != "dit":
        raise UserError(
            f"{config.recipe} chooses the size of a dit for pictures at an address: leave data.name and "
            "model.name away, or train another recipe",
            status=2,
        )
    if "steps" not in said and environment_number("WORLD_SIZE", 1, least=1) > 1:
        raise UserError(
            "several processes would each measure another speed: give --steps N (--dry-run on one says how many)",
            status=2,
        )
