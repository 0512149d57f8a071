"""A run's report: one HTML file that holds everything it shows, and loads nothing.

Whatever a part needs and does not find becomes a sentence in its place. Text from files is escaped.
"""

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import evaluate as evaluation
from . import report_figures as figures
from .data import Dataset
from .errors import UserError
from .generate import Generator, load
from .pixels import to_uint8
from .report_figures import (
    CURVES,
    MEANINGS,
    METRICS,
    NAMES,
    figure,
    page,
    paragraph,
    picture_table,
    pixels,
    section,
    table,
)
from .rng import seeded
from .training.build import build_dataset, build_objective
from .training.config import Config
from .training.run import RunFolder

log = logging.getLogger("alphaflow")
T = TypeVar("T")

COLUMNS = 10
POINTS = 4000
EVALUATIONS = (1, 2, 4)
NEIGHBOURS = 3


@dataclass(frozen=True)
class Found:
    """A part of the report's material: what was found, or a sentence about why there is none."""

    value: Any = None
    problem: str = ""


@dataclass(frozen=True)
class Material:
    """All that the report shows. metrics: the lines of metrics.jsonl. fresh: the evaluation was made for it."""

    folder: RunFolder
    config: Config
    record: dict[str, Any]
    generator: Generator
    metrics: list[dict[str, Any]]
    dataset: Found
    scores: Found
    samples: Found
    labels: Tensor | None
    fresh: bool
    seed: int

    @property
    def shown_classes(self) -> list[int]:
        """At most `COLUMNS` classes, evenly chosen."""
        return _spread(list(range(self.generator.num_classes)), COLUMNS)


