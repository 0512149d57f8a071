"""The command line: one file a command, thin. Nothing here loads torch before a command needs it."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from ..errors import UserError, choose

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
    "stats": "keep what a detector sees in images, to compare with",
    "demo": "show a model on a page of this machine, or two side by side",
    "recipes": "list the recipes with their cost and expected result",
}


class Parser(argparse.ArgumentParser):
    """argparse whose errors are ours: one line, status 2."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see `{self.prog} --help`)", status=2)


def run(words: Sequence[str]) -> int:
    """Run one command; return the exit status: 0 done, 2 wrong words, 1 anything else, 143 after SIGTERM."""
    words = list(words)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.WARNING)
    logging.getLogger("alphaflow").setLevel(logging.INFO)
    try:
        return _dispatch(words)
    except BrokenPipeError:  # `alphaflow recipes | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        status = error.status if isinstance(error, UserError) else 1
        label = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        if not (isinstance(error, UserError) and error.told):
            print(f"alphaflow: {label}{' '.join(str(error).split())}", file=sys.stderr)
        return status
    except KeyboardInterrupt:
        print("alphaflow: interrupted", file=sys.stderr)
        return 130


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return 0 if words else 2
    if words[0] == "--version":
        from .. import __version__

        print(__version__)
        return 0
    name = choose("command", words[0], COMMANDS, status=2)
    command: Any = import_module(f".{name}", __name__)
    return command.run(words[1:]) or 0


def _help() -> str:
    lines = ["usage: alphaflow COMMAND ...", "", "Train one-step and few-step generators from scratch.", ""]
    lines += [f"  {name:10}{text}" for name, text in COMMANDS.items()]
    lines += [
        "",
        "alphaflow COMMAND --help tells more; --debug shows tracebacks.",
        "Begin with: alphaflow train digits --out runs/digits",
    ]
    return "\n".join(lines)
