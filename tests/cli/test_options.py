"""The list of all options is frozen, in `options.txt`: one is added or lost on purpose, or not at all."""

from pathlib import Path

from alphaflow.cli import COMMANDS
from alphaflow.runs.config import dotted_names
from wrong_lines import parsers_of

FROZEN = Path(__file__).with_name("options.txt")


def options(monkeypatch) -> list[str]:
    """Each as it is given: the options of every command, then the settings of a run."""
    found = []
    for words in (*([command] for command in COMMANDS), ["train", "--resume"]):
        for parser in parsers_of(words, monkeypatch):
            names = [names for action in parser._actions if (names := action.option_strings)]
            found += [" ".join([*words, name]) for name, *_ in names if name != "-h"]
    return found + [f"train RECIPE --{name}" for name in dotted_names()]


def test_no_option_comes_or_goes_unnoticed(monkeypatch):
    found, frozen = options(monkeypatch), FROZEN.read_text().splitlines()
    added, lost = (
        [one for one in some if one not in others] for some, others in ((found, frozen), (frozen, found))
    )
    assert not added, (
        f"new: {', '.join(added)}. Each option is one more that everybody reads past: say in the commit which "
        "recipe, document or test needs it, and why no other option and no constant will do; then add it to "
        f"{FROZEN.name}"
    )
    assert not lost, (
        f"gone: {', '.join(lost)}. Somebody's command or config.yaml may name it: say in the commit what does its "
        f"work now; then take it out of {FROZEN.name}"
    )
    assert len(found) == len(set(found))


def test_the_list_is_in_order(monkeypatch):
    assert FROZEN.read_text().splitlines() == options(monkeypatch)
