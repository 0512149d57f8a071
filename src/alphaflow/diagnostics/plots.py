"""Pictures of diagnoses: cosines over training and by layer, maps over (t, t - r), bias and variance over α."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..generation.pictures import save_figure
from .record import LOSSES, PAIRS, Diagnosis, Summary, label

_COLOURS = dict(
    zip(
        (",".join(pair) for pair in PAIRS), ("tab:red", "tab:blue", "0.45", "tab:purple", "tab:brown", "tab:green")
    )
)
_MAPS = {
    "tfm": "TFM, ‖u − v‖²",
    "tc": "TC, 2 (v − target)·u",
    "residual": "residual, ‖u − target‖²",
    "slope": "du/dt, root mean square",
}


FEWEST = 4
"""Rows below which a cell of a map stays white: one row's loss says nothing of its cell."""


def draw_all(diagnoses: Sequence[Diagnosis], folder: Path) -> list[Path]:
    """Write `cosines.png`, `layers.png`, `losses.png`, `maps.png` and `alpha.png`; the last step's where of one.

    Raises:
        UserError: they can't be written.
    """
    last = diagnoses[-1]
    files = [
        _cosines(diagnoses, folder / "cosines.png"),
        _layers(last, folder / "layers.png"),
        _losses(diagnoses, folder / "losses.png"),
        _maps(last, folder / "maps.png"),
    ]
    return [*files, _curve(last, folder / "alpha.png")] if last.curve else files


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def _cosines(diagnoses: Sequence[Diagnosis], path: Path) -> Path:
    """Return the paper's picture of the conflict against the step or, for one step alone, a bar for each pair."""
    figure = _figure(6.4, 3.8)
    axes = figure.subplots()
    axes.axhline(0, color="0.7", linewidth=0.8)
    if len(diagnoses) > 1:
        for name, colour in _COLOURS.items():
            _band(axes, diagnoses, [diagnosis.cosines[name] for diagnosis in diagnoses], label(name), colour)
        plain = [diagnosis for diagnosis in diagnoses if diagnosis.alpha is not None]
        axes.plot(
            [diagnosis.step for diagnosis in plain],
            [diagnosis.alpha for diagnosis in plain],
            "k:",
            linewidth=1,
            label="α",
        )
        axes.set(xlabel="step", ylabel="cosine of gradients", ylim=(-1.05, 1.05))
        figure.legend(loc="outside lower center", fontsize=7, ncols=4)
    else:
        shown = {
            name: diagnoses[0].cosines[name] for name in _COLOURS if diagnoses[0].cosines[name].mean is not None
        }
        for k, (name, summary) in enumerate(shown.items()):
            _interval(axes, k, summary, _COLOURS[name])
        axes.set_xticks(range(len(shown)), [label(name) for name in shown], fontsize=8)
        axes.set(ylabel="cosine of gradients", ylim=(-1.05, 1.05))
    what = _title(diagnoses[-1]) if len(diagnoses) == 1 else f"steps {diagnoses[0].step} to {diagnoses[-1].step}"
    axes.set_title(f"{what}; mean, 5 and 95 % of batches of {diagnoses[-1].batch_size}", fontsize=9)
    return save_figure(figure, path)


def _layers(diagnosis: Diagnosis, path: Path) -> Path:
    names = list(diagnosis.groups)
    figure = _figure(max(6.4, 0.45 * len(names) + 2), 4.2)
    axes = figure.subplots()
    axes.axhline(0, color="0.7", linewidth=0.8)
    for shift, pair in ((-0.15, "tfm,tc"), (0.15, "fm,tc")):
        for k, name in enumerate(names):
            _interval(
                axes, k + shift, diagnosis.groups[name][pair], _COLOURS[pair], label(pair) if k == 0 else None
            )
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
    axes.set(ylabel="cosine of gradients", ylim=(-1.05, 1.05))
    axes.set_title(f"{_title(diagnosis)}; by layers", fontsize=9)
    axes.legend(fontsize=7)
    return save_figure(figure, path)


