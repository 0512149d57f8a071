"""How good the averaged weights are, measured on a few samples while training goes on.

A figure for comparing steps of one run: always the same noise and labels, always as many samples. A Fréchet
distance of few samples is too high (by something that falls like 1/N): it does not compare with that of
`alphaflow evaluate`.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from .. import metrics
from ..data import Dataset, told_of
from ..data.latents import Manifest
from ..encoding.decoder import Decoder, decoder_of
from ..errors import UserError
from ..evaluation.scoring import AT_MOST
from ..evaluation.setup import EvaluationSetup, prepare
from ..method.sampling import grid, sample
from ..metrics.distances import EnergyTo
from ..metrics.frechet import FrechetTo
from ..metrics.reference import read_reference
from ..parallel.parallel import Parallel
from ..path import Network
from ..pixels import to_uint8
from ..rng import KeyedRandom, hash_key, seeded
from ..runs.config import MonitorConfig
from .base import Observer, RunView

BLOCK = 64
"""Samples drawn at once, by one process."""
VALUES = 2**24
"""Without a detector, real samples that hold at most so many numbers, or as many as are drawn."""


class Monitor(Observer):
    """The distance between samples of the average and the data, and the least so far.

    With a detector (by name, or the one that fits the data) the Fréchet distance of its features; else the energy
    distance of the samples themselves.

    Args:
        settings: how often it looks, at how many samples, and through which detector.
        device: where the detector runs.

    Raises:
        UserError: a detector that cannot be had or does not take these samples, a reference of something else.
    """

    name = "monitor"

    def __init__(
        self, settings: MonitorConfig, dataset: Dataset, device: torch.device, parallel: Parallel
    ) -> None:
        self.settings, self.every = settings, settings.every
        self.dataset, self.parallel, self.device = dataset, parallel, device
        self.count = settings.count
        self.setup = _setup(settings, dataset, device)
        self.detector, self.decoder, self.reference = self.setup.detector, self.setup.decoder, self.setup.reference
        self.figure = "monitor_frechet" if self.detector else "monitor_energy"
        self.best, self.best_step = math.inf, 0
        self._distance: Callable[[Tensor], float] | None = None
        self._labels: Tensor | None = None

    def observe(self, run: RunView) -> Mapping[str, float]:
        if self._distance is None:
            self._prepare()
        assert self._distance is not None
        seen = self._gathered(self.count, lambda block: self._see(self._drawn(run.ema, run.seed, block)))
        value = self._distance(seen) if self.parallel.main and bool(seen.isfinite().all()) else math.nan
        value = float(self.parallel.exchange(value)[0])  # the first one's, since the others have waited for it
        if value < self.best:
            self.best, self.best_step = value, run.step
        best = self.best if math.isfinite(self.best) else math.nan
        return {self.figure: value, f"{self.figure}_best": best, "monitor_best_step": self.best_step}

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "step": self.best_step} if math.isfinite(self.best) else {}

    def load(self, state: Mapping[str, Any]) -> None:
        self.best, self.best_step = state.get("best", math.inf), state.get("step", 0)

    # ------------------------------------------------------------------ real samples

    def _prepare(self) -> None:
        """Look at the real samples, once; all processes share them out."""
        rows = torch.randperm(len(self.dataset), generator=seeded("real"))
        if told_of(self.dataset):
            chosen = rows[torch.arange(self.count) % len(rows)]
            parts = [self.dataset.batch(indices)[1] for indices in chosen.split(1024)]
            self._labels = torch.cat([part for part in parts if part is not None])
        if self.reference is not None:
            self._distance = _frechet(self.reference.statistics)
            return
        rows = rows[: AT_MOST[self.dataset.kind]]
        if self.detector is None:
            rows = rows[: max(self.count, VALUES // math.prod(self.dataset.shape))]
        real = self._gathered(len(rows), lambda block: self._see(self.dataset.batch(rows[block])[0]))
        self._distance = _frechet(metrics.statistics_of(real)) if self.detector else EnergyTo(real)

    # ------------------------------------------------------------------ samples

    def _drawn(self, net: Network, seed: int, block: Tensor) -> Tensor:
        """Draw the samples with these numbers: the same noise for each at every step."""
        numbers = torch.arange(BLOCK) + block[0]
        noise = KeyedRandom(hash_key(seed, "monitor"), numbers).normal("start", self.dataset.shape, self.device)
        y = None if self._labels is None else self._labels[numbers % self.count].to(self.device)
        return sample(net, noise, y, times=grid(self.settings.nfe))[: len(block)].float()

    def _see(self, x: Tensor) -> Tensor:
        """Features of samples (B, *shape), or their values; float64 (B, F). NaN where a sample is not finite."""
        if self.detector is None:
            return x.flatten(1).double()
        sound = x.isfinite().flatten(1).all(1).cpu()
        x = x.nan_to_num(0.0, 0.0, 0.0)
        pictures = self.decoder(x) if self.decoder else x
        features = self.detector(to_uint8(pictures)).features
        return features.where(sound[:, None], torch.nan)

    def _gathered(self, count: int, see: Callable[[Tensor], Tensor]) -> Tensor:
        """Return what `see` makes of the numbers 0 … count - 1, (count, F) on the CPU; all processes must call.

        Process k sees every n-th block of 64 from the k-th on. With sharded weights all must evaluate as often: in
        the last round some see a block that another has.
        """
        rounds = [self._together(see(block)).cpu() for block in self._blocks(count)]
        return torch.cat(rounds)[:count]  # only the last block may be short

    def _together(self, rows: Tensor) -> Tensor:
        """Return the rows of all processes; each process's are filled up to a block, for gathering."""
        filled = torch.cat([rows, rows.new_zeros(BLOCK - len(rows), rows.shape[1])])
        return self.parallel.gather(filled.to(self.device))

    def _blocks(self, count: int) -> Iterator[Tensor]:
        blocks = torch.arange(count).split(BLOCK)
        for first in range(0, len(blocks), self.parallel.world):
            yield blocks[min(first + self.parallel.rank, len(blocks) - 1)]


def _frechet(reference: metrics.Statistics) -> Callable[[Tensor], float]:
    distance = FrechetTo(reference.mean, reference.cov)

    def to(features: Tensor) -> float:
        statistics = metrics.statistics_of(features)
        return distance(statistics.mean, statistics.cov)

    return to


def _setup(settings: MonitorConfig, dataset: Dataset, device: torch.device) -> EvaluationSetup:
    """Prepare an evaluation of the samples."""
    decoder = None
    if settings.detector and dataset.manifest:
        decoder = _decoder(dataset.manifest, device, settings.vae)
    try:
        return prepare(
            dataset,
            detector=settings.detector or None,
            reference=read_reference(settings.reference) if settings.reference else None,
            device=device,
            decoder=decoder,
        )
    except UserError as error:
        raise UserError(f"monitor: {error}", status=error.status) from None


def _decoder(manifest: Manifest, device: torch.device, vae: str) -> Decoder:
    """Return the latents' own decoder, loaded now rather than in the middle of the run."""
    try:
        decoder = decoder_of(manifest, device, vae or None)
        decoder.vae  # noqa: B018
    except UserError as error:
        raise UserError(f"monitor.detector looks at decoded latents: {error} (--monitor.vae)", status=2) from None
    return decoder
