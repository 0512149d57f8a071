"""A trained run, or a folder of images, is scored against the run's own data.

Every result names its protocol: how many samples, whose labels, which sampler, evaluations, seed and weights.
Beside the generated samples stand two halves of the real data, scored against each other in the same way (for
nearest neighbours: each real sample among all others): no metric has a meaning of its own, and that row is the
scale to read it by.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data import Dataset, told_of
from ..errors import UserError, choose
from ..files import write_text
from ..generation.generator import CHUNK, Generator, choose_labels
from ..generation.pictures import Pictures
from ..generation.sampler import WHOLE, Sampler
from ..metrics.estimates import FEWEST_GROUPS
from ..parallel.share import Share
from ..progress import ProgressBar
from ..rng import seeded
from .collecting import Collector, Pixels, Writer
from .obedience import Judge, Unseen, judge_of
from .results import Evaluation, Result, from_record, kept, read
from .scoring import METRICS, Samples, Scores, between_halves, choose_metrics, score
from .setup import EvaluationSetup, prepare
from .sweep import sampler_words, settings

__all__ = ["METRICS", "Evaluation", "Result", "evaluate", "evaluate_images", "read", "settings"]

log = logging.getLogger("alphaflow")

LABELS = {"data": "from the data", "balanced": "balanced", "random": "random by seed and sample"}
"""The ways to choose the classes of the samples; Fréchet distances under different protocols do not compare."""


Draw = Callable[[Tensor, list[int]], Iterable[Tensor]]
"""A function that yields samples of these conditions (N, …), of the blocks with these first numbers."""


class _Session:
    """Holds the real samples, collected once, or their statistics, and scores others against them."""

    def __init__(self, setup: EvaluationSetup, names: Sequence[str] | None, share: Share) -> None:
        self.setup, self.share, self.size = setup, share, setup.sample_count
        self._warned = False
        reference = setup.reference
        self.names = choose_metrics(names, setup.dataset, setup.detector, reference=reference is not None)
        self.real = Samples(reference.count, given=reference.statistics) if reference else self._real()

    def _real(self) -> Samples:
        collector = self._collector(whole=True, judge=self.judge)
        labels = self._go_through("real samples", collector.add)
        return replace(collector.samples(self.share), labels=labels)

    def _go_through(self, title: str, take: Callable[[int, Tensor], object]) -> Tensor | None:
        """Give `take` this process's blocks of the first `size` data in a fixed random order; return the labels of
        all, (size,)."""
        dataset, classes = self.setup.dataset, dict[int, list[int]]()
        rows = self._rows
        with ProgressBar(title, 0, self.size, unit="samples", shown=self.share.main) as bar:
            for first in self.share.blocks(self.size):
                x, y = dataset.batch(rows[first : first + CHUNK])
                take(first, x)
                if y is not None:
                    classes[first] = y.tolist()
                bar.update(first + len(x))
        labels = self.share.collect_everywhere(classes)
        return torch.tensor(labels) if labels else None

    @property
    def _rows(self) -> Tensor:
        """The data that are looked at, in a fixed random order."""
        return torch.randperm(len(self.setup.dataset), generator=seeded("real"))[: self.size]

    @property
    def judge(self) -> Judge | None:
        """Return who judges samples with the data's captions, if anybody can."""
        asked = "words" in self.names
        return judge_of(self.setup.dataset, self.setup.detector, self._rows) if asked else None

    def _collector(self, **options: Any) -> Collector:
        setup = self.setup
        return Collector(self.names, setup.detector, pixels=setup.pixels, decode=setup.decoder, **options)

    @cached_property
    def _classes(self) -> Tensor:
        """The classes of the data, which a reference does not hold."""
        labels = self.real.labels
        if self.setup.reference and told_of(self.setup.dataset):
            labels = self._go_through("labels of the data", lambda first, x: None)
        return torch.zeros(self.size, dtype=torch.int64) if labels is None else labels

    def labels(self, words: str, count: int, num_classes: int, seed: int) -> Tensor:
        """Choose the classes of generated samples by one of `LABELS`."""
        if words != "data":
            return choose_labels(words, count, num_classes, seed)
        return self._classes[torch.arange(count) % self.size]

    def collect(
        self,
        blocks: Iterable[tuple[int, Tensor | Pixels]],
        labels: Tensor | None,
        write: Writer | None = None,
        *,
        judge: Judge | None = None,
    ) -> Samples:
        """Collect the blocks of this process, samples (B, C, …) or images uint8 (B, H, W, C), each with
        the number of its first sample."""
        collector = self._collector(labels=labels, write=write, judge=judge)
        for first, chunk in blocks:
            collector.add(first, chunk)
        return collector.samples(self.share)

    def unseen(self, draw: Draw, count: int) -> Tensor | None:
        """Judge samples of pairs that training kept out; see `Unseen`."""
        if self.judge is None:
            return None
        others = Unseen(count, self.setup.detector)
        collector, firsts = self._collector(judge=others.judge), self.share.blocks(len(others.y))
        for first, chunk in zip(firsts, draw(others.y, firsts)):
            collector.add(first, chunk)
        return collector.samples(self.share).judged

    def result(self, fake: Samples, protocol: dict) -> Result:
        """Score the samples; the main process does so for all."""
        if self.share.main and fake.moments is not None:
            self._warn_of_few(fake.count, len(fake.moments[0].mean))
        record = self.share.from_main(lambda: asdict(_result(score(self.real, fake, self.names), protocol)))
        return from_record(record)

    def _warn_of_few(self, count: int, width: int) -> None:
        """Warn once of fewer samples than features: their covariance then has no full rank."""
        if "frechet" in self.names and count <= width and not self._warned:
            self._warned = True
            log.warning(
                "%d samples for %d features: the Fréchet distance is far too high, unlike that of another count",
                count,
                width,
            )

    def rounding(self) -> str:
        """Word what is done to samples before they are scored."""
        return "uint8, as in a PNG" if self.setup.pixels else "none"

    def evaluation(self, run: str, step: int, results: list[Result]) -> Evaluation:
        """Join the results, with the same scores between two halves of the real samples."""
        setup = self.setup
        halves = {} if setup.reference else self.share.from_main(lambda: between_halves(self.real, self.names))
        return Evaluation(
            run=run,
            step=step,
            detector=setup.detector_name,
            preprocessing=setup.detector.preprocessing if setup.detector else None,
            distance=setup.detector.distance if setup.detector else "frechet",
            shape=" × ".join(map(str, setup.shape if setup.pixels else setup.dataset.shape)),
            crop=setup.crop,
            against=setup.against,
            data=setup.data,
            real_count=setup.real_count,
            results=results,
            halves=halves,
        )


