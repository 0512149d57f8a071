"""Scoring a trained run, or a folder of images, against the run's own data.

Every result names its protocol: how many samples, whose labels, which sampler, evaluations, seed and weights.
Beside the generated samples stand two halves of the real data, scored against each other in the same way (for
nearest neighbours: each real sample among all others): no metric has a meaning of its own, and that row is the
scale to read it by.
"""

import hashlib
import itertools
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .data import Dataset
from .errors import UserError, choose
from .examining import Examination, Pixels, Writer
from .figures import Pictures
from .generate import CHUNK, Generator, choose_labels
from .results import Evaluation, Result, read, write_text
from .rng import seeded
from .scoring import METRICS, Figures, Samples, between_halves, choose_metrics, score
from .training.log import ProgressBar
from .training.share import Share
from .view import View, view_of

__all__ = ["METRICS", "Evaluation", "Result", "Setting", "evaluate", "evaluate_images", "read"]

log = logging.getLogger("alphaflow")

LABELS = {"data": "from the data", "balanced": "balanced", "random": "random by seed and sample"}
"""How the classes of the samples are chosen; Fréchet distances under different protocols do not compare."""


@dataclass(frozen=True)
class Setting:
    """How samples are drawn: a sampler, a number of evaluations or a grid of times, a scale of guidance."""

    method: str | tuple[str, ...] = "ode"
    nfe: int = 1
    times: tuple[float, ...] | None = None
    guidance: float = 1.0


def settings(
    nfes: Sequence[int] = (1, 2),
    methods: Sequence[str | Sequence[str]] = ("ode",),
    times: Sequence[float] | None = None,
    midpoints: Sequence[float] = (),
    guidance: Sequence[float] = (1.0,),
) -> list[Setting]:
    """All of them: each method at each number of evaluations and with two around each midpoint; or at `times`. All
    of that under each scale of `guidance`."""
    for middle in midpoints:
        if not 0 < middle < 1:
            raise UserError(f"midpoint {middle:g} must lie between 0 and 1, where data and noise are", status=2)
    grids: list[tuple[int, tuple[float, ...] | None]] = [(nfe, None) for nfe in nfes]
    if times is not None:
        grids = [(len(times) - 1, tuple(times))]
    grids += [(2, (1.0, middle, 0.0)) for middle in midpoints]
    found = [
        Setting(method if isinstance(method, str) else tuple(method), nfe, grid, scale)
        for method, (nfe, grid), scale in itertools.product(methods, grids, guidance)
    ]
    return list(dict.fromkeys(found))


class _Scorer:
    """The real samples, examined once, or what stands for them, and what is asked of others."""

    def __init__(self, view: View, names: Sequence[str] | None, share: Share) -> None:
        self.view, self.share, self.size = view, share, view.sample_count
        self.names = choose_metrics(names, view.dataset, view.detector, reference=view.reference is not None)
        reference = view.reference
        self.real = Samples(reference.count, given=reference.statistics) if reference else self._real()

    def _real(self) -> Samples:
        found = self._examination(whole=True)
        labels = self._go_through("real samples", found.take)
        return replace(found.samples(self.share), labels=labels)

    def _go_through(self, title: str, take: Callable[[int, Tensor], object]) -> Tensor | None:
        """The run's data in a fixed random order, as far as they are looked at; the labels of all, (size,)."""
        dataset, classes = self.view.dataset, dict[int, list[int]]()
        rows = torch.randperm(len(dataset), generator=seeded("real"))[: self.size]
        with ProgressBar(title, 0, self.size, unit="samples", shown=self.share.main) as bar:
            for first in self.share.blocks(self.size):
                x, y = dataset.batch(rows[first : first + CHUNK])
                take(first, x)
                if y is not None:
                    classes[first] = y.tolist()
                bar.update(first + len(x))
        labels = self.share.collect_everywhere(classes)
        return torch.tensor(labels) if labels else None

    def _examination(self, **options: Any) -> Examination:
        view = self.view
        return Examination(self.names, view.detector, pixels=view.pixels, decode=view.decoder, **options)

    @cached_property
    def _classes(self) -> Tensor:
        """Of the data; a reference does not hold them."""
        known = self.real.labels
        if self.view.reference and self.view.dataset.num_classes:
            known = self._go_through("labels of the data", lambda first, x: None)
        return torch.zeros(self.size, dtype=torch.int64) if known is None else known

    def labels(self, words: str, count: int, num_classes: int, seed: int) -> Tensor:
        if words != "data":
            return choose_labels(words, count, num_classes, seed)
        return self._classes[torch.arange(count) % self.size]

    def examine(
        self, blocks: Iterable[tuple[int, Tensor | Pixels]], labels: Tensor | None, write: Writer | None = None
    ) -> Samples:
        """Samples (B, C, …) or images uint8 (B, H, W, C) of this process, with the number of the first of each."""
        found = self._examination(labels=labels, write=write)
        for first, chunk in blocks:
            found.take(first, chunk)
        return found.samples(self.share)

    def result(self, fake: Samples, protocol: dict) -> Result:
        """Scored by the main process, for all."""
        made = self.share.from_main(lambda: asdict(_result(score(self.real, fake, self.names), protocol)))
        return _from_record(made)

    def rounding(self) -> str:
        return "uint8, as in a PNG" if self.view.pixels else "none"

    def evaluation(self, run: str, step: int, results: list[Result]) -> Evaluation:
        view = self.view
        halves = {} if view.reference else self.share.from_main(lambda: between_halves(self.real, self.names))
        return Evaluation(
            run=run,
            step=step,
            detector=view.detector_name,
            preprocessing=view.detector.preprocessing if view.detector else None,
            distance=view.detector.distance if view.detector else "frechet",
            shape=" × ".join(map(str, view.shape if view.pixels else view.dataset.shape)),
            crop=view.crop,
            against=view.against,
            data=view.data,
            real_count=view.real_count,
            results=results,
            halves=halves,
        )


