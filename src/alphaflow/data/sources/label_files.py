"""Labels from a table beside the images: CSV, or text with blanks, in the forms in which data sets come."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from alphaflow.errors import UserError

from .base import SUFFIXES
from .classes import KEYS, Labelled, few, from_values, log
from .label_tables import FILES, IDS, NO_WORD, Rows, read_table
from .notes import by_json_file
from .splits import split_of

ENDINGS = (".csv", ".tsv", ".txt", ".json", ".jsonl")
_LABELS = (*KEYS, "predictionstring")
_SPLITS = {"split", "splits", "subset", "partition", "usage", "set"}
_BOXES = re.compile(r"\s*[^\s\d-]\S*(?:\s+-?\d+){4}(?:\s+\S+(?:\s+-?\d+){4})*\s*")  # n03995372 85 1 499 272 …

Calls = tuple[str, str]


def is_label_file(labels: str) -> bool:
    """Return whether labels come from a file: `FILE.csv`, `FILE.csv#COLUMN`."""
    return split_columns(labels)[0].lower().endswith(ENDINGS)


def by_file(paths: Sequence[str], where: str, labels: str) -> Labelled:
    """Read labels from a table with a row for each image, or from a .json of the form of EDM's dataset.json.

    The column that names the images is the one whose values do: relative paths with or without suffix or, where
    none fits, names of files. The column of the labels is the one in `FILE.csv#COLUMN` (by name or, from 1, by
    number); `FILE.csv#IMAGES,COLUMN` gives both; without either it is the one named like a label, or the only
    other one. Commas, semicolons, tabs or, where there are none, blanks separate; lines that begin with # are
    remarks. Rows of images that are not there are passed over.

    Raises:
        UserError: there is no such file or column; no column names the images, or several could be the labels;
            an image has two labels, or none.
    """
    file, asked = split_columns(labels)
    if file.lower().endswith(".json"):
        return by_json_file(paths, where, Path(file))
    return by_table(paths, where, file, asked, *read_table(Path(file)))


def by_table(
    paths: Sequence[str], where: str, file: str, asked: str, header: list[str] | None, rows: Rows
) -> Labelled:
    """Return labels from a table that has been read.

    Args:
        paths: relative paths of the images.
        where: what messages call their place.
        file: what messages call the table.
        asked: the column of the labels, or IMAGES,COLUMN; "": the columns are found.
        header: the names of the columns; `None` where the first row may be one of them.
        rows: the cells.

    Raises:
        UserError: see `by_file`.
    """
    calls, plain = _calls(paths, rows)
    image_names = {name for names in calls for name in names}

    def fits(cell: str) -> bool:
        return plain(cell) in image_names

    images, rows = _images_column(file, asked, header, rows, fits, f"{where} (the first image is {paths[0]})")
    if header is None and rows and not fits(rows[0][images]) and not _is_row(rows[0][images], images, rows):
        header, rows = rows[0], rows[1:]
    label = _label_column(file, asked, header, rows, images)
    called = Path(file).name.rpartition("!")[2]
    if header:
        by = repr(header[images]) if header[images] else f"column {images + 1}, which has no name"
        called += f" (column {header[label]!r}, images by {by})"
    if not asked:
        _refuse_splits(file, header, rows, (images, label), [fits(row[images]) for row in rows])
    values = [row[label].strip() for row in rows]
    _refuse_no_words(file, [row[images] for row in rows], values)
    if rows and all(_BOXES.fullmatch(value) for value in values):
        values = [value.split()[0] for value in values]
        called = f"the first words in {called}"
    table = _table(file, [plain(row[images]) for row in rows], values)
    return from_values(_joined(table, calls, paths, where, file), where, called, lambda k: paths[k])


def _refuse_no_words(file: str, names: Sequence[str], values: Sequence[str]) -> None:
    """Raise a `UserError` if a label is no word and no whole number, as JSON may have it."""
    wrong = next(((name, value) for name, value in zip(names, values) if value.startswith(NO_WORD)), None)
    if wrong is not None:
        raise UserError(
            f"{file} gives {wrong[0]} {wrong[1].removeprefix(NO_WORD)[:40]} for a label, which is no class: write "
            "whole numbers or words, or give labels from elsewhere (--data.labels, none for no classes)"
        )


def _joined(
    table: dict[str, str], calls: Sequence[Calls], paths: Sequence[str], where: str, file: str
) -> list[str]:
    """Return the label of each image."""
    labels = [next((table[name] for name in names if name in table), "") for names in calls]
    missing = [path for path, label in zip(paths, labels) if not label]
    if missing:
        raise UserError(
            f"{file} has no label for {len(missing)} of the {len(paths)} images of {where} (first {missing[0]}): "
            "name each by its path below the root"
        )
    absent = len(table) - len({name for names in calls for name in names} & table.keys())
    if absent:
        log.warning("%s: %d rows name images that are not in %s", file, absent, where)
    return labels


def _table(file: str, names: Sequence[str], values: Sequence[str]) -> dict[str, str]:
    table: dict[str, str] = {}
    for name, value in zip(names, values):
        if table.setdefault(name, value) != value:
            raise UserError(f"{file} gives {name} two labels, {table[name]!r} and {value!r}: keep one")
    return table


def split_columns(labels: str) -> tuple[str, str]:
    """Return the file, and the columns that are asked of it."""
    if Path(labels).exists():
        return labels, ""
    file, mark, asked = labels.rpartition("#")
    return (file, asked) if mark and file.lower().endswith(ENDINGS) else (labels, "")


def _calls(paths: Sequence[str], rows: Rows) -> tuple[list[Calls], Callable[[str], str]]:
    """Return what a table may call each image, and the function that brings the table's cells to that form.

    With or without suffix, that is its path or, where the table has none of these, the file's name, whatever
    folders stand before it there. Whole names decide before names without suffix, which labels may look like.
    """
    calls = [(path, path.rpartition(".")[0]) for path in paths]
    names = [path.rpartition("/")[2] for path in paths]
    if len(set(names)) < len(names):  # only their folders tell them apart
        known = {name for called in calls for name in called}

        def tail(cell: str) -> str:
            parts = _normal(cell).split("/")
            return next((end for k in range(len(parts)) if (end := "/".join(parts[k:])) in known), "/".join(parts))

        columns = [{_normal(cell) for cell in column} for column in zip(*rows)]
        return calls, _normal if any(column & known for column in columns) else tail
    bare = [(name, name.rpartition(".")[0]) for name in names]
    for k in range(2):
        by_path = _hits(rows, {called[k] for called in calls}, _normal)
        by_name = _hits(rows, {called[k] for called in bare}, _last)
        # without suffix, a column of labels may hold the names of a few images
        if max(by_path, default=0) and (k == 0 or max(by_path) == max(by_name)):
            return calls, _normal
        if max(by_name, default=0):
            return bare, _last
    return calls, _normal


def _hits(rows: Rows, known: set[str], plain: Callable[[str], str]) -> list[int]:
    """Return how many different images each column names."""
    return [len({name for cell in column if (name := plain(cell)) in known}) for column in zip(*rows)]


def _normal(cell: str) -> str:
    name = cell.strip().replace("\\", "/").removeprefix("./")
    return re.split(r"[?#]", name)[0] if "://" in name else name


def _last(cell: str) -> str:
    return _normal(cell).rpartition("/")[2]


def _images_column(
    file: str,
    asked: str,
    header: list[str] | None,
    rows: Rows,
    fits: Callable[[str], bool],
    where: str,
) -> tuple[int, Rows]:
    """Return the column that names the images, and the rows, with CUB's numbers of images replaced by their
    paths."""
    names = header or rows[0]
    if "," in asked and asked not in names:
        return _column(file, asked.partition(",")[0], names), rows
    # different images, since labels may be numbers like the names of a few
    hits = [len({row[k] for row in rows if fits(row[k])}) for k in range(len(names))]
    if max(hits) == 0:
        listed = Path(file).parent / "images.txt"  # CUB: image_class_labels.txt has numbers, images.txt the paths
        if listed.is_file() and listed != Path(file):
            table = dict(row[:2] for row in read_table(listed)[1])
            replaced = [[table.get(row[0], row[0]), *row[1:]] for row in rows]
            if any(fits(row[0]) for row in replaced):
                return 0, replaced
        raise UserError(
            f"{file} has no column that names the images of {where}, but {few(names, 6)}: name each by its path "
            "below the root"
        )
    # whole names come before names without suffix, which the numbers of rows may look like
    whole = [len({row[k] for row in rows if _ending(row[k]) and fits(row[k])}) for k in range(len(names))]
    named = [2 * (word in FILES) + (word in IDS) for word in (name.strip().lower() for name in names)]
    best = max(range(len(names)), key=lambda k: (whole[k], hits[k], named[k], -k))
    if not whole[best] and all(row[best].strip().isdigit() for row in rows[1:]):
        lost = next((k for k in range(len(names)) if rows[1:] and all(_ending(row[k]) for row in rows[1:])), None)
        if lost is not None:
            raise UserError(
                f"{file}: column {names[lost]!r} names files (such as {rows[1][lost]}) that are not among the "
                f"images of {where}: correct it or, if {names[best]!r} names the images, say so, such as "
                f"--data.labels '{file}#{names[best]},COLUMN'"
            )
    return best, rows


def _ending(cell: str) -> bool:
    """Return whether a cell ends as the name of an image does."""
    return "://" not in cell and cell.strip().lower().endswith(SUFFIXES)


def _is_row(cell: str, images: int, rows: Rows) -> bool:
    """Return whether the first cell of the images' column names an image that is not there, rather than the
    column."""
    if cell.strip().lower() in FILES | IDS:
        return False
    ending = Path(cell.strip()).suffix
    return bool(ending) and len(rows) > 1 and Path(rows[1][images].strip()).suffix == ending


def _label_column(file: str, asked: str, header: list[str] | None, rows: Rows, images: int) -> int:
    names = header or [str(k + 1) for k in range(len(rows[0] if rows else ()))]
    if asked:
        column = asked if asked in names else asked.rpartition(",")[2]
        label = _column(file, column, names)
        if label == images:
            raise UserError(f"{file}: column {column!r} names the images: give the one that holds the labels")
        return label
    others = [k for k in range(len(names)) if k != images]
    if header:
        plain = {re.sub(r"[\s-]+", "_", name.strip().lower()): k for k, name in reversed(list(enumerate(header)))}
        usual = next((plain[name] for name in _LABELS if name in plain and plain[name] != images), None)
        if usual is not None:
            return usual
        # an index, as pandas writes it, has no name
        others = [k for k in others if not re.fullmatch(r"(unnamed: \d+|index)?", header[k].strip().lower())]
    if header:
        others = [k for k in others if header[k].strip().lower() not in _SPLITS] or others
    if len(others) == 1:
        return others[0]
    held = [names[k] for k in others]
    if not held:
        raise UserError(f"{file} has no column of labels beside {names[images]!r}: add one")
    raise UserError(
        f"{file} has several columns that could hold the labels ({few(held, 8)}): say which, such as "
        f"--data.labels '{file}#{held[0]}'"
    )


def _refuse_splits(
    file: str, header: list[str] | None, rows: Rows, which: tuple[int, int], there: Sequence[bool]
) -> None:
    """Raise a `UserError` if the only labels are splits, or if the images are of several by another column."""
    names = header or [str(k + 1) for k in range(len(rows[0] if rows else ()))]
    images, label = which
    for k, name in enumerate(names):
        used = Counter(row[k].strip() for row, is_there in zip(rows, there) if is_there and row[k].strip())
        titled = name.strip().lower() in _SPLITS and header is not None
        if k == images or len(used) < 2 or not (titled or all(map(split_of, used))):
            continue
        held = ", ".join(f"{split} {count}" for split, count in used.most_common(4))
        if k == label:
            raise UserError(
                f"{file}: column {name!r} holds splits of a data set ({held}), which are no classes, and no other "
                f"holds labels: add one; to train on them as classes, give --data.labels '{file}#{name}'"
            )
        raise UserError(
            f"{file}: the images are of several splits by column {name!r} ({held}): put those to train on into a "
            f"folder of their own; to train on all of them, give --data.labels '{file}#{names[label]}'"
        )


def _column(file: str, word: str, names: Sequence[str]) -> int:
    plain = [name.strip().lower() for name in names]
    word = word.strip()
    if word.lower() in plain:
        return plain.index(word.lower())
    if word.isdigit() and 1 <= int(word) <= len(names):
        return int(word) - 1
    raise UserError(f"{file} has no column {word!r}: it has {few(names, 8)}")
