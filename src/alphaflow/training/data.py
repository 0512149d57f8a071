"""What a run records of its data, and whether what lies there now is still the same."""

from collections.abc import Mapping
from typing import Any

from ..data import Batches, Dataset, Latents
from ..data.clip_latents import ClipLatents
from ..data.latents import differences
from ..data.loader import class_numbers
from ..errors import UserError
from .build import build_dataset
from .config import Config
from .run import RunFolder


def describe(dataset: Dataset) -> dict[str, Any]:
    """What config.yaml records of the data, so that sampling needs no data set."""
    record = {
        "shape": list(dataset.shape),
        "num_classes": dataset.num_classes,
        "class_names": list(dataset.class_names),
        "kind": dataset.kind,
        "count": len(dataset),
        "fingerprint": dataset.fingerprint,
    }
    return record | ({"latents": dataset.manifest.record()} if isinstance(dataset, Latents | ClipLatents) else {})


def check_same(dataset: Dataset, fingerprint: str, record: Mapping[str, Any]) -> None:
    """Refuse data that is not what the run was trained on, and say what differs.

    Args:
        dataset: as it is now. fingerprint: of the data when the run was saved. record: what `describe` gave then.
    """
    if fingerprint == dataset.fingerprint:
        return
    said = f"fingerprint {dataset.fingerprint} here, {fingerprint} there"
    if isinstance(dataset, Latents | ClipLatents) and "latents" in record:
        names = {"class_names": record["class_names"]}
        ours = {**dataset.manifest.record(), "class_names": list(dataset.class_names)}
        said = "; ".join([said, *differences(ours, {**record["latents"], **names})])
    raise UserError(f"the data has changed since this run began ({said}): restore it, or start a new run")


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
    ours, others = data.get("latents", {}), record.get("latents", {})
    for name in ("vae", "scale"):
        if ours.get(name) != others.get(name) and not (name == "vae" and others.get(name) == "unknown"):
            raise UserError(
                f"{where}: it was trained on latents with {name} {others.get(name)}, and these have "
                f"{ours.get(name)}: encode the images as its were, or {instead}"
            )


def data_of(folder: RunFolder) -> Dataset:
    """The data of a run, after checking that it is still the same."""
    dataset, record = build_dataset(folder.read_config().data), folder.read_record()["data"]
    check_same(dataset, record["fingerprint"], record)
    return dataset


def batches_of(dataset: Dataset, config: Config, seed: int) -> Batches:
    """The stream of batches that the settings ask for."""
    data = config.data
    return Batches(
        dataset,
        config.batch_size,
        seed,
        flip=data.flip,
        classes=class_numbers(data.classes, dataset.class_names),
        balanced=data.balanced,
    )
