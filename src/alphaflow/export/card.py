"""The model card: README.md for people, with the header that the Hugging Face hub reads."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..data.sources.classes import shown
from ..errors import UserError
from ..evaluation.results import setting_words
from ..files import write_text
from ..runs.build import stated
from ..runs.config import Config, from_dict, to_dict
from .model import Model

CARD = "README.md"
_DATA = {
    "kind": "Kind",
    "shape": "Shape of a sample",
    "num_classes": "Classes",
    "count": "Samples in the training set",
    "fingerprint": "Fingerprint of the training set",
}
_LATENTS = ("vae", "vae_name", "vae_class", "scale", "shift", "crop", "size", "precision", "source")


def write_card(model: Model, out: Path, usage: str, library: str = "alphaflow") -> None:
    """Write README.md into `out`: how to use it, the recipe, the data, the metrics, the licence.

    Args:
        usage: a program in Python.
        library: the library whose loader the hub's page should show.

    Raises:
        UserError: the file cannot be written.
    """
    parts = [
        _header(model, library),
        f"# {plain(model.name)}\n\n{_summary(model)}\n",
        "## Use\n\n" + _fenced(usage, "python"),
        "## Recipe\n\n" + "".join(_recipe(model)),
        "## Data\n\n" + "".join(_data(model)),
        "## Measured\n\n" + _measured(model),
        "## Licence\n\n" + _licence(model.record.licence),
    ]
    write_text(out / CARD, "\n".join(parts))


def plain(value: Any) -> str:
    """Return a user's word as text in Markdown and HTML, on one line: neither markup nor a link."""
    text = "".join(character if character.isprintable() else " " for character in shown(str(value)))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("://", ":&#47;/")
    text = re.sub(r"([\\`*\[\]|!#~$])", r"\\\1", text)
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)


def quoted(text: str) -> str:
    """Return the literal of a string in Python."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


def conditions(model: Model, numbers: str, array: str) -> str:
    """Return the line of Python that makes y for `rows` rows, classes in turn or a prompt; empty where there is
    none.

    numbers: how to write 0 … rows - 1. array: how to write int64 of a list, in the place of {}.
    """
    generator = model.generator
    if words := generator.vocabulary:
        prompt = words.examples[0] if words.examples else ""
        row = words.encode([prompt])[0].tolist()
        comment = f"{quoted(prompt)}, as alphaflow.data.Vocabulary encodes it; the words are in model.json"
        return f"y = {array.format(f'{[row]} * rows')}  # {comment}\n"
    many = generator.num_classes
    return f"y = {numbers} % {many}  # int64; {many}: no class\n" if many else ""


def _code(name: str) -> str:
    return f"`{name}`" if re.fullmatch(r"[\w.+-]+", name) else plain(name)


def _fenced(text: str, language: str) -> str:
    """Return a block of code, between fences longer than any in it."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}{fence}\n"


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
    weights = sum(weight.numel() for weight in generator.net.parameters())
    steps = f", after {record.step} steps of training" if record.step else ""
    classes = f", for {generator.num_classes} classes" if generator.num_classes else ""
    classes = ", from words" if generator.vocabulary else classes
    return (
        f"A generator in one step or a few: a network u(z, r, t, y) for the average velocity over [r, t] "
        f"({_code(record.network['name'])}, {weights / 1e6:.3g} M weights: {plain(record.weights)}{steps}) of "
        f"samples of kind {generator.kind}{classes}. Noise is at t = 1, data at t = 0; a jump is z - (t - r) u."
    )


def _recipe(model: Model) -> Iterator[str]:
    """Yield lines about the settings that differ from the usual ones or, for an imported model, about its
    origin."""
    origin = model.record.origin
    settings = origin.get("settings")
    if not settings:
        yield from (f"- {plain(key)}: {plain(value)}\n" for key, value in origin.items())
        if not origin:
            yield "Not known.\n"
        return
    config = from_dict(settings, "the model's record")
    revision = f", alphaflow at {plain(origin['git'])}" if origin.get("git") else ""
    yield (
        f"Recipe {_code(config.recipe)}, {config.steps} steps of {config.batch_size} samples, seed "
        f"{config.seed}{revision}, with the objective\n\n"
    )
    yield _fenced(stated(origin | {"data": model.record.data}) + "\n", "text")
    yield "\nAll settings that are not alphaflow's usual ones:\n\n"
    yield _fenced(yaml.safe_dump(_changed(to_dict(Config()), to_dict(config)), sort_keys=False), "yaml")


def _changed(usual: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that differ, in their groups."""
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
        yield f"| {plain(key)} | {plain(words)} |\n"


def _measured(model: Model) -> str:
    try:
        return "".join(_figures(model.record.metrics, model.record.step))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        what = f"{type(error).__name__}: {error}"
        raise UserError(f"figures of {model.name} are damaged ({what}): run `alphaflow evaluate` again") from None


def _figures(metrics: Mapping[str, Any], step: int) -> Iterator[str]:
    """Yield each result with its protocol: metrics under different ones do not compare."""
    if not metrics.get("results"):
        yield "Nothing yet: `alphaflow evaluate RUN`, then export again.\n"
        return
    names = list(metrics["halves"])
    seen = f"by {plain(metrics['detector'])}" if metrics.get("detector") else "in the plane"
    when = f", **at step {int(metrics['step'])} and not {step}**" if metrics["step"] != step else ""
    yield f"Against {int(metrics['real_count'])} samples of the training data, seen {seen}{when}.\n\n"
    columns = ["setting", "weights", "labels", "samples", "seed", *names]
    yield "| " + " | ".join(map(plain, columns)) + " |\n" + "|---" * len(columns) + "|\n"
    for result in metrics["results"]:
        cells = [setting_words(result), *(result[key] for key in ("weights", "labels", "count", "seed"))]
        cells += [_figure(result, name) for name in names]
        yield "| " + " | ".join(map(plain, cells)) + " |\n"
    halves = [f"{metrics['halves'][name]:.4g}" for name in names]
    yield "| " + " | ".join(["real halves"] + ["–"] * 4 + halves) + " |\n"


def _figure(result: Mapping[str, Any], name: str) -> str:
    """Return a metric's value with half its 95 % interval, where that is known."""
    if name not in result["figures"]:
        return "–"
    low, high = result.get("intervals", {}).get(name, (0.0, 0.0))
    return f"{result['figures'][name]:.4g}" + (f" ± {(high - low) / 2:.2g}" if high > low else "")


def _licence(licence: str) -> str:
    if licence:
        return f"The weights are under {plain(licence)}.\n"
    return "Nobody has said under which licence the weights are: ask who trained them.\n"
