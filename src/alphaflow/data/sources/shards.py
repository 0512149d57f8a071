"""WebDataset shards: tars whose members belong together by name, `0001.jpg` with `0001.cls` or `0001.json`.

WebDataset's own library reads shards as streams. Here a table of every shard's members is kept in the cache, so
that any image can be read at once, the number of images is known, and the order, the share of each process and
the place to go on from are those of every other source.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alphaflow.errors import UserError

from .archive import plain
from .base import SUFFIXES, Names, digest_of
from .cache import key_of, stamp_of
from .classes import NONE, Classes, by_csv, by_value
from .members import Members, members_of

_OPEN = 64  # shards that are open at once: a system allows about a thousand files
_LARGEST_NOTE = 1 << 20  # bytes of a .cls or .json


class Shards:
    """The images of one or more tars in WebDataset's layout, shard after shard.

    Args:
        paths: the tars, plain or compressed.
        address: what to call them.
        labels: `None`: the .cls of each image, or no labels if there are none; FILE.csv (see `by_csv`); "none";
        or the
            name of a value in the .json of each image.

    Raises:
        UserError: a damaged tar or an unsafe member (see `members_of`), no images, two for one key, or images
        without
            a label.
    """

    def __init__(self, paths: Sequence[Path], *, address: str, labels: str | None = None) -> None:
        self.address = address
        self.paths = list(paths)
        self._members = [members_of(plain(path), called=str(path)) for path in paths]
        self._open: OrderedDict[int, Callable[[int], bytes]] = OrderedDict()
        self._lock = threading.Lock()
        found = [_samples(members, str(path)) for members, path in zip(self._members, self.paths)]
        self._shard = np.repeat(np.arange(len(found)), [len(some) for some in found])
        self._samples = [sample for some in found for sample in some]
        self._image = np.array([sample[""] for sample in self._samples], np.int64)
        if not self._samples:
            raise UserError(f"{address} holds no images: a shard has members such as 0001.jpg and 0001.cls")
        self.labels, self.class_names = self._classes(labels)
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

    def _name(self, index: int) -> str:
        return self._members[self._shard[index]].names[int(self._image[index])]

    def _read(self, shard: int, member: int) -> bytes:
        with self._lock:
            reader = self._open.pop(shard, None) or self._members[shard].opened()
            self._open[shard] = reader
            if len(self._open) > _OPEN:
                self._open.popitem(last=False)  # it is closed when the last thread has done with it
        return reader(member)

    def _classes(self, labels: str | None) -> Classes:
        if labels == NONE:
            return None, ()
        if labels is None:
            if not any("cls" in sample for sample in self._samples):
                return None, ()
            return by_value([text.decode("utf-8", "replace") for text in self._notes("cls")])
        if labels.lower().endswith((".csv", ".tsv", ".txt")):
            return by_csv([self._name(k) for k in range(len(self))], self.address, Path(labels))
        return by_value([self._value(k, text, labels) for k, text in enumerate(self._notes("json"))])

    def _notes(self, kind: str) -> list[bytes]:
        """What stands beside each image."""
        notes = []
        for index, sample in enumerate(self._samples):
            shard = int(self._shard[index])
            if kind not in sample or self._members[shard].sizes[sample[kind]] > _LARGEST_NOTE:
                raise UserError(
                    f"{self.name(index)} has no .{kind} beside it that could hold its label: add it, or give "
                    "labels as FILE.csv or none"
                )
            notes.append(self._read(shard, sample[kind]))
        return notes

    def _value(self, index: int, text: bytes, key: str) -> Any:
        try:
            value = json.loads(text)[key]
        except (ValueError, TypeError, KeyError, RecursionError):
            value = None
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise UserError(
                f"{self.name(index)}: the .json beside it has no label {key!r}, a word or whole number"
            )
        return value


def is_shard(members: Members) -> bool:
    """Whether a tar is laid out as WebDataset does: labels stand beside the images."""
    return any(name.lower().endswith(".cls") for name in members.names)


def _samples(members: Members, called: str) -> list[dict[str, int]]:
    """The members of each sample by kind ("" is the image), in the order of the images."""
    found: dict[str, dict[str, int]] = {}
    for k, name in enumerate(members.names):
        folder, slash, file = name.rpartition("/")
        stem, _, kind = file.lower().partition(".")
        if not stem:  # a hidden file
            continue
        sample = found.setdefault(folder + slash + file[: len(stem)], {})
        if f".{kind}".endswith(SUFFIXES):
            if "" in sample:
                first = members.names[sample[""]]
                raise UserError(f"{called}: {first} and {name} are both images of one sample: keep one")
            kind = ""
        sample.setdefault(kind, k)
    return [sample for sample in found.values() if "" in sample]
