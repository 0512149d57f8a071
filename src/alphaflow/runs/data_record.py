"""What a run records of its data, and whether what lies there now is still the same."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..data import Batches, Dataset, Images, told_in, vocabulary_of
from ..data.latents import differences
from ..data.latents.manifest import by_place
from ..data.loader import class_numbers
from ..data.sources.classes import few
from ..data.sources.decoding import DECODER
from ..errors import UserError
from .config import DataConfig, with_changes
from .data_paths import find_data, overlap
from .folder import RunFolder

log = logging.getLogger("alphaflow")
_OTHER = 0.05  # of a deviation: the statistics of some thousand images of one kind agree better


def describe(dataset: Dataset) -> dict[str, Any]:
    """Return what config.yaml records of the data, so that sampling needs no data set."""
    record = {
        "shape": list(dataset.shape),
        "num_classes": dataset.num_classes,
        "class_names": list(dataset.class_names),
        "kind": dataset.kind,
        "count": len(dataset),
        "fingerprint": dataset.fingerprint,
    }
    if isinstance(dataset, Images):
        record["decoder"] = DECODER
    if vocabulary := vocabulary_of(dataset):
        record["vocabulary"] = vocabulary.record()
    return record | ({"latents": dataset.manifest.record()} if dataset.manifest else {})


def check_same(
    dataset: Dataset, fingerprint: str, record: Mapping[str, Any], *, inside: str | None = None
) -> None:
    """Refuse data that is not what the run was trained on, and say what differs.

    Args:
        dataset: as it is now. fingerprint: of the data when the run was saved. record: what `describe` gave then.
        inside: how the run's folder and its data lie in each other, if they do.
    """
    if fingerprint == dataset.fingerprint:
        return
    said = f"fingerprint {dataset.fingerprint} here, {fingerprint} there"
    now = describe(dataset)
    for what in ("count", "class_names", *(("decoder",) if isinstance(dataset, Images) else ())):
        here, there = now[what], record.get(what, 1 if what == "decoder" else now[what])
        if here != there:
            said += f"; {what} {_short(here)} here, {_short(there)} there"
    if dataset.manifest and "latents" in record:
        names = {"class_names": record["class_names"]}
        here = {**dataset.manifest.record(), "class_names": list(dataset.class_names)}
        said = "; ".join([said, *differences(here, {**record["latents"], **names})])
    remedy = f"{inside}: move the run elsewhere" if inside else "restore it, or start a new run"
    raise UserError(f"the data has changed since this run began ({said}): {remedy}")


def _short(value: Any) -> str:
    return f"{len(value)} ({few(value)})" if isinstance(value, list) else str(value)


def check_fits(where: str, instead: str, data: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Refuse a model trained on samples that the network of this run could not have been trained on.

    Other images are what fine-tuning is for; other numbers for the same image are not.

    Args:
        where: names the model, and `instead` what else to do, in errors. data: what `describe` says of this run's
            data. record: what it said of the model's.
    """
    for name in ("shape", "num_classes"):
        if data[name] != record[name]:
            raise UserError(
                f"{where}: its network has {name} {record[name]} and this run's has {data[name]}: make them the "
                f"same, or {instead}"
            )
    if told_in(data) != told_in(record):
        raise UserError(
            f"{where}: its network reads other words than this run's data have, or one of the two reads none: "
            f"{instead}"
        )
    ours, others = data.get("latents", {}), record.get("latents", {})
    for name, mine, other in (
        ("vae", ours.get("vae"), others.get("vae")),
        ("scale", ours.get("scale"), others.get("scale")),
    ):
        of_data = name == "scale" and {mine, other} <= {"statistics", "places"}
        if mine != other and not of_data and not (name == "vae" and other == "unknown"):
            raise UserError(
                f"{where}: it was trained on latents with {name} {other}, and these have {mine}: encode the "
                f"images as its were, or {instead}"
            )
    if ours and others:
        _tell_other_scale(where, ours, others, data["shape"][-2:])


def _tell_other_scale(
    where: str, ours: Mapping[str, Any], others: Mapping[str, Any], sides: Sequence[int]
) -> None:
    """Say so when the latents of a model were scaled by place and these by channel, or by other numbers, as those
    of other images are."""
    kinds, tables = [], []
    for record in (others, ours):
        offset, divisor = (np.array(record[name], np.float64) for name in ("offset", "divisor"))
        kinds.append("place" if divisor.ndim == 3 else "channel")
        tables.append([by_place(part, sides[0], sides[1]) for part in (offset, divisor)])
    (offset, divisor), (our_offset, our_divisor) = tables
    wider = 100 * np.expm1(np.abs(np.log(our_divisor / divisor)).max())
    aside = (np.abs(our_offset - offset) / divisor).max()
    if kinds[0] != kinds[1] or max(wider / 100, aside) > _OTHER:
        log.warning(
            "%s: its latents were scaled by %s and these by %s (%s), up to %.0f %% wider or narrower and %.2f of "
            "a deviation aside: it has to learn the difference",
            where,
            kinds[0],
            kinds[1],
            "encode with --scale places for the same"
            if kinds == ["place", "channel"]
            else "with other statistics",
            wider,
            aside,
        )


def data_of(folder: RunFolder, path: str | None = None) -> Dataset:
    """Return the data of a run, after checking that it is still the same.

    Args:
        path: where it is now, if not where it was.
    """
    config, record = folder.read_config(), folder.read_record()["data"]
    if path:
        refuse_place(config.data)
        config = with_changes(config, {"data.path": path})
    dataset = find_data(config.data, record["class_names"])
    check_same(dataset, record["fingerprint"], record, inside=overlap(config, folder.path))
    return dataset


def refuse_place(config: DataConfig) -> None:
    """Refuse a place for data that are made, not read: they lie nowhere."""
    if not config.path:
        raise UserError(f"--data.path: this run's data are {config.name!r}, which lie nowhere", status=2)


def batches_of(dataset: Dataset, data: DataConfig, batch_size: int, seed: int) -> Batches:
    """Return the stream of batches that the settings of the data ask for."""
    return Batches(
        dataset,
        batch_size,
        seed,
        flip=data.flip,
        classes=class_numbers(data.classes, dataset.class_names),
        balanced=data.balanced,
    )
