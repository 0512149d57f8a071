"""A run's report: one HTML file that holds everything it shows, and loads nothing.

Whatever a part needs and does not find becomes a sentence in its place. Text from files is escaped.
"""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import evaluate as evaluation
from . import report_figures as show
from .data import Dataset
from .errors import UserError
from .pixels import to_uint8
from .report_material import COLUMNS, POINTS, Material, attempt, gather
from .rng import seeded
from .steering import SelfSteering
from .training.build import build_objective
from .training.checkpoint import Checkpoint
from .training.classes import class_means
from .training.run import RunFolder

NEIGHBOURS = 3
SHOWN_CLASSES = 50


def write_report(path: Path, *, seed: int = 0, device: torch.device | str = "cpu") -> Path:
    """Write `path`/report.html, after scoring the run if it has no evaluation.json yet.

    Args:
        path: the folder of a run. seed: of the noise. device: where to sample.

    Raises:
        UserError: the folder is no run, holds no whole checkpoint, or can't be written to.
    """
    material = gather(RunFolder(path), seed, device)
    parts = [
        _header(material),
        _steps(material),
        _snapshots(material),
        show.training_curves(material.metrics, _alpha_plan(material)),
        _by_class(material),
        _nearest(material),
    ]
    text = show.page(path.resolve().name, [*parts, _settings(material)])
    out, temporary = material.folder.report_file, material.folder.report_file.with_suffix(".tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(out)
    except OSError as error:
        raise UserError(f"cannot write {out} ({error.strerror}): make the folder writable") from None
    return out


def headlines(path: Path) -> list[str]:
    """The figures at 1 and 2 evaluations, a line each, as far as the run has been scored."""
    scores = attempt("evaluation", lambda: evaluation.read(RunFolder(path).evaluation_file)).value
    return [
        f"{show.setting(result)}: " + ", ".join(f"{name} {value:.4g}" for name, value in result["figures"].items())
        for result in (scores or {}).get("results", [])
        if result["nfe"] in (1, 2)
    ]


# ---------------------------------------------------------------------- sections


def _header(m: Material) -> str:
    """What was trained, one-step samples, and the figures."""
    if m.samples.value is None:
        shown = show.paragraph(m.samples.problem)
    elif m.generator.kind == "points":
        picture = show.points(m.samples.value[1], _real_points(m))
        shown = show.figure(
            picture, "generated points", f"{POINTS:,} generated points, blue, over real ones, grey."
        )
    else:
        of = "A column for each class" if m.classes else "No classes"
        shown = _columns(m, m.samples.value[1], "generated in one step")
        note = f"{of}, one network evaluation each; the first of seed {m.seed}, not selected.{m.shown.problem}"
        shown += show.paragraph(note, "note") + _film(m)
    key_figures = show.section("figures", "Key figures", _key_figures(m))
    return (
        f'<header><p class="kicker">α-Flow run report</p><h1>{escape(m.folder.path.resolve().name)}</h1>'
        f"{show.paragraph(_summary(m), 'lead')}</header><div class='hero'>"
        f"{show.section('one', 'Samples in one step', shown)}{key_figures}</div>"
    )


def _film(m: Material) -> str:
    """Of videos, the first ones frame by frame, for those who look at a page that stands still."""
    if len(m.generator.shape) != 4:
        return ""
    frames = m.samples.value[1][:4].swapaxes(0, 1)
    return show.pixels([list(frame) for frame in frames], "the first videos, a row each, frame by frame")


def _summary(m: Material) -> str:
    config, data, step = m.config, m.record["data"], m.generator.step
    size = sum(p.numel() for p in m.generator.net.parameters())
    model = {"dit": "a DiT", "video-dit": "a video DiT", "mlp": "an MLP", "unet": "a U-Net"}[config.model.name]
    source = {
        "toy": f"the toy {config.data.toy}",
        "digits": "scikit-learn's digits",
        "moving-digits": "scikit-learn's digits in motion",
    }.get(config.data.name, config.data.path)
    shape = " × ".join(map(str, data["shape"]))
    kind = "points in the plane" if data["kind"] == "points" else f"{data['kind']}s of {shape}"
    classes = f"{data['num_classes']} classes" if data["num_classes"] else "no classes"
    took = _duration(m.metrics, config.batch_size)
    return (
        f"Recipe {config.recipe}: {model} with {size:,} parameters, trained from scratch with the objective "
        f"{config.objective.name} for {step:,}{'' if step == config.steps else f' of {config.steps:,}'} steps of "
        f"{config.batch_size:,} samples{took}. Data: {source}, "
        f"{data['count']:,} {kind}, {classes}."
    )


def _duration(metrics: list[dict[str, Any]], batch_size: int) -> str:
    """From the logged speeds; nothing where one is missing. Lines of observers alone have none."""
    metrics = [line for line in metrics if "residual" in line]
    steps = np.diff([0, *(line["step"] for line in metrics)])
    speeds = [line.get("samples_per_second") for line in metrics]
    seconds = sum(k * batch_size / speed for k, speed in zip(steps, speeds)) if all(speeds) else 0
    for unit, length in (("hours", 3600), ("minutes", 60), ("seconds", 1)):
        if seconds >= 2 * length:
            return f", in about {seconds / length:.0f} {unit}"
    return ""


def _key_figures(m: Material) -> str:
    if m.scores.value is None:
        return show.paragraph(m.scores.problem)
    results = m.scores.value["results"]
    chosen = [r for r in results if r["nfe"] in (1, 2)][:2] or results[:2]
    return show.score_table(m.scores.value, chosen, explain=True) + show.paragraph(_protocol(m, chosen[0]), "note")


def _protocol(m: Material, first: Mapping[str, Any]) -> str:
    """What the figures hold for, and how far they can be trusted."""
    scores = m.scores.value
    text = (
        f"Protocol: {first['count']:,} samples with labels {first['labels']}, seed {first['seed']}, "
        f"{first['weights'].upper()} weights of step {scores['step']:,}, against {_real(scores)}. "
    )
    if scores["halves"]:
        text += (
            "The last column scores random halves of these against each other, mean of 5 splits: what a perfect "
            "generator would get with half the data, hence a little worse than with all. "
        )
    if "neighbour" in scores["halves"]:
        text += "There, nearest neighbours and copies are of each real sample among all others. "
    if scores["detector"]:
        ours = "digits-cnn" in scores["detector"].split(",")[0]
        small = ", a small classifier: do not compare with published FIDs" if ours else ""
        text += f"Detector: {scores['detector'][:31]}…{small}. "
    else:
        text += "No detector fits this data: distances are between the samples themselves. "
    if m.fresh:
        text += "The run had not been evaluated: making this report did it. "
    if scores["step"] != m.generator.step:
        text += f"The pictures are of step {m.generator.step:,}: run `alphaflow evaluate` to renew the figures. "
    if scores["halves"] and not scores.get("data", "").startswith(m.record["data"].get("fingerprint", "?")):
        text += "The evaluation saw other data than the training. "
    return text


def _real(scores: Mapping[str, Any]) -> str:
    """What the figures are against; a reference may not tell how many it is made of."""
    if scores["halves"]:
        return f"{scores['real_count']:,} real"
    return str(scores["against"]) + (f" of {scores['real_count']:,} real ones" if scores["real_count"] else "")


def _steps(m: Material) -> str:
    """The same noise at 1, 2, 4 evaluations, and real data."""
    if m.samples.value is None:
        return show.section("steps", "More steps, the same noise", show.paragraph(m.samples.problem))
    rows, panels = min(4, m.rows), []
    for nfe, samples in m.samples.value.items():
        if m.generator.kind == "points":
            shown = show.figure(
                show.points(samples, _real_points(m)), f"points generated with {nfe} evaluations", ""
            )
        else:
            shown = _columns(m, samples[: rows * m.columns], f"generated with {nfe} evaluations")
        panels.append(f"<div><h3>{nfe} NFE</h3>{shown}</div>")
    real = show.paragraph(m.dataset.problem)
    if m.dataset.value is not None and m.generator.kind == "points":
        real = show.figure(show.points(np.empty((0, 2)), _real_points(m)), "real points", "")
    elif m.dataset.value is not None:
        real = show.picture_table(_real_columns(m, rows), m.names, "real images")
    body = (
        "<p>In each panel the samples start from the same noise and follow the learnt flow (ODE) in 1, 2 or 4 "
        "jumps (NFE: network evaluations). A good one-step generator shows the same pictures in all.</p>"
        f"<div class='panels'>{''.join(panels)}<div><h3>Real data</h3>{real}</div></div>"
    )
    if m.scores.value is not None and len(m.scores.value["results"]) > 2:
        body += "<h3>All settings that were evaluated</h3>" + show.score_table(
            m.scores.value, m.scores.value["results"]
        )
    return show.section("steps", "More steps, the same noise", body)


def _columns(m: Material, images: NDArray[np.uint8], what: str) -> str:
    return show.picture_table([list(images[k :: m.columns]) for k in range(m.columns)], m.names, what)


def _real_points(m: Material) -> NDArray[Any] | None:
    if m.dataset.value is None:
        return None
    return m.dataset.value.batch(_order(m.dataset.value)[:POINTS])[0].numpy()


def _real_columns(m: Material, rows: int) -> list[list[NDArray[np.uint8]]]:
    """Real images for each column, drawn at random."""
    wanted: list[Any] = m.classes or [None] * COLUMNS
    found: list[list[Any]] = [[] for _ in wanted]
    for some in _order(m.dataset.value).split(256):
        x, y = m.dataset.value.batch(some)
        for k, image in enumerate(x):
            label = None if y is None else int(y[k])
            free = (images for images, of in zip(found, wanted) if of == label and len(images) < rows)
            next(free, []).append(image)
        if all(len(images) == rows for images in found):
            break
    return [list(m.shown.value(torch.stack(images))) if images else [] for images in found]


def _order(dataset: Dataset) -> Tensor:
    return torch.randperm(len(dataset), generator=seeded("report"))


def _snapshots(m: Material) -> str:
    paths = sorted(p for p in m.folder.samples.glob("step-*.png") if p.stem[5:].isdigit())
    shown = [(int(p.stem[5:]), uri) for p in show.spread(paths, 6) if (uri := show.snapshot(p))]
    if not shown:
        body = "<p>The run holds no sample pictures (samples/step-*.png) yet.</p>"
    else:
        cards = "".join(show.figure(uri, f"samples at step {k}", f"Step {k:,}", "paper") for k, uri in shown)
        body = (
            "<p>One-step samples of the averaged weights while training went on, always from the same noise.</p>"
            f"<div class='thirds'>{cards}</div>"
        )
    return show.section("training", "Over training", body)


def _alpha_plan(m: Material) -> show.Line | None:
    """The schedule of α over the whole run; None where α is drawn row by row, or steers itself."""
    steps = np.linspace(0, m.config.steps, 201)
    objective = attempt("the schedule of α", lambda: build_objective(m.config, m.generator.num_classes)).value
    if objective is None or isinstance(objective.alpha, SelfSteering):
        return None
    values = [objective.alpha_at(int(step)) for step in steps]
    return None if None in values else (steps, np.array(values, float))


def _by_class(m: Material) -> str:
    """The classes with the highest residuals; nothing without classes, or before one was seen often enough."""
    place = m.folder.checkpoints / f"step-{m.generator.step:08d}"
    means = attempt("the residual by class", lambda: class_means(Checkpoint(place).state)).value
    if means is None or np.isnan(means).all():
        return ""
    order = [int(k) for k in np.argsort(-means) if not np.isnan(means[k])]
    shown, names = order[:SHOWN_CLASSES], m.generator.class_names
    values = {f"{k} {names[k]}" if names[k] != str(k) else str(k): float(means[k]) for k in shown}
    which = f"The {len(shown)} highest of {len(order)}" if len(shown) < len(order) else f"All {len(order)}"
    caption = (
        f"{which} classes, running means at the end. Compare them with each other: their level is that of the α "
        "then, and classes differ by nature. One far above the others has too few samples, or samples unlike each "
        "other."
    )
    uri = show.bars(values, "residual", float(np.nanmedian(means)), "median of all classes")
    body = f"<div class='halves'>{show.figure(uri, 'residual of each class', caption)}</div>"
    return show.section("classes", "Residual by class", body)


def _nearest(m: Material) -> str:
    """Generated samples beside the training images that are most like them."""
    title = "Nearest training images"
    if m.generator.kind != "image":
        body = "<p>Not shown for points and latents: among many points, every good sample lies near one.</p>"
        return show.section("nearest", title, body)
    if m.dataset.value is None or m.samples.value is None:
        return show.section("nearest", title, show.paragraph(m.dataset.problem or m.samples.problem))
    images = m.samples.value[1][: m.columns]
    distances, rows = _search(images, m.dataset.value)
    near = to_uint8(m.dataset.value.batch(rows.flatten())[0]).reshape(*rows.shape, *images.shape[1:])
    names = m.names or [f"sample {k + 1}" for k in range(len(images))]
    lines = [("Generated", [show.pixels([[image]], f"generated, {name}") for image, name in zip(images, names)])]
    for k in range(rows.shape[1]):
        shown = [show.pixels([[near[i, k]]], f"nearest to {name}, {k + 1}") for i, name in enumerate(names)]
        cells = [f"{image}<small>{distances[i, k]:.3f}</small>" for i, image in enumerate(shown)]
        lines.append((f"Nearest {k + 1}", cells))
    note = (
        "A model that memorises shows the same picture twice. Distances: root mean squares over pixels in [−1, 1]."
    )
    if m.config.data.flip:
        note += " Mirrored images, which this run trained on too, are not searched."
    head = ["", *(escape(name) for name in names)]
    body = show.paragraph(note) + show.table(head, lines, "One-step samples and their nearest images", "near")
    return show.section("nearest", title, body + show.paragraph(show.copies(m.scores.value or {"halves": {}})))


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
    return show.section(
        "settings", "Settings and versions", show.table(["Part", "Version"], rows, "", "plain") + details
    )
