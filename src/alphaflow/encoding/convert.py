"""Latents that others made, turned into a set of ours: `alphaflow encode SRC DST --from latents`."""

import dataclasses
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..data.latents.manifest import Fingerprint, Manifest
from ..data.latents.shards import shard_name, write_shard
from ..errors import UserError
from ..processes import Processes
from .foreign import Foreign
from .forms import BadLabel, Sample, moments_of, refuse_another_kind
from .listing import INSTEAD
from .plan import SHARD_BYTES, EncodingPlan, EncodingSettings, Tolerance, begun, finish, scale_fields
from .vae import VAE

log = logging.getLogger("alphaflow")
_LOOKED_AT = 100  # samples, for a whole one that says what the others are


def convert(
    source: Foreign,
    root: Path,
    settings: EncodingSettings,
    *,
    vae: VAE | None = None,
    second: str | None = None,
    multiplied: float | None = None,
    processes: Processes | None = None,
) -> Manifest | None:
    """Write the latents of `source` as the set `root`, or go on with it; see `encode` for the rest.

    Samples that are damaged, of another form, or hold numbers that are not finite or beyond float16, are left out
    and listed, up to the tolerance. A label that is no class ends the work.

    Args:
        settings: the scale, the tolerance and the shards' size; what concerns images is not known and not used.
        vae: the autoencoder that made them; None: not known, and sampling will have to name one.
        second, multiplied: see `moments_of`; None: what the source's format says, and else 1.

    Where the scale is "own", that of statistics beside the samples counts, and else the autoencoder's.

    Raises:
        UserError: a scalar scale lacks an autoencoder, samples have another form, and whatever `encode` raises.
    """
    processes = processes or Processes.launched()
    multiplied = multiplied if multiplied is not None else source.multiplied or 1.0
    if not 1e-6 <= multiplied <= 1e6:  # beyond, float16 holds nothing of what is left
        raise UserError(f"--multiplied {multiplied} must be a number from 1e-06 to 1e+06", status=2)
    scale = _scale(source, settings, vae)
    first = _first(source, second, multiplied)
    with begun(
        root, _plan(source, first, settings, vae, multiplied, scale), alone=processes.world == 1, lasting=False
    ) as plan:
        _tell(source, plan, first, multiplied, scale.file)
        bad, skipped = Tolerance(settings.tolerance, plan.images, root, "latents"), []
        for number in plan.missing(root):
            if number % processes.world == processes.rank:
                skipped += _convert_shard(root, number, source, plan, second, multiplied, first)
                bad(skipped)
                log.info("%s: shard %d of %d", root, number + 1, plan.shards)
        return finish(root, plan, source, settings.tolerance, "latents")


class _Scale(NamedTuple):
    """What a `Fingerprint` says of the scale, and the file of statistics it comes from, if it does."""

    fields: dict[str, Any]
    file: str = ""


def _scale(source: Foreign, settings: EncodingSettings, vae: VAE | None) -> _Scale:
    own, file = source.own_scale() if settings.scale == "own" else (None, "")
    if own is None:
        return _Scale(scale_fields(settings, vae))
    return _Scale({"scale": "own", "shift": 0.0, "own_mean": own.mean, "own_std": own.std}, file)


def _tell(source: Foreign, plan: EncodingPlan, first: Sample, multiplied: float, file: str) -> None:
    """Log in one line what was found."""
    names = source.class_names
    some = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
    classes = f"{len(names)} classes ({some}), " if names else ""
    has_labels = source.labels is not None or first.label is not None
    labels = f"{classes}labels from {source.labels_from}" if has_labels else "no labels"
    passed = source.passed_over.replace(f"{file} (statistics)", "").strip(", ") if file else source.passed_over
    over = f"; scaled by {file}" if file else ""
    over += f"; multiplied by {multiplied:g}, which is undone" if multiplied != 1 else ""
    over += f"; passed over: {passed}" if passed else ""
    shape = " × ".join(map(str, plan.shape))
    log.info("%s: %d latents of %s, %s%s", source.address, len(source), shape, labels, over)


def _labelled(
    source: Foreign, index: int, second: str | None, multiplied: float, first: Sample | None = None
) -> Sample:
    """Return one sample with its label, from wherever the label comes.

    first: the first sample, whose label says of what kind all are.

    Raises:
        BadLabel: the label is no class, or of another kind, or there are two that differ; with the sample's name.
        UserError, OSError: the sample is damaged, or of another form.
    """
    try:
        read = source.read(index)
        if second is None and not isinstance(read, dict):  # a dictionary says itself what it holds
            second = source.second
        sample = moments_of(read, second, multiplied, labelled=source.owned)
        beside = source.beside(index)
        given = [label for label in (beside, sample.label) if label is not None]
        if source.labels is not None:
            given.insert(0, int(source.labels[index]))
        if len(set(given)) > 1:
            others = " and ".join(map(str, given[1:]))
            raise BadLabel(
                f"label {given[0]} from {source.labels_from} is not its own, {others}: say which counts, --labels "
                "folders or --labels samples"
            )
        label = given[0] if given else None
        refuse_another_kind(label, first.label if first else None)
    except BadLabel as error:
        instead = "" if "--labels" in str(error) else INSTEAD
        raise BadLabel(f"{source.name(index)}: {error}{instead}") from None
    return sample._replace(label=label)


