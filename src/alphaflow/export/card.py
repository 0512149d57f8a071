"""The model card: README.md for people, with the header that the Hugging Face hub reads."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..results import setting_words, write_text
from ..training.config import Config, from_dict, to_dict
from .model import Model

CARD = "README.md"
_DATA = {
    "kind": "Kind",
    "shape": "Shape of a sample",
    "num_classes": "Classes",
    "count": "Samples in the training set",
    "fingerprint": "Fingerprint of the training set",
}
_LATENTS = ("vae", "vae_name", "scale", "shift", "crop", "size", "precision", "source")


def write_card(model: Model, out: Path, usage: str, library: str = "alphaflow") -> None:
    """Write README.md into `out`: how to use it, the recipe, the data, the figures, the licence.

    usage: a program in Python. library: whose loader the hub's page should show.

    Raises:
        UserError: it cannot be written.
    """
    parts = [
        _header(model, library),
        f"# {model.name}\n\n{_summary(model)}\n",
        f"## Use\n\n```python\n{usage}```\n",
        "## Recipe\n\n" + "".join(_recipe(model)),
        "## Data\n\n" + "".join(_data(model)),
        "## Measured\n\n" + "".join(_figures(model.record.metrics, model.record.step)),
        "## Licence\n\n" + _licence(model.record.licence),
    ]
    write_text(out / CARD, "\n".join(parts))


def _header(model: Model, library: str) -> str:
    kind = {"video": "other", "points": "other"}.get(model.generator.kind, "unconditional-image-generation")
    fields: dict[str, Any] = {
        "library_name": library,
        "license": model.record.licence or "other",
        "pipeline_tag": kind,
        "tags": ["alphaflow", "flow-map", "one-step-generation"],
    }
    return f"---\n{yaml.safe_dump(fields, sort_keys=False)}---\n"


def _summary(model: Model) -> str:
    record, generator = model.record, model.generator
    weights = sum(one.numel() for one in generator.net.parameters())
    steps = f", after {record.step} steps of training" if record.step else ""
    classes = f", for {generator.num_classes} classes" if generator.num_classes else ""
    return (
        f"A generator in one step or a few: a network u(z, r, t, y) for the average velocity over [r, t] "
        f"(`{record.network['name']}`, {weights / 1e6:.3g} M weights: {record.weights}{steps}) of samples of kind "
        f"{generator.kind}{classes}. Noise is at t = 1, data at t = 0; a jump is z - (t - r) u."
    )


def _recipe(model: Model) -> Iterator[str]:
    """The settings that differ from the usual ones; of an imported model, where it comes from."""
    origin = model.record.origin
    settings = origin.get("settings")
    if not settings:
        yield from (f"- {key}: {value}\n" for key, value in origin.items())
        if not origin:
            yield "Not known.\n"
        return
    config = from_dict(settings, "the model's record")
    revision = f", alphaflow at {origin['git']}" if origin.get("git") else ""
    yield (
        f"Recipe `{config.recipe}`, objective `{config.objective.name}`, {config.steps} steps of "
        f"{config.batch_size} samples, seed {config.seed}{revision}. All settings that are not alphaflow's usual "
        "ones:\n\n"
    )
    yield f"```yaml\n{yaml.safe_dump(_changed(to_dict(Config()), to_dict(config)), sort_keys=False)}```\n"


def _changed(usual: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that differ, in their groups."""
    groups = {key: _changed(usual[key], value) for key, value in ours.items() if isinstance(value, dict)}
    plain = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in ours.items()
        if key not in groups and value != usual[key]
    }
    return plain | {key: group for key, group in groups.items() if group}


def _data(model: Model) -> Iterator[str]:
    data = model.record.data
    rows = {words: data[key] for key, words in _DATA.items() if key in data}
    names = data["class_names"]
    if names:
        rows["Class names"] = ", ".join(names[:20]) + (f", … ({len(names)})" if len(names) > 20 else "")
    latents = data.get("latents", {})
    rows |= {f"Latents: {key}": latents[key] for key in _LATENTS if key in latents}
    yield "| | |\n|---|---|\n"
    for key, value in rows.items():
        words = " × ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        yield f"| {key} | {words} |\n"


def _figures(metrics: Mapping[str, Any], step: int) -> Iterator[str]:
    """Each result with its protocol: figures under different ones do not compare."""
    if not metrics.get("results"):
        yield "Nothing yet: `alphaflow evaluate RUN`, then export again.\n"
        return
    names = list(metrics["halves"])
    seen = f"by {metrics['detector']}" if metrics.get("detector") else "in the plane"
    when = f", **at step {metrics['step']} and not {step}**" if metrics["step"] != step else ""
    yield f"Against {metrics['real_count']} samples of the training data, seen {seen}{when}.\n\n"
    columns = ["setting", "weights", "labels", "samples", "seed", *names]
    yield "| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|\n"
    for one in metrics["results"]:
        cells = [setting_words(one), *(one[key] for key in ("weights", "labels", "count", "seed"))]
        cells += [_figure(one, name) for name in names]
        yield "| " + " | ".join(map(str, cells)) + " |\n"
    halves = [f"{metrics['halves'][name]:.4g}" for name in names]
    yield "| " + " | ".join(["real halves"] + ["–"] * 4 + halves) + " |\n"


def _figure(result: Mapping[str, Any], name: str) -> str:
    """With half its 95 % interval, where that is known."""
    if name not in result["figures"]:
        return "–"
    low, high = result.get("intervals", {}).get(name, (0.0, 0.0))
    return f"{result['figures'][name]:.4g}" + (f" ± {(high - low) / 2:.2g}" if high > low else "")


def _licence(licence: str) -> str:
    if licence:
        return f"The weights are under {licence}.\n"
    return "Nobody has said under which licence the weights are: ask who trained them.\n"
