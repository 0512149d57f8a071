"""Images as arrays: .npy, .npz and HDF5 files, mapped where that can be done."""

import contextlib
import io
import math
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alphaflow.errors import UserError, choose, missing, one_line
from alphaflow.npy import read_header

from .archive_members import RATIO, members_of
from .base import Names, digest_of
from .cache import key_of, stamp_of
from .classes import NONE, Labelled, few, from_values, log
from .splits import split_of

_IMAGES = ("images", "image", "x", "data", "arr_0")
_LABELS = ("labels", "label", "y", "targets", "arr_1")
_PAIRS = (
    ("images", "labels"),
    ("image", "label"),
    ("x", "y"),
    ("X", "Y"),
    ("X", "y"),
    ("data", "labels"),
    ("imgs", "labels"),
)
"""Words in the names of an array of images and of its labels: x_train goes with y_train."""

HDF5 = (".h5", ".hdf5", ".hdf")
"""Endings of HDF5 files."""

_LOOKED_AT = 64  # images by which it is doubted that levels go to 255
_COLUMNS = 64  # the most of an array that may hold several labels for each image
_ALLOWED = 1 << 20  # bytes that any array may unpack to, however well it packs
Array = NDArray[np.generic]


class Arrays:
    """Images in one array of uint8.

    Its shape is (N, H, W, 3), (N, H, W, 1), (N, 3, H, W), (N, 1, H, W) or (N, H, W); or it holds rows, (N, 3·S²),
    which are three planes of S × S as in CIFAR's and ImageNet's small sets, or (N, S²) without colours. An .npy is
    mapped; the array of an .npz is read into memory. Where all are 0 or 1, as dSprites', 1 is white.

    Args:
        path: the .npy, .npz or HDF5 file, whose arrays go by their paths. In the latter two the images are the
            array named images, x, data or arr_0, the only one of uint8 that fits, or that of the training split.
        name: the name of the array of images among them, or its split; "" to find it.
        address: what messages call the file.
        labels: an .npy of labels, or the name of an array in the .npz; `None`: the one named labels, y or arr_1 if
            there is one, or y_train beside x_train, and the like; ARRAY#2 for the second column of one that has
            several; "none" for no labels.

    Raises:
        UserError: there is no such file or no array of images, its type or shape is another, its labels have
            another length, or an array needs pickle.
    """

    def __init__(
        self, path: Path, name: str = "", *, address: str | None = None, labels: str | None = None
    ) -> None:
        self.address = address or str(path)
        arrays, objects = _load(path, self.address)
        passed = [f"the array {one} of Python objects" for one in objects]
        name, others = _choose_images(arrays, name, self.address)
        self.passed_over = (*passed, *others)
        self._pixels, self._last = _oriented(arrays[name], f"{self.address}: {name}" if name else self.address)
        self._factor = np.uint8(255 if _are_bits(self._pixels) else 1)
        if self._factor > 1:
            log.info("%s: the pixels are 0 and 1, which are taken for black and white", self.address)
        labelled = self._classes(arrays, name, labels)
        self.labels, self.class_names, self.origin, unseen = labelled
        self.passed_over += unseen
        sizes = np.array(arrays[name].shape, np.int64)
        self.digest = digest_of(Names([path.name, name]), sizes, self.labels, self.class_names)
        self.stamp = key_of(*stamp_of(path))

    def __len__(self) -> int:
        return len(self._pixels)

    def name(self, index: int) -> str:
        return f"image {index} of {self.address}"

    def read(self, index: int) -> NDArray[np.uint8]:
        image = self._pixels[index]
        return np.array(image if self._last else image.transpose(1, 2, 0)) * self._factor

    def _classes(self, arrays: Mapping[str, Array], images: str, labels: str | None) -> Labelled:
        if labels == NONE:
            return Labelled()
        if labels is None:
            beside = [images.replace(part, other) for part, other in _PAIRS if part in images]
            labels = next((name for name in (*beside, *_LABELS) if name in arrays and name != images), None)
            if labels is None:
                return Labelled(passed_over=self._could_be_labels(arrays, images))
            values = arrays[labels]
        elif labels.endswith(".npy"):
            values = _load(Path(labels), labels)[0][""]
        else:
            values = _column(arrays, labels, self.address)
        if values.shape not in ((len(self),), (len(self), 1)) or not _are_labels(values):
            raise UserError(
                f"{self.address}: labels {labels} are {values.dtype} {values.shape}, not {len(self)} whole "
                f"numbers or words: {_remedy(values, labels)}"
            )
        one_by_one = map(_plain, values.reshape(-1).tolist())
        return from_values(list(one_by_one), self.address, f"the array {labels}", self.name)

    def _could_be_labels(self, arrays: Mapping[str, Array], images: str) -> tuple[str, ...]:
        """Return what to say of arrays that are long enough to hold labels, and have other names."""
        about = arrays.about() if isinstance(arrays, _Lazy) else {}
        fitting = [
            name
            for name, (shape, dtype) in about.items()
            if name != images and shape in ((len(self),), (len(self), 1)) and dtype.kind in "iufUS"
        ]
        tables = [
            f"no labels taken from the {shape[1]} columns of {name}: --data.labels '{name}#2' takes the second"
            for name, (shape, dtype) in about.items()
            if len(shape) == 2 and shape[0] == len(self) and 1 < shape[1] <= _COLUMNS and dtype.kind in "iu"
        ]
        sentence = f"no array of labels among {few(fitting, 8)}: --data.labels ARRAY takes one"
        return (*([sentence] if fitting else []), *tables)


