"""Labels in JSON: `dataset.json` as StyleGAN's and EDM's tools write it, and a .json beside each image."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alphaflow.errors import UserError

from .classes import KEYS, Beside, Labelled, few, from_values, word_of

DATASET = "dataset.json"
LARGEST_NOTE = 1 << 20
"""Bytes that the .json beside one image may have."""
_LARGEST = 1 << 28
_EACH = 4096  # bytes of dataset.json for one image


def by_dataset_json(paths: Sequence[str], where: str, beside: Beside) -> Labelled | None:
    """Return labels from the dataset.json that lies at the root, or in the folder that holds all images.

    Returns:
        the labels, without classes if `labels` in the file is null; without an `origin`, and with what to say of
            the file,
        if it holds no `labels`; `None` if there is no such file.

    Raises:
        UserError: see `from_pairs`.
    """
    folders = holding(paths, beside.root)
    held = {name.rpartition("/")[0]: name for name in beside.notes if name.lower().endswith("dataset.json")}
    held = {f"{inner}/" if inner else "": name for inner, name in held.items() if _is_dataset(name)}
    folder = next((folder for folder in folders if folder in held), None)
    if folder is None:
        return None
    note = held[folder]
    called = beside.place(note)
    refuse_size(beside.notes[note], called, paths)
    content = parse(read_beside(beside, note, called), called)
    if not isinstance(content, dict) or "labels" not in content:
        return Labelled(passed_over=(f'{called}, which holds no "labels"',))
    full = [f"{beside.root}{path}" for path in paths]
    return from_pairs(content["labels"], full, where, called, folder)


def holding(paths: Sequence[str], root: str = "") -> list[str]:
    """Return the folders that hold all images, each with a slash at its end, in the order of looking for labels in
    them: those on the way to `root`, the only ones below it, `root`.
    """
    folders = [root[:k] for k in range(len(root)) if root[k - 1 : k] == "/"] + [""]
    shared = ""
    while paths:
        longer = paths[0][: paths[0].find("/", len(shared)) + 1]
        if not longer or not paths[-1].startswith(longer) or not all(path.startswith(longer) for path in paths):
            break
        shared = longer
        folders.append(root + shared)
    return [*folders, root]


def _is_dataset(name: str) -> bool:
    return name.rpartition("/")[2].lower() == DATASET


def refuse_size(size: int, called: str, paths: Sequence[str]) -> None:
    """Raise a `UserError` for a file that has more bytes than the labels of these images can take."""
    if size > min(_LARGEST, LARGEST_NOTE + _EACH * len(paths)):
        raise UserError(
            f"{called} is refused: it has {size} bytes, too many for the labels of {len(paths)} images"
        )


def by_json_file(paths: Sequence[str], where: str, file: Path) -> Labelled:
    """Return labels from a file of the form of dataset.json, wherever it lies.

    Raises:
        UserError: there is no such file, or see `from_pairs`.
    """
    try:
        size = file.stat().st_size
        if size > _LARGEST:
            raise UserError(f"labels {file} are refused: {size} bytes are too many")
        text = file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read labels from {file} ({error.strerror}): give FILE.csv or FILE.json") from None
    content = parse(text, str(file))
    if not isinstance(content, dict) or "labels" not in content:
        raise UserError(f'{file} holds no "labels": it must be like EDM\'s {{"labels": [["a.png", 0], …]}}')
    return from_pairs(content["labels"], paths, where, str(file), "")


def from_pairs(pairs: Any, paths: Sequence[str], where: str, called: str, folder: str) -> Labelled:
    """Return labels from the list `[["00000/img00000000.png", 6], …]`.

    Args:
        pairs: the list; `None`: there are no labels.
        paths: the paths of the images.
        where: what messages call their place.
        called: what messages call the file.
        folder: the folder that the list's names are relative to, such as "images/".

    Raises:
        UserError: the list has another form, an image has no label, a name is none of the images, or a label is no
            class but a vector, -1 or null.
    """
    if pairs is None:
        return Labelled(origin=f"no labels in {DATASET}")
    if isinstance(pairs, dict):
        pairs = list(pairs.items())
    if not isinstance(pairs, list) or any(
        not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[0], str) for pair in pairs
    ):
        raise UserError(f'{called}: "labels" must be a list of pairs such as ["00000/img00000000.png", 6]')
    table: dict[str, Any] = {}
    images = set(paths)
    for name, label in pairs:
        full = folder + name.replace("\\", "/").removeprefix("./")
        if full not in images:
            raise UserError(f"{called} names {name}, which is not among the {len(paths)} images of {where}")
        if full in table and table[full] != label:
            raise UserError(f"{called} gives {name} two labels, {table[full]!r} and {label!r}: keep one")
        table[full] = label
    missing = [path for path in paths if path not in table]
    if missing:
        raise UserError(
            f"{called} has no label for {len(missing)} of the {len(paths)} images of {where} (first "
            f"{missing[0]}): add them, or give labels from elsewhere (--data.labels, none for no classes)"
        )
    values = []
    vectors = _by_single_ones([table[path] for path in paths])
    for k, path in enumerate(paths):
        word = vectors[k] if vectors else word_of(table[path])
        if word is None:
            label = table[path]
            kind = f"a vector of {len(label)} numbers" if isinstance(label, list) else repr(label)[:40]
            raise UserError(
                f"{called} gives {path[len(folder) :]} {kind} for a label, which is no class: write whole "
                "numbers or words, or give labels from elsewhere (--data.labels, none for no classes)"
            )
        values.append(word)
    return from_values(values, where, Path(called).name.rpartition("!")[2], lambda k: paths[k])


def _by_single_ones(labels: Sequence[Any]) -> list[str]:
    """Return the classes of vectors of one length that hold a single 1 among zeros; none if they are others."""
    classes = []
    for label in labels:
        whole = isinstance(label, list) and len(label) == len(labels[0]) and all(x in (0, 1) for x in label)
        if not whole or sum(label) != 1:
            return []
        classes.append(str(label.index(1)))
    return classes


def by_side_json(paths: Sequence[str], where: str, beside: Beside, key: str | None) -> Labelled | None:
    """Return labels from the .json beside each image, `1.png` with `1.json`, as α-Flow's own sets have them.

    Args:
        paths: relative paths of the images.
        where: what messages call their place.
        beside: what lies beside the images.
        key: the name of the value; `None`: the first of `KEYS` that the first file has.

    Returns:
        the labels; without `key`: `None` if there are no such files, and no `origin` if they hold no label.

    Raises:
        UserError: an image has no such file, or its file no label.
    """
    if key is None and not beside.notes:
        return None
    names = [f"{beside.root}{path.rpartition('.')[0]}.json" for path in paths]
    there = next((k for k, name in enumerate(names) if name in beside.notes), None)
    if there is None:
        if key is None:
            return None
        raise UserError(
            f"labels {key!r} are no file: the images of {where} take their labels from their folders, from a "
            f"FILE.csv, from the value {key!r} of a .json beside each image, of which there is none, or are "
            "without (none)"
        )
    notes = (_note(beside, name) for name in names[there:])
    if key is None:
        first = next(notes)
        key = usual_key(first)
        if key is None:
            keys = few(list(first), 8) if isinstance(first, dict) else ""
            sentence = f"the .json beside each image, with no label among {keys}: --data.labels KEY takes one"
            return Labelled(passed_over=(sentence,) if keys else ())
    missing = next((path for path, name in zip(paths, names) if name not in beside.notes), None)
    if missing is not None:
        raise UserError(
            f"{beside.place(beside.root + missing)} has no .json beside it that could hold its label, and "
            "others have: add it, or give labels from elsewhere (--data.labels FILE.csv, folders, none)"
        )
    values = [label_in(_note(beside, name), key, beside.place(name)) for name in names]
    return from_values(values, where, f"{key!r} in the .json beside each image", lambda k: paths[k])


def usual_key(note: Any) -> str | None:
    """Return the usual name that the label of a note has, in upper or lower case; `None` if it has none of
    them."""
    if not isinstance(note, dict):
        return None
    plain = {word.lower(): word for word in reversed(note)}
    return next((word if word in note else plain[word] for word in KEYS if word in plain), None)


def label_in(content: Any, key: str, called: str) -> str:
    """Return the label under `key` of a note; raise a `UserError` if there is none."""
    word = word_of(content.get(key)) if isinstance(content, dict) else None
    if word is None:
        raise UserError(f"{called} has no label {key!r}, a word or whole number")
    return word


def parse(text: bytes, called: str) -> Any:
    """Parse JSON; raise a `UserError` that names the file if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        words = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UserError(f"{called} is no JSON ({words}): repair or remove it") from None


def _note(beside: Beside, name: str) -> Any:
    called = beside.place(name)
    if beside.notes.get(name, 0) > LARGEST_NOTE:
        raise UserError(f"{called} is refused: {beside.notes[name]} bytes are too many for the label of one image")
    return parse(read_beside(beside, name, called), called)


def read_beside(beside: Beside, name: str, called: str) -> bytes:
    """Return the bytes of a file beside the images; raise a `UserError` if it cannot be read."""
    try:
        return beside.read(name)
    except OSError as error:
        raise UserError(f"cannot read {called} ({error.strerror or error})") from None
