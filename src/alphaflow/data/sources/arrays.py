"""Images as arrays: .npy and .npz files, mapped where that can be done."""

import math
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alphaflow.errors import UserError, choose

from .base import Names, digest_of
from .cache import key_of, stamp_of
from .classes import NONE, Classes, by_value
from .members import members_of

_IMAGES = ("images", "image", "x", "data", "arr_0")
_LABELS = ("labels", "label", "y", "targets", "arr_1")

Array = NDArray[np.generic]


class Arrays:
    """Images in one array, uint8: (N, H, W, 3), (N, H, W, 1), (N, 3, H, W), (N, 1, H, W) or (N, H, W).

    An .npy is mapped; of an .npz the array is read into memory.

    Args:
        path: the .npy or .npz. In an .npz the images are the array named images, x, data or arr_0, or the only
        one of
            uint8 that fits.
        address: what to call it.
        labels: an .npy of labels, or the name of an array in the .npz; `None`: the one named labels, y or arr_1 if
            there is one; "none" for no labels.

    Raises:
        UserError: no such file, no array of images, another type or shape, labels of another length, or an
        array that
            needs pickle.
    """

    def __init__(self, path: Path, *, address: str | None = None, labels: str | None = None) -> None:
        self.address = address or str(path)
        arrays = _load(path, self.address)
        name = _choose_images(arrays, self.address)
        self._pixels, self._last = _oriented(arrays[name], f"{self.address}: {name}" if name else self.address)
        self.labels, self.class_names = self._classes(arrays, labels)
        sizes = np.array(arrays[name].shape, np.int64)
        self.digest = digest_of(Names([path.name, name]), sizes, self.labels, self.class_names)
        self.stamp = key_of(*stamp_of(path))

    def __len__(self) -> int:
        return len(self._pixels)

    def name(self, index: int) -> str:
        return f"image {index} of {self.address}"

    def read(self, index: int) -> NDArray[np.uint8]:
        image = self._pixels[index]
        return np.array(image if self._last else image.transpose(1, 2, 0))

    def _classes(self, arrays: dict[str, Array], labels: str | None) -> Classes:
        if labels == NONE:
            return None, ()
        if labels is None:
            labels = next((name for name in _LABELS if name in arrays), None)
            if labels is None:
                return None, ()
            values = arrays[labels]
        elif labels.endswith(".npy"):
            values = _load(Path(labels), labels)[""]
        else:
            values = arrays[choose(f"array of {self.address}", labels, [name for name in arrays if name])]
        if values.shape not in ((len(self),), (len(self), 1)) or values.dtype.kind not in "iuU":
            raise UserError(
                f"{self.address}: labels {labels} are {values.dtype} {values.shape}, not {len(self)} whole "
                f"numbers "
                "or words: give one for each image"
            )
        return by_value(values.reshape(-1).tolist())


def _load(path: Path, address: str) -> dict[str, Array]:
    """The arrays of a file by name; "" in an .npy."""
    try:
        if path.suffix.lower() == ".npy":
            return {"": np.load(path, mmap_mode="r", allow_pickle=False)}
        members = members_of(path, called=address)  # unsafe members and declared sizes
        with np.load(path, allow_pickle=False) as kept, zipfile.ZipFile(path) as archive:
            for name, size in zip(members.names, members.sizes.tolist()):
                _check_header(archive, name, size, address)
            return {name: kept[name] for name in kept.files}
    except OSError as error:
        raise UserError(f"cannot read {address} ({error.strerror or error}): give an .npy or .npz") from None
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{address} is no whole array file ({error}): write it with numpy.save or savez") from None


def _check_header(archive: zipfile.ZipFile, name: str, size: int, address: str) -> None:
    """An array that declares more than its member holds would be given memory before that is noticed."""
    with archive.open(name) as member:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(member)
    if math.prod(shape) * dtype.itemsize > size:
        raise UserError(f"{address}!{name} is refused: it declares an array of {shape} in {size} bytes")


def _choose_images(arrays: dict[str, Array], address: str) -> str:
    for name in ("", *_IMAGES):
        if name in arrays:
            return name
    fitting = [name for name, array in arrays.items() if array.dtype == np.uint8 and array.ndim in (3, 4)]
    if len(fitting) == 1:
        return fitting[0]
    held = ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in arrays.items())
    raise UserError(f"{address} holds no array named images, x or arr_0, but {held}: name one images")


def _oriented(array: Array, what: str) -> tuple[NDArray[np.uint8], bool]:
    """The images with a channel axis, and whether it is the last."""
    if array.dtype != np.uint8:
        raise UserError(f"{what} is of type {array.dtype}: images must be uint8, 0 to 255")
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or 0 in array.shape or not {array.shape[3], array.shape[1]} & {1, 3}:
        raise UserError(
            f"{what} has the shape {array.shape}: images must be (N, H, W, 3), (N, 3, H, W) or (N, H, W)"
        )
    return array, array.shape[3] in (1, 3)  # type: ignore[return-value]
