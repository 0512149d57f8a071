"""A model's folder: what `alphaflow export` and `alphaflow import` make, and `alphaflow.load` opens.

    model.safetensors   the weights, by the names of our networks
    alphaflow.json      which network that is, what its samples are, where it comes from and what was measured
    README.md           the same for people, and for pages such as the Hugging Face hub's (a model card)

Nothing in it is pickled, and nothing in it is code.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from .. import models
from ..data import Vocabulary
from ..errors import UserError, choose, one_line
from ..files import beside, write_text
from . import hub
from .checkpoint import write_tensors
from .model_checks import check_positions, check_record, check_sizes

FORMAT = "alphaflow model 1"
RECORD = "alphaflow.json"
WEIGHTS = "model.safetensors"
LARGEST = 1 << 25
"""Bytes of a record. With a scale of its own for each place of a latent of 4 × 32 × 32 it has some 200,000."""

NETWORKS: Mapping[str, type[models.Network] | type[models.AdaptedFlow]] = {
    "dit": models.DiT,
    "video-dit": models.VideoDiT,
    "mlp": models.MLP,
    "unet": models.UNet,
    "improved-dit": models.ImprovedDiT,
    "worded-dit": models.WordedDiT,
    "adapted": models.AdaptedFlow,
}


@dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """What alphaflow.json says. Values are JSON's.

    network: `describe_network`'s answer. data: what its samples are, as config.yaml's `data` says it: shape, kind,
    num_classes, class_names, and a vocabulary where it is told in words; for latents also `latents`, with which
    they are decoded; with a count and a fingerprint where the training data are known.
    step: of training; 0 where it is not known. weights: which ones these are, in words.
    guides: the times between which labels were dropped in training, where plain guidance can be applied; or None.
    scales, intervals: what of guidance the network takes as an input, as in `Generator`.
    origin: where the model comes from: the settings of its run, or the file that was imported.
    metrics: measured figures, each with its protocol, as evaluation.json has them.
    licence: of the weights, an SPDX name; "" where nobody said. versions: what it was made with.
    """

    network: dict[str, Any]
    data: dict[str, Any]
    step: int = 0
    weights: str = "ema"
    guides: tuple[float, float] | None = None
    scales: tuple[float, float] | None = None
    intervals: bool = False
    origin: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    licence: str = ""
    versions: dict[str, str] = field(default_factory=dict)


def describe_network(net: nn.Module) -> dict[str, Any]:
    """Return the network's name and settings, from which `build_network` makes the same one.

    Raises:
        UserError: it is none of alphaflow's.
    """
    predicts = "data" if isinstance(net, models.DataPrediction) else "velocity"
    inner = net.net if isinstance(net, models.DataPrediction) else net
    for name, kind in NETWORKS.items():
        if type(inner) is kind:
            return {"name": name, "predicts": predicts, "settings": dict(inner.config)}
    raise UserError(
        f"a network of type {type(inner).__name__} cannot be described in {RECORD}: it must be one of "
        f"{', '.join(kind.__name__ for kind in NETWORKS.values())}"
    )


def build_network(description: Mapping[str, Any]) -> nn.Module:
    """Build the network that `describe_network` described, on torch's default device, with any weights."""
    kind = NETWORKS[choose("network", str(description.get("name"))[:80], NETWORKS)]
    make = models.build_adapted if kind is models.AdaptedFlow else kind
    try:
        net = make(**description["settings"])
    except (KeyError, TypeError, ValueError, RuntimeError, ArithmeticError, AssertionError) as error:
        what = one_line(error, 300)
        raise UserError(f"no {kind.__name__} can be made of the settings in {RECORD}: {what}") from None
    return models.DataPrediction(net) if description.get("predicts") == "data" else net