def _first(source: Foreign, second: str | None, multiplied: float) -> Sample:
    """Return the first whole sample, whose form the others must have."""
    reasons: list[str] = []
    for index in range(min(len(source), _LOOKED_AT)):
        try:
            return _labelled(source, index, second, multiplied)
        except BadLabel:
            raise
        except (UserError, OSError) as error:
            reasons.append(f"{source.name(index)}: {error}")
    more = "" if len(reasons) == 1 else f" (and none of the first {len(reasons)} could be read)"
    raise UserError(f"{reasons[0]}{more}")


def _plan(
    source: Foreign,
    first: Sample,
    settings: EncodingSettings,
    vae: VAE | None,
    multiplied: float,
    scale: _Scale,
) -> EncodingPlan:
    from .. import __version__

    count, channels, height, width = first.moments.shape
    channels = channels // 2 if first.variance else channels
    if vae is not None and channels != vae.channels:
        spread = " with variance" if first.variance else ""
        raise UserError(
            f"{source.address} has latents of {channels} channels{spread}, and {vae.name} makes {vae.channels}: "
            "say with --second what the second half of the channels is"
        )
    own = np.shape(scale.fields["own_mean"])
    if scale.file and own not in ((channels,), (channels, height, width)):
        raise UserError(
            f"{source.address}: its {scale.file} is of {' × '.join(map(str, own))}, and the latents are "
            f"{channels} × {height} × {width}: say --scale statistics, which computes them"
        )
    fingerprint = Fingerprint(
        vae=vae.hash if vae else "unknown",
        vae_name=vae.name if vae else "",
        vae_class=vae.class_name if vae else "",
        **scale.fields,
        crop="unknown",
        size=height * vae.factor if vae else 0,
        flips="stored" if count == 2 else "none",
        precision="unknown",
        source=source.digest,
        address=source.address,
        class_names=source.class_names,
        count=0,
        code=__version__,
        second=first.second,
        multiplied=float(multiplied),
    )
    plan = EncodingPlan(
        fingerprint=fingerprint,
        images=len(source),
        shard_images=1,
        shape=(channels, height, width),
        variance=first.variance,
        versions=count,
        dtype="float16",
        probe=source.probe(),
    )
    return dataclasses.replace(plan, shard_images=settings.shard_images or max(1, SHARD_BYTES // plan.image_bytes))


def _convert_shard(
    root: Path,
    number: int,
    source: Foreign,
    plan: EncodingPlan,
    second: str | None,
    multiplied: float,
    first: Sample,
) -> list[str]:
    """Write one shard; return the samples that had to be skipped, in words."""
    channels, height, width = plan.shape
    expected = (plan.versions, 2 * channels if plan.variance else channels, height, width)
    about = plan.fingerprint.second

    def work(index: int) -> Sample | str:
        try:
            sample = _labelled(source, index, second, multiplied, first)
        except BadLabel:
            raise
        except (UserError, OSError) as error:
            return str(error)
        if sample.moments.shape != expected or sample.second != about:
            return (
                f"latents of the shape {sample.moments.shape} ({sample.second}), and the first had {expected} "
                f"({about})"
            )
        return sample

    span, kept, skipped = plan.span(number), [], []
    labels: list[tuple[int, int | None]] = []
    with ThreadPoolExecutor(8) as pool:
        for index, outcome in zip(span, pool.map(work, span)):
            if isinstance(outcome, str):
                skipped.append((index, outcome))
                continue
            kept.append(outcome.moments.astype(np.float16))
            labels.append((index, outcome.label))
    classes = [label for _, label in labels if label is not None]
    if classes and len(classes) != len(labels):
        with_one, without = (next(k for k, label in labels if (label is None) == bare) for bare in (False, True))
        raise BadLabel(
            f"{source.name(without)} has no label, and {source.name(with_one)} has one: label all of them, or "
            "leave labels out with --labels none"
        )
    write_shard(
        root / shard_name(number),
        np.stack(kept) if kept else np.empty((0, *expected), np.float16),
        np.array(classes, np.int64) if classes else None,
        variance=plan.variance,
        first=span.start,
        stop=span.stop,
        skipped=skipped,
    )
    return [f"{source.name(index)}: {reason}" for index, reason in skipped]