def evaluate(
    generators: Generator | Sequence[Generator | Callable[[], Generator]],
    dataset: Dataset,
    *,
    run: str,
    sweep: Sequence[Setting] | None = None,
    names: Sequence[str] | None = None,
    count: int | None = None,
    labels: str = "data",
    seed: int = 0,
    keep: Path | None = None,
    out: Path | None = None,
    share: Share | None = None,
    view: View | None = None,
) -> Evaluation:
    """Score each of the `generators` (the same network with other weights) in each setting of the sweep.

    Samples are drawn once for each, 64 at a time, and all metrics look at them.

    Args:
        generators: or what makes each when its turn comes, so that not all are in memory.
        dataset: the run's data. names: which of `METRICS`; None: all but those `ON_DEMAND`, as far as they apply.
        sweep: None: one and two evaluations.
        count: how many samples; None: as many as there are data, at most `AT_MOST`.
        labels: one of `LABELS`.
        keep: a folder where each finished setting is kept, and looked for: a sweep that was broken off goes on
            after its last one.
        out: a folder for the pictures, with one of its own for each setting.
        share: with the other processes, if there are any; all must call, and all get the same evaluation.
        view: detector and reference, see `view_of`; None: as it makes them for this data.

    Raises:
        UserError: a metric that is unknown or does not apply, too few samples, guidance of a network that was not
            trained for it, other pictures in `out`.
    """
    choose("labels", labels, LABELS, status=2)
    if count is not None and count < 8:
        raise UserError(f"--count {count} is too few to measure anything: give at least 8", status=2)
    if out and dataset.kind == "points":
        raise UserError("--out is for pictures, and this run generates points: leave it out", status=2)
    scorer = _Scorer(view or view_of(dataset), names, share or Share())
    count = scorer.size if count is None else count
    makers = [generators] if isinstance(generators, Generator) else list(generators)
    sweep = list(sweep or settings())
    results, step = [], 0
    total = len(makers) * len(sweep) * count
    with ProgressBar("evaluating", 0, total, unit="samples", shown=scorer.share.main) as bar:
        for make in makers:
            generator = make if isinstance(make, Generator) else make()
            step = generator.step
            y = scorer.labels(labels, count, generator.num_classes, seed)
            one = _Weights(scorer, generator, y, LABELS[labels], seed, keep, out, bar)
            results += [one.result(setting) for setting in sweep]
    return scorer.evaluation(run, step, results)