def evaluate(
    generators: Generator | Sequence[Generator | Callable[[], Generator]],
    dataset: Dataset,
    *,
    run: str,
    sweep: Sequence[Sampler] | None = None,
    names: Sequence[str] | None = None,
    count: int | None = None,
    labels: str = "data",
    keep: Path | None = None,
    out: Path | None = None,
    share: Share | None = None,
    setup: EvaluationSetup | None = None,
) -> Evaluation:
    """Score each of the `generators` (the same network with other weights) under each sampler of the sweep.

    Samples are drawn once for each, 64 at a time, and all metrics see them.

    Args:
        generators: generators, or functions that each make one when its turn comes, so that not all are in memory.
        dataset: the run's data.
        names: which of `METRICS`; None: all but those `ON_DEMAND`, as far as they apply.
        sweep: the samplers; None: one and two evaluations.
        count: how many samples; None: as many as there are data, at most `AT_MOST`.
        labels: one of `LABELS`.
        keep: a folder where each finished result is kept, and looked for: a sweep that was broken off goes on
            after its last one.
        out: a folder for the pictures, with one of its own for each sampler.
        share: with the other processes, if there are any; all must call, and all get the same evaluation.
        setup: detector and reference, see `prepare`; None: those that `prepare` chooses for this data.

    Raises:
        UserError: a metric that is unknown or does not apply, too few samples, guidance of a network that was not
            trained for it or within an interval, other pictures in `out`.
    """
    choose("labels", labels, LABELS, status=2)
    if count is not None and count < 8:
        raise UserError(f"--count {count} is too few to measure anything: give at least 8", status=2)
    if out and dataset.kind == "points":
        raise UserError("--out is for pictures, and this run generates points: leave it out", status=2)
    sweep = list(sweep or settings())
    confined = next((sampler.interval for sampler in sweep if sampler.interval != WHOLE), None)
    if confined:
        raise UserError(f"interval {confined}: a result records no interval of guidance, leave it out")
    session = _Session(setup or prepare(dataset), names, share or Share())
    count = session.size if count is None else count
    least = (FEWEST_GROUPS - 1) * CHUNK + 1
    if "limit" in session.names and count < least:
        raise UserError(
            f"metric 'limit': {count} samples are too few to extrapolate from: draw at least {least}", status=2
        )
    makers = [generators] if isinstance(generators, Generator) else list(generators)
    results, step = [], 0
    total = len(makers) * len(sweep) * count
    with ProgressBar("evaluating", 0, total, unit="samples", shown=session.share.main) as bar:
        for make in makers:
            generator = make if isinstance(make, Generator) else make()
            step = generator.step
            weights = _Sweep(session, generator, count, labels, keep, out, bar)
            results += [weights.result(sampler) for sampler in sweep]
    return session.evaluation(run, step, results)


