"""Words for classes, as people name them on a command line."""

import difflib
from collections.abc import Sequence

from alphaflow.data.sources.classes import few
from alphaflow.errors import UserError


def class_of(word: str, names: Sequence[str], *, setting: str = "--labels") -> int:
    """Return the number of the class that a word means: a name, or a number counted from 0.

    `len(names)` stands for no class. Where names are numbers themselves and a word could mean two classes (`2`,
    where the classes are 1, 2, 3), it is refused: `name:2` and `number:2` say which.

    Args:
        word: the word.
        names: the names of the classes, in the order of their numbers.
        setting: the option that the word was given to, for the message.

    Raises:
        UserError: the word means no class, or two.
    """
    if word in names and not _is_number(word, names):
        return names.index(word)
    kind, colon, rest = word.partition(":")
    if colon and kind == "name" and rest in names:
        return names.index(rest)
    if colon and kind == "number" and _is_number(rest, names):
        return int(rest)
    if not _is_number(word, names):
        raise UserError(f"{setting}: unknown class {word!r}: {_known(word, names, setting)}", status=2)
    if word in names and names.index(word) != int(word):
        other = names[int(word)] if int(word) < len(names) else "no class"
        raise UserError(
            f"{setting} {word!r} is the name of class number {names.index(word)} and the number of class "
            f"{other!r}: give name:{word} or number:{word}",
            status=2,
        )
    return int(word)


def _is_number(word: str, names: Sequence[str]) -> bool:
    return word.isascii() and word.isdigit() and int(word) <= len(names)


def _known(word: str, names: Sequence[str], setting: str) -> str:
    near = [] if word.isdigit() else difflib.get_close_matches(word, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    others = "balanced, random, " if setting == "--labels" else ""
    return f"{hint}give {others}a number from 0 to {len(names) - 1}, or a name: {few(names, 6)}"
