"""TFRecord files of images, as TensorFlow's own sets (tfds) and many others are kept; read without TensorFlow."""

import json
import math
import mmap
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alphaflow.errors import UserError, choose

from .archive import unpacked_file
from .base import Names, digest_of
from .cache import key_of, load_index, stamp_of, store_index
from .captions import CAPTIONS
from .classes import KEYS, NONE, Labelled, few, from_values, is_hidden, shown, word_of
from .crc32c import masked
from .decoding import other_format
from .label_files import is_label_file
from .splits import kind_of_file, of_one_split
from .tf_example import LENGTH, Feature, features_of

_SHARD = re.compile(r"(?P<stem>.+?)(?:\.[a-z_]+)?-(?P<number>\d{5})-of-(?P<count>\d{5})(?:\.gz)?")
_NAMED = re.compile(r".*\.tfrecords?(\.gz|-\d{5}-of-\d{5}(\.gz)?)?|.+-\d{5}-of-\d{5}", re.IGNORECASE)
_LEVEL = re.compile(r".+-(r\d{2})\.tfrecords")  # StyleGAN's first tool kept each resolution, ffhq-r02 to ffhq-r10
_IMAGES = ("image/encoded", "image", "image_raw", "img", "jpg", "jpeg", "png", "data", "image/raw", "encoded")
_LABELS = ("image/class/label", *KEYS, "fine_label", "image/label", "class/label")
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*")
_DEPTH = 3
_OPEN = 64  # files that are open at once

Index = NDArray[np.int64]


def is_tfrecord(path: Path) -> bool:
    """Return whether a file begins as TFRecords do: with a length and its checksum; or is gzip, and named so."""
    try:
        with path.open("rb") as file:
            head = file.read(LENGTH.size)
    except OSError:
        return False
    if head[:2] == b"\x1f\x8b":
        return "tfrecord" in path.name.lower()
    return len(head) == LENGTH.size and masked(head[:8]) == LENGTH.unpack(head)[1]


def open_tfrecords(path: Path, part: str, *, address: str, labels: str | None) -> "TfRecords | None":
    """Open a TFRecord file, a folder of them, or the only one in it with some, as tfds has them; `None` if there
    are none.

    Args:
        path: where it lies.
        part: the split; "" for the training one where there are several.
        address: what messages call it.
        labels: see `TfRecords`.

    Raises:
        UserError: files are damaged or hold no images, or there is no such split.
    """
    paths = [path] if path.is_file() else _files(path, address)
    if not paths or not is_tfrecord(paths[0]):
        return None
    return open_records(paths, part, address=address, labels=labels)


def open_records(paths: Sequence[Path], part: str, *, address: str, labels: str | None) -> "TfRecords":
    """Open those of TFRecord files that are of one split, or of one resolution; see `open_tfrecords`."""
    levels = {found[1]: one for one in paths if (found := _LEVEL.fullmatch(one.name))}
    if len(levels) == len(paths) > 1:
        best = choose(f"resolution of {address}", part, list(levels)) if part else max(levels)
        told = f"the other resolutions {', '.join(level for level in levels if level != best)}"
        return TfRecords([levels[best]], address=address, labels=labels, passed_over=[told])
    kept, rest = of_one_split(paths, part, address, _split_of) if len(paths) > 1 or part else (paths, [])
    return TfRecords(kept, address=address, labels=labels, passed_over=[*rest, *_absent(kept)])


def _split_of(path: Path) -> str:
    """Return the split in a file's name: train for mnist-train.tfrecord-00000-of-00001."""
    shard = _SHARD.fullmatch(path.name)
    stem = shard["stem"] if shard else path.name.partition(".")[0]
    last = stem.rpartition("-")[2] if "-" in stem else stem
    return last if shard or kind_of_file(last) else kind_of_file(path.name) or ""


