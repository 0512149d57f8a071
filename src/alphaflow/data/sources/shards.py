"""WebDataset shards: tars whose members belong together by name, `0001.jpg` with `0001.cls` or `0001.json`.

WebDataset's own library reads shards as streams. Here a table of every shard's members is kept in the cache, so
that any image can be read at once, the number of images is known, and the order, the share of each process and
the place to go on from are those of every other source.
"""

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from alphaflow.errors import UserError

from .archive import plain
from .archive_members import Members, members_of
from .base import SUFFIXES, Names, digest_of
from .cache import key_of, stamp_of
from .captions import caption_in, caption_key
from .classes import FOLDERS, NONE, Labelled, few, from_values
from .label_files import by_file, is_label_file
from .notes import LARGEST_NOTE, label_in, parse, usual_key

_OPEN = 64  # shards that are open at once: a system allows about a thousand files


class Shards:
    """The images of one or more tars in WebDataset's layout, shard after shard.

    Args:
        paths: the tars, plain or compressed.
        address: what messages call them.
        labels: `None`: the .cls of each image, else a label in the .json of each, else the tars if all images are
            named like theirs (ImageNet's tars of classes), or none; FILE.csv (see `by_file`); "none"; "folders"
            for the tars; or the name of a value in the .json of each image.
        passed_over: what of the address is not among `paths`, in words.

    Raises:
        UserError: a tar is damaged or has an unsafe member (see `members_of`), there are no images, two have one
            key, or some have no label.
    """

    def __init__(
        self, paths: Sequence[Path], *, address: str, labels: str | None = None, passed_over: Sequence[str] = ()
    ) -> None:
        self.address, self.passed_over = address, tuple(passed_over)
        self.paths = list(paths)
        self._members = [members_of(plain(path), called=str(path)) for path in paths]
        self._open: OrderedDict[int, Callable[[int], bytes]] = OrderedDict()
        self._lock = threading.Lock()
        samples = [_samples(members, str(path)) for members, path in zip(self._members, self.paths)]
        self._shard = np.repeat(np.arange(len(samples)), [len(some) for some in samples])
        self._samples = [sample for some in samples for sample in some]
        self._image = np.array([sample[""] for sample in self._samples], np.int64)
        if not self._samples:
            raise UserError(f"{address} holds no images: a shard has members such as 0001.jpg and 0001.cls")
        self.labels, self.class_names, self.origin, unseen = self._classes(labels)
        self.passed_over += unseen
        if labels is None and self.labels is None and len(self.paths) > 1:
            stems = few([path.name for path in self.paths])
            not_taken = (
                f"the names of the tars ({stems}), which are no classes unless --data.labels folders says so"
            )
            self.passed_over += (not_taken,)
        names = [f"{self.paths[k].name}/{self._name(index)}" for index, k in enumerate(self._shard.tolist())]
        sizes = [int(self._members[k].sizes[i]) for k, i in zip(self._shard, self._image)]
        self.digest = digest_of(Names(names), np.array(sizes, np.int64), self.labels, self.class_names)
        self.stamp = key_of(*(number for path in self.paths for number in stamp_of(path)))

    def __len__(self) -> int:
        return len(self._samples)

    def name(self, index: int) -> str:
        return f"{self.paths[self._shard[index]]}!{self._name(index)}"

    def read(self, index: int) -> bytes:
        return self._read(int(self._shard[index]), int(self._image[index]))

    def captions(self) -> list[str] | None:
        """Return the captions in the .txt or the .json beside the images; see `captions_of`."""
        for kind in ("txt", "json"):
            if kind in self._samples[0]:
                notes = [
                    self._read(int(self._shard[k]), sample[kind]) if kind in sample else b""
                    for k, sample in enumerate(self._samples)
                ]
                if kind == "txt":
                    return [caption_in(note) for note in notes]
                contents = [parse(note or b"{}", self.name(k)) for k, note in enumerate(notes)]
                key = caption_key(list(contents[0])) if isinstance(contents[0], dict) else None
                if key is not None:
                    return [caption_in(one.get(key)) if isinstance(one, dict) else "" for one in contents]
        return None

    def _name(self, index: int) -> str:
        return self._members[self._shard[index]].names[int(self._image[index])]

    def _read(self, shard: int, member: int) -> bytes:
        with self._lock:
            reader = self._open.pop(shard, None) or self._members[shard].opened()
            self._open[shard] = reader
            if len(self._open) > _OPEN:
                self._open.popitem(last=False)  # it is closed when the last thread has done with it
        return reader(member)

    def _classes(self, labels: str | None) -> Labelled:
        if labels == NONE:
            return Labelled()
        if labels is None:
            if any(map(is_shard, self._members)):
                texts = [self._word(k, text) for k, text in enumerate(self._notes("cls"))]
                return from_values(texts, self.address, "the .cls beside each image", self.name)
            labels = self._usual_key()
            if labels is None and not self._are_named_like_their_tars():
                return Labelled(passed_over=self._unseen())
            labels = labels or FOLDERS
        if labels == FOLDERS:
            if len(self.paths) == 1:
                raise UserError(f"{self.address} is one tar, and no class by itself: leave --data.labels away")
            stems = [path.name.partition(".")[0] for path in self.paths]
            return from_values([stems[k] for k in self._shard], self.address, "the names of the tars", self.name)
        if is_label_file(labels):
            return by_file([self._name(k) for k in range(len(self))], self.address, labels)
        values = [
            label_in(parse(text, self.name(k)), labels, f"{self.name(k)}: the .json beside it")
            for k, text in enumerate(self._notes("json"))
        ]
        return from_values(values, self.address, f"{labels!r} in the .json beside each image", self.name)

    def _are_named_like_their_tars(self) -> bool:
        """Return whether each tar is a class, as ImageNet's are: n01440764.tar holds n01440764_10026.JPEG.

        Names that end in numbers of another kind, as `shard-000`, are those of parts.
        """
        stems = [path.name.partition(".")[0] for path in self.paths]
        if any(stem[-1:].isdigit() and not re.fullmatch(r"n[0-9]{8}", stem) for stem in stems):
            return False
        names = (self._name(k).rpartition("/")[2] for k in range(len(self)))
        return len(stems) > 1 and all(name.startswith(f"{stems[k]}_") for name, k in zip(names, self._shard))

    def _word(self, index: int, text: bytes) -> str:
        try:
            word = text.decode("utf-8-sig").strip()
        except UnicodeDecodeError:
            raise UserError(
                f"{self.name(index)} has a .cls beside it that is no UTF-8 text: write it anew"
            ) from None
        if re.fullmatch(r"[-+]?[0-9]*\.[0-9]*[1-9][0-9]*", word):
            raise UserError(
                f"{self.name(index)} has {word} for a label in its .cls, which is no class: write whole numbers "
                "or words, or give labels from elsewhere (--data.labels, none for no classes)"
            )
        return word

    def _usual_key(self) -> str | None:
        """Return the name of the label in the .json of the first image; `None` if it has none."""
        first = self._samples[0]
        if "json" not in first or int(self._members[0].sizes[first["json"]]) > LARGEST_NOTE:
            return None
        content = parse(self._read(int(self._shard[0]), first["json"]), self.name(0))
        return usual_key(content)

    def _unseen(self) -> tuple[str, ...]:
        """Return words about members beside the first image that may hold its label."""
        name = self._name(0)
        stem = name[: len(name) - len(name.rpartition("/")[2])] + name.rpartition("/")[2].partition(".")[0]
        beside = [other for other in self._members[int(self._shard[0])].names if other.startswith(f"{stem}.")]
        notes = [other for other in beside if not other.lower().endswith(SUFFIXES)]
        return (
            (f"{few(notes)} beside {name}: labels are read from .cls, and by --data.labels KEY from .json",)
            if notes
            else ()
        )

    def _notes(self, kind: str) -> list[bytes]:
        """Return the bytes of the member of this kind beside each image."""
        notes = []
        for index, sample in enumerate(self._samples):
            shard = int(self._shard[index])
            if kind not in sample or self._members[shard].sizes[sample[kind]] > LARGEST_NOTE:
                raise UserError(
                    f"{self.name(index)} has no .{kind} beside it that could hold its label: add it, or give "
                    "labels as FILE.csv or none"
                )
            notes.append(self._read(shard, sample[kind]))
        return notes


def is_shard(members: Members) -> bool:
    """Return whether a tar is laid out as WebDataset does: labels stand beside the images."""
    return any(name.lower().endswith(".cls") for name in members.names)


def _samples(members: Members, called: str) -> list[dict[str, int]]:
    """Return the members of each sample by kind ("" is the image), in the order of the images.

    Members belong together, by WebDataset's rule, when they agree up to the first dot of their file's name. Where
    that puts several images into one sample, names have dots of their own (`scale_1.0.jpg`): those that agree up
    to the last dot belong together then.
    """
    groups: dict[str, list[int]] = {}
    names = members.names[:]
    for k, name in enumerate(names):
        folder, slash, file = name.rpartition("/")
        stem = file.partition(".")[0]
        if stem:  # no hidden file
            groups.setdefault(folder + slash + stem, []).append(k)
    samples: list[dict[str, int]] = []
    for group in groups.values():
        images = [k for k in group if names[k].lower().endswith(SUFFIXES)]
        if len(images) == 1:
            samples.append(_sample(names, images[0], group, called))
        elif images:
            samples += _split(names, images, group, called)
    return samples


def _sample(names: Sequence[str], image: int, group: Sequence[int], called: str) -> dict[str, int]:
    """Return an image and its notes by the last part of their names; of several notes of a kind, the one named
    most like it."""
    sample, stem = {"": image}, _stem(names[image])
    for kind in ("cls", "json"):
        notes = [k for k in group if names[k].lower().endswith(f".{kind}") and _may_belong(names[k], stem)]
        for like in (stem, stem.partition(".")[0]):
            if len(notes) > 1:
                notes = [k for k in notes if _stem(names[k]) == like] or notes
        if len(notes) > 1:
            raise UserError(
                f"{called}: {names[notes[0]]} and {names[notes[1]]} both belong to {names[image]}: keep one, or "
                "give labels as FILE.csv or none"
            )
        if notes:
            sample[kind] = notes[0]
    texts = [k for k in group if names[k].lower().endswith(".txt") and _may_belong(names[k], stem)]
    if len(texts) == 1:  # a caption; of several none is known to be it
        sample["txt"] = texts[0]
    return sample


