"""The forms of one sample of latents that others made, and how each becomes means and log-variances."""

import io
import math
import zipfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.latents.shards import CLASSES_AT_MOST, LOGVAR_MAX, LOGVAR_MIN
from ..data.safe_pickles import load_plain
from ..errors import UserError, one_line
from ..npy import array_in, read_header

LARGEST = 1 << 28
"""Bytes that one sample may take, packed or unpacked."""
RATIO = 200
"""How many times its packed size a file may have; numbers of latents hardly pack at all."""
LABEL_KEYS = ("label", "labels", "class", "class_label", "y")
_BEYOND = 65504.0  # the largest number of float16, in which sets are kept


_MEANS = ("mean", "mu")
_SPREADS = {
    "logvar": ("logvar", "log_var", "logvariance", "log_variance"),
    "std": ("std", "stddev", "std_dev", "sigma"),
    "var": ("var", "variance"),
}
"""Names for the spread of a mean."""


class BadLabel(UserError):
    """A label is no class. Unlike a damaged sample this ends the work: all other labels are in doubt."""


def parse(data: bytes, suffix: str) -> Any:
    """Return what a file of one sample holds. Nothing in it is executed, and no more memory is taken than it may
    need.

    Raises:
        UserError: the file is damaged, declares more than `LARGEST` bytes, or holds more than arrays and plain
            values.
    """
    if suffix in (".pkl", ".pickle"):
        return load_plain(data)
    try:
        if suffix == ".npy":
            return _array_file(data)
        packed = zipfile.is_zipfile(io.BytesIO(data))
        if packed:
            _check_declared(data)
        if suffix == ".npz":
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                members = {name.removesuffix(".npy"): archive.read(name) for name in archive.namelist()}
            arrays = {name: _array_file(member) for name, member in members.items()}
            return {name: array for name, array in arrays.items() if array is not None}
        return torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except Exception as error:  # damaged files can make a reader raise nearly anything
        raise UserError(f"cannot be read ({one_line(error, 120)})") from None


