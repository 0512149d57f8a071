"""The pictures of a report, as data: URIs.

Curves have a transparent background and mid-grey text, which reads on light and on dark pages.
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .captions import CURVES, NAMES

INK = "#767676"
COLORS = ("#2f7fd6", "#d9722e", "#2f9e6e", "#b45bc2", "#c2a02d")
SNAPSHOT_WIDTH = 640
FRAME_SECONDS = 0.125
"""How long a frame of a video stands."""
RAW_POINTS = 1000
"""Faint raw curves are thinned to about this many points."""

Values = NDArray[np.float64]
Line = tuple[Values, Values]
"""steps (N,) and values (N,), NaN where there is none."""


def data_uri(content: bytes, kind: str) -> str:
    """`content` inside the page. kind: the media type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def png(image: Image.Image) -> str:
    """Return an image as a PNG."""
    memory = io.BytesIO()
    image.save(memory, format="png", optimize=True)
    return data_uri(memory.getvalue(), "image/png")


def sheet(columns: Sequence[Sequence[NDArray[np.uint8]]]) -> str:
    """Columns of images uint8 (H, W, C) with transparent gaps, small ones enlarged by a whole factor.

    Videos (T, H, W, C) give a picture that moves.
    """
    first = next(image for images in columns for image in images)
    if first.ndim == 3:
        return png(_sheet(columns))
    frames = [_sheet([[video[k] for video in videos] for videos in columns]) for k in range(len(first))]
    memory = io.BytesIO()
    frames[0].save(
        memory, format="png", save_all=True, append_images=frames[1:], duration=FRAME_SECONDS * 1000, loop=0
    )
    return data_uri(memory.getvalue(), "image/png")


