"""Wrong command lines, by kinds: what each command's own options make wrong by themselves, and a table by hand.

Places stand in braces: see `places` in `test_wrong_lines.py`. Each line is (status, words).
"""

import contextlib
import io
from pathlib import Path

from alphaflow.cli import COMMANDS, Parser, run

BASES = {
    "train": "digits --out {out} --steps 1",
    "sample": "{run} --out {out}.npz",
    "evaluate": "{run} --count 16",
    "compare": "{evaluation} {evaluation}",
    "export": "{run} {out}",
    "diagnose": "{run} --batches 2",
    "report": "{run}",
    "ema": "{run} --std 0.1",
    "bench": "--model S/16 --size 16 --rounds 1 --batch 1 --shares 50 --ways fused",
    "encode": "{pictures} {out} --vae {none}",
    "inspect": "{latents}",
    "import": "{model}/model.safetensors {out}",
    "adapt": "{model} {out}",
    "stats": "digits {out}.npz --detector digits",
    "demo": "{run} --port 0",
    "recipes": "",
}
"""A line of each command that would be right (or wrong in what comes last: a missing autoencoder)."""


def parsers(monkeypatch) -> dict[str, list[Parser]]:
    """What each command reads its words with."""
    return {command: parsers_of([command], monkeypatch) for command in COMMANDS}


def parsers_of(words: list[str], monkeypatch) -> list[Parser]:
    """What a line that begins with these words is read with."""
    made: list[Parser] = []
    plain = Parser.__init__

    def note(self, **settings):
        made.append(self)
        plain(self, **settings)

    with monkeypatch.context() as patch, contextlib.suppress(SystemExit):
        patch.setattr(Parser, "__init__", note)
        with contextlib.redirect_stdout(io.StringIO()):
            run([*words, "--help"])
    return made


def of_options() -> dict[str, list[str]]:
    """By command, what can be wrong with every option: its value is missing, empty, no number, not finite, no
    choice; its name is cut short or runs on."""
    import pytest

    with pytest.MonkeyPatch.context() as patch:
        found = parsers(patch)
    lines: dict[str, list[str]] = {}
    for command, base in BASES.items():
        beside = ("--nonsense", "--nonsense 3", "one-word-too-many", "-x")
        lines[command] = [f"{command} {base} {words}" for words in beside]
        for parser in found[command]:
            for action in parser._actions:
                names = action.option_strings
                if not names or action.dest == "help":
                    continue
                lines[command] += _of_option(f"{command} {base}", names[0], action)
    return lines


def _of_option(line: str, name: str, action) -> list[str]:
    wrong = [f"{name}x 1"]
    if len(name) > 5:
        wrong.append(f"{name[:-1]} 1")  # no abbreviations
    if action.nargs == 0:
        return [f"{line} {one}" for one in (*wrong, f"{name}=1")]
    wrong += [f"{name} ''", f"{name}="]
    if action.nargs != "*":
        wrong.append(name)
    kind = getattr(action.type, "__name__", "")
    if action.type in (int, float) or kind == "read":  # of words.number
        wrong += [f"{name} {word}" for word in ("many", "nan", "inf", "1e999", "0x10", "1,5")]
    if action.choices:
        wrong.append(f"{name} neither")
    return [f"{line} {one}" for one in wrong]


TRAIN = "train digits --out {out} --steps 1 "
BY_HAND = Path(__file__).with_suffix(".txt")
"""The table: a line has the status that is right, then the words."""


def by_hand() -> list[tuple[int, str]]:
    """The table's lines: status, words."""
    lines = []
    for row in BY_HAND.read_text().splitlines():
        status, _, words = row.partition(" ")
        short = words.startswith("TRAIN --")
        words = words.replace("LONG", 300 * "x")
        lines.append((int(status), words.replace("TRAIN ", TRAIN, 1) if short else words))
    return lines