def _may_belong(note: str, stem: str) -> bool:
    """Return whether a note's name is not that of another image: `v_1.6.cls` does not belong to `v_1.5.jpg`."""
    return not _numbered(_stem(note)) or _trunk(stem) in _prefixes(note) or not _numbered(stem)


def _split(names: Sequence[str], images: Sequence[int], group: Sequence[int], called: str) -> list[dict[str, int]]:
    """Return the samples of a group in whose names dots stand before the last one."""
    by_stem: dict[str, list[int]] = {}
    for k in images:
        by_stem.setdefault(_stem(names[k]), []).append(k)
    notes = [k for k in group if names[k].lower().endswith((".cls", ".json", ".txt"))]
    trunks = {_trunk(stem): stem for stem in by_stem}
    owner = {stem: stem for stem in by_stem} | (trunks if len(trunks) == len(by_stem) else {})
    mine = {k: next((owner[stem] for stem in _prefixes(names[k]) if stem in owner), None) for k in notes}
    twice = next((members for members in by_stem.values() if len(members) > 1), None)
    if twice or None in mine.values() or not all(_numbered(stem) for stem in by_stem):
        first, second = twice[:2] if twice else images[:2]
        raise UserError(
            f"{called}: {names[first]} and {names[second]} are both images of one sample, since WebDataset's "
            "keys end at the first dot: keep one, or take the dots out of the names"
        )
    return [
        _sample(names, members[0], [members[0], *(k for k in notes if mine[k] == stem)], called)
        for stem, members in by_stem.items()
    ]


def _stem(name: str) -> str:
    """Return a member's name without its folder and its suffix, in lower case."""
    return name.rpartition("/")[2].lower().rpartition(".")[0]


def _trunk(stem: str) -> str:
    """Return a stem without the words at its end that tell a sample's images apart: v_1.5 for v_1.5.input."""
    return re.sub(r"(\.[^.0-9][^.]*)+$", "", stem)


def _prefixes(name: str) -> list[str]:
    """Return the possible stems of the image that a note belongs to, the longest first: a.b.label, a.b and a for
    a.b.label.cls.
    """
    parts = _stem(name).split(".")
    return [".".join(parts[:k]) for k in range(len(parts), 0, -1)]


def _numbered(stem: str) -> bool:
    """Return whether what follows the first dot begins with a digit, as in scale_1.0; `0001.input` is a kind of
    image."""
    rest = stem.partition(".")[2]
    return rest[:1].isdigit()
