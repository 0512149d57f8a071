"""Kinetics and UCF-101 as they are published: lists that name clips in a form of their own."""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alphaflow.data.sources.classes import by_value, few
from alphaflow.data.sources.splits import split_of
from alphaflow.errors import UserError

from .found import ClipFiles, videos_in

_KINETICS = "youtube_id"
_UCF = re.compile(r"(train|test|val)list\d*\.txt")
_LARGEST = 1 << 28


def text_of(file: Path) -> str:
    """Return the text of a list.

    Raises:
        UserError: it cannot be read, or is no UTF-8.
    """
    try:
        if file.stat().st_size > _LARGEST:
            raise UserError(f"the list {file} is refused: {file.stat().st_size:,} bytes are too many")
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the list {file} ({error})") from None


def list_in(folder: Path, part: str) -> Path | None:
    """Return the list of Kinetics or UCF-101 that lies in a folder, or in one within it; `None` if there is none.

    Args:
        folder: the folder.
        part: the split, or the list's name; "": the training one.

    Raises:
        UserError: there are such lists, and none of that split.
    """
    files = [*folder.glob("*.csv"), *folder.glob("*/*.csv"), *folder.glob("*.txt"), *folder.glob("*/*.txt")]
    lists = sorted(file for file in files if is_ucf(file) or is_kinetics(file))
    if not lists:
        return None
    kinds = {file: _split(file) for file in lists}
    wanted = split_of(part) if part else "train"
    named = [file for file in lists if part and part in (file.stem, file.name)]
    meant = named or [file for file in lists if kinds[file] == wanted]
    if not meant:  # a table of all splits, told apart by a column
        whole = [file for file in lists if is_kinetics(file) and kinds[file] is None]
        meant = lists if not part else whole
    if not meant:
        raise UserError(
            f"{folder} has no list of the split {part!r}: there are {few([file.name for file in lists], 6)}"
        )
    return meant[0]


def _split(file: Path) -> str | None:
    """Return the split of a list by its name: trainlist01 and kinetics-400_train.csv are of train."""
    words = re.split(r"[^a-z]+", file.stem.lower().replace("list", " "))
    return next((kind for word in words if word and (kind := split_of(word))), None)


def is_kinetics(file: Path) -> bool:
    """Return whether a file is a table of Kinetics: with the column youtube_id."""
    if file.suffix.lower() != ".csv":
        return False
    with file.open("rb") as opened:
        return _KINETICS.encode() in opened.readline(4096)


def is_ucf(file: Path) -> bool:
    """Return whether a file is a list of UCF-101: trainlist01.txt, with lines such as Class/v_1.avi 1."""
    if not _UCF.fullmatch(file.name):
        return False
    with file.open("rb") as opened:
        return re.match(rb"[^/\n]+/[^/\n]+\.\w+( \d+)?\s*$", opened.readline(4096)) is not None


def of_kinetics(file: Path, root: Path, part: str = "") -> ClipFiles:
    """Return the clips that a table of Kinetics names: label, youtube_id, time_start, time_end, split.

    Their files are called by the id, or by id_start_end in seconds with six digits, whatever folder they lie in.

    Args:
        file: the table.
        root: the folder below which they lie.
        part: the split to take of a table that names several; "": the training one.

    Raises:
        UserError: none of them is there, some have labels and others none, or a file stands for clips of several
            labels.
    """
    table = list(csv.DictReader(io.StringIO(text_of(file), newline="")))
    rows, others = _of_split(table, file, part)
    by_stem: dict[str, Path] = {}
    for video in videos_in(root):
        by_stem.setdefault(video.stem, video)
    found = [(row, path) for row in rows if (path := _file_of(row, by_stem)) is not None]
    if not found:
        raise UserError(
            f"{file} names {len(rows):,} clips of Kinetics, and none is below {root}: they are files such as "
            f"{_stem_of(rows[0]) if rows else 'ID_000001_000011'}.mp4"
        )
    told = (*others, *_absent(len(rows) - len(found), len(rows), file))
    paths = tuple(path for _, path in found)
    words = [(row.get("label") or "").strip() for row, _ in found]
    if not any(words):
        return ClipFiles(paths, np.zeros(len(paths), np.int64), (), told)
    bare = next((path for word, path in zip(words, paths) if not word), None)
    if bare is not None:
        raise UserError(f"{file} gives no label for {bare.name}, and does for others: fetch it anew")
    label_of: dict[Path, str] = {}
    twice = next((path for word, path in zip(words, paths) if label_of.setdefault(path, word) != word), None)
    if twice is not None:
        raise UserError(
            f"{file} names clips of several labels in {twice.name}, which is not cut: cut it into files such as "
            f"{twice.stem}_000001_000011.mp4"
        )
    # classes are all that the table names, so that a clip that is gone does not move the others' numbers
    names = by_value([word for row in table if (word := (row.get("label") or "").strip())])[1]
    return _numbered(paths, words, names, told)