@dataclass
class _Weights:
    """The settings of a sweep under the same weights, one after the other."""

    scorer: _Scorer
    generator: Generator
    labels: Tensor
    label_words: str
    seed: int
    keep: Path | None
    out: Path | None
    bar: ProgressBar

    def result(self, setting: Setting) -> Result:
        """Of one setting: as it was kept, or drawn and scored now."""
        scorer, share, view = self.scorer, self.scorer.share, self.scorer.view
        protocol = self._protocol(setting)
        whole = [
            protocol,
            scorer.names,
            view.real_count,
            view.detector_name,
            view.data,
            view.reference.digest if view.reference else "",
            self._digest,
        ]
        file = (
            self.keep / f"{hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:16]}.json"
            if self.keep
            else None
        )
        pictures = None
        if self.out:
            pictures = Pictures(self.out, protocol, self._digest, self.labels, self.generator.num_classes)
        kept, written = share.from_main(lambda: [_kept(file), pictures.begin() if pictures else True])
        if kept is not None and written:
            self.bar.less(len(self.labels))
            return _from_record(kept)
        result = scorer.result(self._drawn(setting, pictures), protocol)
        if share.main:
            if file:
                write_text(file, json.dumps(asdict(result)) + "\n")
            if pictures:
                pictures.end()
        return result

    def _drawn(self, setting: Setting, pictures: Pictures | None) -> Samples:
        count, generator = len(self.labels), self.generator
        firsts = self.scorer.share.blocks(count)
        chunks = generator.chunks(
            self.labels, setting.nfe, self.seed, setting.method, setting.times, setting.guidance, firsts
        )

        def watched() -> Iterator[tuple[int, Tensor]]:
            before = self.bar.done
            for first, chunk in zip(firsts, chunks):
                yield first, chunk
                self.bar.update(before + first + len(chunk), note=_words(setting, generator))
            self.bar.update(before + count)

        def write(first: int, block: Tensor | Pixels) -> None:
            assert pictures is not None
            pictures.write(first, generator.pictures(block) if isinstance(block, Tensor) else block)

        classes = self.labels if generator.num_classes else None
        return self.scorer.examine(watched(), classes, write if pictures else None)

    def _protocol(self, setting: Setting) -> dict[str, Any]:
        return {
            "nfe": setting.nfe,
            "method": setting.method if isinstance(setting.method, str) else ",".join(setting.method),
            "times": setting.times,
            "guidance": setting.guidance,
            "count": len(self.labels),
            "labels": self.label_words,
            "seed": self.seed,
            "weights": self.generator.weights,
            "rounding": self.scorer.rounding(),
        }

    @cached_property
    def _digest(self) -> str:
        """Of the weights, so that what was kept is not taken for that of another network."""
        if not (self.keep or self.out) or not self.scorer.share.main:
            return ""
        digest = hashlib.sha256(str(self.generator.step).encode())
        for name, tensor in sorted(self.generator.net.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()


def evaluate_images(
    chunks: Iterable[tuple[int, Pixels]],
    dataset: Dataset,
    *,
    source: str,
    labels: Tensor | None = None,
    names: Sequence[str] | None = None,
    share: Share | None = None,
    view: View | None = None,
) -> Evaluation:
    """Score images of anybody's against `dataset`.

    Args:
        chunks: uint8 (B, H, W, C), each with the number of its first image. Of several processes each gives whole
            blocks of 64 that are its own by `Share.blocks`.
        labels: (N,) int64, the classes asked for, where they are known; without them there is no accuracy.
        share: with the other processes, if there are any; all must call.
        view: detector and reference, see `view_of`; None: as it makes them for this data.
    """
    view = view or view_of(dataset)
    if not view.pixels:
        remedy = "name a --detector" if dataset.kind == "latent" else "give a run on images"
        raise UserError(f"images cannot be compared with {dataset.kind}: {remedy}", status=2)
    scorer = _Scorer(view, names, share or Share())
    fake = scorer.examine(chunks, labels)
    protocol = {
        "nfe": 0,
        "method": source,
        "times": None,
        "count": fake.count,
        "labels": "unknown" if labels is None else "in the file names",
        "seed": 0,
        "weights": "unknown",
        "rounding": "as in the files",
    }
    return scorer.evaluation(source, 0, [scorer.result(fake, protocol)])


def _result(found: Figures, protocol: dict) -> Result:
    return Result(
        figures={name: one.value for name, one in found.items()},
        errors={name: one.error for name, one in found.items() if one.error is not None},
        intervals={
            name: (one.low, one.high)
            for name, one in found.items()
            if one.low is not None and one.high is not None
        },
        **protocol,
    )


def _kept(file: Path | None) -> dict[str, Any] | None:
    if file is None or not file.exists():
        return None
    log.info("found %s: this setting was scored before", file)
    return json.loads(file.read_text())


def _from_record(record: dict[str, Any]) -> Result:
    """A result that has been through JSON."""
    intervals = {name: (low, high) for name, (low, high) in record["intervals"].items()}
    return Result(**{**record, "times": record["times"] and tuple(record["times"]), "intervals": intervals})


def _words(setting: Setting, generator: Generator) -> str:
    """For the progress bar."""
    scale = f", guidance {setting.guidance:g}" if setting.guidance != 1 else ""
    return f"{setting.nfe} NFE, {setting.method}{scale}, {generator.weights}"