def write_report(path: Path, *, seed: int = 0, device: torch.device | str = "cpu") -> Path:
    """Write `path`/report.html, after scoring the run if it has no evaluation.json yet.

    Args:
        path: the folder of a run. seed: of the noise. device: where to sample.

    Raises:
        UserError: the folder is no run, holds no whole checkpoint, or can't be written to.
    """
    material = _gather(RunFolder(path), seed, device)
    parts = [_header(material), _steps(material), _snapshots(material), _curves(material), _nearest(material)]
    text = page(_name(path), [*parts, _settings(material)])
    out, temporary = material.folder.report_file, material.folder.report_file.with_suffix(".tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(out)
    except OSError as error:
        raise UserError(f"cannot write {out} ({error.strerror}): make the folder writable") from None
    return out


def headlines(path: Path) -> list[str]:
    """The figures at 1 and 2 evaluations, a line each, as far as the run has been scored."""
    scores = _attempt("evaluation", lambda: evaluation.read(RunFolder(path).evaluation_file)).value
    return [
        f"{_setting(result)}: " + ", ".join(f"{name} {value:.4g}" for name, value in result["figures"].items())
        for result in (scores or {}).get("results", [])
        if result["nfe"] in (1, 2)
    ]


# ---------------------------------------------------------------------- material


def _gather(folder: RunFolder, seed: int, device: torch.device | str) -> Material:
    config, record = folder.read_config(), folder.read_record()
    generator = load(folder.path, device)
    dataset = _attempt("the training data", lambda: build_dataset(config.data))
    fresh = not folder.evaluation_file.exists()
    scores = _attempt("the evaluation", lambda: _scores(folder, generator, dataset, seed))
    labels = _labels(generator)
    count = POINTS if generator.kind == "points" else COLUMNS * _rows(generator.shape)
    given = count if labels is None else labels
    samples = _attempt("the samples", lambda: _draw(generator, given, seed))
    metrics = _read_metrics(folder.metrics_file)
    return Material(
        folder,
        config,
        record,
        generator,
        metrics,
        dataset,
        scores,
        samples,
        labels,
        fresh and bool(scores.value),
        seed,
    )


def _attempt(what: str, make: Callable[[], T]) -> Found:
    """`make()`, or the reason of its `ValueError` (every `UserError` is one) as a sentence."""
    try:
        return Found(make())
    except (ValueError, KeyError, OSError) as error:
        log.warning("report without %s: %s", what, error)
        return Found(None, f"{what[0].upper()}{what[1:]} could not be had: {error}.")


def _scores(folder: RunFolder, generator: Generator, dataset: Found, seed: int) -> dict[str, Any]:
    """evaluation.json; made first if there is none."""
    if not folder.evaluation_file.exists():
        if dataset.value is None:
            raise UserError("the run was not evaluated, and its data cannot be read")
        log.info("%s has no evaluation.json yet: scoring the run, as `alphaflow evaluate` does", folder.path)
        evaluation.evaluate(generator, dataset.value, run=str(folder.path), seed=seed).write(
            folder.evaluation_file
        )
    scores = evaluation.read(folder.evaluation_file)
    if not isinstance(scores, dict) or not {"results", "halves", "step"} <= scores.keys():
        raise UserError(f"{folder.evaluation_file} holds no evaluation: remove it, or run `alphaflow evaluate`")
    return scores


def _draw(generator: Generator, labels: Any, seed: int) -> dict[int, NDArray[Any]]:
    """Samples by number of evaluations, all from the same noise: uint8 (N, H, W, C), or points (N, 2)."""
    drawn = {nfe: generator.samples(labels, nfe, seed) for nfe in EVALUATIONS}
    if generator.kind == "points":
        return {nfe: x.numpy() for nfe, x in drawn.items()}
    return {nfe: to_uint8(x) for nfe, x in drawn.items()}


def _labels(generator: Generator) -> Tensor | None:
    """Classes of the samples, a column for each that is shown."""
    if generator.num_classes == 0:
        return None
    if generator.kind == "points":
        return torch.arange(POINTS) % generator.num_classes
    return torch.tensor(_spread(list(range(generator.num_classes)), COLUMNS) * _rows(generator.shape))


def _rows(shape: Sequence[int]) -> int:
    """Images in a column: fewer where they are large."""
    return 10 if shape[-1] <= 32 else 4 if shape[-1] <= 64 else 2


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl."""
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:  # cut short by a kill
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines


def _name(path: Path) -> str:
    return path.resolve().name


def _spread(items: list[T], count: int) -> list[T]:
    """At most `count` of the items, evenly chosen, with the first and the last."""
    if len(items) <= count:
        return items
    return [items[round(k * (len(items) - 1) / (count - 1))] for k in range(count)]


def _columns(m: Material) -> int:
    return len(m.shown_classes) or COLUMNS


def _names(m: Material) -> list[str]:
    """Headings of the columns of images."""
    return [m.generator.class_names[k] for k in m.shown_classes]


def _setting(result: Mapping[str, Any]) -> str:
    method = "" if result["method"] == "ode" else f", {result['method']}"
    times = f", t = {' → '.join(f'{t:g}' for t in result['times'])}" if result.get("times") else ""
    return f"{result['nfe']} NFE{method}{times}"


# ---------------------------------------------------------------------- sections


def _header(m: Material) -> str:
    """What was trained, one-step samples, and the figures."""
    if m.samples.value is None:
        shown = paragraph(m.samples.problem)
    elif m.generator.kind == "points":
        picture = figures.points(m.samples.value[1], _real_points(m))
        shown = figure(picture, "generated points", f"{POINTS:,} generated points, blue, over real ones, grey.")
    else:
        of = "A column for each class" if m.shown_classes else "No classes"
        shown = _image_columns(m, m.samples.value[1], "generated in one step")
        shown += paragraph(f"{of}, one network evaluation each; the first of seed {m.seed}, not selected.", "note")
    return (
        f'<header><p class="kicker">α-Flow run report</p><h1>{escape(_name(m.folder.path))}</h1>'
        f"{paragraph(_summary(m), 'lead')}</header><div class='hero'>"
        f"{section('one', 'Samples in one step', shown)}{section('figures', 'Key figures', _key_figures(m))}</div>"
    )


def _summary(m: Material) -> str:
    config, data, step = m.config, m.record["data"], m.generator.step
    size = sum(p.numel() for p in m.generator.net.parameters())
    model = {"dit": "DiT", "mlp": "MLP", "unet": "U-Net"}[config.model.name]
    source = {"toy": f"the toy {config.data.toy}", "folder": config.data.path}.get(
        config.data.name, config.data.name
    )
    kind = "images" if data["kind"] == "image" else data["kind"]
    classes = f"{data['num_classes']} classes" if data["num_classes"] else "no classes"
    return (
        f"Recipe {config.recipe}: a {model} with {size:,} parameters, trained from scratch with the objective "
        f"{config.objective.name} for {step:,}{'' if step == config.steps else f' of {config.steps:,}'} steps of "
        f"{config.batch_size:,} samples{_duration(m)}. Data: {source}, {data['count']:,} {kind} of "
        f"{' × '.join(map(str, data['shape']))}, {classes}."
    )


def _duration(m: Material) -> str:
    """From the logged speeds; nothing where one is missing."""
    seconds, last = 0.0, 0
    for line in m.metrics:
        speed = line.get("samples_per_second")
        if not speed:
            return ""
        seconds += (line["step"] - last) * m.config.batch_size / speed
        last = line["step"]
    for unit, length in (("hours", 3600), ("minutes", 60), ("seconds", 1)):
        if seconds >= 2 * length:
            return f", in about {seconds / length:.0f} {unit}"
    return ""


def _key_figures(m: Material) -> str:
    if m.scores.value is None:
        return paragraph(m.scores.problem)
    results = m.scores.value["results"]
    chosen = [r for r in results if r["nfe"] in (1, 2)][:2] or results[:2]
    return _score_table(m.scores.value, chosen, explain=True) + paragraph(_protocol(m, chosen[0]), "note")


def _score_table(scores: Mapping[str, Any], results: Sequence[Mapping[str, Any]], explain: bool = False) -> str:
    rows = []
    for name, halves in scores["halves"].items():
        meaning = f"<small>{escape(MEANINGS[name])}</small>" if explain and name in MEANINGS else ""
        values = [*(r["figures"].get(name) for r in results), halves]
        rows.append((escape(METRICS.get(name, name)) + meaning, [_number(value) for value in values]))
    head = ["Metric", *(escape(_setting(r)) for r in results), "Two halves of the real data"]
    return table(head, rows, "↓ low is good, ↑ high is good, ≈ best as between the halves", "figures")


def _number(value: float | None) -> str:
    """Rounded for people, in full for machines."""
    return "–" if value is None else f'<data value="{value!r}">{value:.3g}</data>'


def _protocol(m: Material, first: Mapping[str, Any]) -> str:
    """What the figures hold for, and how far they can be trusted."""
    scores = m.scores.value
    text = (
        f"Protocol: {first['count']:,} samples with labels {first['labels']}, seed {first['seed']}, "
        f"{first['weights'].upper()} weights of step {scores['step']:,}, against {scores['real_count']:,} real ones. "
        "The last column scores random halves of these against each other, mean of 5 splits: what a perfect generator "
        "would get with half the data, hence a little worse than with all. "
    )
    if scores["detector"]:
        text += f"Detector: {scores['detector'][:31]}…, a small classifier: do not compare with published FIDs. "
    else:
        text += "No detector fits this data: distances are between the samples themselves. "
    if m.fresh:
        text += "The run had not been evaluated: making this report did it. "
    if scores["step"] != m.generator.step:
        text += f"The pictures are of step {m.generator.step:,}: run `alphaflow evaluate` to renew the figures. "
    if scores.get("data") != m.record["data"].get("fingerprint"):
        text += "The evaluation saw other data than the training. "
    return text


def _steps(m: Material) -> str:
    """The same noise at 1, 2, 4 evaluations, and real data."""
    if m.samples.value is None:
        return section("steps", "More steps, the same noise", paragraph(m.samples.problem))
    rows, panels = min(4, _rows(m.generator.shape)), []
    for nfe, samples in m.samples.value.items():
        if m.generator.kind == "points":
            shown = figure(
                figures.points(samples, _real_points(m)), f"points generated with {nfe} evaluations", ""
            )
        else:
            shown = _image_columns(m, samples[: rows * _columns(m)], f"generated with {nfe} evaluations")
        panels.append(f"<div><h3>{nfe} NFE</h3>{shown}</div>")
    real = paragraph(m.dataset.problem)
    if m.dataset.value is not None and m.generator.kind == "points":
        real = figure(figures.points(np.empty((0, 2)), _real_points(m)), "real points", "")
    elif m.dataset.value is not None:
        real = picture_table(_real_columns(m, rows), _names(m), "real")
    body = (
        "<p>In each panel the samples start from the same noise and follow the learnt flow (ODE) in 1, 2 or 4 jumps "
        "(NFE: network evaluations). A good one-step generator shows the same pictures in all of them.</p>"
        f"<div class='panels'>{''.join(panels)}<div><h3>Real data</h3>{real}</div></div>"
    )
    if m.scores.value is not None and len(m.scores.value["results"]) > 2:
        body += "<h3>All settings that were evaluated</h3>" + _score_table(
            m.scores.value, m.scores.value["results"]
        )
    return section("steps", "More steps, the same noise", body)


def _image_columns(m: Material, images: NDArray[np.uint8], what: str) -> str:
    count = _columns(m)
    return picture_table([figures.column(list(images[k::count])) for k in range(count)], _names(m), what)


def _real_points(m: Material) -> NDArray[Any] | None:
    if m.dataset.value is None:
        return None
    return m.dataset.value.batch(_order(m.dataset.value)[:POINTS])[0].numpy()


def _real_columns(m: Material, rows: int) -> list[str]:
    """Real images for each column, drawn at random."""
    places = {label: k for k, label in enumerate(m.shown_classes)}
    found: list[list[Any]] = [[] for _ in range(_columns(m))]
    for some in _order(m.dataset.value).split(256):
        x, y = m.dataset.value.batch(some)
        for k, image in enumerate(to_uint8(x)):
            place = k % COLUMNS if y is None else places.get(int(y[k]))
            if place is not None and len(found[place]) < rows:
                found[place].append(image)
        if all(len(images) == rows for images in found):
            break
    return [figures.column(images) for images in found if images]


def _order(dataset: Dataset) -> Tensor:
    return torch.randperm(len(dataset), generator=seeded("report"))


def _snapshots(m: Material) -> str:
    paths = sorted(p for p in m.folder.samples.glob("step-*.png") if p.stem[5:].isdigit())
    shown = [(int(p.stem[5:]), uri) for p in _spread(paths, 6) if (uri := figures.snapshot(p))]
    if not shown:
        body = "<p>The run holds no sample pictures (samples/step-*.png) yet.</p>"
    else:
        cards = "".join(figure(uri, f"samples at step {k}", f"Step {k:,}", "paper") for k, uri in shown)
        body = (
            "<p>One-step samples of the averaged weights while training went on, always from the same noise.</p>"
            f"<div class='thirds'>{cards}</div>"
        )
    return section("training", "Over training", body)


def _curves(m: Material) -> str:
    drawn, plan = [], _alpha_plan(m)
    for label, keys, caption in CURVES if len(m.metrics) > 1 else ():
        lines = {NAMES.get(key, key): line for key in keys.split() if (line := _line(m.metrics, key)) is not None}
        if lines:
            smooth, log_scale = (
                label not in ("α, flow ratio", "learning rate"),
                label[:8] in ("residual", "gradient"),
            )
            dashed = plan if "alpha" in keys else None
            picture = figures.curves(lines, label, log=log_scale, raw=smooth, plan=dashed)
            drawn.append(figure(picture, f"{label} over the training steps", caption))
    body = (
        "<p>Raw values are faint, their running mean lies on top. <strong>Watch the residual</strong>, the un-weighted "
        "distance between the network and its target. The weighted loss comes last: under an adaptive weight "
        "it is the residual divided by itself, near 1 by construction (near α on rows with 0 &lt; α &lt; 1), "
        f"however training goes.</p><div class='halves'>{''.join(drawn)}</div>"
    )
    few = f"<p>metrics.jsonl holds {len(m.metrics)} readable lines: too few for curves.</p>"
    return section("curves", "Curves", body if drawn else few)


def _line(metrics: Sequence[Mapping[str, Any]], key: str) -> figures.Line | None:
    """A number over the steps, NaN where it is null; None if it never is one."""
    values = [line.get(key) for line in metrics]
    known = np.array([float(v) if isinstance(v, int | float) else math.nan for v in values])
    return None if np.isnan(known).all() else (np.array([line["step"] for line in metrics], float), known)


def _alpha_plan(m: Material) -> figures.Line | None:
    """The schedule of α over the whole run; None where α is drawn row by row."""
    steps = np.linspace(0, m.config.steps, 201)
    objective = _attempt("the schedule of α", lambda: build_objective(m.config, m.generator.num_classes)).value
    values = [objective and objective.alpha_at(int(step)) for step in steps]
    return None if None in values else (steps, np.array(values, float))


def _nearest(m: Material) -> str:
    """Generated samples beside the training images that are most like them."""
    title = "Nearest training images"
    if m.generator.kind == "points":
        return section(
            "nearest", title, "<p>Not shown for points: among so many, every good sample lies near one.</p>"
        )
    if m.dataset.value is None or m.samples.value is None:
        return section("nearest", title, paragraph(m.dataset.problem or m.samples.problem))
    images = m.samples.value[1][: _columns(m)]
    distances, rows = _search(images, m.dataset.value)
    near = to_uint8(m.dataset.value.batch(rows.flatten())[0]).reshape(*rows.shape, *images.shape[1:])
    names = _names(m) or [f"sample {k + 1}" for k in range(len(images))]
    lines = [
        ("Generated", [pixels(figures.column([image]), f"generated, {n}") for image, n in zip(images, names)])
    ]
    for k in range(rows.shape[1]):
        shown = [pixels(figures.column([near[i, k]]), f"nearest to {n}, {k + 1}") for i, n in enumerate(names)]
        cells = [f"{image}<small>{distances[i, k]:.3f}</small>" for i, image in enumerate(shown)]
        lines.append((f"Nearest {k + 1}", cells))
    note = "A model that memorises shows the same picture twice. Distances are root mean squares over pixels in [−1, 1]."
    if m.config.data.flip:
        note += " Mirrored images, which this run trained on too, are not searched."
    head = ["", *(escape(name) for name in names)]
    shown_table = table(head, lines, "One-step samples and the training images nearest to them", "near")
    return section("nearest", title, paragraph(note) + shown_table + paragraph(_copies(m)))


def _copies(m: Material) -> str:
    """The two figures about memorising, in words."""
    scores = m.scores.value or {"halves": {}}
    if "copies" not in scores["halves"]:
        return ""
    settings = [
        *((_setting(r), r["figures"]) for r in scores["results"]),
        ("between the real halves", scores["halves"]),
    ]
    said = "; ".join(f"{name}: {f['neighbour']:.3f}, {f['copies']:.1%}" for name, f in settings)
    return (
        f"Over all samples, the median distance to the nearest training image and the share of copies are {said}. "
        "A copy is nearer to a training image than all but 1 % of those are to each other: about 1 % for new samples, "
        "near 100 % for a memoriser. A distance far above that of the halves means poor samples, far below it "
        "copying; a little below is expected, for samples are compared with all of the data and halves with a half."
    )


def _search(images: NDArray[np.uint8], dataset: Dataset) -> tuple[Tensor, Tensor]:
    """Distances and rows of the nearest training images, both (N, `NEIGHBOURS`)."""

    def flat(pictures: NDArray[np.uint8]) -> Tensor:
        return torch.from_numpy(pictures.reshape(len(pictures), -1).astype(np.float64)) / 127.5 - 1

    query = flat(images)
    best, rows = torch.empty(len(query), 0, dtype=torch.float64), torch.empty(len(query), 0, dtype=torch.int64)
    for some in torch.arange(len(dataset)).split(1024):
        real = flat(to_uint8(dataset.batch(some)[0]))
        found = torch.cdist(query, real, compute_mode="donot_use_mm_for_euclid_dist") / query.shape[1] ** 0.5
        best, rows = torch.cat([best, found], 1), torch.cat([rows, some.expand(len(query), -1)], 1)
        best, order = best.topk(min(NEIGHBOURS, best.shape[1]), largest=False)
        rows = rows.gather(1, order)
    return best, rows


def _settings(m: Material) -> str:
    used = {
        **(m.record.get("versions") or {}),
        "git revision": m.record.get("git") or "outside a checkout",
        "data fingerprint": m.record["data"].get("fingerprint"),
        "checkpoint": f"step {m.generator.step:,}",
    }
    rows = [(escape(str(name)), [escape(str(value))]) for name, value in used.items()]
    text = escape(m.folder.config_file.read_text(encoding="utf-8"))
    details = f"<details><summary>config.yaml, every setting</summary><pre>{text}</pre></details>"
    return section("settings", "Settings and versions", table(["Part", "Version"], rows, "", "plain") + details)
