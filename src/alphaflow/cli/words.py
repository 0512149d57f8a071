"""Single words of a command, as argparse's `type=`: numbers within a range, places to read and to write.

What is wrong with a word is said before anything is read or loaded, with status 2. `Parser` takes `whole`, `real`
and `source` where an argument says `type=int`, `float` and `Path`, and `target` for the names in `TARGETS`.
"""

import argparse
import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from ..costs.budget import read_budget
from ..errors import UserError
from ..runs.conditions import WIDEST
from ..runs.constraints import Range
from ..runtimes import EVERY_PRECISION, RUNTIMES

log = logging.getLogger("alphaflow")
Number = TypeVar("Number", int, float)

MOST = 10**12
"""More than any count is."""
TARGETS = ("out", "--out", "--json", "--csv", "--plot", "--grid")
"""Arguments that name what is written."""

RECORDS = ("config.yaml", "metrics.jsonl", "alphaflow.json", "model.json", "manifest.json")
"""Files without which a run, a model or a set of latents is none: no result is written over them."""


def number(
    kind: type[Number], low: float | None = None, high: float | None = None, **ends: float
) -> Callable[[str], Number]:
    """Return a reader of a finite number; `low`, `high`, and `above`, `below` as `Range` has them."""
    allowed = Range(low, high, **ends)  # type: ignore[arg-type]

    def read(word: str) -> Number:
        try:
            value = kind(word)
        except ValueError:
            whole = "whole " if kind is int else ""
            raise argparse.ArgumentTypeError(f"{word[:40]!r} is no {whole}number") from None
        try:
            allowed.check("", value, None)
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error).strip()) from None
        return value

    return read


def count(least: int = 1, most: int = MOST) -> Callable[[str], int]:
    """Return a reader of a whole number of things."""
    return number(int, least, most)


@contextlib.contextmanager
def options_called(names: Mapping[str, str]) -> Iterator[None]:
    """Let errors and lines of the log name this command's options, where what is called speaks of `train`'s.

    names: from the words of train to those of this command; "" leaves them out.
    """

    def own(text: str) -> str:
        for theirs, ours in names.items():
            text = text.replace(theirs, ours)
        return text

    def rename(record: logging.LogRecord) -> bool:
        record.msg, record.args = own(record.getMessage()), ()
        return True

    log.addFilter(rename)
    try:
        yield
    except UserError as error:
        raise UserError(own(str(error)), status=error.status, reported=error.reported) from error.__cause__
    finally:
        log.removeFilter(rename)


share_of_run = number(float, above=0, high=WIDEST)
"""Over how much of a run weights are averaged."""
whole = number(int, -(2**63), 2**63 - 1)
"""Any whole number, such as a seed."""
real = number(float)
"""Any finite number."""


def budget(word: str) -> float:
    """How long something may take, in seconds."""
    try:
        return read_budget(word)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def source(word: str) -> Path:
    """Where something lies."""
    return Path(_place(word))


def target(word: str) -> Path:
    """Where something is to be written."""
    path = Path(_place(word))
    try:
        place = path.resolve()
    except OSError:
        raise argparse.ArgumentTypeError(f"{word} lies in a folder that is gone: change to another one") from None
    if place in (Path("/"), Path.home()):
        raise argparse.ArgumentTypeError(f"{word} is no place for results: name a folder or a file in it")
    return path


def target_word(word: str) -> str:
    """Return the same as it was written: what a / at its end means is the command's to say."""
    target(word)
    return word


def _place(word: str) -> str:
    if "\0" in word:
        raise argparse.ArgumentTypeError(f"{word!r} holds a character that no place has")
    if word.startswith("~"):
        raise argparse.ArgumentTypeError(
            f"{word} begins with a ~ that the shell has left as it is: write it without quotes, or the folder's "
            f"whole name; a place that is called so is ./{word}"
        )
    return word


def add_runtime_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what computes the network."""
    parser.add_argument("--runtime", help=f"what computes the network: {', '.join(RUNTIMES)} (torch)")
    parser.add_argument("--precision", help=f"and how precisely: {', '.join(EVERY_PRECISION)} (float32)")


def check_apart(**files: Path | None) -> None:
    """Refuse one place for two of the things that are written, by their options' names.

    Raises:
        UserError: two are the same, with status 2.
    """
    seen: dict[Path, str] = {}
    for name, path in files.items():
        if path is None:
            continue
        other = seen.setdefault(path.resolve(), name)
        if other != name:
            raise UserError(
                f"--{other} and --{name} are both {path}, and one would overwrite the other: give two names",
                status=2,
            )


def check_writable(option: str, path: Path | None) -> None:
    """Refuse a file that cannot be written when the work is done: before it begins.

    Args:
        option: what it was given by, in errors. path: of the file, in a folder that must be there; None: none.
    """
    if path is None:
        return
    if not path.parent.is_dir():
        raise UserError(
            f"{option} {path}: there is no folder {path.parent}: make it first, or choose another place"
        )
    if path.is_dir():
        raise UserError(f"{option} {path} is a folder: name a file")
    if path.name in RECORDS and path.exists():
        raise UserError(f"{option} {path} is what a run or a model is known by: name another file")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UserError(f"{option} {path}: it cannot be written there: choose another place")
