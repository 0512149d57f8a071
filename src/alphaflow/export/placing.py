"""Putting an export where it was asked for, without harm to what others have there.

It is made in a folder of its own within the wanted one, and its files are moved only once all are there.
`export.json` says which files are an export's, of which weights, and what was in them: those are replaced by a
later one, and removed where that is of other weights and has no such file, unless somebody has changed them
since. Anything else is left alone, and the command ends before it has written.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from ..errors import UserError

RECORD = "export.json"
_FORMAT = "alphaflow export 1"
_STAGE = ".alphaflow-export.tmp"
_HASHED = 1 << 24
"""Bytes of a file up to which its content is compared; of larger ones, weights, the size is."""
_LARGEST_RECORD = 1 << 24


def place(out: Path, write: Callable[[Path], str], weights: str = "") -> str:
    """Let `write` fill a folder of `out`'s name, and move what it made to `out`.

    Args:
        out: the folder to export to.
        write: a function that fills a folder.
        weights: a digest of those that are exported. What `out` has of other ones is removed: nobody could tell
            which of its files are of which model.

    Returns:
        What `write` returns, with `out` for the folder that it wrote into.

    Raises:
        UserError: as `write`; `out` cannot be written to; or it holds files of those names that no export made, or
            that were changed since.
    """
    new = [one for one in (out, *out.parents) if not one.exists()]
    home = out / _STAGE
    stage = home / (out.name or out.resolve().name)
    try:
        shutil.rmtree(home, ignore_errors=True)  # of an export that was killed
        stage.mkdir(parents=True)
        try:
            said = write(stage).replace(str(stage), str(out))
        except UserError as error:
            raise UserError(str(error).replace(str(stage), str(out)), status=error.status) from None
        files = sorted(one.relative_to(stage).as_posix() for one in stage.rglob("*") if one.is_file())
        new_marks = {name: [_mark(stage / name)] for name in files}
        recorded, before = _recorded(out)
        _refuse_others(out, new_marks, recorded)
        stale = [] if weights and weights == before else _stale(out, new_marks, recorded)
        both = {**recorded, **{name: [*recorded.get(name, []), *marks] for name, marks in new_marks.items()}}
        _tell(out, both)  # before and after: a kill between two files leaves none that is nobody's
        for name in files:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (stage / name).replace(out / name)
        for name in stale:
            _remove(out, name)
            del recorded[name]
        _tell(out, {**recorded, **new_marks}, weights)
    except OSError as error:
        raise UserError(f"cannot write to {out} ({error.strerror}): choose another place") from None
    finally:
        shutil.rmtree(home, ignore_errors=True)
        for one in new:  # those made here, if nothing came into them
            if one.is_dir() and not any(one.iterdir()):
                one.rmdir()
    return said


def check_place(out: Path, names: tuple[str, ...]) -> None:
    """Refuse, before any work, a folder with files of these names that no export made.

    Raises:
        UserError: see `place`.
    """
    recorded, _ = _recorded(out)
    _refuse_others(out, {name: [] for name in names}, recorded)


def _stale(out: Path, marks: dict[str, list[str]], recorded: dict[str, list[str]]) -> list[str]:
    """Return what an earlier export made and this one does not; refuse it where a user has changed it."""
    rest: dict[str, list[str]] = {name: [] for name in recorded if name not in marks}
    _refuse_others(out, rest, recorded)
    return list(rest)


def _remove(out: Path, name: str) -> None:
    """Remove a file, and the folders in `out` that are empty without it."""
    (out / name).unlink(missing_ok=True)
    for above in list((out / name).parents)[: name.count("/")]:
        if above.is_dir() and not any(above.iterdir()):
            above.rmdir()


def _refuse_others(out: Path, new_marks: dict[str, list[str]], recorded: dict[str, list[str]]) -> None:
    for name, marks in new_marks.items():
        here = out / name
        if not (here.exists() or here.is_symlink()):
            continue
        mark = _mark(here) if here.is_file() and not here.is_symlink() else ""
        if mark in marks or mark in recorded.get(name, []):
            continue
        why = "was changed since it was exported" if name in recorded else "is not of an earlier export"
        raise UserError(f"{here} {why}: move it away, or export to another folder")


def _mark(file: Path) -> str:
    size = file.stat().st_size
    return f"{size} bytes" if size > _HASHED else hashlib.sha256(file.read_bytes()).hexdigest()


def _recorded(out: Path) -> tuple[dict[str, list[str]], str]:
    """Return what earlier exports made in `out`: the marks of each file, and the digest of the weights, or ""."""
    path = out / RECORD
    if not path.exists():
        return {}, ""
    try:
        content = json.loads(path.read_text()) if path.stat().st_size <= _LARGEST_RECORD else None
    except (OSError, ValueError, RecursionError):
        content = None
    files = content.get("files") if isinstance(content, dict) and content.get("format") == _FORMAT else None
    if not isinstance(files, dict) or not isinstance(content, dict):
        raise UserError(f"{path} is not of an earlier export: move it away, or export to another folder")
    inside = {name: marks for name, marks in files.items() if isinstance(marks, list) and _is_inside(name)}
    return {name: [str(mark) for mark in marks] for name, marks in inside.items()}, str(content.get("weights", ""))


def _is_inside(name: str) -> bool:
    """Return whether a name that a record gives stays within its folder, since what is recorded may be removed."""
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def _tell(out: Path, files: dict[str, list[str]], weights: str = "") -> None:
    temporary = out / _STAGE / "record.json"
    temporary.write_text(json.dumps({"format": _FORMAT, "weights": weights, "files": files}, indent=1) + "\n")
    temporary.replace(out / RECORD)