def write_model(folder: Path, record: ModelRecord, weights: Mapping[str, Tensor]) -> None:
    """Write alphaflow.json and model.safetensors; the folder is made if need be, and files in it replaced.

    weights: the network's `state_dict`, on any device. No more memory is taken than one of its tensors.

    Raises:
        UserError: the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with beside(folder / WEIGHTS) as temporary:  # an old file may be open, mapped into somebody's memory
            write_tensors(temporary, weights)
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror}): choose another place") from None
    write_text(folder / RECORD, json.dumps({"format": FORMAT, **asdict(record)}, indent=2) + "\n")


def is_model(path: Path) -> bool:
    """Whether `path` is a folder that `write_model` wrote."""
    return (path / RECORD).is_file()


def folder_of(path: str | Path) -> Path:
    """`path`, or where the model of an address on the hub (`hf://OWNER/NAME`) now lies on this machine.

    Raises:
        UserError: it cannot be loaded, or is no model of alphaflow.
    """
    if not hub.is_address(path):
        return Path(path)
    folder = hub.fetch(path, [RECORD, WEIGHTS])
    if not is_model(folder):
        raise UserError(
            f"{path} holds no model of alphaflow: it has no {RECORD}, as --format safetensors makes it"
        )
    return folder


def read_record(folder: Path) -> ModelRecord:
    """Return what alphaflow.json says.

    Raises:
        UserError: it is missing or damaged, or of a later format.
    """
    path = folder / RECORD
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"more than {LARGEST:,} bytes")
        record = json.loads(path.read_text())
        if record.pop("format") != FORMAT:
            raise UserError(f"{path} is not of the format {FORMAT!r}: open it with a newer alphaflow")
        choices = {one.name for one in fields(ModelRecord)}
        found = ModelRecord(**{key: value for key, value in record.items() if key in choices})
        if not isinstance(found.network.get("settings"), dict):
            raise ValueError("it names no network with settings")
        missing = {"shape", "kind", "num_classes", "class_names"} - found.data.keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"cannot read {path} ({one_line(error)}): export the model again") from None
    if missing:
        raise UserError(f"{path} does not say {', '.join(sorted(missing))} of the data: export the model again")
    check_record(found, path)
    return found


def load_network(folder: Path, record: ModelRecord, device: torch.device | str = "cpu") -> nn.Module:
    """Build the network with its weights, in evaluation mode and frozen. On the CPU they are mapped from the file,
    and take their size in memory once.

    Raises:
        UserError: the weights are missing or damaged, or are another network's: the names are listed.
    """
    path = folder / WEIGHTS
    try:
        with safe_open(path, framework="pt") as file:
            check_sizes(record.network["settings"], len(file.keys()), folder / RECORD)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read {path} ({one_line(error)}): export the model again") from None
    with torch.device("meta"):
        net = build_network(record.network)
    _check_data(net, record.data, folder / RECORD)
    if isinstance(net, models.AdaptedFlow):  # it keeps numbers that no file holds
        net = _real(record.network)
    try:
        weights = load_file(path, device=str(device))
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read {path} ({one_line(error)}): export the model again") from None
    wanted = net.state_dict()
    check_names(str(path), weights, wanted)
    net.load_state_dict(weights, assign=True)
    for module in net.modules():
        if isinstance(module, models.Transformer):
            check_positions(module.pos_embed.numel(), folder / RECORD)
            module.place_positions(device)
    return net.eval().requires_grad_(False)


def _real(description: Mapping[str, Any]) -> nn.Module:
    """Build a network with memory of its own, and leave torch's generators as they were."""
    with torch.random.fork_rng(devices=[]):
        return build_network(description)


def _check_data(net: nn.Module, data: Mapping[str, Any], path: Path) -> None:
    """Refuse a record whose network does not make the samples that it speaks of."""
    inner = net.net if isinstance(net, models.DataPrediction) else net
    if inner.num_classes != data["num_classes"]:
        raise UserError(f"{path}: the network has {inner.num_classes} classes and the data {data['num_classes']}")
    words = Vocabulary.from_record(data.get("vocabulary"))
    config: Any = inner.config
    reads = (config["vocabulary"], config["length"]) if config.get("vocabulary") else None
    if reads != (words and (words.size, words.length)):
        raise UserError(f"{path}: the vocabulary is not the network's: export the model again")
    if isinstance(inner, models.Transformer | models.AdaptedFlow) and inner.shape != tuple(data["shape"]):
        raise UserError(f"{path}: the network makes samples of {inner.shape} and the data are {data['shape']}")


def check_names(where: str, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Refuse weights whose names or shapes are not those of the network, and list what differs."""
    wrong = [f"{name} is missing" for name in wanted.keys() - found.keys()]
    wrong += [f"{name} is not the network's" for name in found.keys() - wanted.keys()]
    wrong += [
        f"{name} is {tuple(found[name].shape)} and not {tuple(wanted[name].shape)}"
        for name in wanted.keys() & found.keys()
        if found[name].shape != wanted[name].shape
    ]
    if wrong:
        more = f"; and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise UserError(f"{where} does not fit the network: {'; '.join(sorted(wrong)[:8])}{more}")
