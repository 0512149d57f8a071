"""What a report's page is made of: pictures as data: URIs, tables, the style.

Curves have a transparent background and mid-grey text, which reads on light and on dark pages.
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .report_words import CURVES, MEANINGS, METRICS, NAMES
from .results import setting_words

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
    """An image as a PNG."""
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
    """The top of a picture from the run's folder, at most `SNAPSHOT_WIDTH` wide; None if it can't be read."""
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
    """A centred running mean over a twentieth of the values (at least 3), which passes over NaN."""
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


# ---------------------------------------------------------------------- the page


def page(title: str, parts: Sequence[str]) -> str:
    """The whole document. parts: HTML; title: text."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} · α-Flow report</title><style>{STYLE}</style></head>\n"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def paragraph(text: str, kind: str = "") -> str:
    """Text as a paragraph; nothing without text."""
    return f'<p class="{kind}">{escape(text).replace(" %", "&nbsp;%")}</p>' if text else ""


def section(anchor: str, title: str, body: str) -> str:
    """A card with a heading. body: HTML."""
    head = f'<h2 id="{anchor}">{escape(title)}</h2>'
    return f'\n<section class="part" aria-labelledby="{anchor}">{head}{body}</section>'


def figure(uri: str, alt: str, caption: str, kind: str = "card") -> str:
    """A picture with its caption. kind: `card`, or `paper` for one that needs a white ground."""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure class="{kind}"><img src="{uri}" alt="{escape(alt)}">{below}</figure>'


def picture_table(columns: Sequence[Sequence[NDArray[np.uint8]]], names: Sequence[str], what: str) -> str:
    """Columns of images below the names of their classes, if they have any."""
    head = "".join(f'<th scope="col" title="{escape(name)}">{escape(name)}</th>' for name in names)
    head = f"<thead><tr>{head}</tr></thead>" if names else ""
    alt = what + (f", a column for each of {', '.join(names)}" if names else "")
    body = f'<tr><td colspan="{len(columns)}">{pixels(columns, alt)}</td></tr>'
    return f'<table class="grid">{head}<tbody>{body}</tbody></table>'


def pixels(columns: Sequence[Sequence[NDArray[np.uint8]]], alt: str) -> str:
    """Columns of images as one, whose pixels stay sharp when enlarged."""
    return f'<img class="pixels" src="{sheet(columns)}" alt="{escape(alt)}">'