def _column(arrays: Mapping[str, Array], labels: str, address: str) -> Array:
    """Return an array of labels: `ARRAY`, or a column of it, counted from 1, `ARRAY#2`."""
    name, mark, column = labels.rpartition("#")
    if labels in arrays or not (mark and name in arrays):
        return arrays[choose(f"array of {address}", labels, [name for name in arrays if name])]
    values = arrays[name]
    count = values.shape[1] if values.ndim == 2 else 1
    if not (column.isascii() and column.isdigit() and 1 <= int(column) <= count):
        raise UserError(f"{address}: {name} has no column {column!r}: give a number from 1 to {count}")
    return values.reshape(len(values), -1)[:, int(column) - 1]


def _are_bits(pixels: NDArray[np.uint8]) -> bool:
    """Return whether pixels are 0 and 1, as dSprites' are, which would all look black."""
    some = pixels[:_LOOKED_AT]
    return int(some.max(initial=0)) == 1 and int(some.min(initial=1)) == 0 and int(pixels.max()) == 1


def _are_labels(values: Array) -> bool:
    whole = values.dtype.kind == "f" and bool((np.isfinite(values) & (values == np.floor(values))).all())
    return values.dtype.kind in "iuUS" or whole


def _plain(value: Any) -> Any:
    """Return text for words that were kept as bytes, as HDF5 and C have them; other values as they are."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def _remedy(values: Array, name: str) -> str:
    if values.dtype.kind == "b" and values.ndim == 1:
        return "save them as numbers, labels.astype(int)"
    if values.ndim == 2 and values.shape[1] > 1:
        if values.dtype.kind in "iu" and values.size and (values.astype(bool).sum(1) != 1).any():
            return (
                f"an image may have several of them: --data.labels '{name}#1' takes the first column for classes, "
                "none leaves them out"
            )
        return "save the class of each, such as labels.argmax(1)"
    return "give one for each image"


class _Lazy(Mapping[str, Array]):
    """The arrays of an .npz, each read when it is first asked for."""

    def __init__(self, path: Path, names: Sequence[str], address: str) -> None:
        self.path, self.names, self.address = path, names, address
        self._kept: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        if name not in self.names:
            raise KeyError(name)
        if name not in self._kept:
            with _whole(self.address), np.load(self.path, allow_pickle=False) as file:
                self._kept[name] = file[name]
        return self._kept[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def about(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Return shape and type of each array, from the headers alone."""
        with zipfile.ZipFile(self.path) as archive:
            return {name: _header(archive, f"{name}.npy") for name in self.names}


