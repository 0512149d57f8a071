"""The ways to labels, and which of them an image folder or an archive takes."""

from collections import Counter
from collections.abc import Mapping, Sequence

from alphaflow.errors import UserError
from alphaflow.files import shell_word

from .base import SUFFIXES
from .classes import FOLDERS, NONE, Beside, Labelled, by_folder, few, is_hidden
from .label_files import by_file, is_label_file
from .metadata import by_metadata
from .notes import by_dataset_json, by_side_json, holding
from .splits import refuse_splits

_STEMS = ("metadata", "labels", "annotations", "train", "train_labels", "classes")
TABLES = (*(stem + ending for stem in _STEMS for ending in (".csv", ".tsv", ".jsonl")), "metadata.parquet")
"""Names of tables of labels that may lie beside images. Those of `metadata.METADATA` are read; others are
mentioned, and read on demand.
"""
_TEXTS = set(
    " .txt .md .rst .csv .tsv .json .jsonl .yaml .yml .toml .xml .html .log .pdf .ini .db .py .sh .cls .bib "
    ".zip .tar .gz .parquet".split(" ")
)
"""Endings of files that nobody takes for pictures."""


def labels_of(paths: Sequence[str], where: str, labels: str | None, beside: Beside) -> Labelled:
    """Return labels of images that have only paths.

    Args:
        paths: relative paths, in order.
        where: "image folder x" or "archive x".
        labels: `None`: those of dataset.json, else of metadata.csv or .jsonl, else of a .json beside each image,
            else of the folders; "none"; "folders"; FILE.csv (see `by_file`); or the name of a value in the .json
            beside each image.
        beside: what lies beside the images.

    Raises:
        UserError: there are no paths, or what these ways raise.
    """
    if labels == NONE:
        return Labelled()
    if labels == FOLDERS:
        return by_folder(paths, where, beside, told=True)
    if labels is None:
        return _found(paths, where, beside)
    if is_label_file(labels):
        return by_file(paths, where, labels)
    labelled = by_side_json(paths, where, beside, labels)
    assert labelled is not None
    return labelled


def _found(paths: Sequence[str], where: str, beside: Beside) -> Labelled:
    """Return the labels that the set has by itself, and what of the set was not read."""
    labelled = by_dataset_json(paths, where, beside)
    unseen = labelled.passed_over if labelled else ()
    if labelled is not None and labelled.origin:
        return labelled
    folders = {path.partition("/")[0] for path in paths if "/" in path}
    if len(folders) > 1:
        refuse_splits(folders, where, beside.inside)
    labelled = by_metadata(paths, where, beside)
    if labelled is not None:
        return labelled._replace(passed_over=(*unseen, *labelled.passed_over))
    if folders:
        refuse_splits(folders, where, beside.inside)
    labelled = by_side_json(paths, where, beside, None)
    unseen += labelled.passed_over if labelled else ()
    if labelled is None or not labelled.origin:
        labelled = by_folder(paths, where, beside)
        unseen += labelled.passed_over
    if labelled.labels is None and not labelled.origin:
        near = holding(paths, beside.root)
        unseen += tuple(
            unread(beside.place(name)) for name in beside.tables if name[: name.rfind("/") + 1] in near
        )
    return labelled._replace(passed_over=unseen)


def is_table(name: str) -> bool:
    """Return whether a file in the root of a set is named like a table of labels."""
    return name.lower() in TABLES


def unread(place: str) -> str:
    """Return what to say of a table of labels that is not read."""
    if "!" in place or not is_label_file(place):
        return f"{place}, which may hold labels"
    return f"{place}, which may hold labels: --data.labels {shell_word(place)} reads it"


def nothing_in(where: str, others: Mapping[str, Counter[str]]) -> UserError:
    """Return the error that there are no images, and what there is instead.

    others: see `passed_over`.
    """
    counted: Counter[str] = sum(others.values(), Counter())
    held = ", ".join(f"{count} {ending or 'without suffix'}" for ending, count in counted.most_common(4))
    instead = f" (it holds files of other kinds: {held})" if held else ""
    return UserError(f"{where} holds no images{instead}: put {', '.join(SUFFIXES)} files into it")


def passed_over(
    images: Sequence[str], folders: Sequence[str], others: Mapping[str, Counter[str]]
) -> tuple[str, ...]:
    """Return in words what of a folder or archive is not used.

    Args:
        images: relative paths of the images.
        folders: the names of all folders in the root.
        others: for each such folder ("" for the root) how many files of each ending lie in and below it that are
            no images.
    """
    used = {path.partition("/")[0] for path in images if "/" in path}
    bare = sorted(name for name in {*folders, *others} - used - {""} if not is_hidden(name)) if used else []
    said = []
    if bare:
        kind = "folder" if len(bare) == 1 else "folders"
        said.append(f"{len(bare)} {kind} without PNG, JPEG or WebP ({few(bare, 6)})")
    rest: Counter[str] = Counter()
    for folder, counted in others.items():
        if folder not in bare:
            rest.update({ending: count for ending, count in counted.items() if ending not in _TEXTS})
    if rest:
        total = rest.total()
        endings = ", ".join(ending for ending, _ in rest.most_common(6))
        said.append(f"{total:,} {'file' if total == 1 else 'files'} of other kinds ({endings})")
    return tuple(said)
