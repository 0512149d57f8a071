"""The plan of what an encoding is going to write, made before the first shard and kept in `plan.json` beside
them."""

import contextlib
import dataclasses
import errno
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from ..data.latents.assembly import assemble
from ..data.latents.manifest import (
    MANIFEST,
    SKIPPED,
    STATISTICS,
    Fingerprint,
    Manifest,
    differences,
    from_json,
    read_manifest,
)
from ..data.latents.shards import open_shard, shard_name
from ..data.sources import Crop, Source
from ..data.sources.decoding import CROPPED
from ..errors import UserError
from ..files import write_whole
from .kinds import Convention
from .vae import VAE, Precision

PLAN = "plan.json"
LOCK = ".lock"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
SHARD_BYTES = 128 * 2**20
"""About how large a shard is, unless told otherwise."""

Flips = Literal["stored", "drawn", "none"]


@dataclass(frozen=True, kw_only=True)
class EncodingSettings:
    """The user's settings of an encoding."""

    size: int = 256
    """Side of the images in pixels."""
    crop: Crop = "lanczos"
    """The crop that makes images squares."""
    flips: Flips = "stored"
    """"stored": each image also mirrored; "drawn": half of the images mirrored, for good; "none"."""
    scale: Literal["statistics", "places", "scalar", "own"] = "statistics"
    """The way in which training will scale the latents: by each channel's mean and std, by those of each place of
    each channel, by the autoencoder's own number, or as its makers do, be that a number or one a channel.
    """
    precision: Precision = "fp32"
    """Precision of the autoencoder's arithmetic; bf16 is quicker on GPUs and off by up to 0.4 %. The results are
    kept as float16, which holds those of bf16 exactly and rounds those of fp32 by less than 0.05 %.
    """
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
class EncodingPlan:
    """The contents of one set's shards. Two commands with the same plan write the same set."""

    fingerprint: Fingerprint
    """The fingerprint of the set to be; its count is 0."""
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
    """Type of the numbers on disk: float16."""
    probe: str = ""
    """Digest of what some of the images hold: others of the same names and sizes are not gone on with. "" in
    plans that were made before it was kept."""

    @property
    def image_bytes(self) -> int:
        """Bytes of one image on disk."""
        channels, height, width = self.shape
        each = channels * height * width * (2 if self.variance else 1)
        return self.versions * each * np.dtype(self.dtype).itemsize

    @property
    def shards(self) -> int:
        """The number of shards."""
        return -(-self.images // self.shard_images)

    def span(self, number: int) -> range:
        """Return the images of shard `number`."""
        return range(number * self.shard_images, min((number + 1) * self.shard_images, self.images))

    def missing(self, root: Path) -> list[int]:
        """Return the shards that are not there yet."""
        return [number for number in range(self.shards) if not (root / shard_name(number)).exists()]


def plan_for(source: Source, vae: VAE, settings: EncodingSettings) -> EncodingPlan:
    """Return the plan that these settings make for this source."""
    from .. import __version__

    vae.check_size(settings.size, settings.size)
    if len(source) == 0:
        raise UserError(f"{source.address} holds no images")
    side = settings.size // vae.factor
    fingerprint = Fingerprint(
        vae=vae.hash,
        vae_name=vae.name,
        vae_class=vae.class_name,
        **scale_fields(settings, vae),
        crop=CROPPED[settings.crop],
        size=settings.size,
        flips=settings.flips,
        precision=settings.precision,
        source=source.digest,
        address=source.address,
        class_names=tuple(source.class_names),
        count=0,
        code=__version__,
    )
    plan = EncodingPlan(
        fingerprint=fingerprint,
        images=len(source),
        shard_images=1,
        shape=(vae.channels, side, side),
        variance=vae.variance,
        versions=2 if settings.flips == "stored" else 1,
        dtype="float16",
        probe=probe(len(source), source.read),
    )
    return dataclasses.replace(plan, shard_images=settings.shard_images or max(1, SHARD_BYTES // plan.image_bytes))


def scale_of(settings: EncodingSettings, vae: VAE | None) -> tuple[str, float]:
    """Return `Fingerprint.scale` and `shift`.

    Raises:
        UserError: a scale of the autoencoder's lacks an autoencoder, or has one without such a number.
    """
    if settings.scale not in ("scalar", "own"):
        return settings.scale, 0.0
    if vae is None:
        raise UserError(f"--scale {settings.scale} is the autoencoder's: name it with --vae", status=2)
    if settings.scale == "own" and vae.own.std:
        return "own", 0.0
    return repr(vae.scalar()), vae.shift


def scale_fields(settings: EncodingSettings, vae: VAE | None) -> dict[str, Any]:
    """Return all that a `Fingerprint` says of the scale; errors as those of `scale_of`."""
    scale, shift = scale_of(settings, vae)
    own = vae.own if vae is not None and scale == "own" else Convention()
    return {"scale": scale, "shift": shift, "own_mean": own.mean, "own_std": own.std}


def probe(count: int, read: Callable[[int], bytes | NDArray[np.generic] | None], most: int = 8) -> str:
    """Return 16 hexadecimal digits of what at most `most` of `count` images hold, spread over them."""
    digest = hashlib.sha256()
    for index in np.unique(np.linspace(0, count - 1, most).round().astype(int)).tolist():
        try:
            data = read(index)
        except OSError:
            data = None
        shape = getattr(data, "shape", "")
        digest.update(f"|{index}|{shape}|".encode())
        digest.update(np.ascontiguousarray(data).data if isinstance(data, np.ndarray) else data or b"-")
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def begun(root: Path, plan: EncodingPlan, *, alone: bool, lasting: bool = True) -> Iterator[EncodingPlan]:
    """For a while, work under a plan that was agreed on; if the work fails before any shard holds anything, undo
    all.

    Args:
        root: the folder of the set.
        plan: the plan.
        alone: whether no other process works on the same set.
        lasting: whether shards are worth being kept when the samples or the words turn out to be wrong. Those of a
            full disk are kept anyway, and `SKIPPED` is, to be read.
    """
    fresh, unplanned = not root.exists(), not (root / PLAN).exists()
    try:
        try:
            yield agree(root, plan)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            raise UserError(
                f"cannot write to {root} ({error.strerror}): make room and give the command again; the shards "
                "that are there are kept"
            ) from None
    except Exception as error:
        wrong = isinstance(error, UserError) and not isinstance(error.__context__, OSError)
        shards = list(root.glob("shard-*.safetensors"))
        if alone and unplanned and (not shards or (wrong and (not lasting or not _hold_any(shards)))):
            with contextlib.suppress(OSError):
                for path in (*shards, *(root / name for name in (STATISTICS, PLAN, LOCK))):
                    path.unlink(missing_ok=True)
                if fresh:
                    root.rmdir()
        raise


def _hold_any(shards: Sequence[Path]) -> bool:
    return any(open_shard(path).count for path in shards)


def agree(root: Path, plan: EncodingPlan) -> EncodingPlan:
    """Write the plan into an empty folder, or compare it with the one that is there, whose shards' size is kept.

    Raises:
        UserError: the folder holds something else, or another set, with both values of what differs.
    """
    path = root / PLAN
    try:
        root.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _refuse_others(root)  # before the lock, which would be left in somebody's folder
        with _locked(root):
            if not path.exists():
                _refuse_others(root)
                (root / SKIPPED).unlink(missing_ok=True)  # of an attempt that was refused
                content = {**dataclasses.asdict(plan), "fingerprint": plan.fingerprint.fields()}
                write_whole(path, (json.dumps(content, indent=1) + "\n").encode())
        kept = _read(path)
    except OSError as error:
        raise UserError(f"cannot write to {root} ({error.strerror}): choose another DST") from None
    if said := _disagreements(plan, kept):
        raise UserError(
            f"{root} was begun with other settings or images: {'; '.join(said)}: give a new DST, or what it had"
        )
    about = dataclasses.replace(kept.fingerprint, second=plan.fingerprint.second)  # an older plan does not say it
    return dataclasses.replace(kept, fingerprint=about)


def _refuse_others(root: Path) -> None:
    others = [item.name for item in root.iterdir() if not item.name.startswith(".") and item.name != SKIPPED]
    if others:
        raise UserError(
            f"{root} is not empty (it holds {sorted(others)[0]}) and no set of latents: give a new DST"
        )


def _disagreements(plan: EncodingPlan, kept: EncodingPlan) -> list[str]:
    planned, recorded = dataclasses.asdict(plan.fingerprint), dataclasses.asdict(kept.fingerprint)
    if not kept.fingerprint.second:  # of images; or a plan that is older than this field
        recorded.pop("second")
    said = differences(planned, recorded)
    for name, mine, other in (
        ("images", plan.images, kept.images),
        ("shape", plan.shape, kept.shape),
        ("versions", plan.versions, kept.versions),
        ("variance", plan.variance, kept.variance),
    ):
        if mine != other:
            said.append(f"{name} {mine} here, {other} there")
    if not said and plan.probe != kept.probe and plan.probe and kept.probe:
        said = [
            f"the source's files have the same names and sizes and other contents ({plan.probe}, {kept.probe})"
        ]
    return said


def _read(path: Path) -> EncodingPlan:
    try:
        content = json.loads(path.read_text())
        about = content.pop("fingerprint")
        return EncodingPlan(fingerprint=from_json(about), shape=tuple(content.pop("shape")), **content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"cannot understand {path} ({error}): give a new DST") from None


class Named(Protocol):
    """A source that knows the names of its images."""

    def name(self, index: int) -> str: ...


def finish(
    root: Path, plan: EncodingPlan, source: Named, tolerance: float, what: str = "images"
) -> Manifest | None:
    """Write the manifest once all shards are there, and remove what a kill left behind; return None before that.

    what: the samples' name in errors.

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
        check = Tolerance(tolerance, plan.images, root, what)
        return assemble(root, files, plan.fingerprint, variance=plan.variance, name=source.name, check=check)


class Tolerance:
    """Raises a `UserError` when more than the share `tolerance` of `total` had to be skipped, and lists them in
    skipped.txt.

    what: the samples' name in errors.
    root: the folder of the set.
    """

    def __init__(self, tolerance: float, total: int, root: Path, what: str = "images") -> None:
        self.tolerance, self.total, self.root, self.what = tolerance, total, root, what

    def __call__(self, skipped: Sequence[str]) -> None:
        """Check the skipped samples, each with its name and the reason."""
        if len(skipped) > self.tolerance * self.total:
            lines = "".join(line + "\n" for line in skipped)
            write_whole(self.root / SKIPPED, lines.encode("utf-8", "surrogateescape"))
            listed = f", all are listed in {self.root / SKIPPED}" if len(skipped) > 1 else ""
            raise UserError(
                f"{len(skipped)} of {self.total} {self.what} could not be read, more than the tolerated "
                f"{self.tolerance:.1%} (first {skipped[0]}{listed}): repair them, or raise --tolerance and start "
                "again"
            )


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Let one process at a time write into `root`; a file system without locks is trusted."""
    lock = FileLock(root / LOCK)
    with contextlib.suppress(OSError):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