@dataclass
class _Sweep:
    """A sweep gives the results of one network under one sampler after the other."""

    session: _Session
    generator: Generator
    count: int
    label_words: str
    keep: Path | None
    out: Path | None
    bar: ProgressBar

    def result(self, sampler: Sampler) -> Result:
        """Return the result under one sampler: as it was kept, or drawn and scored now."""
        session, share, classes = self.session, self.session.share, self.generator.num_classes
        protocol = self._protocol(sampler)
        labels = session.labels(self.label_words, self.count, classes, sampler.seed)
        file = self.keep / self._file_name(protocol) if self.keep else None
        pictures = Pictures(self.out, protocol, self._digest, labels, classes) if self.out else None
        found, written = share.from_main(lambda: [kept(file), pictures.begin() if pictures else True])
        if found is not None and written:
            self.bar.less(self.count)
            return from_record(found)
        result = session.result(self._draw(sampler, labels, pictures), protocol)
        if share.main:
            if file:
                write_text(file, json.dumps(asdict(result)) + "\n")
            if pictures:
                pictures.end()
        return result

    def _draw(self, sampler: Sampler, labels: Tensor, pictures: Pictures | None) -> Samples:
        firsts = self.session.share.blocks(self.count)
        blocks = zip(firsts, self.generator.chunks(labels, sampler, firsts))
        classes = labels if self.generator.num_classes else None
        write = partial(self._write, pictures) if pictures else None
        session, shown = self.session, self._shown(blocks, sampler_words(sampler, self.generator))
        drawn = session.collect(shown, classes, write, judge=session.judge)
        others = session.unseen(lambda y, firsts: self.generator.chunks(y, sampler, firsts), self.count)
        return replace(drawn, unseen=others)

    def _shown(self, blocks: Iterable[tuple[int, Tensor]], note: str) -> Iterator[tuple[int, Tensor]]:
        """Yield the blocks, and move the bar."""
        before = self.bar.done
        for first, chunk in blocks:
            yield first, chunk
            self.bar.update(before + first + len(chunk), note=note)
        self.bar.update(before + self.count)

    def _write(self, pictures: Pictures, first: int, block: Tensor | Pixels) -> None:
        pictures.write(first, self.generator.pictures(block) if isinstance(block, Tensor) else block)

    def _protocol(self, sampler: Sampler) -> dict[str, Any]:
        return {
            "nfe": sampler.nfe,
            "method": sampler.method if isinstance(sampler.method, str) else ",".join(sampler.method),
            "times": sampler.times,
            "guidance": sampler.guidance,
            "count": self.count,
            "labels": LABELS[self.label_words],
            "seed": sampler.seed,
            "weights": self.generator.weights,
            "rounding": self.session.rounding(),
            **({"runtime": self.generator.runtime} if self.generator.runtime else {}),
        }

    def _file_name(self, protocol: dict[str, Any]) -> str:
        """Name the file of a result by all that the result depends on."""
        setup = self.session.setup
        reference = setup.reference.digest if setup.reference else ""
        real = [setup.real_count, setup.detector_name, setup.data, reference]
        key = json.dumps([protocol, self.session.names, *real, self._digest])
        return f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"

    @cached_property
    def _digest(self) -> str:
        """A hash of the weights, so that a kept result is not taken for that of another network."""
        if not (self.keep or self.out) or not self.session.share.main:
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
    setup: EvaluationSetup | None = None,
) -> Evaluation:
    """Score images of anybody's against `dataset`.

    Args:
        chunks: uint8 (B, H, W, C), each with the number of its first image. Of several processes each gives whole
            blocks of 64 that are its own by `Share.blocks`.
        labels: (N,) int64, the classes asked for, where they are known; without them there is no accuracy.
        share: with the other processes, if there are any; all must call.
        setup: detector and reference, see `prepare`; None: those that `prepare` chooses for this data.
    """
    setup = setup or prepare(dataset)
    ends = () if labels is None else (int(labels.min()), int(labels.max()))
    strange = [label for label in ends if not 0 <= label < dataset.num_classes]
    if dataset.num_classes and strange:
        raise UserError(
            f"{source} has images of class {strange[0]}, and the run's data have {dataset.num_classes} "
            "classes, from 0: they are of another run; or name them without -class"
        )
    if not setup.pixels:
        remedy = "name a --detector" if dataset.kind == "latent" else "give a run on images"
        raise UserError(f"images cannot be compared with {dataset.kind}: {remedy}", status=2)
    session = _Session(setup, names, share or Share())
    fake = session.collect(chunks, labels)
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
    return session.evaluation(source, 0, [session.result(fake, protocol)])


def _result(scores: Scores, protocol: dict) -> Result:
    return Result(
        figures={name: estimate.value for name, estimate in scores.items()},
        errors={name: estimate.error for name, estimate in scores.items() if estimate.error is not None},
        intervals={
            name: (estimate.low, estimate.high)
            for name, estimate in scores.items()
            if estimate.low is not None and estimate.high is not None
        },
        **protocol,
    )
