"""The one exception that stands for a mistake of the user's rather than of the program's.

The command line prints its message as a single line and exits with its status; from Python it is a
`ValueError`, so that callers need not know this class.
"""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Names the value, says what is wrong with it and what to do instead.

    status: the exit status. reported: another process says it already.
    """

    def __init__(self, message: str, *, status: int = 1, reported: bool = False) -> None:
        super().__init__(message)
        self.status, self.reported = status, reported


def choose(kind: str, name: str, names: Iterable[str], *, status: int = 1) -> str:
    """Return `name` if it is one of `names`; otherwise raise a `UserError` that suggests the nearest."""
    names = list(names)
    if name in names:
        return name
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(names)}"
    raise UserError(f"unknown {kind} {name!r}: {hint}", status=status)


def one_line(error: object, most: int | None = None) -> str:
    """Return what an exception says, in one line of at most `most` letters; its class where it says nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def missing(what: str, extra: str, error: ImportError | None = None) -> UserError:
    """Return the refusal of what needs an extra. what: as in `LMDB needs its package`. error: what Python said."""
    said = f" ({error})" if error else ""
    return UserError(f"{what}{said}: pip install 'alphaflow[{extra}]'")