class _LazyHdf5(_Lazy):
    """The arrays of an HDF5 file by their paths in it, each read when it is first asked for."""

    def __getitem__(self, name: str) -> Array:
        if name not in self.names:
            raise KeyError(name)
        if name not in self._kept:
            with _hdf5(self.path, self.address) as file:
                declared, stored = file[name].nbytes, file[name].id.get_storage_size()
                if declared > max(_ALLOWED, RATIO * stored):
                    raise UserError(f"{self.address}: {name} is refused: it declares {declared} bytes in {stored}")
                self._kept[name] = np.asarray(file[name])
        return self._kept[name]

    def about(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        with _hdf5(self.path, self.address) as file:
            return {name: (file[name].shape, file[name].dtype) for name in self.names}


def is_hdf5(path: Path) -> bool:
    """Return whether a file begins as HDF5's do, without a block of the user's own."""
    with path.open("rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"


@contextlib.contextmanager
def _hdf5(path: Path, address: str) -> Iterator[Any]:
    try:
        import h5py
    except ImportError:
        raise missing("HDF5 needs its package", "hdf5") from None
    try:
        with h5py.File(path, "r") as file:
            yield file
    except UserError:
        raise
    except Exception as error:  # a damaged file can make its reader raise nearly anything
        raise UserError(f"{address} is no whole HDF5 file ({one_line(error, 120)}): write it anew") from None


def _hdf5_arrays(path: Path, address: str) -> tuple[_LazyHdf5, list[str]]:
    """Return the arrays of numbers or words in an HDF5 file, and the names of those of other kinds."""
    names: list[str] = []
    others: list[str] = []

    def visit(name: str | bytes, item: Any) -> None:
        if hasattr(item, "shape") and item.shape:
            fits = isinstance(name, str) and item.dtype.kind in "biufSU"
            (names if fits else others).append(str(name))

    with _hdf5(path, address) as file:
        file.visititems(visit)
    if not names:
        raise UserError(f"{address} holds no arrays of numbers: images must be uint8 (N, H, W, 3)")
    return _LazyHdf5(path, names, address), others


@contextlib.contextmanager
def _whole(address: str) -> Iterator[None]:
    """Turn what numpy raises on files that are no arrays into a `UserError` of one line."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot read {address} ({error.strerror or error}): give an .npy or .npz") from None
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, UserError):
            raise
        words = str(error).replace(" when allow_pickle=False", "")
        raise UserError(f"{address} is no whole array file ({words}): write it with numpy.save or savez") from None


def _load(path: Path, address: str) -> tuple[Mapping[str, Array], list[str]]:
    """Return the arrays of a file by name ("" in an .npy), and the names of those that hold Python objects."""
    if path.suffix.lower() in HDF5:
        return _hdf5_arrays(path, address)
    with _whole(address):
        if path.suffix.lower() == ".npy":
            with path.open("rb") as file:
                if read_header(file)[2].hasobject:
                    raise ValueError("it holds Python objects, which are not read")
            return {"": np.load(path, mmap_mode="r", allow_pickle=False)}, []
        members = members_of(path, called=address)  # refuses unsafe members, and has the declared sizes
        names, objects = [], []
        with zipfile.ZipFile(path) as archive:
            for member, size in zip(members.names, members.sizes.tolist()):
                shape, dtype = _header(archive, member)
                name = member.removesuffix(".npy")
                if dtype.hasobject:
                    objects.append(name)
                    continue
                if math.prod(shape) * dtype.itemsize > size:
                    raise UserError(
                        f"{address}!{member} is refused: it declares an array of {shape} in {size} bytes"
                    )
                names.append(name)
        if not names:
            held = f"only Python objects ({', '.join(objects)})" if objects else "nothing"
            drawn = ", as QuickDraw's drawings by strokes are" if objects else ""
            raise ValueError(f"it holds {held}, and no arrays of numbers{drawn}")
        return _Lazy(path, names, address), objects


def arrays_in(raw: bytes) -> dict[str, Array]:
    """Return the arrays in the bytes of an .npz.

    Raises:
        UserError: they are none, or an array declares more than there is, or needs pickle.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            for member in archive.infolist():
                shape, dtype = _header(archive, member.filename)
                most = min(member.file_size, max(_ALLOWED, RATIO * member.compress_size))
                if dtype.hasobject or math.prod(shape) * dtype.itemsize > most:
                    raise ValueError(f"{member.filename} declares an array of {dtype} {shape} in too few bytes")
        with np.load(io.BytesIO(raw), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"no whole .npz ({error})") from None


def _header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and type from the header alone: numpy would take memory for all that an array declares."""
    with archive.open(name) as member:
        shape, _, dtype = read_header(member)
    return shape, dtype


def _choose_images(arrays: Mapping[str, Array], asked: str, address: str) -> tuple[str, list[str]]:
    """Return the name of the array of images, and which others there are, in words."""
    if not isinstance(arrays, _Lazy):
        if asked:
            raise UserError(f"{address}: an .npy holds one array without a name: leave #{asked} away")
        return "", []
    if asked and asked in arrays:
        return asked, []
    about = arrays.about()
    fitting = [name for name, (shape, dtype) in about.items() if dtype == np.uint8 and len(shape) in (3, 4)]
    splits = {name: split_of(_without_images(name)) for name in fitting}
    if asked:
        meant = [name for name in fitting if splits[name] and splits[name] == split_of(asked)]
        if len(meant) == 1:
            return meant[0], []
        return choose(f"array of {address.rpartition('#')[0]}", asked, arrays), []
    for name in _IMAGES:
        if name in arrays:
            return name, []
    training = [name for name in fitting if splits[name] == "train"]
    if len(fitting) > 1 and len(training) == 1:
        others = [name for name in fitting if name != training[0]]
        return training[0], [f"the arrays {', '.join(others)} (to take one of them: {address}#{others[-1]})"]
    if len(fitting) == 1:
        return fitting[0], []
    held = ", ".join(f"{name} {dtype} {shape}" for name, (shape, dtype) in about.items())
    example = (fitting or list(about))[0]
    raise UserError(
        f"{address} holds no array named images, x or arr_0, but {held}: say which by its name, such as "
        f"'{address}#{example}'"
    )


def _without_images(name: str) -> str:
    """Return the name without the words for images: `train` for x_train and train_images."""
    words = [
        word
        for word in re.split(r"[_/]", name.lower())
        if word not in ("x", "images", "image", "data", "imgs", "img")
    ]
    return "_".join(words)


def _oriented(array: Array, what: str) -> tuple[NDArray[np.uint8], bool]:
    """Return the images with a channel axis, and whether it is the last."""
    if array.dtype != np.uint8:
        raise UserError(f"{what} is of type {array.dtype}: images must be uint8, 0 to 255")
    if array.ndim == 2:
        for planes in (3, 1):
            side = math.isqrt(array.shape[1] // planes)
            if side > 1 and planes * side**2 == array.shape[1]:
                array = array.reshape(len(array), planes, side, side)
                break
    if array.ndim == 3:
        if array.shape[2] in (1, 3, 4) and array.shape[0] > 4 and array.shape[1] > 4:
            raise UserError(
                f"{what} has the shape {array.shape}, which is one picture: images must be (N, H, W, 3); write it "
                "with a first axis, array[None], or as a PNG"
            )
        array = array[..., None]
    if array.ndim != 4 or 0 in array.shape or not {array.shape[3], array.shape[1]} & {1, 3}:
        raise UserError(
            f"{what} has the shape {array.shape}: images must be (N, H, W, 3), (N, 3, H, W), (N, H, W), "
            "or rows of 3·S² or S² numbers"
        )
    return array, array.shape[3] in (1, 3)  # type: ignore[return-value]