def _absent(paths: Sequence[Path]) -> list[str]:
    """Return what to say of shards that are not there: 00003-of-00010 where only nine are."""
    groups: dict[tuple[str, int], set[int]] = {}
    for path in paths:
        if shard := _SHARD.fullmatch(path.name):
            groups.setdefault((shard["stem"], int(shard["count"])), set()).add(int(shard["number"]))
    return [
        f"{count - len(there)} of the {count} files of {stem}, which are not there"
        for (stem, count), there in groups.items()
        if len(there) < count
    ]


def _files(folder: Path, address: str, depth: int = _DEPTH) -> list[Path]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        held = sorted((entry.name, entry.is_dir()) for entry in entries if not is_hidden(entry.name))
    files = [folder / name for name, inner in held if not inner and _NAMED.fullmatch(name)]
    if files or not depth:
        return files
    below = {name: found for name, inner in held if inner and (found := _files(folder / name, address, depth - 1))}
    if len(below) > 1:
        raise UserError(
            f"{address} holds TFRecords in several folders ({few(list(below))}): give one, such as "
            f"{folder / next(iter(below))}"
        )
    return next(iter(below.values()), [])


class TfRecords:
    """The images in TFRecord files, one in each `tf.train.Example`.

    Args:
        paths: the files.
        address: what messages call them.
        labels: `None`: the ClassLabel of the features.json beside them (of several that named label, or the like),
            else the feature named image/class/label, label, …; the name of a feature; "none".
        passed_over: what else is there, in words.

    Raises:
        UserError: a file is damaged, or holds no images; or an image has no such label.
    """

    def __init__(
        self, paths: Sequence[Path], *, address: str, labels: str | None = None, passed_over: Sequence[str] = ()
    ) -> None:
        self.address, self.paths = address, list(paths)
        self._plain = [_plain(path) for path in self.paths]
        indices = [_index(plain, str(path)) for plain, path in zip(self._plain, self.paths)]
        self._file = np.repeat(np.arange(len(indices)), [len(index) for index in indices])
        self._spans = np.concatenate(indices) if indices else np.zeros((0, 2), np.int64)
        if not len(self._spans):
            raise UserError(f"{address} holds no records")
        self._open: OrderedDict[int, int] = OrderedDict()
        self._lock = threading.Lock()
        self._declared = _declared(self.paths[0].parent)
        first = self._first()
        try:
            self._image = self._image_feature(first)
            self.labels, self.class_names, self.origin, unseen = self._classes(first, labels)
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"{self.name(0)} is no tf.train.Example ({error})") from None
        self.passed_over = (*passed_over, *unseen)
        names = [path.name for path in self.paths]
        self.digest = digest_of(Names([*names, self._image]), self._spans[:, 1], self.labels, self.class_names)
        self.stamp = key_of(*(number for path in self.paths for number in stamp_of(path)))

    def __len__(self) -> int:
        return len(self._spans)

    def name(self, index: int) -> str:
        first = int(np.searchsorted(self._file, self._file[index]))
        return f"record {index - first} of {self.paths[int(self._file[index])]}"

    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        start, length = self._spans[index].tolist()
        with self._plain[int(self._file[index])].open("rb", buffering=0) as file:
            data = os.pread(file.fileno(), length + 4, start)
        if len(data) < length + 4 or masked(data[:length]) != int.from_bytes(data[length:], "little"):
            raise OSError("the record is damaged: its bytes do not match their checksum")
        try:
            return _pixels(features_of(data[:length]), self._image)
        except ValueError as error:
            raise OSError(f"the record is no tf.train.Example ({error})") from None

    def captions(self) -> list[str] | None:
        """Return the text of each record, by the feature that is declared or named so; `None` without one."""
        first = self._first()
        names = [name for name, kind in self._declared.items() if kind == "Text" and name in first]
        usual = [name for name in (*CAPTIONS, *(f"image/{word}" for word in CAPTIONS)) if name in first]
        name = next(iter([*usual, *names]), None)
        if name is None or first[name].kind != 1:
            return None

        def caption(features: Mapping[str, Feature]) -> str:
            found = features[name].values() if name in features else []
            return bytes(found[0]).decode("utf-8", "replace") if found else ""  # type: ignore[arg-type]

        return [text for _, text in self._each(caption)]

    def _each(self, take: Callable[[Mapping[str, Feature]], Any]) -> Iterator[tuple[int, Any]]:
        """Yield what is taken of the features of each record; only the pages that are looked at are read."""
        at = 0
        for number, plain in enumerate(self._plain):
            count = int((self._file == number).sum())
            if not count:
                continue
            with plain.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                for index in range(at, at + count):
                    start, length = self._spans[index].tolist()
                    view = memoryview(mapped)[start : start + length]
                    try:
                        taken = take(features_of(view))
                    except ValueError as error:
                        raise UserError(f"{self.name(index)} is no tf.train.Example ({error})") from None
                    finally:
                        view.release()
                    yield index, taken
            at += count

    def _first(self) -> Mapping[str, Feature]:
        start, length = self._spans[0].tolist()
        with self._plain[0].open("rb") as file:
            file.seek(start)
            data = file.read(length)
        try:
            found = features_of(data)
        except ValueError as error:
            raise UserError(f"{self.name(0)} is no tf.train.Example ({error})") from None
        if not found:
            raise UserError(f"{self.name(0)} has no features: it is no tf.train.Example with an image")
        return found

    def _image_feature(self, first: Mapping[str, Feature]) -> str:
        pictures = [name for name, feature in first.items() if feature.kind == 1 and _begins_as_image(feature)]
        declared = [name for name, kind in self._declared.items() if kind == "Image" and name in first]
        raw = [name for name, feature in first.items() if feature.kind == 1 and _shape(first, name)]
        for some in (declared, [name for name in _IMAGES if name in pictures], pictures, raw):
            if len(some) == 1 or (some and some[0] in _IMAGES):
                return some[0]
        several = f"several ({few(pictures)})" if pictures else "none"
        raise UserError(
            f"{self.address}: of the features {few(list(first), 12)} one must be an encoded image, and there are "
            f"{several}"
        )

    def _classes(self, first: Mapping[str, Feature], labels: str | None) -> Labelled:
        if labels == NONE:
            return Labelled()
        possible = [name for name, feature in first.items() if name != self._image and feature.first() is not None]
        if labels is not None and is_label_file(labels):
            raise UserError(
                f"{self.address}: records have no names that {labels} could list: name one of {few(possible, 8)}"
            )
        if labels is None:
            declared = [name for name, kind in self._declared.items() if kind == "ClassLabel" and name in possible]
            usual = [name for name in _LABELS if name in possible and (name in declared or not declared)]
            if not usual and len(declared) != 1:
                said = f"no labels among the features {few(possible, 8)}: --data.labels FEATURE takes one"
                return Labelled(passed_over=(said,) if possible else ())
            labels = (usual or declared)[0]  # of CIFAR-100's label and coarse_label the former
            more = [name for name in declared if name != labels]
            told = tuple(f"the labels {name} (--data.labels {name})" for name in more)
        else:
            choose(f"feature of {self.address}", labels, list(first))
            told = ()
        values = self._values(labels)
        names = _class_names(self.paths[0].parent, labels)
        if names and all(word.isdigit() and int(word) < len(names) for word in values):
            return Labelled(np.array(values, np.int64), tuple(map(shown, names)), f"labels from {labels}", told)
        return from_values(values, self.address, labels, self.name)._replace(passed_over=told)

    def _values(self, feature: str) -> list[str]:
        values = []
        for index, value in self._each(
            lambda features: features[feature].first() if feature in features else None
        ):
            word = value.decode("utf-8", "replace") if isinstance(value, bytes) else word_of(value)
            if word is None:
                raise UserError(
                    f"{self.name(index)} has no {feature} that is one word or whole number: name another feature, "
                    "or give --data.labels none"
                )
            values.append(word)
        return values


