"""Orbax's checkpoints, which JAX codes write: folders, or zips of them, in which each array lies in pieces.

An array is a zarr (version 2, or 3) by its dotted name, within a store by OCDBT whose `manifest.ocdbt` lies in the
folder, or in plain files beside each other. Tensorstore puts the pieces together; the extra `orbax` brings it.
Nothing but numbers is read: the names come from the store itself, and neither Orbax nor JAX is needed.
"""

import os
import zipfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError, missing, one_line
from .read_checkpoint import RATIO, SMALL, Content
from .stored import DTYPES, StoredTensor

MARKS = ("manifest.ocdbt", "_METADATA")
"""The files that lie beside the arrays of one tree; some versions write one of them alone."""
ABOVE = "_CHECKPOINT_METADATA"
"""A file that may lie in the folder above as well."""
_PROCESS = "ocdbt.process_"
_UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of a folder that is still written, or was when its writer died
_DEEPEST = 4  # folders between what is named and the arrays: a manager's step, and the item's name
_ARRAYS = {"/.zarray": "zarr", "/zarr.json": "zarr3"}
LINES = (
    "in Python with orbax-checkpoint and flax, "
    "`import flax, numpy, orbax.checkpoint; r = orbax.checkpoint.PyTreeCheckpointer().restore('DIR'); "
    "numpy.savez('w.npz', **{k: numpy.asarray(v, 'float32') for k, v in "
    "flax.traverse_util.flatten_dict(r['ema_params'], sep='/').items()})`, then import w.npz"
)
"""Orbax needs an absolute DIR. The command was run with orbax-checkpoint 0.12.8 and flax 0.12.8 on 2026-11-27."""


class Place(NamedTuple):
    """The place of one tree of arrays."""

    path: Path
    """A folder, or a zip."""
    within: str
    """The tree's folder in it, "" for itself."""
    size: int
    """Bytes of all files there."""


def find_orbax(path: Path) -> Place | None:
    """Return where the arrays of an Orbax checkpoint lie: in this folder or below, around this file, or in a zip.

    Raises:
        UserError: there are several checkpoints, of which one must be named.
    """
    if path.is_dir():
        sizes = dict(_files(path))
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            sizes = {info.filename: info.file_size for info in archive.infolist() if not info.is_dir()}
    elif path.name in (*MARKS, ABOVE, "checkpoint", "_sharding") and path.is_file():
        beside = path.parent.parent if path.parent.name.startswith(_PROCESS) else path.parent
        return find_orbax(beside) if _roots(name for name, _ in _files(beside)) else None
    else:
        return None
    roots = _roots(sizes)
    if len(roots) > 1:
        some = ", ".join(roots[:4]) + (", …" if len(roots) > 4 else "")
        one = "unpacked" if path.is_file() else f"such as {path / roots[-1]}"
        raise UserError(f"{path} holds {len(roots)} Orbax checkpoints ({some}): give one of them, {one}")
    return Place(path, roots[0], sum(sizes.values())) if roots else None


def _files(folder: Path) -> Iterator[tuple[str, int]]:
    """Yield the files of a folder, not too far down, by their paths in it, with their bytes."""
    for place, folders, names in os.walk(folder):
        inside = Path(place).relative_to(folder)
        if len(inside.parts) >= _DEEPEST:
            folders.clear()
        for name in names:
            yield (inside / name).as_posix(), (Path(place) / name).lstat().st_size


def _roots(names: Iterable[str]) -> list[str]:
    """Return the folders that hold one of `MARKS`, sorted."""
    found = set()
    for name in names:
        folder, _, file = name.rpartition("/")
        if file in MARKS and _UNFINISHED not in folder:
            above, _, last = folder.rpartition("/")
            found.add(above if last.startswith(_PROCESS) else folder)
    return sorted(found, key=lambda root: [(len(part), part) for part in root.split("/")])  # 5 before 10