def _sheet(columns: Sequence[Sequence[NDArray[np.uint8]]]) -> Image.Image:
    height, width, _ = next(image.shape for images in columns for image in images)
    scale = max(1, 64 // max(height, width))
    height, width, gap = (
        height * scale,
        width * scale,
        max(2, width * scale // 16) // 2 * 2 if len(columns) > 1 else 0,
    )
    rows = max(len(images) for images in columns)
    pixels = np.zeros((rows * (height + gap), len(columns) * (width + gap), 4), np.uint8)
    for k, images in enumerate(columns):
        for row, image in enumerate(images):
            top, left = gap // 2 + row * (height + gap), gap // 2 + k * (width + gap)
            pixels[top : top + height, left : left + width, :3] = image.repeat(scale, 0).repeat(scale, 1)
            pixels[top : top + height, left : left + width, 3] = 255
    return Image.fromarray(pixels)


def snapshot(path: Path) -> str | None:
    """Return the top of a picture of the run, at most `SNAPSHOT_WIDTH` wide; None if it can't be read."""
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (OSError, ValueError):
        return None
    image = image.crop((0, 0, image.width, min(image.height, image.width * 11 // 10)))  # few classes: a tall sheet
    if image.width > SNAPSHOT_WIDTH:
        image.thumbnail((SNAPSHOT_WIDTH, SNAPSHOT_WIDTH * 2))
    return png(image)


def points(samples: NDArray[Any], real: NDArray[Any] | None) -> str:
    """Points (N, 2) in blue over the real ones in grey; without samples the real ones alone."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4, 3.4), dpi=160, layout="constrained")
    axes = figure.subplots()
    if real is not None:
        axes.scatter(real[:, 0], real[:, 1], s=1.6, color=INK, alpha=0.45, linewidths=0)
    if len(samples):
        axes.scatter(samples[:, 0], samples[:, 1], s=2.2, color=COLORS[0], alpha=0.75, linewidths=0)
    axes.set(aspect="equal", xlim=(-2.6, 2.6), ylim=(-2.6, 2.6), xlabel="x₁", ylabel="x₂")
    _restyle(axes)
    memory = io.BytesIO()
    figure.savefig(memory, format="png", transparent=True)
    return data_uri(memory.getvalue(), "image/png")


_LABELLED = ((5, "1234568"), (20, "1235"), (300, "13"), (math.inf, "1"))
"""Up to which ratio of the highest to the lowest value a logarithmic axis labels which digits."""


def curves(
    lines: Mapping[str, Line], label: str, *, log: bool = False, raw: bool = True, plan: Line | None = None
) -> str:
    """Lines over training steps: raw values faint, a running mean on top; an SVG.

    Args:
        lines: by the name for the legend. label: of the vertical axis.
        log: logarithmic, if all values are positive. raw: False draws the values as they are, without a mean.
        plan: what the first line was meant to be, dashed.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        figure = Figure(figsize=(5.2, 3.0), layout="constrained")
        axes = figure.subplots()
        if plan is not None:
            axes.plot(*plan, color=COLORS[0], alpha=0.6, lw=1.2, ls="--", label="planned")
        for color, (name, (steps, values)) in zip(COLORS, lines.items()):
            if raw:
                thin = slice(None, None, math.ceil(len(steps) / RAW_POINTS))
                axes.plot(steps[thin], values[thin], color=color, alpha=0.3, lw=0.8)
            top = smooth(values) if raw else values
            axes.plot(steps, top, color=color, lw=1.7, label=name, marker="o" if len(steps) < 3 else None)
        seen = np.concatenate([values[np.isfinite(values)] for _, values in lines.values()])
        if log and seen.min() > 0:
            axes.set_yscale("log")
            span = seen.max() / seen.min()
            digits = next(some for limit, some in _LABELLED if span < limit)
            for mark in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
                mark(lambda value, place: f"{value:g}" if f"{value:e}"[0] in digits else "")
        elif not raw:  # from 0: of a constant, matplotlib shows a ten-thousandth of its value around it
            axes.set_ylim(*(np.array([-0.05, 1.05]) * (seen.max() or 1)))
        axes.set(xlabel="training step", ylabel=label)
        _restyle(axes)
        if len(lines) > 1:
            place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (-0.02, 1.0), "borderaxespad": 0.2}
            axes.legend(frameon=False, fontsize=8, labelcolor=INK, ncols=3, columnspacing=1.2, **place)
        memory = io.BytesIO()
        figure.savefig(memory, format="svg", transparent=True, metadata={"Date": None})
    return data_uri(memory.getvalue(), "image/svg+xml")


def bars(values: Mapping[str, float], label: str, line: float, line_name: str) -> str:
    """Horizontal bars from 0 by name, the first on top, and a dashed line at `line`; an SVG."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        figure = Figure(figsize=(7.2, 0.8 + 0.17 * len(values)), layout="constrained")
        axes = figure.subplots()
        places = range(len(values))
        axes.barh(places, list(values.values()), color=COLORS[0], height=0.7)
        axes.axvline(line, color=COLORS[1], lw=1.2, ls="--", label=line_name)
        axes.set_yticks(places, [name if len(name) <= 24 else name[:23] + "…" for name in values])
        axes.invert_yaxis()
        axes.set(xlabel=label)
        _restyle(axes)
        axes.grid(visible=False, axis="y")
        place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (-0.02, 1.0), "borderaxespad": 0.2}
        axes.legend(frameon=False, fontsize=8, labelcolor=INK, **place)
        memory = io.BytesIO()
        figure.savefig(memory, format="svg", transparent=True, metadata={"Date": None})
    return data_uri(memory.getvalue(), "image/svg+xml")


def spread(items: list[Any], count: int) -> list[Any]:
    """At most `count` of the items, evenly chosen, with the first and the last."""
    if len(items) <= count:
        return items
    return [items[round(k * (len(items) - 1) / (count - 1))] for k in range(count)]


def smooth(values: Values) -> Values:
    """Return a centred running mean over a twentieth of the values (at least 3), which passes over NaN."""
    width = max(3, len(values) // 20) | 1
    known = np.isfinite(values)
    window = np.ones(width)
    sums = np.convolve(np.where(known, values, 0.0), window, "full")[width // 2 :][: len(values)]
    counts = np.convolve(known.astype(np.float64), window, "full")[width // 2 :][: len(values)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, sums / counts, np.nan)


def _restyle(axes: Any) -> None:
    axes.tick_params(which="both", colors=INK, labelsize=8)
    axes.xaxis.label.set(color=INK, size=9)
    axes.yaxis.label.set(color=INK, size=9)
    axes.grid(color=INK, alpha=0.2, lw=0.6)
    for name, spine in axes.spines.items():
        spine.set(visible=name in ("left", "bottom"), color=INK, alpha=0.6)


def training_curves(metrics: Sequence[Mapping[str, Any]], plan: Line | None) -> list[tuple[str, str, str]]:
    """Label, curve and caption of each. metrics: lines of metrics.jsonl. plan: the schedule of α."""
    drawn = []
    for label, keys, caption in CURVES if len(metrics) > 1 else ():
        lines = {NAMES.get(key, key): line for key in keys.split() if (line := _line(metrics, key)) is not None}
        if lines:
            raw = label not in ("score of the average", "α, flow ratio", "learning rate")
            log = label[:8] in ("residual", "gradient", "score of")
            uri = curves(lines, label, log=log, raw=raw, plan=plan if "alpha" in keys else None)
            drawn.append((label, uri, caption))
    return drawn


def _line(metrics: Sequence[Mapping[str, Any]], key: str) -> Line | None:
    """Return a number over the steps whose lines have it, NaN where it is null; None if it never is one."""
    metrics = [line for line in metrics if key in line]
    values = [line[key] for line in metrics]
    known = np.array([float(v) if isinstance(v, int | float) else math.nan for v in values])
    return None if np.isnan(known).all() else (np.array([line["step"] for line in metrics], float), known)
