"""Networks written as ONNX once, and found again in the cache: writing one takes longer than many samples do."""

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..data import Told
from ..encoding.vae import weights_hash
from ..errors import UserError
from ..export.network_to_onnx import open_onnx, write_onnx
from ..export.network_to_program import compare
from ..export.quantised import quantise, relative_error
from ..files import cache_folder, locked

KEPT = 8
"""The number of networks that stay in the cache; those that were not asked for the longest go first."""


def is_cached(net: nn.Module, *, int8: bool = False) -> bool:
    """Return whether the file is there already."""
    return (_folder(net) / _name(int8)).is_file()


def exported(net: nn.Module, *, shape: Sequence[int], num_classes: Told, int8: bool = False) -> Path:
    """Return an ONNX file of the network: as it was kept, once it is seen to compute the same, or written now.

    int8: with weights of eight bits; see `quantise`.

    Raises:
        UserError: as `write_onnx`, `quantise`, `relative_error`; the cache cannot be written to.
    """
    folder = _folder(net)
    whole, path = folder / _name(False), folder / _name(int8)
    form: dict[str, Any] = {"shape": tuple(shape), "num_classes": num_classes}
    with locked(folder.with_name(f"{folder.name}.lock")):
        if not _still_true(net, whole, **form):
            shutil.rmtree(folder, ignore_errors=True)
            with _made(folder) as made:
                write_onnx(net, made / whole.name, **form)
        if int8 and not path.is_file():
            with tempfile.TemporaryDirectory(dir=folder) as made:
                quantise(whole, Path(made) / path.name)
                for one in Path(made).iterdir():
                    one.replace(folder / one.name)
        if int8:
            relative_error(net, open_onnx(path), path, **form)
        folder.touch()
    _forget(folder.parent)
    return path


def _name(int8: bool) -> str:
    return "int8.onnx" if int8 else "model.onnx"


def _folder(net: nn.Module) -> Path:
    """Return where the files of a network lie, by its weights and its modules with their settings."""
    settings = [repr(net), *(repr(getattr(module, "config", None)) for module in net.modules())]
    built = hashlib.sha256("".join(settings).encode()).hexdigest()[:8]
    return cache_folder("onnx") / f"{weights_hash(net)}-{built}"


def _still_true(net: nn.Module, path: Path, *, shape: Sequence[int], num_classes: Told) -> bool:
    """Whether the file is there and computes what the network does, whose code may have changed since."""
    if not path.is_file():
        return False
    try:
        compare(net, open_onnx(path), path, shape=shape, num_classes=num_classes)
    except Exception:  # damaged files make onnxruntime raise many kinds
        return False
    return True


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[Path]:
    """Give a folder beside `folder`, which becomes it where the block ends well."""
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            inner = Path(made) / "made"
            inner.mkdir()
            yield inner
            inner.replace(folder)
    except OSError as error:
        raise UserError(f"cannot write to the cache at {folder} ({error.strerror}): set ALPHAFLOW_CACHE") from None


def _forget(cache: Path) -> None:
    """Remove what was not asked for the longest."""
    folders = sorted((one for one in cache.iterdir() if one.is_dir()), key=lambda one: one.stat().st_mtime)
    for folder in folders[:-KEPT]:
        shutil.rmtree(folder, ignore_errors=True)
