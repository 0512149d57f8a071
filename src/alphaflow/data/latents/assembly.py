"""Finished shards become a finished set: the manifest, the statistics and the list of what was skipped."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from alphaflow.errors import UserError
from alphaflow.files import write_whole

from .manifest import SKIPPED, STATISTICS, Fingerprint, Manifest, table
from .shards import CLASSES_AT_MOST, contents_digest, merge, open_shard


def assemble(
    root: Path,
    files: Sequence[str],
    fingerprint: Fingerprint,
    *,
    variance: bool,
    name: Callable[[int], str] | None = None,
    check: Callable[[Sequence[str]], None] | None = None,
) -> Manifest:
    """Write `manifest.json` over the shards `files`, in this order, and what goes with it.

    What it writes depends on the shards alone, so several processes may do it at once, and again.

    Args:
        root: the folder of the set.
        files: the names of the shards.
        fingerprint: the set's; its `count` and `contents` are filled in here, and the classes where they have
            numbers only.
        variance: whether the shards hold log-variances.
        name: a function from an image's number to its name in the list of skipped ones.
        check: called with the skipped ones in words, may raise.

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
        check(skipped)
    if skipped and not held:
        raise UserError(f"none of {len(skipped)} could be read (such as {skipped[0]})")
    _, mean, var = merge(shard.statistics() for shard in held)
    channel_mean = mean.mean((1, 2))
    channel_var = var.mean((1, 2)) + ((mean - channel_mean[:, None, None]) ** 2).mean((1, 2))
    if (channel_var <= 0).any() or not np.isfinite(channel_var).all():
        raise UserError(
            f"the latents' variance by channel is {channel_var.tolist()}: they cannot be brought to one scale"
        )
    if fingerprint.scale == "places" and not (var > 0).all():
        channel, row, column = (int(k) for k in np.argwhere(~(var > 0))[0])
        raise UserError(
            f"all latents agree at the place ({row}, {column}) of channel {channel}, so --scale places would "
            "divide by 0: give --scale statistics"
        )
    tensors = {"mean": mean.astype(np.float32), "std": np.sqrt(var).astype(np.float32)}
    write_whole(root / STATISTICS, save(tensors))
    if skipped:
        lines = "".join(line + "\n" for line in skipped)
        write_whole(root / SKIPPED, lines.encode("utf-8", "surrogateescape"))
    first, names = held[0], fingerprint.class_names
    if not names and first.labels_at is not None:  # classes that have numbers only
        last = max(int(labels.max()) for shard in held if (labels := shard.labels()) is not None)
        names = tuple(map(str, range(min(last + 1, CLASSES_AT_MOST))))
    for shard in held:
        shard.check_labels(len(names))
    manifest = Manifest(
        fingerprint=dataclasses.replace(
            fingerprint,
            count=sum(shard.count for shard in held),
            class_names=names,
            contents=contents_digest(held),
        ),
        shape=(mean.shape[0], mean.shape[1], mean.shape[2]),
        variance=variance,
        versions=first.versions,
        dtype=first.dtype.name,
        shards=tuple((shard.path.name, shard.count) for shard in shards),
        mean=tuple(channel_mean.tolist()),
        std=tuple(np.sqrt(channel_var).tolist()),
        skipped=len(skipped),
        places=(table(tensors["mean"]), table(tensors["std"])) if fingerprint.scale == "places" else None,
    )
    manifest.write(root)
    return manifest
