"""Going on with a run: with which settings, and that nobody else trains it."""

import logging
from collections.abc import Mapping
from typing import Any

from ..errors import UserError
from ..parallel.parallel import Parallel
from ..runs import checkpoint
from ..runs.config import Config, with_changes
from ..runs.data_paths import absolute, at_home, is_missing, overlap
from ..runs.data_record import refuse_place
from ..runs.folder import RunFolder
from ..runs.run_lock import ReadOnlyError, acquire_lock, on_first_process

log = logging.getLogger("alphaflow")


def changed_config(folder: RunFolder, changes: Mapping[str, Any]) -> tuple[Config, dict[str, Any]]:
    """Return the settings of a run with `changes` by their dotted names, and those changes that are not None.

    Raises:
        UserError: more steps are done than there should be, or data are placed that lie nowhere.
    """
    config, given = folder.read_config(), {key: value for key, value in changes.items() if value is not None}
    steps, done = given.get("steps"), checkpoint.last_step(folder.checkpoints) or 0
    if steps is not None and steps < done:
        raise UserError(
            f"--steps {steps}: {folder.path} has {done} steps done already: give {done} or more, or leave it out",
            status=2,
        )
    if "data.path" in given:
        refuse_place(config.data)
        if is_missing(given["data.path"]):
            raise UserError(
                f"--data.path {given['data.path']}: nothing is there: give the place where the run's data are now"
            )
    if "distill.teacher" in given and not config.distill.teacher:
        raise UserError(
            f"--distill.teacher {given['distill.teacher']}: {folder.path} has learnt from its data so far: begin "
            f"a new run from it, with --init {folder.path}"
        )
    if "data.path" in given:
        given["data.path"] = absolute(given["data.path"])
    changed = with_changes(config, given)
    return (at_home(changed) if "distill.teacher" in given else changed), given


def hold_run(folder: RunFolder, config: Config, parallel: Parallel, *, anew: bool) -> None:
    """Hold the run; all processes must call. A run that has nothing left to do may lie where nobody can write.

    Args:
        anew: there are changes to be written down.
    """
    if words := overlap(config, folder.path):
        log.warning("%s: move the run elsewhere, it will not know its data again otherwise", words)
    try:
        on_first_process(parallel, lambda: acquire_lock(folder.path))
    except ReadOnlyError:
        if anew or (checkpoint.last_step(folder.checkpoints) or 0) < config.steps:
            raise
