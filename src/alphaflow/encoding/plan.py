"""What an encoding is going to write, agreed on before the first shard and kept in `plan.json` beside them."""

import contextlib
import dataclasses
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from ..data.latents.assembly import assemble
from ..data.latents.manifest import MANIFEST, Fingerprint, Manifest, differences, read_manifest, write_whole
from ..data.latents.shards import shard_name
from ..data.sources import Crop, Source
from ..errors import UserError
from ..vae import VAE, Precision

PLAN = "plan.json"
SHARD_BYTES = 128 * 2**20
"""About how large a shard is, unless told otherwise."""

Flips = Literal["stored", "drawn", "none"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the user says of an encoding."""

    size: int = 256
    """Side of the images in pixels."""
    crop: Crop = "lanczos"
    """How images become squares."""
    flips: Flips = "stored"
    """"stored": each image also mirrored; "drawn": half of the images mirrored, for good; "none"."""
    scale: Literal["statistics", "scalar"] = "statistics"
    """How training will scale the latents: by each channel's mean and std, or by the autoencoder's own number."""
    precision: Precision = "fp32"
    """Of the autoencoder's arithmetic; bf16 is quicker on GPUs and off by up to 0.4 %. The results are kept as
    float16, which holds those of bf16 exactly and rounds those of fp32 by less than 0.05 %."""
    tolerance: float = 0.01
    """Largest share of images that may be unreadable."""
    shard_images: int | None = None
    """Images a shard; None: as many as make `SHARD_BYTES`."""

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance <= 1:
            raise UserError(f"--tolerance {self.tolerance} is not a share: give a number from 0 to 1", status=2)
        if self.shard_images is not None and self.shard_images < 1:
            raise UserError(f"--shard-images {self.shard_images} must be at least 1", status=2)
        if self.size < 1:
            raise UserError(f"--size {self.size} must be at least 1", status=2)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the shards of one set hold. Two commands with the same plan write the same set."""

    fingerprint: Fingerprint
    """Of the set to be; its count is 0."""
    images: int
    """Images of the source, broken ones included."""
    shard_images: int
    """Images of the source that one shard stands for."""
    shape: tuple[int, int, int]
    """(C, h, w) of a latent."""
    variance: bool
    """Whether log-variances are kept."""
    versions: int
    """2 with stored flips, else 1."""
    dtype: str
    """Of the numbers on disk: float16."""

    @property
    def image_bytes(self) -> int:
        """What one image takes on disk."""
        channels, height, width = self.shape
        each = channels * height * width * (2 if self.variance else 1)
        return self.versions * each * np.dtype(self.dtype).itemsize

    @property
    def shards(self) -> int:
        """How many there are."""
        return -(-self.images // self.shard_images)

    def span(self, number: int) -> range:
        """The images of shard `number`."""
        return range(number * self.shard_images, min((number + 1) * self.shard_images, self.images))

    def missing(self, root: Path) -> list[int]:
        """The shards that are not there yet."""
        return [number for number in range(self.shards) if not (root / shard_name(number)).exists()]


def plan_for(source: Source, vae: VAE, settings: Settings) -> Plan:
    """The plan that these settings make for this source."""
    from .. import __version__

    if settings.size % vae.factor:
        raise UserError(
            f"--size {settings.size} does not fit {vae.name}: give a multiple of {vae.factor}, which is how many "
            "pixels one latent stands for",
            status=2,
        )
    if len(source) == 0:
        raise UserError(f"{source.address} holds no images")
    side = settings.size // vae.factor
    fingerprint = Fingerprint(
        vae=vae.hash,
        vae_name=vae.name,
        scale="statistics" if settings.scale == "statistics" else repr(vae.scaling),
        shift=0.0 if settings.scale == "statistics" else vae.shift,
        crop=settings.crop,
        size=settings.size,
        flips=settings.flips,
        precision=settings.precision,
        source=source.digest,
        address=source.address,
        class_names=tuple(source.class_names),
        count=0,
        code=__version__,
    )
    plan = Plan(
        fingerprint=fingerprint,
        images=len(source),
        shard_images=1,
        shape=(vae.channels, side, side),
        variance=True,
        versions=2 if settings.flips == "stored" else 1,
        dtype="float16",
    )
    return dataclasses.replace(plan, shard_images=settings.shard_images or max(1, SHARD_BYTES // plan.image_bytes))


def agree(root: Path, plan: Plan) -> Plan:
    """Write the plan into an empty folder, or compare it with the one that is there, whose shards' size is kept.

    Raises:
        UserError: the folder holds something else, or another set, with both values of what differs.
    """
    path = root / PLAN
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root):
            if not path.exists():
                others = [item.name for item in root.iterdir() if not item.name.startswith(".")]
                if others:
                    raise UserError(
                        f"{root} is not empty (it holds {sorted(others)[0]}) and no set of latents: give a new DST"
                    )
                write_whole(path, (json.dumps(dataclasses.asdict(plan), indent=1) + "\n").encode())
        kept = _read(path)
    except OSError as error:
        raise UserError(f"cannot write to {root} ({error.strerror}): choose another DST") from None
    ours, theirs = dataclasses.asdict(plan.fingerprint), dataclasses.asdict(kept.fingerprint)
    said = differences(ours, theirs)
    if not said and plan.images != kept.images:
        said = [f"images {plan.images} here, {kept.images} there"]
    if said:
        raise UserError(
            f"{root} was begun with other settings or images: {'; '.join(said)}: give a new DST, or what it had"
        )
    return kept


def _read(path: Path) -> Plan:
    try:
        content = json.loads(path.read_text())
        about = content.pop("fingerprint")
        fingerprint = Fingerprint(**{**about, "class_names": tuple(about["class_names"])})
        return Plan(fingerprint=fingerprint, shape=tuple(content.pop("shape")), **content)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot understand {path} ({error}): give a new DST") from None


class Named(Protocol):
    """What can say the name of one of its parts."""

    def name(self, index: int) -> str: ...


def finish(root: Path, plan: Plan, source: Named, tolerance: float) -> Manifest | None:
    """When all shards are there: write the manifest, and remove what a kill left behind. Else None.

    Raises:
        UserError: more images than tolerated could not be read.
    """
    if plan.missing(root):
        return None
    with _locked(root):
        if (root / MANIFEST).exists():
            return read_manifest(root)
        for stale in root.glob(".*.tmp"):
            stale.unlink(missing_ok=True)
        files = [shard_name(number) for number in range(plan.shards)]
        check = Tolerance(tolerance, plan.images)
        return assemble(root, files, plan.fingerprint, variance=plan.variance, name=source.name, check=check)


class Tolerance:
    """Raises when more than the share `tolerance` of `images` had to be skipped."""

    def __init__(self, tolerance: float, images: int) -> None:
        self.tolerance, self.images = tolerance, images

    def __call__(self, skipped: int, example: str) -> None:
        if skipped > self.tolerance * self.images:
            raise UserError(
                f"{skipped} of {self.images} images could not be read, more than the tolerated "
                f"{self.tolerance:.1%} (such as {example}): repair them, or raise --tolerance and start again"
            )


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Alone among the processes that write into `root`; where the file system has no locks, hope."""
    file = os.open(root / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)
