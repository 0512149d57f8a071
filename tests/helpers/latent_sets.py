"""Sets of latents with known numbers, for the tests of what reads them."""

from pathlib import Path

import numpy as np

from alphaflow.data.latents.assembly import assemble
from alphaflow.data.latents.manifest import Fingerprint, Manifest
from alphaflow.data.latents.shards import shard_name, write_shard

FINGERPRINT = Fingerprint(
    vae="0123456789abcdef",
    vae_name="a-vae",
    scale="statistics",
    shift=0.0,
    crop="lanczos",
    size=64,
    flips="none",
    precision="fp32",
    source="fedcba9876543210",
    address="photos",
    class_names=("cat", "dog", "emu"),
    count=0,
    code="0.1.0",
)


def make_set(
    root: Path,
    moments: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    per_shard: int = 7,
    variance: bool = True,
    **changes: object,
) -> Manifest:
    """Write moments (N, V, 2C, h, w) as a set of latents with shards of `per_shard` images."""
    from dataclasses import replace

    root.mkdir(parents=True, exist_ok=True)
    files = []
    for number, first in enumerate(range(0, len(moments), per_shard)):
        part = slice(first, first + per_shard)
        files.append(shard_name(number))
        write_shard(
            root / files[-1],
            moments[part],
            None if labels is None else labels[part],
            variance=variance,
            first=first,
            stop=first + len(moments[part]),
        )
    names = () if labels is None else FINGERPRINT.class_names
    changes = {"class_names": names, **changes}
    return assemble(root, files, replace(FINGERPRINT, **changes), variance=variance)  # type: ignore[arg-type]
