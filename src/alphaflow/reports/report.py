"""A run's report: one HTML file that holds everything it shows, and loads nothing.

Whatever a part needs and does not find becomes a sentence in its place."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data import Dataset
from ..evaluation import evaluate as evaluation
from ..files import write_text
from ..method.self_steering import SelfSteering
from ..observers.class_residuals import class_means
from ..pixels import to_uint8
from ..rng import seeded
from ..runs.build import build_objective, stated
from ..runs.checkpoint import Checkpoint
from ..runs.folder import RunFolder
from . import html, plots
from .material import COLUMNS, POINTS, Material, attempt, gather
from .plots import spread

NEIGHBOURS = 3
SHOWN_CLASSES = 50


def write_report(path: Path, *, seed: int = 0, device: torch.device | str = "cpu") -> Path:
    """Write `path`/report.html, after scoring the run if it has no evaluation.json yet.

    Args:
        path: the folder of a run. seed: of the noise. device: where to sample.

    Raises:
        UserError: the folder is no run, holds no whole checkpoint, or can't be written to.
    """
    m = gather(RunFolder(path), seed, device)
    scores = m.scores.value
    results = scores["results"] if scores else []
    chosen = [r for r in results if r["nfe"] in (1, 2)][:2] or results[:2]
    text = html.page(
        m=m,
        name=path.resolve().name,
        names=m.names,
        points=m.generator.kind == "points",
        summary=_summary(m),
        **(_panels(m) if m.samples.value is not None else {"panels": {}}),
        real=_real_shown(m),
        key_figures=html.score_table(scores, chosen) if scores else None,
        protocol=_protocol(m, chosen[0]) if scores else "",
        all_figures=html.score_table(scores, results) if len(results) > 2 else None,
        snapshots=_snapshots(m),
        curves=plots.training_curves(m.metrics, _alpha_plan(m)),
        classes=_by_class(m),
        nearest=_nearest(m),
        copies=html.copies(scores) if scores else "",
        versions=_versions(m),
        settings=m.folder.config_file.read_text(encoding="utf-8"),
    )
    write_text(m.folder.report_file, text)
    return m.folder.report_file


def headlines(path: Path) -> list[str]:
    """Return the figures at 1 and 2 evaluations, a line each, as far as the run has been scored."""
    scores = attempt("evaluation", lambda: evaluation.read(RunFolder(path).evaluation_file)).value
    return [
        f"{html.setting(result)}: " + ", ".join(f"{name} {value:.4g}" for name, value in result["figures"].items())
        for result in (scores or {}).get("results", [])
        if result["nfe"] in (1, 2)
    ]


# ---------------------------------------------------------------------- sections


def _panels(m: Material) -> dict[str, Any]:
    """Return samples at 1, 2, 4 evaluations; the first on top of the page, larger, with a note."""
    if m.generator.kind == "points":
        note = f"{POINTS:,} generated points, blue, over real ones, grey."
        panels: dict[int, Any] = {n: plots.points(some, _real_points(m)) for n, some in m.samples.value.items()}
        return {"panels": panels, "first": panels[1], "note": note}
    rows, first = min(4, m.rows), m.samples.value[1]
    return {
        "panels": {nfe: _columns(m, some[: rows * m.columns]) for nfe, some in m.samples.value.items()},
        "first": _columns(m, first),
        "film": [list(f) for f in first[:4].swapaxes(0, 1)] if len(m.generator.shape) == 4 else None,
        "note": f"{_classes_shown(m)}, one network evaluation each; the first of seed {m.seed}, not selected."
        + m.shown.problem,
    }


def _classes_shown(m: Material) -> str:
    """Return what the columns are, in words."""
    shown, all_of_them = len(set(m.classes)), m.generator.num_classes
    if m.prompts:
        return "A column for each prompt"
    if not shown:
        return "No classes"
    return (
        "A column for each class" if shown == all_of_them else f"{shown} of {all_of_them} classes, a column each"
    )


def _summary(m: Material) -> str:
    config, data, step = m.config, m.record["data"], m.generator.step
    size = sum(p.numel() for p in m.generator.net.parameters())
    model = {"dit": "a DiT", "video-dit": "a video DiT", "mlp": "an MLP", "unet": "a U-Net"}.get(
        config.model.name, "an adapted network"
    )
    source = {
        "toy": f"the toy {config.data.toy}",
        "digits": "scikit-learn's digits",
        "fashion": "Fashion-MNIST",
        "shapes": "drawn shapes with captions",
        "moving-digits": "scikit-learn's digits in motion",
    }.get(config.data.name, config.data.path)
    shape = " × ".join(map(str, data["shape"]))
    kind = "points in the plane" if data["kind"] == "points" else f"{data['kind']}s of {shape}"
    classes = f"{data['num_classes']} classes" if data["num_classes"] else "no classes"
    classes = "with captions" if data.get("vocabulary") else classes
    took = _duration(m.metrics, config.batch_size)
    return (
        f"Recipe {config.recipe}: {model} with {size:,} parameters, trained from scratch with the objective "
        f"{config.objective.name} for {step:,}{'' if step == config.steps else f' of {config.steps:,}'} steps of "
        f"{config.batch_size:,} samples{took}. Data: {source}, "
        f"{data['count']:,} {kind}, {classes}. Objective {stated(m.record)}."
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


def _protocol(m: Material, first: Mapping[str, Any]) -> str:
    """Return what the figures hold for, and how far they can be trusted."""
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
        ours = scores["detector"].split(",")[0].endswith("-cnn")
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
    """Return what the figures are against; a reference may not tell how many it is made of."""
    if scores["halves"]:
        return f"{scores['real_count']:,} real"
    return str(scores["against"]) + (f" of {scores['real_count']:,} real ones" if scores["real_count"] else "")


def _columns(m: Material, images: NDArray[np.uint8]) -> list[list[NDArray[np.uint8]]]:
    return [list(images[k :: m.columns]) for k in range(m.columns)]


def _real_shown(m: Material) -> Any:
    """Real data as the samples are shown; None without."""
    if m.dataset.value is None:
        return None
    if m.generator.kind == "points":
        return plots.points(np.empty((0, 2)), _real_points(m))
    return _real_columns(m, min(4, m.rows))


def _real_points(m: Material) -> NDArray[Any] | None:
    if m.dataset.value is None:
        return None
    return m.dataset.value.batch(_order(m.dataset.value)[:POINTS])[0].numpy()


def _real_columns(m: Material, rows: int) -> list[list[NDArray[np.uint8]]]:
    """Real images for each column, drawn at random."""
    wanted: list[Any] = m.classes or [None] * COLUMNS
    classes = m.dataset.value.num_classes
    found: list[list[Any]] = [[] for _ in wanted]
    for some in _order(m.dataset.value).split(256):
        x, y = m.dataset.value.batch(some)
        for k, image in enumerate(x):
            label = int(y[k]) if y is not None and classes else None
            free = (images for images, of in zip(found, wanted) if of == label and len(images) < rows)
            next(free, []).append(image)
        if all(len(images) == rows for images in found):
            break
    return [list(m.shown.value(torch.stack(images))) if images else [] for images in found]


def _order(dataset: Dataset) -> Tensor:
    return torch.randperm(len(dataset), generator=seeded("report"))


def _snapshots(m: Material) -> list[tuple[int, str]]:
    """Return steps, and the pictures that were taken at them."""
    paths = sorted(p for p in m.folder.samples.glob("step-*.png") if p.stem[5:].isdigit())
    return [(int(p.stem[5:]), uri) for p in spread(paths, 6) if (uri := plots.snapshot(p))]


def _alpha_plan(m: Material) -> plots.Line | None:
    """Return the schedule of α over the whole run; None where α is drawn row by row, or steers itself."""
    steps = np.linspace(0, m.config.steps, 201)
    objective = attempt("the schedule of α", lambda: build_objective(m.config, m.generator.told)).value
    if objective is None or isinstance(objective.alpha, SelfSteering):
        return None
    values = [objective.alpha_at(int(step)) for step in steps]
    return None if None in values else (steps, np.array(values, float))


def _by_class(m: Material) -> tuple[str, str] | None:
    """Return the classes with the highest residuals, and which; None without classes or too early to tell."""
    place = m.folder.checkpoints / f"step-{m.generator.step:08d}"
    means = attempt("the residual by class", lambda: class_means(Checkpoint(place).state)).value
    if means is None or np.isnan(means).all():
        return None
    order = [int(k) for k in np.argsort(-means) if not np.isnan(means[k])]
    shown, names = order[:SHOWN_CLASSES], m.generator.class_names
    values = {f"{k} {names[k]}" if names[k] != str(k) else str(k): float(means[k]) for k in shown}
    which = f"The {len(shown)} highest of {len(order)}" if len(shown) < len(order) else f"All {len(order)}"
    return plots.bars(values, "residual", float(np.nanmedian(means)), "median of all classes"), which


def _nearest(m: Material) -> list[tuple[str, Any, list[tuple[Any, float]]]]:
    """Return generated samples, named, with the training images that are most like them and how far these are."""
    if m.generator.kind != "image" or m.dataset.value is None or m.samples.value is None:
        return []
    images = m.samples.value[1][: m.columns]
    distances, rows = _search(images, m.dataset.value)
    near = to_uint8(m.dataset.value.batch(rows.flatten())[0]).reshape(*rows.shape, *images.shape[1:])
    names = m.names or [f"sample {k + 1}" for k in range(len(images))]
    shown = zip(names, images, near, distances.tolist())
    return [(name, image, list(zip(found, far))) for name, image, found, far in shown]


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


def _versions(m: Material) -> dict[str, Any]:
    return {
        **(m.record.get("versions") or {}),
        "git revision": m.record.get("git") or "outside a checkout",
        "data fingerprint": m.record["data"].get("fingerprint"),
        "checkpoint": f"step {m.generator.step:,}",
    }