def _losses(diagnoses: Sequence[Diagnosis], path: Path) -> Path:
    """Plot losses, and the norms of their gradients."""
    figure = _figure(9, 3.6)
    left, right = figure.subplots(1, 2)
    names = {**LOSSES, "residual": "residual"}
    for axes, kind, chosen in (
        (left, "losses", [name for name in names if name != "full"]),
        (right, "norms", list(LOSSES)),
    ):
        for k, name in enumerate(chosen):
            values = [getattr(diagnosis, kind)[name] for diagnosis in diagnoses]
            if len(diagnoses) > 1:
                _band(axes, diagnoses, values, names[name], f"C{k}")
            elif values[0].mean is not None:
                _interval(axes, k, values[0], f"C{k}")
        if len(diagnoses) > 1:
            axes.set(xlabel="step")
            axes.legend(fontsize=7)
        else:
            axes.set_xticks(range(len(chosen)), [names[name] for name in chosen], fontsize=8)
    left.axhline(0, color="0.7", linewidth=0.8)
    left.set_title("losses, means over dimensions", fontsize=9)
    if len(diagnoses) > 1:
        right.set(yscale="log")
    else:
        right.set_ylim(bottom=0)
    right.set_title("norms of their gradients", fontsize=9)
    return save_figure(figure, path)


def _maps(diagnosis: Diagnosis, path: Path) -> Path:
    figure = _figure(9, 7.4)
    for axes, (name, title) in zip(figure.subplots(2, 2).flat, _MAPS.items()):
        values = np.array([[np.nan if v is None else v for v in row] for row in diagnosis.maps[name]])
        values[np.array(diagnosis.counts) < FEWEST] = np.nan
        finite = np.abs(values[np.isfinite(values)])  # one corner, where data prediction divides by t, is not to
        bound = float(np.quantile(finite, 0.95)) if finite.size else 1.0  # drown all others
        signed = name == "tc"
        look = {"cmap": "RdBu_r" if signed else "viridis", "vmin": -bound if signed else 0, "vmax": bound}
        shown = axes.imshow(values, origin="lower", extent=(0, 1, 0, 1), aspect="equal", **look)
        axes.set(xlabel="t", ylabel="t − r")
        axes.set_title(title, fontsize=9)
        figure.colorbar(shown, ax=axes, shrink=0.85, extend="both" if signed else "max")
    figure.suptitle(
        f"{_title(diagnosis)}; means over {diagnosis.batches} batches of {diagnosis.batch_size}", fontsize=9
    )
    return save_figure(figure, path)


def _curve(diagnosis: Diagnosis, path: Path) -> Path:
    """Plot bias and variance against α, relative to ‖E ∇L_MF‖², with α = 0 at the left edge."""
    points = sorted(diagnosis.curve, key=lambda point: point.alpha)
    scale = points[0].signal if points[0].alpha == 0 and points[0].signal > 0 else 1.0
    smallest = min((point.alpha for point in points if point.alpha > 0), default=1.0)
    places = [point.alpha or smallest / 3 for point in points]
    figure = _figure(5.6, 3.8)
    axes = figure.subplots()
    for name, values in {
        "variance of one batch": [point.variance for point in points],
        "bias²": [point.bias if point.bias > 0 else np.nan for point in points],
        "their sum": [point.error for point in points],
    }.items():
        axes.plot(places, np.array(values) / scale, marker="o", markersize=3, label=name)
    floors = [point.floor if point.alpha else np.nan for point in points]
    axes.plot(places, np.array(floors) / scale, color="0.7", linestyle=":", label="noise in bias²")
    axes.set(xscale="log", yscale="log", xlabel="α", ylabel="relative to ‖E ∇L_MF‖²")
    axes.set_xticks(places, [f"{point.alpha:g}" for point in points], fontsize=7)
    axes.minorticks_off()
    axes.set_title(f"{_title(diagnosis)}; ∇L_α as an estimate of E ∇L_MF", fontsize=9)
    axes.legend(fontsize=7)
    return save_figure(figure, path)


def _band(axes: Any, diagnoses: Sequence[Diagnosis], values: Sequence[Summary], name: str, colour: str) -> None:
    points = [(one.step, value) for one, value in zip(diagnoses, values) if value.mean is not None]
    steps = [step for step, _ in points]
    axes.plot(steps, [value.mean for _, value in points], color=colour, marker="o", markersize=2.5, label=name)
    low, high = [value.low for _, value in points], [value.high for _, value in points]
    axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)


def _interval(axes: Any, place: float, value: Summary, colour: str, name: str | None = None) -> None:
    if value.mean is None or value.low is None or value.high is None:
        return
    reach = [[max(value.mean - value.low, 0)], [max(value.high - value.mean, 0)]]
    axes.errorbar([place], [value.mean], yerr=reach, color=colour, marker="o", markersize=4, capsize=3, label=name)


def _title(diagnosis: Diagnosis) -> str:
    alpha = "α row by row" if diagnosis.alpha is None else f"α = {diagnosis.alpha:.3g}"
    return f"step {diagnosis.step}, {alpha}"
