"""`checkpoints/latest`, the relative link to the newest checkpoint, and what copying makes of it.

Copies that follow links, archives and some file systems turn it into a folder of its own, a file, or nothing. It
is for people and other programs: what is the newest checkpoint follows from the folders' names.
"""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger("alphaflow")

NAME = "latest"


def point(folder: Path, target: str) -> None:
    """Let it lead to `target`. Where that cannot be, it is said and all else goes on: the checkpoint is there."""
    link = folder / NAME
    if link.is_symlink() and str(link.readlink()) == target:
        return
    temporary = folder / ".latest.tmp"
    try:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target)
        if link.is_dir() and not link.is_symlink():
            _set_aside(link)
        temporary.replace(link)
    except OSError as error:
        log.warning(
            "%s could not be made to lead to %s (%s): look for the newest one", link, target, error.strerror
        )
        temporary.unlink(missing_ok=True)


def place_of_copy(folder: Path) -> Path | None:
    """`latest` as a folder that holds a checkpoint itself, or None. It may be the only one that was copied."""
    link = folder / NAME
    if link.is_symlink() or not (link / "state.json").is_file():
        return None
    return link


def repair(folder: Path, newest: Path, step_of: Callable[[Path], int | None]) -> None:
    """Make `latest` lead to the newest whole checkpoint again; only who holds the run may call.

    Args:
        newest: that one, which may be `latest` itself. step_of: the step of a whole checkpoint, or None.
    """
    copy = place_of_copy(folder)
    if copy is not None:
        step = step_of(copy)
        proper = folder / f"step-{step or 0:08d}"
        if step is not None and step_of(proper) is None:  # missing, or damaged
            shutil.rmtree(proper, ignore_errors=True)
            copy.rename(proper)
        elif step is not None:
            shutil.rmtree(copy)  # it is there twice
        newest = proper if newest == copy else newest
    point(folder, newest.name)


def _set_aside(link: Path) -> None:
    """Set a folder in its place aside, which is no whole checkpoint: nobody's work is removed."""
    aside = link.with_name("latest.aside")
    number = 1
    while aside.exists():
        number += 1
        aside = link.with_name(f"latest.aside-{number}")
    link.rename(aside)
    log.warning("%s is a folder and no link: it is %s now", link, aside)
