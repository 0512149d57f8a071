"""The figures of an evaluation with their protocol: as JSON, CSV, a table and a plot."""

import csv
import io
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import write_bytes, write_text

log = logging.getLogger("alphaflow")

LARGEST = 1 << 25
"""Bytes of an evaluation's JSON."""
SHARED = ("run", "step", "detector", "preprocessing", "distance", "shape", "crop", "against", "data", "real_count")
SETTING = ("weights", "method", "nfe", "times", "guidance", "labels", "count", "seed", "rounding", "runtime")


def figure_title(name: str, distance: str) -> str:
    """Return a figure's name for people: a Fréchet distance by what the detector's is called, FID for instance."""
    if distance != "frechet" and name in ("frechet", "frechet_limit"):
        return distance + ("∞" if name == "frechet_limit" else "")
    return name


@dataclass(frozen=True, kw_only=True)
class Result:
    """Figures of one setting, with the protocol that they hold for.

    errors: standard errors of the figures, where they can be told. intervals: the ends of their 95 % intervals,
        over other samples of the same generator; the real samples and the training count as fixed.
    rounding: what was done to the samples before they were looked at. guidance: its scale; 1: none.
    runtime: what computed the network and how precisely, where that was chosen.
    """

    nfe: int
    method: str
    times: tuple[float, ...] | None
    count: int
    labels: str
    seed: int
    weights: str
    rounding: str
    guidance: float = 1.0
    runtime: str = ""
    figures: dict[str, float]
    errors: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)

    def name(self, sweep: bool = False) -> str:
        """`1 NFE, ode`; of a `sweep` over weights, those too."""
        return setting_words(asdict(self)) + (f", {self.weights}" if sweep else "")


Place = Callable[[Result], Any]
Label = Callable[[Result], str]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All results of one run at one step, and the same figures between two halves of the real data.

    detector: its name and the hash of its weights. preprocessing: what it does to pixels. distance: what its
    Fréchet distance is called, FID for instance. shape: of what was looked at, pictures (H, W, C) or samples
    (C, …). crop: how real pictures became squares, where that was done. against: what the real ones are; data: a
    hash of them; real_count: how many, 0 where a file of statistics does not tell.
    """

    run: str
    step: int
    detector: str | None
    data: str
    real_count: int
    results: list[Result]
    halves: dict[str, float]
    preprocessing: str | None = None
    distance: str = "frechet"
    shape: str = ""
    crop: str = ""
    against: str = "the run's data"

    @property
    def names(self) -> list[str]:
        """Of all figures, in the order of the table."""
        found = [*self.halves, *(name for result in self.results for name in result.figures)]
        return list(dict.fromkeys(found))

    def title(self, name: str) -> str:
        """Return a figure's name for people."""
        return figure_title(name, self.distance)

    def write(self, path: Path) -> None:
        """As JSON, atomically."""
        write_text(path, json.dumps(asdict(self), indent=2) + "\n")

    def table(self) -> str:
        """For people: a line a setting, half the 95 % interval behind each figure, then the real halves, where the
        real ones are at hand; last what all of it is against."""
        names = self.names
        sweep = len({r.weights for r in self.results}) > 1
        rows = [[r.name(sweep), *(_cell(r, name) for name in names)] for r in self.results]
        rows = [["", *map(self.title, names)], *rows]
        if self.halves:
            rows.append(
                ["real halves", *(f"{self.halves[name]:.4g}" if name in self.halves else "–" for name in names)]
            )
        widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows]
        return "\n".join([*lines, self._against()])

    def _against(self) -> str:
        counts = sorted({result.count for result in self.results})
        scored = f"{' and '.join(f'{one:,}' for one in counts)} samples " if counts else ""
        count = f", {self.real_count:,} samples" if self.real_count else ""
        seen = f", seen by {self.detector[:31]}…" if self.detector else ""
        return f"{scored}against {self.against}{count}{seen}"

    def write_csv(self, path: Path) -> None:
        """Write a line for each figure of each setting, with its whole protocol beside it."""
        text = io.StringIO()
        columns = [*SHARED, *SETTING, "figure", "value", "error", "low", "high", "real_halves"]
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows())
        write_text(path, text.getvalue())

    def _rows(self) -> Iterator[dict[str, Any]]:
        shared = {name: getattr(self, name) for name in SHARED}
        for result in self.results:
            setting = {name: getattr(result, name) for name in SETTING}
            setting["times"] = " ".join(f"{t:g}" for t in result.times or ())
            for name, value in result.figures.items():
                low, high = result.intervals.get(name, ("", ""))
                error = result.errors.get(name, "")
                figure = {"figure": name, "value": value, "error": error, "low": low, "high": high}
                yield {**shared, **setting, **figure, "real_halves": self.halves.get(name, "")}

    def plot(self, path: Path) -> None:
        """Each figure against the number of evaluations, the midpoint, and the scale of guidance where there are
        several; a line for all that is otherwise alike."""
        from matplotlib.figure import Figure

        names, rows = self.names, list(self._axes())
        if not rows:
            raise UserError("nothing to plot: sweep --nfe, --midpoint or --guidance", status=2)
        figure = Figure(figsize=(4 * len(names), 3.2 * len(rows)), dpi=110, layout="constrained")
        panels = figure.subplots(len(rows), len(names), squeeze=False)
        for row, (axis, results, place, rest) in zip(panels, rows):
            for panel, name in zip(row, names):
                _draw(panel, name, results, place, rest)
                if name in self.halves:
                    panel.axhline(self.halves[name], color="0.6", linestyle=":", label="real halves")
                panel.set(xlabel=axis, title=self.title(name))
            row[0].legend(fontsize=7)
        memory = io.BytesIO()
        figure.savefig(memory, format="png")
        write_bytes(path, memory.getvalue())

    def _axes(self) -> Iterator[tuple[str, list[Result], Place, Label]]:
        """Yield what to draw figures against: its name, the results, each one's place and line."""
        scales = len({r.guidance for r in self.results}) > 1

        def line(r: Result) -> str:
            return f"{r.method}, {r.weights}" + (f", guidance {r.guidance:g}" if scales else "")

        if even := [r for r in self.results if not r.times]:
            yield "network evaluations", even, lambda r: r.nfe, line
        if middles := [r for r in self.results if r.times and len(r.times) == 3]:
            yield "midpoint", middles, lambda r: (r.times or ())[1], line
        if scales:
            yield "guidance scale", self.results, lambda r: r.guidance, lambda r: replace(r, guidance=1).name(True)