def _of_split(rows: list[dict[str, str]], file: Path, part: str) -> tuple[list[dict[str, str]], tuple[str, ...]]:
    """Return the rows of one split, where the column of that name has several, and which others there are."""
    splits = [_kind((row.get("split") or "").strip()) for row in rows]
    kinds = sorted({kind for kind in splits if kind})
    if len(kinds) < 2 or None in splits:
        return rows, ()
    wanted = _kind(part) or _split(file) or "train"
    if wanted not in kinds:
        raise UserError(f"{file} has no rows of the split {part or wanted!r}: there are {', '.join(kinds)}")
    rest = ", ".join(kind for kind in kinds if kind != wanted)
    return [row for row, kind in zip(rows, splits) if kind == wanted], (f"the splits {rest} of {file.name}",)


def _kind(word: str) -> str | None:
    return "validation" if word.lower() == "validate" else split_of(word)  # which is Kinetics' own word


def _stem_of(row: dict[str, str]) -> str:
    try:
        start, end = (round(float(row.get(key) or 0)) for key in ("time_start", "time_end"))
    except ValueError:
        return row.get(_KINETICS) or ""
    return f"{row.get(_KINETICS)}_{start:06d}_{end:06d}"


def _file_of(row: dict[str, str], by_stem: dict[str, Path]) -> Path | None:
    return by_stem.get(_stem_of(row)) or by_stem.get(row.get(_KINETICS) or "")


def of_ucf(file: Path) -> ClipFiles:
    """Return the clips that a list of UCF-101 names, with the classes of classInd.txt beside it, or else its own.

    Raises:
        UserError: none of them is there, or a class has no name.
    """
    rows = [line.strip().rpartition(" ") for line in text_of(file).splitlines() if line.strip()]
    listed = [
        (name, number) if number.isdigit() and name else (f"{name} {number}".strip(), "")
        for name, _, number in rows
    ]
    root = _root_of(file, [name for name, _ in listed])
    found = [(root / name, number) for name, number in listed if root and (root / name).is_file()] if root else []
    if not found:
        raise UserError(
            f"{file} names {len(listed):,} videos such as {listed[0][0] if listed else 'Class/v_1.avi'}, and none "
            f"is below {file.parent} or in a folder beside it"
        )
    told = _absent(len(listed) - len(found), len(listed), file)
    paths = tuple(path for path, _ in found)
    index = file.parent / "classInd.txt"
    if index.is_file():
        pairs = [line.split(None, 1) for line in text_of(index).splitlines() if line.strip()]
        names = tuple(pair[-1].strip() for pair in pairs)
        unknown = next((path for path in paths if path.parent.name not in names), None)
        if unknown is not None:
            raise UserError(f"{index} does not name the class of {unknown}: fetch it anew")
        return _numbered(paths, [path.parent.name for path in paths], names, told)
    labels, names = by_value([path.parent.name for path in paths])
    assert labels is not None
    return ClipFiles(paths, labels, names, told)


def _numbered(
    paths: tuple[Path, ...], words: Sequence[str], names: tuple[str, ...], told: tuple[str, ...]
) -> ClipFiles:
    number = {name: k for k, name in enumerate(names)}
    return ClipFiles(paths, np.array([number[word] for word in words], np.int64), names, told)


def _root_of(file: Path, names: Sequence[str]) -> Path | None:
    """Return the folder that the names in a list are relative to: its own, or one beside or within."""
    near = [file.parent, file.parent.parent]
    near += [path for place in near for path in sorted(place.iterdir()) if path.is_dir()]
    held = [
        (sum((place / name).is_file() for name in names[:: max(1, len(names) // 100)]), place) for place in near
    ]
    best = max(held, key=lambda one: one[0])
    return best[1] if best[0] else None


def _absent(count: int, total: int, file: Path) -> tuple[str, ...]:
    return (f"{count:,} of {total:,} videos of {file.name}, which are not there",) if count else ()
