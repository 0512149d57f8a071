"""`alphaflow encode`: images through an autoencoder into shards, by one process or many.

A shard is written whole or not at all, always from its first image on and in the same batches, so that a command
that was killed can be given again: it goes on with the shards that are missing, and the set comes out byte for
byte as if nothing had happened. Several processes need not know of each other: process k of n makes the shards k,
k + n, …, and whoever is last writes the manifest.
"""

import logging
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.latents.manifest import Manifest
from ..data.latents.shards import shard_name, write_shard
from ..data.sources import Crop, Source, decode_or_reason
from ..errors import UserError
from ..processes import Processes
from ..progress import ProgressBar
from ..rng import KeyedRandom, hash_key
from .plan import EncodingPlan, EncodingSettings, Tolerance, begun, finish, plan_for
from .vae import VAE

log = logging.getLogger("alphaflow")
_AHEAD_BYTES = 64 * 2**20  # of decoded images that wait for the autoencoder


def encode(
    source: Source,
    root: Path,
    vae: VAE,
    settings: EncodingSettings,
    *,
    batch_size: int = 32,
    processes: Processes | None = None,
) -> Manifest | None:
    """Encode the images of `source` into the set `root`, or go on with it.

    Args:
        batch_size: images that go through the autoencoder at once.
        processes: which of how many processes this is; None: as torchrun says.

    Returns:
        the manifest, or None when other processes still have shards to write.

    Raises:
        UserError: `root` holds something else or a set of other settings, or too many images cannot be read.
    """
    processes = processes or Processes.launched()
    if batch_size < 1:
        raise UserError(f"--batch-size {batch_size} must be at least 1", status=2)
    with begun(root, plan_for(source, vae, settings), alone=processes.world == 1) as plan:
        todo = [number for number in plan.missing(root) if number % processes.world == processes.rank]
        images = sum(len(plan.span(number)) for number in todo)
        if todo:
            kept = plan.shards - len(plan.missing(root))
            log.info("encoding %d images into %d shards (%d are there already)", images, len(todo), kept)
        bad, skipped = Tolerance(settings.tolerance, plan.images, root), []
        label = "encoding" if processes.world == 1 else f"encoding, process 0 of {processes.world}"
        bar = ProgressBar(label, 0, images, unit="images", shown=processes.main)
        with bar, _Decoded(source, plan, todo) as stream:
            for number in todo:
                skipped += _encode_shard(root, number, stream, source, vae, plan, batch_size, bar)
                bad(skipped)
        return finish(root, plan, source, settings.tolerance)


def _encode_shard(
    root: Path,
    number: int,
    stream: Iterator[NDArray[np.uint8] | str],
    source: Source,
    vae: VAE,
    plan: EncodingPlan,
    batch_size: int,
    bar: ProgressBar,
) -> list[str]:
    """Take the shard's images off the stream, and write it; return what had to be skipped, in words."""
    span = plan.span(number)
    channels, height, width = plan.shape
    rows = channels * (2 if plan.variance else 1)
    moments = np.empty((len(span), plan.versions, rows, height, width), plan.dtype)
    kept: list[int] = []
    skipped: list[tuple[int, str]] = []
    waiting: list[NDArray[np.uint8]] = []

    def flush() -> None:
        if waiting:
            indices = kept[-len(waiting) :]
            moments[len(kept) - len(waiting) : len(kept)] = versions(vae, plan, np.stack(waiting), indices)
            waiting.clear()

    for index, image in zip(span, stream):
        if isinstance(image, str):
            skipped.append((index, image))
        else:
            kept.append(index)
            waiting.append(image)
        if len(waiting) == batch_size:
            flush()
        bar.update(bar.done + 1, f"{len(skipped)} skipped in this shard" if skipped else "")
    flush()
    labels = None if source.labels is None else source.labels[kept]
    for stale in root.glob(f".{shard_name(number)}.*.tmp"):
        stale.unlink(missing_ok=True)
    write_shard(
        root / shard_name(number),
        moments[: len(kept)],
        labels,
        variance=plan.variance,
        first=span.start,
        stop=span.stop,
        skipped=skipped,
    )
    return [f"{source.name(index)}: {reason}" for index, reason in skipped]


def versions(vae: VAE, plan: EncodingPlan, images: NDArray[np.uint8], indices: list[int]) -> NDArray[np.floating]:
    """Return moments (B, V, 2C, h, w) of images, uint8 (B, 3, H, W), with the versions that the plan's flips ask
    for; (B, V, C, h, w) of an autoencoder without variance."""
    pixels = torch.from_numpy(images)
    if plan.fingerprint.flips == "drawn":
        coins = KeyedRandom(hash_key(plan.fingerprint.source, "flip"), torch.tensor(indices)).uniform("flip")
        pixels = torch.where((coins < 0.5)[:, None, None, None], pixels.flip(-1), pixels)
    shown = [pixels, pixels.flip(-1)] if plan.versions == 2 else [pixels]
    moments = torch.stack([vae.encode(part) for part in shown], dim=1).half().cpu()
    if not bool(moments.isfinite().all()):
        instead = "use --precision fp32" if vae.precision == "bf16" else "are its weights whole?"
        raise UserError(f"{vae.name} gives latents that are not finite, or beyond 65504: {instead}")
    return moments.numpy()


# ---------------------------------------------------------------------- decoding ahead


class _Decoded(Iterator[NDArray[np.uint8] | str]):
    """The images of some shards in order, each decoded, or the reason why it cannot be; threads work ahead of the
    reader."""

    def __init__(self, source: Source, plan: EncodingPlan, shards: list[int]) -> None:
        about = plan.fingerprint
        crop: Crop = "box" if about.crop == "box" else "lanczos"  # `agree` has compared what is recorded of it
        ahead = max(32, min(256, _AHEAD_BYTES // (3 * about.size**2)))
        self._pool = ThreadPoolExecutor(min(32, os.cpu_count() or 1), thread_name_prefix="decode")
        indices = (index for number in shards for index in plan.span(number))

        def work(index: int) -> NDArray[np.uint8] | str:
            try:
                data = source.read(index)
            except OSError as error:
                return f"cannot be read ({error.strerror or error})"
            return decode_or_reason(data, about.size, crop)

        self._coming = (self._pool.submit(work, index) for index in indices)
        self._waiting: deque[Future[NDArray[np.uint8] | str]] = deque(islice(self._coming, ahead))

    def __next__(self) -> NDArray[np.uint8] | str:
        if not self._waiting:
            raise StopIteration
        result = self._waiting.popleft().result()
        self._waiting.extend(islice(self._coming, 1))
        return result

    def __enter__(self) -> "_Decoded":
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