def setting_words(result: Mapping[str, Any], unsaid: str = "") -> str:
    """How samples were drawn, of a `Result` as JSON: `2 NFE, ode, t = 1 → 0.5 → 0, guidance 1.5`.

    unsaid: a sampler that goes without saying.
    """
    words = f"{result['nfe']} NFE"
    if result["method"] != unsaid:
        words += f", {result['method']}"
    if result.get("times"):
        words += f", t = {' → '.join(f'{t:g}' for t in result['times'])}"
    scale = result.get("guidance", 1.0)
    words += f", guidance {scale:g}" if scale != 1 else ""
    return words + (f", {result['runtime']}" if result.get("runtime") else "")


def read(path: Path) -> dict[str, Any] | None:
    """Return what `Evaluation.write` wrote, or None.

    Raises:
        UserError: it is damaged, or of somebody else's.
    """
    if not path.exists():
        return None
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"more than {LARGEST:,} bytes")
        found = json.loads(path.read_text())
        if not isinstance(found, dict):
            raise ValueError(f"a {type(found).__name__}")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} holds no evaluation ({error}): remove it, or run `alphaflow evaluate`") from None
    return found


def from_record(record: dict[str, Any]) -> Result:
    """Make a result of what has been through JSON."""
    intervals = {name: (low, high) for name, (low, high) in record["intervals"].items()}
    return Result(**{**record, "times": record["times"] and tuple(record["times"]), "intervals": intervals})


def kept(file: Path | None) -> dict[str, Any] | None:
    """Return the result, as JSON, that a sweep which was broken off has left in this file; None without one."""
    if file is None or not file.exists():
        return None
    log.info("found %s: this setting was scored before", file)
    return json.loads(file.read_text())


def _cell(result: Result, name: str) -> str:
    if name not in result.figures:  # a folder of images without labels has no accuracy
        return "–"
    text = f"{result.figures[name]:.4g}"
    if name not in result.intervals:
        return text
    low, high = result.intervals[name]
    return f"{text} ± {(high - low) / 2:.2g}"


def _draw(panel: Any, name: str, results: list[Result], place: Place, label: Label) -> None:
    """Draw a line for each label."""
    for words in dict.fromkeys(label(r) for r in results):
        line = sorted((r for r in results if label(r) == words and name in r.figures), key=place)
        x, y = [place(r) for r in line], [r.figures[name] for r in line]
        ends = [r.intervals.get(name, (r.figures[name],) * 2) for r in line]
        reach = [(high - low) / 2 for low, high in ends]
        panel.errorbar(x, y, yerr=reach, marker="o", markersize=3, capsize=2, label=words)
