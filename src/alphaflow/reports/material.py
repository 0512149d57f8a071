"""What a report is made of: a run's settings, metrics and scores, and samples of it."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from ..errors import UserError
from ..evaluation import evaluate as evaluation
from ..generation.generator import Generator
from ..pixels import false_colours
from ..runs.config import Config
from ..runs.data_record import data_of
from ..runs.folder import RunFolder
from ..runs.loading import load
from .plots import spread

log = logging.getLogger("alphaflow")
T = TypeVar("T")

COLUMNS = 10
POINTS = 4000
NFES = (1, 2, 4)
_NEEDED = {"results", "halves", "step", "detector", "real_count"}


@dataclass(frozen=True)
class Maybe:
    """A part of the report's material: what was found, or a sentence about why there is none."""

    value: Any = None
    problem: str = ""


@dataclass(frozen=True)
class Material:
    """All that the report shows. metrics: the lines of metrics.jsonl. fresh: the evaluation was made for it.

    classes: that of each column, at most `COLUMNS`; empty without classes. prompts: the same of a model that is
        told in words.
    rows: images in a column, fewer where they are large or move.
    samples: by number of evaluations, all from the same noise: uint8 (N, H, W, C), videos (N, T, H, W, C), or
        points (N, 2).
    shown: the function that makes such of samples as the network makes them, and what to say of it.
    """

    folder: RunFolder
    config: Config
    record: dict[str, Any]
    generator: Generator
    metrics: list[dict[str, Any]]
    dataset: Maybe
    scores: Maybe
    samples: Maybe
    classes: list[int]
    prompts: list[str]
    rows: int
    fresh: bool
    seed: int
    shown: Maybe

    @property
    def columns(self) -> int:
        return len(self.classes or self.prompts) or COLUMNS

    @property
    def names(self) -> list[str]:
        """Headings of the columns of images."""
        return self.prompts or [self.generator.class_names[k] for k in self.classes]


def gather(folder: RunFolder, seed: int, device: torch.device | str) -> Material:
    """All of it; what cannot be had is told in its place. Scores the run where it has not been.

    Raises:
        UserError: the folder is no run, or holds no whole checkpoint.
    """
    config, record = folder.read_config(), folder.read_record()
    generator = load(folder.path, device)
    size, chosen = generator.shape[-1], spread(list(range(generator.num_classes)), COLUMNS)
    classes = [k for k in chosen for _ in range(COLUMNS // len(chosen))]
    size *= 8 if generator.kind == "latent" else 1  # decoded
    rows = 10 if size <= 32 else 4 if size <= 64 else 2
    rows = (rows + 1) // 2 if len(generator.shape) == 4 else rows
    prompts = list(generator.vocabulary.examples) if generator.vocabulary else []
    labels: Any = generator.encode(prompts * rows) if prompts else classes * rows or COLUMNS * rows
    if generator.kind == "points":
        labels = torch.arange(POINTS) % generator.num_classes if generator.num_classes else POINTS
    dataset = attempt("the training data", lambda: data_of(folder))
    fresh = not folder.evaluation_file.exists()
    scores = attempt("the evaluation", lambda: _scores(folder, generator, dataset, seed))
    shown = _pictures(generator)
    samples = attempt("the samples", lambda: {n: shown.value(generator.samples(labels, n, seed)) for n in NFES})
    metrics = _read_metrics(folder.metrics_file)
    scored = (metrics, dataset, scores, samples)
    return Material(folder, config, record, generator, *scored, classes, prompts, rows, fresh, seed, shown)


def _pictures(generator: Generator) -> Maybe:
    """Return what makes pictures of samples; latents that nothing decodes are shown in false colours."""
    decoder = generator.decoder
    found = attempt("the autoencoder", lambda: decoder.vae) if decoder else Maybe()
    return (
        Maybe(false_colours, f" Latents in false colours: {found.problem}")
        if found.problem
        else Maybe(generator.pictures)
    )


def attempt(what: str, make: Callable[[], T]) -> Maybe:
    """`make()`, or the reason of its `ValueError` (every `UserError` is one) as a sentence."""
    try:
        return Maybe(make())
    except (ValueError, KeyError, OSError) as error:
        log.warning("report without %s: %s", what, error)
        return Maybe(None, f"{what[0].upper()}{what[1:]} could not be had: {error}.")


def _scores(folder: RunFolder, generator: Generator, dataset: Maybe, seed: int) -> dict[str, Any]:
    """evaluation.json; made first if there is none."""
    if not folder.evaluation_file.exists():
        if dataset.value is None:
            raise UserError("the run was not evaluated, and its data cannot be read")
        log.info("%s has no evaluation.json yet: scoring the run, as `alphaflow evaluate` does", folder.path)
        sweep = evaluation.settings(seed=seed)
        made = evaluation.evaluate(generator, dataset.value, run=str(folder.path), sweep=sweep)
        made.write(folder.evaluation_file)
    scores = evaluation.read(folder.evaluation_file)
    if not isinstance(scores, dict) or not scores.get("results") or _NEEDED - scores.keys():
        raise UserError(f"{folder.evaluation_file} holds no evaluation: remove it, or run `alphaflow evaluate`")
    return scores


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of metrics.jsonl."""
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:  # cut short by a kill
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines
