"""The command line: one file a command, thin. Nothing here loads torch before a command needs it."""

import argparse
import contextlib
import logging
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from ..errors import UserError, choose, one_line
from . import words
from .streams import as_they_come, open_closed

COMMANDS = {
    "train": "train a recipe, or go on with a run",
    "sample": "generate with a trained run",
    "evaluate": "score a trained run, or images in a folder",
    "compare": "put two evaluated runs side by side",
    "export": "hand a model on: safetensors, diffusers, ONNX, a web page, …",
    "diagnose": "measure how the parts of a run's objective work together",
    "report": "write a run's report.html",
    "ema": "average a run's weights over any length, after training",
    "bench": "time a training step and sampling",
    "encode": "turn images into latents of an autoencoder",
    "inspect": "say what a set of latents is, and show some of it",
    "import": "take in a released checkpoint of other code",
    "adapt": "make a flow network of diffusers something to train",
    "stats": "keep what a detector sees in images, to compare with",
    "demo": "show a model on a page of this machine, or two side by side",
    "recipes": "list the recipes with their cost and expected result",
}


class Parser(argparse.ArgumentParser):
    """argparse whose errors are ours: one line, status 2. No word stands for a longer one (`--ou` is unknown), no
    number is infinite, no place is empty or a ~ that the shell has left; see `words`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})
        for kind, reader in ((int, words.whole), (float, words.real), (Path, words.source)):
            self.register("type", kind, reader)

    def add_argument(self, *names: Any, **settings: Any) -> Any:
        """As argparse's; what is written is read by `words.target`."""
        if names[0] in words.TARGETS and settings.get("type") in (None, Path):
            settings["type"] = words.target if settings.get("type") else words.target_word
        return super().add_argument(*names, **settings)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, after a look for words that are empty."""
        known, before = self._option_string_actions, ""
        for word in args or ():
            name, equals, value = word.partition("=")
            own = before in known or not before.startswith("--")
            if (not word.strip() and own) or (name in known and equals and not value.strip()):
                self.error(f"{name.strip() or before} is empty here: is a variable not set?".strip())
            before = word
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"^argument (\S+?)(?:/\S+)?: ", r"\1: ", message)
        message = re.sub(r"^(\S+): (\S+ (?:must be|is no|begins with) )", r"\1 \2", message)  # --count 0 must be
        raise UserError(f"{message} (see `{self.prog} --help`)", status=2)


def run(given: Sequence[str]) -> int:
    """Run one command; return the exit status: 0 done, 2 wrong words, 1 anything else, 143 after SIGTERM."""
    debug = "--debug" in given
    command = [word for word in given if word != "--debug"]
    open_closed()
    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.WARNING)
    logging.getLogger("alphaflow").setLevel(logging.INFO)
    try:
        with as_they_come():
            return _dispatch(command)
        return 0  # nobody reads on
    except Exception as error:
        if debug:
            raise
        status = error.status if isinstance(error, UserError) else 1
        label = "" if isinstance(error, UserError) else _label(error)
        if not (isinstance(error, UserError) and error.reported):
            _tell(f"alphaflow: {label}{one_line(error)}")
        return status
    except KeyboardInterrupt:
        _tell("alphaflow: interrupted")
        return 130


def _tell(line: str) -> None:
    with contextlib.suppress(OSError):  # closed, or full: the status says it all the same
        print(line, file=sys.stderr, flush=True)


def _label(error: Exception) -> str:
    """Return what to say before the words of an error that is not ours."""
    if isinstance(error, MemoryError) or "allocate memory" in str(error) or "OutOfMemory" in type(error).__name__:
        return "there is not enough memory for this, so ask for less (a smaller network, batch or count): "
    return f"{type(error).__name__}: "


def _dispatch(command: list[str]) -> int:
    if not command or command[0] in ("-h", "--help"):
        print(_help())
        return 0 if command else 2
    if command[0] == "--version":
        from .. import __version__

        print(__version__)
        return 0
    name = choose("command", command[0], COMMANDS, status=2)
    module: Any = import_module(f".{name}", __name__)
    return module.run(command[1:]) or 0


def _help() -> str:
    lines = ["usage: alphaflow COMMAND ...", "", "Train one-step and few-step generators from scratch.", ""]
    lines += [f"  {name:10}{text}" for name, text in COMMANDS.items()]
    lines += [
        "",
        "alphaflow COMMAND --help tells more; --debug shows tracebacks.",
        "Begin with: alphaflow train digits --out runs/digits",
    ]
    return "\n".join(lines)
