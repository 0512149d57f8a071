"""Latents that others keep many to a file: safetensors shards, as LightningDiT's, of VA-VAE and of FACM.

A shard has `latents` (N, C, h, w), perhaps `latents_flip` of the mirrored pictures and `labels` (N,); or else
`moments` for `latents`. Beside them lies `latents_stats.pt`, mean and std of each channel, by which their code
scales: (latent - mean) / std. Source: hustvl/LightningDiT, `extract_features.py` and
`datasets/img_latent_dataset.py`.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.latents.manifest import tuples
from ..data.sources.splits import refuse_splits
from ..errors import UserError, one_line
from .forms import parse
from .kinds import Convention
from .listing import SUFFIXES, is_statistics
from .plan import probe

_KINDS = ("latents", "latent", "moments")
_LABELS = ("labels", "label", "y")
_PROBED = 64
_LARGEST = 1 << 26  # bytes of a file of statistics
_EPSILON = 1e-5  # RAE's, which keeps variances: (latent - mean) / sqrt(var + eps)


class Shards:
    """Samples in the rows of safetensors files, in the order of the files' names; see `foreign.Foreign`.

    Raises:
        UserError: a file is damaged, holds no latents or labels of another number, or the files lie in folders
            that are splits of a data set.
    """

    labels: NDArray[np.int64] | None = None
    class_names: tuple[str, ...] = ()
    second: str | None = None
    multiplied: float | None = None

    def __init__(self, address: str, names: Sequence[str], labels: str = "auto") -> None:
        inner = {name.rpartition("/")[0] for name in names}
        if len(inner) == 1 and "" not in inner:  # the folder's own statistics lie in it
            address = f"{address.rstrip('/')}/{inner.pop()}"
            names = [name.rpartition("/")[2] for name in names]
        self.address, self._names = address, list(names)
        if labels == "folders":
            raise UserError(
                "--labels folders is for files of one sample, and these are shards: samples, or none", status=2
            )
        folders = {name.split("/")[0] for name in names if "/" in name}
        refuse_splits(folders, address, lambda name: f"{address}/{name}", option="", otherwise="")
        self.owned = labels in ("auto", "samples")
        self.labels_from = "the shards" if self.owned else ""
        self._open = lru_cache(64)(self._opened)
        heads = [self._head(name) for name in self._names]
        self._keys = [keys for keys, _ in heads]
        self._ends = np.cumsum([count for _, count in heads])
        self.passed_over = ", ".join(f"{name} (statistics)" for name, _ in statistics_in(Path(address)))
        about = [(name, (Path(address) / name).stat().st_size, *head) for name, head in zip(self._names, heads)]
        self.digest = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return int(self._ends[-1])

    def name(self, index: int) -> str:
        number, row = self._place(index)
        return f"{self.address}/{self._names[number]}, row {row}"

    def read(self, index: int) -> Any:
        number, row = self._place(index)
        file, keys = self._open(self._names[number]), self._keys[number]
        try:
            one = {key: self._row(file, key, row) for key in keys}
        except Exception as error:  # a file that is cut short
            raise UserError(f"cannot be read ({one_line(error, 120)})") from None
        label = next((one.pop(key) for key in keys if key in _LABELS), None)
        return one if label is None else {**one, "label": label}

    def beside(self, index: int) -> int | None:
        return None

    def own_scale(self) -> tuple[Convention | None, str]:
        return own_scale(self.address, statistics_in(Path(self.address)))

    def probe(self) -> str:
        return probe(len(self), lambda index: self._latent(index), _PROBED)

    def _latent(self, index: int) -> NDArray[np.generic]:
        number, row = self._place(index)
        key = next(one for one in self._keys[number] if one in _KINDS)
        return self._row(self._open(self._names[number]), key, row).float().numpy()

    def _place(self, index: int) -> tuple[int, int]:
        number = int(np.searchsorted(self._ends, index, side="right"))
        return number, index - (int(self._ends[number - 1]) if number else 0)

    @staticmethod
    def _row(file: Any, key: str, row: int) -> torch.Tensor:
        return file.get_slice(key)[row : row + 1][0]

    def _opened(self, name: str) -> Any:
        from safetensors import safe_open

        path = Path(self.address) / name
        try:
            return safe_open(path, framework="pt")
        except Exception as error:  # safetensors has errors of its own
            raise UserError(
                f"cannot read {path} ({one_line(error, 120)}): fetch it again, or remove it to go on without its "
                "samples"
            ) from None

    def _head(self, name: str) -> tuple[tuple[str, ...], int]:
        """Return the names of a file's tensors, the latents' first, and the number of samples."""
        file = self._open(name)
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        kind = next((key for key in _KINDS if len(shapes.get(key, ())) == 4), None)
        if kind is None:
            held = ", ".join(f"{key} {list(shape)}" for key, shape in list(shapes.items())[:4]) or "nothing"
            raise UserError(
                f"{self.address}/{name} holds {held}: of safetensors, latents or moments (N, C, h, w) are read, "
                "with labels (N,)"
            )
        labels = [key for key in _LABELS if key in shapes][:1] if self.owned else []
        keys = (kind, *(key for key in (f"{kind}_flip",) if key in shapes), *labels)
        wrong = [key for key in keys if len(shapes[key]) < 1 or shapes[key][0] != shapes[kind][0]]
        if wrong:
            raise UserError(
                f"{self.address}/{name} holds {shapes[kind][0]} {kind} and {wrong[0]} {list(shapes[wrong[0]])}: "
                "it is damaged, or of another kind"
            )
        return keys, shapes[kind][0]


def shards_in(folder: Path) -> list[str]:
    """Return the safetensors files of a folder, sorted, where none of other kinds could be samples."""
    files = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
    shown = [name for name in files if not any(part.startswith(".") for part in name.split("/"))]
    samples = [name for name in shown if name.lower().endswith(SUFFIXES) and not is_statistics(name)]
    return [] if samples else sorted(name for name in shown if name.lower().endswith(".safetensors"))


def statistics_in(folder: Path) -> list[tuple[str, Callable[[], bytes]]]:
    """Return the files of statistics in a folder, and a function that reads each."""
    return [
        (file.name, file.read_bytes)
        for file in sorted(folder.iterdir())
        if file.is_file() and file.name.lower().endswith(SUFFIXES) and is_statistics(file.name)
    ]


def own_scale(address: str, files: Iterable[tuple[str, Callable[[], bytes]]]) -> tuple[Convention | None, str]:
    """Return the scale that the first file of statistics states, and the file's name; "" where none does.

    It holds `mean`, and `std` or `var`, of each channel (with axes of 1 around them) or of each place (C, h, w).

    Raises:
        UserError: it is damaged, or its numbers are none that one could divide by.
    """
    for name, read in files:
        content = parse(read()[:_LARGEST], Path(name).suffix.lower())
        held = content if isinstance(content, dict) else {}
        mean, std = held.get("mean"), held.get("std")
        if std is None and held.get("var") is not None:
            std = (torch.as_tensor(held["var"]).double() + _EPSILON).sqrt()
        if mean is None or std is None:
            continue
        parts = [torch.as_tensor(part).detach().double() for part in (mean, std)]
        parts = [part[0] if part.ndim == 4 and len(part) == 1 else part for part in parts]
        parts = [part.flatten() if part.shape[1:] in ((1, 1), ()) else part for part in parts]
        fits = parts[0].shape == parts[1].shape and parts[0].ndim in (1, 3)
        if not fits or not all(part.isfinite().all() for part in parts) or not (parts[1] > 0).all():
            raise UserError(
                f"{address}/{name}: its mean {list(parts[0].shape)} and std {list(parts[1].shape)} are not those "
                "of channels, finite and above 0: say --scale statistics, which computes them"
            )
        table = [tuples(part.float().tolist()) for part in parts]
        return Convention(mean=table[0], std=table[1]), name
    return None, ""
