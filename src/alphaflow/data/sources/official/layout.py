"""What a published set's lists say, and the source that follows them."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from alphaflow.errors import UserError, choose

from ..base import Labels, Names, digest_of
from ..classes import FOLDERS, NONE, Labelled, by_folder, few, from_values, shown
from ..label_files import by_file, is_label_file
from .place import Pictures, Place

ALL = "all"
"""The split that stands for all images."""


@dataclass(frozen=True)
class Numbers:
    """Labels as numbers of classes that have names."""

    values: Sequence[int]
    names: Sequence[str]
    """The names of all classes, unique ones, those that do not occur among them."""


@dataclass(frozen=True)
class Chosen:
    """The images of a split."""

    rows: Sequence[int]
    """Which of the pictures, in their order."""
    labels: Mapping[str, Callable[[], Numbers | Sequence[str]]] = field(default_factory=dict)
    """By what they are called: the class of each, or a word for each."""
    usual: str | None = None
    """The labels to take where none are named."""
    passed_over: Sequence[str] = ()
    """Sentences about what was seen and not used."""


@dataclass(frozen=True)
class Layout:
    """A published set that has been found at a place."""

    name: str
    """What it is, for messages."""
    splits: Sequence[str]
    """Its splits; empty without."""
    pictures: Callable[[str], Pictures]
    """The images among which those of a split are."""
    choose: Callable[[str, Sequence[str]], Chosen]
    """Chooses those of a split by their paths."""
    whole: bool = False
    """Whether all splits may be taken together."""


class Official:
    """The images of a split of a published set that goes by lists.

    Args:
        place: where it lies. layout: what it is. split: which part of it. address: what messages call it.
        labels: the name of labels of the set; FILE.csv; "folders"; "none"; `None`: the set's usual ones.
        passed_over: what else is there, in words.

    Raises:
        UserError: the lists do not fit the images, or there are no such labels.
    """

    def __init__(
        self,
        place: Place,
        layout: Layout,
        split: str,
        *,
        address: str,
        labels: str | None,
        passed_over: Sequence[str] = (),
    ) -> None:
        self.address = address
        self._pictures = layout.pictures(split)
        chosen = layout.choose(split, self._pictures.names)
        if not len(chosen.rows):
            raise UserError(
                f"{address} holds the lists of {layout.name}, and none of the images of {split or 'them'} "
                f"({len(self._pictures.names):,} others): unpack or fetch them beside the lists"
            )
        self._rows = np.asarray(chosen.rows, np.int64)
        names = [self._pictures.names[k] for k in chosen.rows]
        labelled = self._labelled(names, chosen, layout.name, labels)
        self.labels, self.class_names, self.origin = labelled[:3]
        self.passed_over = (*passed_over, *chosen.passed_over, *labelled.passed_over)
        self.digest = digest_of(Names(names), self._pictures.sizes[self._rows], self.labels, self.class_names)
        self.stamp = f"{self._pictures.stamp}-{self.digest}"

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, index: int) -> str:
        return self._pictures.called(int(self._rows[index]))

    def read(self, index: int) -> bytes:
        return self._pictures.read(int(self._rows[index]))

    def _labelled(self, names: Sequence[str], chosen: Chosen, what: str, labels: str | None) -> Labelled:
        if labels == NONE:
            return Labelled()
        if labels == FOLDERS:
            lone = _shared(names)
            return by_folder([name[len(lone) :] for name in names], self.address, told=True)
        if labels is not None and is_label_file(labels):
            return by_file(names, self.address, labels)
        others = [f"{name}" for name in chosen.labels if name != (labels or chosen.usual)]
        told = (f"the labels {few(others, 8)} (--data.labels {others[0]})",) if others else ()
        if labels is None and chosen.usual is None:
            return Labelled(passed_over=told)
        key = choose(f"labels of {self.address}", labels, list(chosen.labels)) if labels else chosen.usual
        assert key is not None
        found = chosen.labels[key]()
        origin = f"labels from {key} of {what}"
        if isinstance(found, Numbers):
            values: Labels = np.asarray(found.values, np.int64)
            return Labelled(values, tuple(map(shown, found.names)), origin, told if labels is None else ())
        labelled = from_values(list(found), self.address, f"{key} of {what}", self.name)
        return labelled._replace(origin=origin, passed_over=told if labels is None else ())


def _shared(names: Sequence[str]) -> str:
    """Return the folder, with a slash, that all of the paths lie in."""
    shared = names[0][: names[0].rfind("/") + 1]
    while shared and not all(name.startswith(shared) for name in names):
        shared = shared[: shared.rstrip("/").rfind("/") + 1]
    inner = {name[len(shared) :].count("/") for name in names}
    return shared if inner != {0} else shared[: shared.rstrip("/").rfind("/") + 1]


def unique(names: Sequence[str], keys: Sequence[str]) -> list[str]:
    """Return names of classes, with the key of each beside those that several classes share, as `crane`."""
    count = Counter(names)
    return [f"{name} ({key})" if count[name] > 1 else name for name, key in zip(names, keys)]


def once(paths: Sequence[str], what: str) -> None:
    """Raise a `UserError` if two images of a set have one name, as where it was unpacked twice."""
    seen: dict[str, str] = {}
    for path in paths:
        other = seen.setdefault(path.rpartition("/")[2], path)
        if other is not path:
            raise UserError(f"an image of {what} is there twice ({other}, {path}): keep one of them")


def by_listed(
    listed: Sequence[str], paths: Sequence[str], called: str, parts: int = 1
) -> tuple[list[int], list[int], list[str]]:
    """Find the images that a list names.

    Args:
        listed: the names in the list: the last `parts` parts of paths, with or without suffix; where none is the
            same, in upper or lower case.
        paths: the images.
        called: what messages call the list.
        parts: how many parts of a path tell images apart.

    Returns:
        for each image that is found, in the order of `paths`, its number in `paths` and its number in the list;
        and words about those of the list that are not there.

    Raises:
        UserError: two images have a name, so that none can be told.
    """
    number: dict[str, int] = {}
    for k, name in enumerate(listed):
        number.setdefault(name, k)
    alike: dict[str, int] = {}
    for name, k in number.items():
        alike[name.lower()] = -1 if name.lower() in alike else k
    rows: list[int] = []
    entries: list[int] = []
    seen: dict[int, str] = {}
    for row, path in enumerate(paths):
        end = "/".join(path.split("/")[-parts:])
        entry = number.get(end, number.get(end.rpartition(".")[0]))
        if entry is None:
            entry = alike.get(end.lower(), alike.get(end.lower().rpartition(".")[0], -1))
        if entry < 0:
            continue
        if entry in seen:
            raise UserError(
                f"{called} names {listed[entry]}, which is there twice ({seen[entry]}, {path}): keep one of them"
            )
        seen[entry] = path
        rows.append(row)
        entries.append(entry)
    absent = [name for k, name in enumerate(listed) if k not in seen]
    told = (
        [f"{len(absent):,} of {len(listed):,} images of {called} are not there ({few(absent)})"] if absent else []
    )
    return rows, entries, told
