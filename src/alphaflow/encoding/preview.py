"""An estimate of what an encoding would take, from a sample of the images: `alphaflow encode --dry-run`."""

import os
import time
from dataclasses import dataclass

import numpy as np

from ..data.sources import Source, decode_or_reason
from ..errors import UserError
from ..progress import duration
from .encode import versions
from .plan import EncodingPlan, EncodingSettings, plan_for
from .vae import VAE


@dataclass(frozen=True)
class Preview:
    """An estimate of what an encoding would take, from a sample of the images."""

    plan: EncodingPlan
    looked_at: int
    skipped: tuple[tuple[str, str], ...]
    decode_seconds: float
    """Seconds for one image, on one thread."""
    vae_seconds: float
    """Seconds for one image with all its versions."""

    def seconds(self, world: int, threads: int) -> float:
        """Return the seconds that `world` processes take, decoding on `threads` threads each while their
        autoencoders work."""
        each = max(self.vae_seconds, self.decode_seconds / threads)
        return self.plan.images * each / world

    def text(self, world: int = 1, threads: int | None = None) -> str:
        """Return the estimate as text for people."""
        plan, about = self.plan, self.plan.fingerprint
        threads = threads or min(32, os.cpu_count() or 1)
        seconds = self.seconds(world, threads)
        gigabytes = plan.images * plan.image_bytes / 1e9
        share = len(self.skipped) / self.looked_at
        shape = " × ".join(map(str, plan.shape))
        kept = "mean and log-variance" if plan.variance else "no variance"
        lines = [
            f"source    {about.address}: {plan.images:,} images, {len(about.class_names) or 'no'} classes",
            f"latents   {shape}, {kept}, {plan.dtype}, flips {about.flips}",
            f"vae       {about.vae_name} ({about.vae_class} {about.vae}), {about.precision}, scale {about.scale}",
            f"size      {gigabytes:,.2f} GB in {plan.shards:,} shards",
            f"time      {duration(seconds)} on {world} process{'es' if world > 1 else ''} "
            f"({plan.images / max(seconds, 1e-9):,.1f} images/s; an image of the sample took "
            f"{1e3 * self.vae_seconds:.1f} ms in the autoencoder, {1e3 * self.decode_seconds:.1f} ms to decode)",
            f"skipped   {len(self.skipped)} of {self.looked_at} looked at"
            + (f", about {share * plan.images:,.0f} in all:" if self.skipped else ""),
        ]
        return "\n".join(lines + [f"          {name}: {reason}" for name, reason in self.skipped])


def preview(
    source: Source, vae: VAE, settings: EncodingSettings, *, batch_size: int = 32, count: int = 100
) -> Preview:
    """Read and encode `count` images spread over the source, and write nothing."""
    plan = plan_for(source, vae, settings)
    indices = sorted(set(np.linspace(0, len(source) - 1, min(count, len(source))).round().astype(int).tolist()))
    images, kept, skipped = [], [], []
    start = time.perf_counter()
    for index in indices:
        try:
            image = decode_or_reason(source.read(index), settings.size, settings.crop)
        except OSError as error:
            image = f"cannot be read ({error.strerror or error})"
        if isinstance(image, str):
            skipped.append((source.name(index), image))
        else:
            images.append(image)
            kept.append(index)
    decoding = (time.perf_counter() - start) / len(indices)
    if not images:
        name, reason = skipped[0]
        raise UserError(
            f"none of {len(indices)} images of {source.address} can be read (such as {name}: {reason})"
        )
    versions(vae, plan, np.stack(images[:1]), kept[:1])  # the first call is slow
    start = time.perf_counter()
    for first in range(0, len(images), batch_size):
        part = slice(first, first + batch_size)
        versions(vae, plan, np.stack(images[part]), kept[part])
    computing = (time.perf_counter() - start) / len(images)
    return Preview(plan, len(indices), tuple(skipped), decoding, computing)
