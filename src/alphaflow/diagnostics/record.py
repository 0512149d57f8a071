"""The figures of a diagnosis: as JSON, CSV and a table."""

import csv
import io
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import UserError
from ..files import write_text

LOSSES = {"tfm": "TFM", "tc": "TC", "fm": "FM′", "full": "full"}
"""Whose gradients are compared, by name, as they are written for people."""
PAIRS = (("tfm", "tc"), ("fm", "tc"), ("tfm", "fm"), ("full", "tfm"), ("full", "tc"), ("full", "fm"))


@dataclass(frozen=True)
class Summary:
    """Mean, 5 and 95 % percentiles over batches, and the mean's standard error, of one number a batch.

    All are None where no batch had the number: the cosine of a gradient that is zero.
    """

    mean: float | None
    low: float | None
    high: float | None
    error: float | None

    @classmethod
    def of(cls, values: ArrayLike) -> "Summary":
        """Summarise those of the values (N,) that are numbers."""
        finite = np.asarray(values, dtype=np.float64)
        finite = finite[np.isfinite(finite)]
        if not len(finite):
            return cls(None, None, None, None)
        low, high = np.quantile(finite, (0.05, 0.95))
        error = finite.std(ddof=1) / math.sqrt(len(finite)) if len(finite) > 1 else math.nan
        return cls(float(finite.mean()), float(low), float(high), None if math.isnan(error) else float(error))


@dataclass(frozen=True, kw_only=True)
class Point:
    """L_α against L_MeanFlow at one α, from gradients of batches of the size that the diagnosis states, all in one
    unit.
    """

    alpha: float
    variance: float
    """The trace of the gradient's covariance between batches."""
    bias: float
    """‖E ∇L_α - E ∇L_MF‖², estimated without bias of its own (so it may lie a little below zero)."""
    floor: float
    """What noise alone puts into the plain estimate of the bias."""
    signal: float
    """‖E ∇L_α‖²."""

    @property
    def error(self) -> float:
        """The mean square distance of one batch's ∇L_α from E ∇L_MF."""
        return max(self.bias, 0.0) + self.variance


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """All that was measured of a run at one step."""

    run: str
    step: int
    batches: int
    batch_size: int
    alpha: float | None
    flow_ratio: float
    """The run's own at that step; α is None where it is drawn row by row."""
    shift: str
    derivative: str
    cosines: dict[str, Summary]
    groups: dict[str, dict[str, Summary]]
    """Over all weights and within each group of layers, by the names of two losses, `tfm,tc`."""
    norms: dict[str, Summary]
    """Norms of gradients."""
    losses: dict[str, Summary]
    """`tfm`, `tc`, `fm`, `full` (weighted, as trained on) and `residual`, MeanFlow's."""
    slope: Summary
    """Root mean square of du/dt over dimensions, per batch."""
    maps: dict[str, list[list[float | None]]]
    """Means over cells of (t, t - r), see `maps.Maps`."""
    counts: list[list[int]]
    """Rows of each cell."""
    curve: list[Point]
    """Bias and variance over α."""

    def write(self, path: Path) -> None:
        """Write the diagnosis as JSON, atomically."""
        write_text(path, json.dumps(asdict(self), indent=1) + "\n")

    def write_csv(self, path: Path) -> None:
        """Write a line for each number, with what it describes."""
        text = io.StringIO()
        columns = ["step", "quantity", "of", "group", "alpha", "t", "gap", "mean", "low", "high", "error"]
        writer = csv.DictWriter(text, columns, lineterminator="\n", restval="")
        writer.writeheader()
        for row in self._rows():
            writer.writerow({"step": self.step, **{key: "" if v is None else v for key, v in row.items()}})
        write_text(path, text.getvalue())

    def _rows(self) -> Iterator[dict[str, Any]]:
        for quantity, summaries in (("cosine", self.cosines), ("norm", self.norms), ("loss", self.losses)):
            for name, one in summaries.items():
                yield {"quantity": quantity, "of": name, "group": "all", **asdict(one)}
        for group, cosines in self.groups.items():
            for name, one in cosines.items():
                yield {"quantity": "cosine", "of": name, "group": group, **asdict(one)}
        yield {"quantity": "slope", **asdict(self.slope)}
        for point in self.curve:
            for name, value in asdict(point).items():
                if name != "alpha":
                    yield {"quantity": "curve", "of": name, "alpha": point.alpha, "mean": value}
        maps: dict[str, list[list[Any]]] = {**self.maps, "count": [list(row) for row in self.counts]}
        for name, rows in maps.items():
            for i, row in enumerate(rows):
                for j, value in enumerate(row):
                    if self.counts[i][j]:
                        place = {"t": (j + 0.5) / len(row), "gap": (i + 0.5) / len(rows)}
                        yield {"quantity": "map", "of": name, **place, "mean": value}

    def table(self) -> str:
        """Return text for people: cosines, losses, and what the curve says."""
        lines = [["cosine of", "mean", "5 %", "95 %"]]
        for name, one in self.cosines.items():
            lines.append([label(name), *(_number(value) for value in (one.mean, one.low, one.high))])
        lines.append(["loss", "", "", ""])
        for name, one in self.losses.items():
            lines.append([LOSSES.get(name, name), *(_number(value) for value in (one.mean, one.low, one.high))])
        lines.append(["du/dt", *(_number(value) for value in (self.slope.mean, self.slope.low, self.slope.high))])
        widths = [max(len(line[k]) for line in lines) for k in range(4)]
        text = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
        if self.curve:
            best = min(self.curve, key=lambda point: point.error)
            text.append(f"nearest to MeanFlow's mean gradient with one batch: α = {best.alpha:g}")
        return "\n".join(text)


def label(pair: str) -> str:
    """Return a pair of losses, `tfm,tc`, in words for people."""
    return ", ".join(LOSSES[name] for name in pair.split(","))


def read(path: Path) -> Diagnosis:
    """Read what `Diagnosis.write` wrote.

    Raises:
        UserError: the file holds something else.
    """
    try:
        record = json.loads(path.read_text())
        groups = {name: _summaries(summaries) for name, summaries in record["groups"].items()}
        summaries = {name: _summaries(record[name]) for name in ("cosines", "norms", "losses")}
        curve = [Point(**point) for point in record["curve"]]
        return Diagnosis(
            **{**record, **summaries, "groups": groups, "slope": Summary(**record["slope"]), "curve": curve}
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot read {path} as a diagnosis ({error}): remove it, and diagnose again") from None


def read_all(folder: Path) -> list[Diagnosis]:
    """Return all diagnoses in a folder, by their steps, rising."""
    return [read(file) for file in sorted(folder.glob("step-*.json"))]


def _summaries(record: dict[str, Any]) -> dict[str, Summary]:
    return {name: Summary(**summary) for name, summary in record.items()}


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3g}"