def _begins_as_image(feature: Feature) -> bool:
    value = feature.first()
    return isinstance(value, bytes) and value.startswith(_MAGIC)


def _shape(features: Mapping[str, Feature], name: str) -> tuple[int, ...] | None:
    """Return the shape that raw pixels have by their neighbours: `shape` (C, H, W), as StyleGAN's, or height and
    width."""
    data = features[name].first() if features[name].kind == 1 else None
    if not isinstance(data, bytes):
        return None
    if "shape" in features:
        shape = features["shape"].values()
        whole = len(shape) == 3 and all(isinstance(size, int) and size > 0 for size in shape)
        if whole and math.prod(int(size) for size in shape) == len(data) and shape[0] in (1, 3):
            return tuple(int(size) for size in shape)
    height, width = (features[side].first() if side in features else None for side in ("height", "width"))
    if isinstance(height, int) and isinstance(width, int) and min(height, width) > 0:
        for channels in (1, 3):
            if channels * height * width == len(data):
                return (height, width, channels)
    return None


def _pixels(features: Mapping[str, Feature], name: str) -> bytes | NDArray[np.uint8]:
    value = features[name].first() if name in features else None
    if not isinstance(value, bytes) or not value:
        raise OSError(f"the record has no {name}")
    if value.startswith(_MAGIC):
        return other_format(value)
    shape = _shape(features, name)
    if shape is None:
        return value
    pixels = np.frombuffer(value, np.uint8).reshape(shape)
    return pixels.transpose(1, 2, 0) if shape[0] in (1, 3) and shape[2] not in (1, 3) else pixels