def table(head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], caption: str, kind: str) -> str:
    """A table from cells in HTML; each row begins with its heading. It scrolls sideways where it is too wide."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        for name, cells in rows
    )
    return (
        f'<div class="scroll"><table class="{kind}">{f"<caption>{escape(caption)}</caption>" if caption else ""}'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def setting(result: Mapping[str, Any]) -> str:
    """How samples were made, as in `1 NFE`. result: of evaluation.json."""
    return setting_words(result, unsaid="ode")


def score_table(scores: Mapping[str, Any], results: Sequence[Mapping[str, Any]], explain: bool = False) -> str:
    """Figures of evaluation.json, rounded for people, in full for machines. results: the columns."""
    rows, halves = [], scores["halves"]
    distance = scores.get("distance", "frechet")
    titles = METRICS if distance == "frechet" else {**METRICS, "frechet": f"{distance} ↓"}
    for name in dict.fromkeys([*halves, *(name for result in results for name in result["figures"])]):
        meaning = f"<small>{escape(MEANINGS[name])}</small>" if explain and name in MEANINGS else ""
        values = [*(result["figures"].get(name) for result in results), *([halves.get(name)] if halves else [])]
        cells = ["–" if v is None else f'<data value="{v!r}">{v:.3g}</data>' for v in values]
        rows.append((escape(titles.get(name, name)) + meaning, cells))
    head = ["Metric", *(escape(setting(result)) for result in results), *(["Real halves"] if halves else [])]
    return table(head, rows, "↓ low is good, ↑ high is good, ≈ best as in the real data", "figures")


def copies(scores: Mapping[str, Any]) -> str:
    """The two figures about memorising, in words."""
    halves = scores["halves"]
    if "copies" not in halves:
        return ""
    settings = [*((setting(r), r["figures"]) for r in scores["results"]), ("real ones among themselves", halves)]
    said = "; ".join(f"{name}: {f['neighbour']:.3f}, {100 * f['copies']:.1f} %" for name, f in settings)
    return (
        f"Over all samples, the median distance to the nearest training image and the share of copies: {said}. "
        "A copy is nearer to a training image than all but 1 % of those are to each other: about 1 % for new "
        "samples, near 100 % for a memoriser. A distance far above that of the real ones means poor samples, far "
        "below it copying."
    )


def training_curves(metrics: Sequence[Mapping[str, Any]], plan: Line | None) -> str:
    """The section of curves. metrics: lines of metrics.jsonl. plan: the schedule of α."""
    drawn = []
    for label, keys, caption in CURVES if len(metrics) > 1 else ():
        lines = {NAMES.get(key, key): line for key in keys.split() if (line := _line(metrics, key)) is not None}
        if lines:
            raw = label not in ("score of the average", "α, flow ratio", "learning rate")
            log = label[:8] in ("residual", "gradient", "score of")
            uri = curves(lines, label, log=log, raw=raw, plan=plan if "alpha" in keys else None)
            drawn.append(figure(uri, f"{label} over the training steps", caption))
    body = (
        "<p>Raw values are faint, their running mean lies on top. <strong>Watch the residual</strong>, the "
        "un-weighted distance between the network and its target. The weighted loss comes last: with an adaptive "
        "weight it is the residual divided by itself, near 1 by construction (near α where 0 &lt; α &lt; 1) "
        f"however training goes.</p><div class='halves'>{''.join(drawn)}</div>"
    )
    few = f"<p>metrics.jsonl holds {len(metrics)} readable lines: too few for curves.</p>"
    return section("curves", "Curves", body if drawn else few)


def _line(metrics: Sequence[Mapping[str, Any]], key: str) -> Line | None:
    """A number over the steps whose lines have it, NaN where it is null; None if it never is one."""
    metrics = [line for line in metrics if key in line]
    values = [line[key] for line in metrics]
    known = np.array([float(v) if isinstance(v, int | float) else math.nan for v in values])
    return None if np.isnan(known).all() else (np.array([line["step"] for line in metrics], float), known)


STYLE = """
:root { color-scheme: light dark; --ground: #f7f7f5; --card: #fff; --text: #1d2024; --quiet: #62676e;
  --rule: #dfe0dd; --accent: #1f6fc4; }
@media (prefers-color-scheme: dark) { :root { --ground: #131519; --card: #1b1e23; --text: #e7e8ea;
  --quiet: #9ba1a9; --rule: #31353c; --accent: #74b1f2; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }
h1, h2, h3 { line-height: 1.2; overflow-wrap: anywhere; }
h1 { font-size: 2rem; margin: 0 0 .4rem; letter-spacing: -.02em; }
h2 { font-size: 1.2rem; margin: 0 0 .7rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
p { max-width: 46rem; margin: .6rem 0; }
.kicker { color: var(--accent); font-weight: 600; font-size: .85rem; margin: 0 0 .3rem; }
.lead, .note, figcaption, caption, small { color: var(--quiet); overflow-wrap: anywhere; }
.lead { margin: 0 0 1.1rem; max-width: none; }
.note, figcaption, caption, small { font-size: .8125rem; line-height: 1.4; }
.hero { display: grid; grid-template-columns: minmax(0, 11fr) minmax(0, 10fr); gap: 1.25rem; }
.part { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 1.25rem;
  margin-bottom: 1.25rem; }
.panels, .halves { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1.25rem 1.75rem; }
.panels h3 { margin-top: 0; }
.thirds { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 1.25rem; }
figure { margin: 0; }
figure img, .pixels { display: block; width: 100%; height: auto; }
figcaption { margin-top: .35rem; }
.paper img { background: #fff; border-radius: 6px; }
.pixels { image-rendering: pixelated; }
table { border-collapse: collapse; width: 100%; }
caption { text-align: left; padding-bottom: .3rem; }
.scroll { overflow-x: auto; }
.grid, .near { table-layout: fixed; }
.grid th, .near th, .near td { font-size: .8125rem; font-weight: 600; padding: 0 2px 4px; overflow: hidden;
  text-overflow: ellipsis; text-align: center; }
.grid th { white-space: nowrap; }
.grid td { padding: 0; }
.near { min-width: 640px; }
.near th:first-child { width: 5.5rem; text-align: left; }
.near small { font-weight: 400; font-variant-numeric: tabular-nums; }
.near tbody tr:first-child td { padding-bottom: .8rem; }
.figures th, .figures td, .plain th, .plain td { padding: .4rem .5rem; border-bottom: 1px solid var(--rule);
  text-align: left; vertical-align: top; }
.figures thead th { font-size: .8125rem; vertical-align: bottom; line-height: 1.3; }
.figures td, .figures thead th + th { text-align: right; font-variant-numeric: tabular-nums; }
.figures td:nth-child(2) { color: var(--accent); font-weight: 650; }
.figures tbody th { font-weight: 600; font-size: .9375rem; line-height: 1.35;
  width: 52%; }
.figures small { display: block; font-weight: 400; font-size: .75rem; }
.plain { width: auto; font-size: .9375rem; overflow-wrap: anywhere; }
.plain th { font-weight: 600; }
.plain th:first-child, .figures th:first-child { padding-left: 0; }
details { margin-top: 1rem; }
summary { cursor: pointer; color: var(--accent); font-weight: 600; }
pre { overflow-x: auto; font: .8125rem/1.5 ui-monospace, Menlo, Consolas, monospace; background: var(--ground);
  padding: 1rem; border-radius: 8px; }
@media (max-width: 760px) { main { padding: 1.25rem .75rem 3rem; } .part { padding: 1rem; }
  .hero, .panels, .halves { grid-template-columns: minmax(0, 1fr); } .hero { gap: 0; }
  .thirds { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .figures th, .figures td { padding: .4rem .25rem; } .figures td { font-size: .875rem; } }
"""
