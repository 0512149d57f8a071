"""Latents that others made, turned into a set of ours: `alphaflow encode SRC DST --from latents`."""

import dataclasses
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ..data.latents.manifest import Fingerprint, Manifest
from ..data.latents.shards import shard_name, write_shard
from ..errors import UserError
from ..vae import VAE
from .encode import Crew
from .foreign import Foreign, Sample, moments_of
from .plan import SHARD_BYTES, Plan, Settings, Tolerance, agree, finish

log = logging.getLogger("alphaflow")


def convert(
    source: Foreign,
    root: Path,
    settings: Settings,
    *,
    vae: VAE | None = None,
    second: str | None = None,
    multiplied: float = 1.0,
    crew: Crew | None = None,
) -> Manifest | None:
    """Write the latents of `source` as the set `root`, or go on with it; see `encode` for the rest.

    Args:
        settings: the scale, the tolerance and the shards' size; what concerns images is not known and not used.
        vae: the autoencoder that made them; None: not known, and sampling will have to name one.
        second, multiplied: see `moments_of`.

    Raises:
        UserError: a scalar scale without an autoencoder, samples of another form, and whatever `encode` raises.
    """
    crew = crew or Crew.here()
    second = second or source.second
    plan = agree(root, _plan(source, settings, vae, second, multiplied))
    bad, skipped = Tolerance(settings.tolerance, plan.images), 0
    for number in plan.missing(root):
        if number % crew.world == crew.rank:
            skipped += _convert_shard(root, number, source, plan, second, multiplied)
            bad(skipped, f"the list is in {root / shard_name(number)}")
            log.info("%s: shard %d of %d", root, number + 1, plan.shards)
    return finish(root, plan, source, settings.tolerance)


def _plan(source: Foreign, settings: Settings, vae: VAE | None, second: str | None, multiplied: float) -> Plan:
    from .. import __version__

    if settings.scale == "scalar" and vae is None:
        raise UserError("--scale scalar is the autoencoder's own number: name it with --vae", status=2)
    if multiplied <= 0:
        raise UserError(f"--multiplied {multiplied} must be above 0", status=2)
    try:
        sample = moments_of(source.read(0), second, multiplied)
    except UserError as error:
        raise UserError(f"{source.name(0)}: {error}") from None
    variance = sample.variance
    count, channels, height, width = sample.moments.shape
    channels = channels // 2 if variance else channels
    if vae is not None and channels != vae.channels:
        raise UserError(
            f"{source.name(0)} has latents of {channels} channels{' with variance' if variance else ''}, and "
            f"{vae.name} makes {vae.channels}: say with --second what the second half of the channels is"
        )
    scalar = settings.scale == "scalar" and vae is not None
    fingerprint = Fingerprint(
        vae=vae.hash if vae else "unknown",
        vae_name=vae.name if vae else "",
        scale=repr(vae.scaling) if scalar and vae else "statistics",
        shift=vae.shift if scalar and vae else 0.0,
        crop="unknown",
        size=height * vae.factor if vae else 0,
        flips="stored" if count == 2 else "none",
        precision="unknown",
        source=source.digest,
        address=source.address,
        class_names=source.class_names,
        count=0,
        code=__version__,
    )
    plan = Plan(
        fingerprint=fingerprint,
        images=len(source),
        shard_images=1,
        shape=(channels, height, width),
        variance=variance,
        versions=count,
        dtype="float16",
    )
    return dataclasses.replace(plan, shard_images=settings.shard_images or max(1, SHARD_BYTES // plan.image_bytes))


def _convert_shard(
    root: Path, number: int, source: Foreign, plan: Plan, second: str | None, multiplied: float
) -> int:
    """Write one shard; return how many samples had to be skipped."""
    channels, height, width = plan.shape
    expected = (plan.versions, 2 * channels if plan.variance else channels, height, width)

    def work(index: int) -> Sample | str:
        try:
            sample = moments_of(source.read(index), second, multiplied)
        except (UserError, OSError) as error:
            return str(error)
        if sample.moments.shape != expected:
            return f"latents of the shape {sample.moments.shape}, and the first had {expected}"
        return sample

    span, kept, labels, skipped = plan.span(number), [], [], []
    with ThreadPoolExecutor(8) as pool:
        for index, found in zip(span, pool.map(work, span)):
            if isinstance(found, str):
                skipped.append((index, found))
                continue
            kept.append(found.moments.astype(np.float16))
            labels.append(found.label if source.labels is None else int(source.labels[index]))
    known = [label for label in labels if label is not None]
    if known and len(known) != len(labels):
        raise UserError(f"{source.address}: some samples carry labels and some do not")
    write_shard(
        root / shard_name(number),
        np.stack(kept) if kept else np.empty((0, *expected), np.float16),
        np.array(known, np.int64) if known else None,
        variance=plan.variance,
        first=span.start,
        stop=span.stop,
        skipped=skipped,
    )
    return len(skipped)