def _plain(path: Path) -> Path:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return unpacked_file(path, "gz", ".tfrecord") if packed else path


def _index(path: Path, called: str) -> Index:
    """Return where each record begins, and its length, int64 (N, 2); kept in the cache."""
    key, stamp = f"tfrecord 1 {path.resolve()}", stamp_of(path)
    kept = load_index(key, stamp)
    if kept is not None:
        return kept["spans"].astype(np.int64)
    spans: list[tuple[int, int]] = []
    at, size = 0, int(stamp[0])
    with path.open("rb") as file:
        while at < size:
            file.seek(at)
            head = file.read(LENGTH.size)
            length, check = LENGTH.unpack(head) if len(head) == LENGTH.size else (0, -1)
            if masked(head[:8]) != check or at + LENGTH.size + length + 4 > size:
                raise UserError(
                    f"{called} is damaged or cut after byte {at:,} ({len(spans):,} records): fetch it anew"
                )
            spans.append((at + LENGTH.size, length))
            at += LENGTH.size + length + 4
    found = np.array(spans, np.int64).reshape(-1, 2)
    store_index(key, {"stamp": stamp, "spans": found})
    return found


def _declared(folder: Path) -> dict[str, str]:
    """Return the kinds of features ("Image", "ClassLabel", …) by their names, as tfds declares them."""
    file = folder / "features.json"
    try:
        content = json.loads(file.read_bytes()) if file.stat().st_size < 1 << 24 else {}
    except (OSError, ValueError, RecursionError):
        return {}
    found: dict[str, str] = {}

    def visit(node: Any, name: str, depth: int) -> None:
        if not isinstance(node, dict) or depth > 8:
            return
        inner = (
            node.get("featuresDict", {}).get("features") if isinstance(node.get("featuresDict"), dict) else None
        )
        if isinstance(inner, dict):
            for key, below in inner.items():
                visit(below, f"{name}/{key}" if name else key, depth + 1)
        else:
            found[name] = str(node.get("pythonClassName", "")).rpartition(".")[2]

    visit(content, "", 0)
    return found


def _class_names(folder: Path, label: str) -> list[str]:
    """Return the names of classes that tfds keeps in `label.labels.txt`; none if there is no such file."""
    for stem in (label, label.replace("/", "-")):
        file = folder / f"{stem}.labels.txt"
        if "/" not in stem and file.is_file() and file.stat().st_size < 1 << 24:
            names = file.read_text("utf-8", "replace").rstrip().split("\n")
            return [name.strip() or str(k) for k, name in enumerate(names)]  # a blank line has a number, too
    return []