def _check_declared(data: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        declared = sum(info.file_size for info in archive.infolist())
    if declared > min(LARGEST, max(1 << 20, RATIO * len(data))):
        raise ValueError(f"it declares {declared} bytes in {len(data)}, too many for a sample")


def _array_file(data: bytes) -> NDArray[Any] | None:
    """Return the array of a .npy file, whose header is compared with its length first; None for Python objects."""
    file = io.BytesIO(data)
    header = shape, _, dtype = read_header(file)
    if dtype.hasobject:
        return None
    if math.prod(shape) * dtype.itemsize > len(data) - file.tell():
        raise ValueError(f"an array {shape} of {dtype} in {len(data) - file.tell()} bytes")
    return array_in(data, file, header)


class OneHot(int):
    """The class that a vector of `length` numbers stands for."""

    length = 0

    @classmethod
    def of(cls, vector: NDArray[Any]) -> "OneHot":
        number = cls((vector == 1).argmax())
        number.length = vector.size
        return number


def class_of(value: Any) -> int | None:
    """Return the class that a label stands for: a whole number from 0 on, or a `OneHot` vector with a single 1;
    None for None.
    """
    if value is None or (type(value) is int and 0 <= value < CLASSES_AT_MOST):
        return value
    said = f"label {' '.join(str(value).split())[:60]}"
    if isinstance(value, torch.Tensor):
        if value.is_complex() or value.is_meta or value.is_nested:
            raise BadLabel(f"{said} is no number of a class")
        value = value if value.dtype == torch.bool else _plain(value)
        value = (value.double() if value.is_floating_point() else value).numpy()
    try:
        array = np.asarray(value)
    except ValueError:  # lists of unequal lengths
        raise BadLabel(f"{said} is no number of a class") from None
    if array.size == 1 and array.dtype.kind in "US" and (text := str(array.item())).strip().isdecimal():
        array = np.asarray(int(text))
    if array.size == 1 and array.dtype.kind == "b":
        raise BadLabel(f"{said} is true or false, and no number of a class")
    if (array.size == 1 and array.dtype.kind in "iuf") or isinstance(value, int):
        number = array.item()
        if not isinstance(number, int) and not (isinstance(number, float) and number.is_integer()):
            raise BadLabel(f"{said} is no whole number")
        if not 0 <= number < CLASSES_AT_MOST:
            raise BadLabel(f"{said} is no class: classes are numbered from 0 to {CLASSES_AT_MOST - 1}")
        return int(number)
    if array.ndim == 1 and array.size > 1 and array.dtype.kind in "biuf":
        if (array == 1).sum() == 1 and (array == 0).sum() == array.size - 1:
            return OneHot.of(array)
        raise BadLabel(f"{said} is a vector, and not one with a single 1: no class")
    raise BadLabel(f"{said} is no number of a class")


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor's numbers alone: without a gradient, dense, and with signs and conjugates carried out.

    Raises:
        UserError: it holds no numbers, or in a way that is not known.
    """
    if tensor.is_complex() or tensor.dtype == torch.bool or tensor.is_meta or tensor.is_nested:
        kind = "without numbers" if tensor.is_meta else "of tensors" if tensor.is_nested else str(tensor.dtype)
        raise UserError(f"a tensor {kind.replace('torch.', 'of ')}, not of numbers")
    dense = tensor.detach() if tensor.layout == torch.strided else tensor.detach().to_dense()
    return dense.resolve_neg()


def refuse_another_kind(label: int | None, first: int | None) -> None:
    """Refuse a vector where the first label was a number or a vector of another length, or the other way round.

    Raises:
        BadLabel: they differ in this.
    """
    if label is None or first is None:
        return
    mine, other = (
        f"a vector of {one.length} numbers" if isinstance(one, OneHot) else "a number" for one in (label, first)
    )
    if mine != other:
        raise BadLabel(f"label {int(label)} is {mine}, and the first sample's is {other}")


class Sample(NamedTuple):
    """One sample of foreign latents, as it is stored."""

    moments: NDArray[np.float32]
    """(V, 2C, h, w): means and log-variances; (V, C, h, w) without variance"""
    variance: bool
    label: int | None
    second: str
    """What the second half of its channels was: logvar, std or none."""


def moments_of(sample: Any, second: str | None, multiplied: float = 1.0, *, labelled: bool = True) -> Sample:
    """Return means and log-variances of one sample.

    Args:
        sample: an array (channels, h, w), or a dictionary: `moments` (mean and log-variance) and perhaps
            `moments_flip`; or `mean` and `std`, `var` or `logvar`; or `latent` or `latents`, perhaps with the
            same `_flip`; or `image`, mean and std as in MeanFlow's own preparation, or what `second` says; and
            perhaps `label`.
        second: what the second half of an array's channels is: logvar, std, or none when all are latents.
        multiplied: the factor by which latents were multiplied before they were stored.
        labelled: whether its label is looked at.

    Raises:
        BadLabel: its label is no class.
        UserError: the sample has another form, its channels are not clear, it holds more such arrays than are
            understood, or numbers are not finite or beyond what float16 holds.
    """
    label = None
    if isinstance(sample, dict):
        if labelled:
            label = class_of(next((sample[key] for key in LABEL_KEYS if key in sample), None))
        arrays, second = _from_dictionary(sample, second)
    else:
        arrays = [_array(sample)]
        if second is None:
            raise UserError("say what the second half of the channels is: --second logvar, std, or none")
    if len({array.shape for array in arrays}) > 1:
        raise UserError(f"its arrays have the shapes {', '.join(str(array.shape) for array in arrays)}")
    moments = np.stack(arrays)
    if moments.ndim != 4 or (second != "none" and moments.shape[1] % 2):
        raise UserError(f"latents have the shape {moments.shape[1:]}, not (channels, h, w)")
    if not np.isfinite(moments).all():
        raise UserError("not all numbers are finite")
    with np.errstate(over="ignore"):  # what is too large is found below
        moments = _kept(moments, second, multiplied)
    if not np.isfinite(moments).all() or np.abs(moments).max(initial=0) > _BEYOND:
        raise UserError(f"it holds numbers beyond {_BEYOND:.0f}, the largest of float16")
    return Sample(moments, second != "none", label, second)


def _kept(moments: NDArray[np.float32], second: str, multiplied: float) -> NDArray[np.float32]:
    """Return moments as they are kept, with log-variances, from (V, channels, h, w) as they were."""
    if second == "none":
        return (moments / multiplied).astype(np.float32)
    mean, spread = np.split(moments, 2, axis=1)
    if second == "std":
        if (spread < 0).any():
            raise UserError("a standard deviation is negative: is it --second logvar?")
        spread = 2 * np.log(np.maximum(spread, 1e-10))
    logvar = (spread - 2 * np.log(multiplied)).clip(LOGVAR_MIN, LOGVAR_MAX)
    return np.concatenate([mean / multiplied, logvar], axis=1).astype(np.float32)


def _from_dictionary(sample: dict[str, Any], second: str | None) -> tuple[Sequence[NDArray[np.float32]], str]:
    if "moments" in sample:
        return _alone(sample, "moments", "moments_flip"), second or "logvar"
    center = next((key for key in _MEANS if key in sample), None)
    for kind, names in _SPREADS.items():
        if center and (key := next((name for name in names if name in sample), None)):
            return _with_spread(sample, center, key, kind)
    for key in ("latent", "latents", *_MEANS):
        if key in sample:
            return _alone(sample, key, f"{key}_flip" if key not in _MEANS else ""), second or "none"
    keys = ", ".join(map(str, list(sample)[:8]))
    if "image" in sample:
        arrays = _alone(sample, "image", "image_flip")
        if second is None and not _positive(arrays):
            raise UserError(
                f"keys {keys}: image is not mean and std, as MeanFlow's own preparation keeps them; if it is a "
                "latent, say what the second half of its channels is: --second logvar, std, or none"
            )
        return arrays, second or "std"
    raise UserError(f"keys {keys} are not understood: moments, mean and std, or latent")


def _positive(arrays: Sequence[NDArray[np.float32]]) -> bool:
    """Return whether the second half of the channels can be a standard deviation: above 0 everywhere."""
    return all(len(one) % 2 == 0 and bool((one[len(one) // 2 :] > 0).all()) for one in arrays)


def _alone(sample: dict[str, Any], key: str, flip: str = "") -> list[NDArray[np.float32]]:
    """Return the array under `key`, and under `flip` where there is one."""
    arrays = [_array(sample[name]) for name in (key, flip) if name in sample]
    _refuse_more(sample, (key, flip), arrays[0])
    return arrays


def _with_spread(
    sample: dict[str, Any], center: str, key: str, kind: str
) -> tuple[list[NDArray[np.float32]], str]:
    mean, spread = _array(sample[center]), _array(sample[key])
    if mean.ndim < 3 or mean.shape[1:] == (1, 1):
        raise UserError(f"its {center} has the shape {mean.shape}: statistics of latents, and no latents")
    if mean.shape != spread.shape:
        raise UserError(f"its {center} has the shape {mean.shape} and its {key} {spread.shape}")
    _refuse_more(sample, (center, key), mean)
    if kind == "var":
        if (spread < 0).any():
            raise UserError(
                f"its {key} holds numbers below 0, which are no variances: call them logvar if they are"
            )
        kind, spread = "logvar", np.log(np.maximum(spread, np.float32(1e-20)))
    return [np.concatenate([mean, spread])], kind


def _refuse_more(sample: dict[str, Any], used: Sequence[str], latent: NDArray[np.float32]) -> None:
    """Refuse arrays as large as the latent that nothing is known of: a variance, or another version of it."""
    for key, value in sample.items():
        shape = tuple(getattr(value, "shape", ()))
        if key not in (*used, *LABEL_KEYS) and len(shape) > 2 and shape[-2:] == latent.shape[-2:]:
            raise UserError(
                f"its {key} {shape} beside {used[0]} {latent.shape} is not understood: call a spread logvar, var "
                f"or std, with mean; or leave {key} out"
            )


def _array(value: Any) -> NDArray[np.float32]:
    try:
        array = np.asarray(_plain(value).float() if isinstance(value, torch.Tensor) else value)
    except UserError:
        raise
    except ValueError:  # parts of unlike shapes, such as (latent, label)
        raise UserError(
            f"a {type(value).__name__} of {len(value)} unlike parts, not an array: save a dictionary, such as "
            "latent and label"
        ) from None
    if array.dtype.kind not in "fiu":
        raise UserError(f"an array of {array.dtype}, not of numbers")
    with np.errstate(over="ignore"):  # becomes infinite, and is refused as such
        array = array.astype(np.float32)
    array = array[0] if array.ndim == 4 and len(array) == 1 else array
    if array.ndim == 3 and array.shape[0] == array.shape[1] > array.shape[2]:
        raise UserError(
            f"an array {array.shape} looks like (h, w, channels): save it as (channels, h, w), "
            f"{array.shape[::-1]}, by numpy.moveaxis(array, -1, 0)"
        )
    return array
