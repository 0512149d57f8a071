"""From finished shards to a finished set: the manifest, the statistics and the list of what was skipped."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from alphaflow.errors import UserError

from .manifest import SKIPPED, STATISTICS, Fingerprint, Manifest, write_whole
from .shards import merge, open_shard


def assemble(
    root: Path,
    files: Sequence[str],
    fingerprint: Fingerprint,
    *,
    variance: bool,
    name: Callable[[int], str] | None = None,
    check: Callable[[int, str], None] | None = None,
) -> Manifest:
    """Write `manifest.json` over the shards `files`, in this order, and what goes with it.

    What it writes depends on the shards alone, so several processes may do it at once, and again.

    Args:
        fingerprint: of the set; its `count` is filled in here, and the classes where they have numbers only.
        variance: whether the shards hold log-variances.
        name: what to call image number i in the list of skipped ones.
        check: called with how many were skipped and one of them in words, may raise.

    Raises:
        UserError: a shard is damaged, or not one image could be read.
    """
    from safetensors.numpy import save

    shards = [open_shard(root / file) for file in files]
    held = [shard for shard in shards if shard.count]
    skipped = [
        f"{name(index) if name else f'image {index}'}: {reason}"
        for shard in shards
        for index, reason in shard.skipped
    ]
    if skipped and check:
        check(len(skipped), skipped[0])
    if skipped and not held:
        raise UserError(f"none of the {len(skipped)} images could be read (such as {skipped[0]})")
    _, mean, var = merge(shard.statistics() for shard in held)
    channel_mean = mean.mean((1, 2))
    channel_var = var.mean((1, 2)) + ((mean - channel_mean[:, None, None]) ** 2).mean((1, 2))
    if (channel_var <= 0).any() or not np.isfinite(channel_var).all():
        raise UserError(
            f"the latents' variance by channel is {channel_var.tolist()}: they cannot be brought to one scale"
        )
    tensors = {"mean": mean.astype(np.float32), "std": np.sqrt(var).astype(np.float32)}
    write_whole(root / STATISTICS, save(tensors))
    if skipped:
        lines = "".join(line + "\n" for line in skipped)
        write_whole(root / SKIPPED, lines.encode("utf-8", "surrogateescape"))
    first, names = held[0], fingerprint.class_names
    if not names and first.labels_at is not None:  # classes that have numbers only
        last = max(int(labels.max()) for shard in held if (labels := shard.labels()) is not None)
        names = tuple(map(str, range(last + 1)))
    manifest = Manifest(
        fingerprint=dataclasses.replace(fingerprint, count=sum(shard.count for shard in held), class_names=names),
        shape=(mean.shape[0], mean.shape[1], mean.shape[2]),
        variance=variance,
        versions=first.versions,
        dtype=first.dtype.name,
        shards=tuple((shard.path.name, shard.count) for shard in shards),
        mean=tuple(channel_mean.tolist()),
        std=tuple(np.sqrt(channel_var).tolist()),
        skipped=len(skipped),
    )
    manifest.write(root)
    return manifest