def read_orbax(place: Place) -> Content:
    """Read the tree of arrays in a checkpoint. Its arrays stay there until they are asked for.

    Raises:
        UserError: the extra is not installed; the checkpoint is damaged, or asks for far more than it holds.
    """
    where = place.path / place.within if place.path.is_dir() else place.path
    said = LINES.replace("DIR", str(where.resolve()))
    doubt = f"is it whole? If it is, {said}"
    try:
        import tensorstore
    except ImportError:
        lacking = missing(f"{where} is an Orbax checkpoint, which needs its package", "orbax")
        raise UserError(f"{lacking}; or without it: {said}") from None
    try:
        tree = dict(_arrays(tensorstore, place))
    except UserError:
        raise
    except Exception as error:  # a damaged store can make its reader raise nearly anything
        what = one_line(error, 160)
        raise UserError(f"{where} is an Orbax checkpoint and cannot be read ({what}): {doubt}") from None
    if not tree:
        raise UserError(f"{where} is an Orbax checkpoint that holds no arrays: {doubt}")
    declared = sum(
        int(np.prod(one.shape, dtype=object)) * one.dtype.itemsize
        for one in tree.values()
        if isinstance(one, StoredTensor)
    )
    if declared > SMALL + RATIO * place.size:
        raise UserError(f"{where} unpacks to {declared:,} bytes and is {place.size:,}: not read")
    return Content("orbax", tree)


def _arrays(tensorstore: Any, place: Place) -> Iterator[tuple[str, StoredTensor | str]]:
    """Yield the arrays of the tree by their dotted names; of types that torch does not have, the type's name."""
    opened = []
    for store in _stores(tensorstore, place):
        for key in tensorstore.KvStore.open(store).result().list().result():
            for end, driver in _ARRAYS.items():
                if (name := key.decode()).endswith(end):
                    name = name.removesuffix(end)
                    inner = {**store, "path": f"{store.get('path', '')}{name}/"}
                    spec = {"driver": driver, "kvstore": inner, "fill_missing_data_reads": False}
                    opened.append((name, tensorstore.open(spec, open=True, read=True)))
    for name, coming in opened:
        array = coming.result()
        dtype = DTYPES.get(array.dtype.name)
        if dtype is None:
            yield name, f"<array of {array.dtype.name}>"
        else:
            yield name, StoredTensor(tuple(array.shape), dtype, partial(_read, array, dtype))


def _stores(tensorstore: Any, place: Place) -> list[dict[str, Any]]:
    """Return the stores of a checkpoint: one, or one of each process where nobody has joined them."""

    def base(*inside: str) -> dict[str, Any]:
        path = "/".join(part for part in (place.within, *inside) if part)
        if place.path.is_dir():
            return {"driver": "file", "path": f"{(place.path / path).resolve()}/"}
        zipped = {"driver": "file", "path": str(place.path.resolve())}
        return {"driver": "zip", "base": zipped, "path": f"{path}/" if path else ""}

    names = [key.decode() for key in tensorstore.KvStore.open(base()).result().list().result()]
    if "manifest.ocdbt" in names:
        return [{"driver": "ocdbt", "base": base()}]
    parts = sorted({name.partition("/")[0] for name in names if name.startswith(_PROCESS)})
    return [{"driver": "ocdbt", "base": base(part)} for part in parts] or [base()]


def _read(array: Any, dtype: torch.dtype) -> Tensor:
    try:
        numbers = np.ascontiguousarray(array.read().result())
    except Exception as error:
        what = one_line(error, 320)
        if "NOT_FOUND" in what:  # zarr itself would give zeros
            raise UserError(
                f"a piece of an array is not there ({what}): fetch the whole checkpoint anew"
            ) from None
        raise UserError(f"an array is damaged ({what})") from None
    if numbers.dtype.kind == "V" or numbers.dtype.name not in np.sctypeDict:  # a type that numpy itself lacks
        whole = {1: np.uint8, 2: np.int16}[numbers.dtype.itemsize]
        return torch.from_numpy(numbers.view(whole)).view(dtype)
    return torch.from_numpy(numbers)
