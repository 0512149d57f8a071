"""A folder of diffusers with a flow network becomes a model's folder, to be trained into a flow map: `alphaflow
adapt MODEL DIR`.

read config.json (no code, no pickle) -> build the class -> its weights -> a time adapter -> write
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import UserError, one_line
from ..models.adapted import AdaptedFlow, build_flow, plain_config
from ..models.flow_facts import FlowFacts, facts_of
from ..runs.folder import versions
from ..runs.model_folder import LARGEST, ModelRecord, check_names, describe_network, write_model
from .kept_condition import read_condition

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model"
SIDE, FRAMES = 64, 4
"""Of a sample, where the network does not say its side; of a video's latents, which it never says."""
_NO_FLOW = ("epsilon", "sample", "v_prediction")
"""Predictions that a scheduler's settings name, and that are no flow's."""


@dataclass(frozen=True, kw_only=True)
class AdaptOptions:
    """What the user says of the network to be."""

    adapter: str = "zero"
    """One of `models.ADAPTERS`."""
    lora: int = 0
    """The rank of LoRA in training; 0: all weights train."""
    side: int | None = None
    """A sample's side; None: the network's own `sample_size`, or `SIDE`."""


def adapt_folder(model: Path, folder: Path, options: AdaptOptions) -> ModelRecord:
    """Write the flow network in `model`, a folder of diffusers, as the model's folder `folder`.

    The same weights give the same answers at r = t; those of the adapter are drawn from seed 0.

    Raises:
        UserError: the folder cannot be read, or its network predicts no velocity.
    """
    if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]):
        raise UserError(f"{folder} exists already: choose another DIR, or remove it first")
    place, config = find_network(model)
    class_name = config["_class_name"]
    facts = facts_of(class_name)
    _check_pipeline(place, model)
    settings = {name: value for name, value in config.items() if not name.startswith("_") and name != "auto_map"}
    net = _build(class_name, settings, _read_weights(place), place)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        kept = read_condition(model)
        shape = kept.data["shape"] if kept else _shape(facts, plain_config(net), options)
        try:
            flow = AdaptedFlow(net, options.adapter, None, shape=shape, **(kept.told if kept else {}))
        except ValueError as error:
            raise UserError(f"{error}; --side gives another", status=2) from None
        if kept:
            kept.fill(flow, model)
        if options.lora:
            _try_lora(flow, options.lora)
    record = ModelRecord(
        network=describe_network(flow),
        data=kept.data if kept else _data(flow.shape, facts),
        weights="net",
        origin={
            "adapted": model.resolve().name,
            "lora": options.lora,
            "told": f"{facts.unit:g} · {'(1 - t)' if facts.backwards else 't'}",
            "answers": "x - noise" if facts.backwards else "noise - x",
        },
        versions=versions(),
    )
    write_model(folder, record, flow.state_dict())
    return record


def find_network(model: Path) -> tuple[Path, dict[str, Any]]:
    """Return the folder with the network's config.json, `model` or its transformer/, and what that file says.

    Raises:
        UserError: there is none, or it says no class.
    """
    if not model.is_dir():
        what = "is a file" if model.exists() else "is not there"
        raise UserError(
            f"{model} {what}: give a folder of diffusers on this machine, as save_pretrained writes it or `hf "
            "download OWNER/NAME --local-dir MODEL` fetches it"
        )
    for place in (model / "transformer", model):
        if (place / CONFIG).is_file():
            break
    else:
        raise UserError(f"{model} holds neither transformer/{CONFIG} nor {CONFIG}: give a folder of diffusers")
    try:
        if (place / CONFIG).stat().st_size > LARGEST:
            raise ValueError(f"more than {LARGEST:,} bytes")
        config = json.loads((place / CONFIG).read_text())
        if not isinstance(config.get("_class_name"), str):
            raise ValueError("it names no _class_name, as diffusers does")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"cannot read {place / CONFIG} ({one_line(error)})") from None
    if "quantization_config" in config:
        raise UserError(f"{place} holds quantised weights, which do not train: give the folder of whole ones")
    return place, config


def _check_pipeline(place: Path, model: Path) -> None:
    """Refuse a pipeline whose scheduler, or whose second network, says that this one is no flow's alone."""
    if place == model:
        return
    if (model / "transformer_2").is_dir():
        raise UserError(
            f"{model} has two networks, transformer and transformer_2, each for a part of the times: give the one "
            f"to train, {place}, and mind that it knows its part alone"
        )
    file = model / "scheduler" / "scheduler_config.json"
    try:
        said = json.loads(file.read_text()) if file.is_file() else {}
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file} ({one_line(error)})") from None
    kind = said.get("prediction_type") if isinstance(said, Mapping) else None
    if kind in _NO_FLOW:
        raise UserError(f"{file} says prediction_type {kind!r}: the network predicts no velocity of a flow")


def _read_weights(place: Path) -> dict[str, Tensor]:
    """Return the network's weights by name, mapped from its safetensors.

    Raises:
        UserError: there are none, several sets, or pickles alone.
    """
    whole = sorted(place.glob(f"{WEIGHTS}*.safetensors"))
    parts = [file for file in whole if "-of-" in file.name]
    if len({file.name.split(".")[1] if file.name.count(".") > 1 else "" for file in whole}) > 1:
        chosen = place / f"{WEIGHTS}.safetensors"
        whole = [chosen] if chosen in whole else [file for file in parts if file.name.count(".") == 1]
    files = parts if parts and set(parts) >= set(whole) else whole
    if not files:
        pickled = any(place.glob("*.bin")) or any(place.glob("*.pt"))
        why = "pickles alone, which could run code: convert them" if pickled else f"no {WEIGHTS}.safetensors"
        raise UserError(
            f"{place} holds {why}: save the network with save_pretrained(..., safe_serialization=True)"
        )
    weights: dict[str, Tensor] = {}
    try:
        for file in files:
            weights |= load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read {files[0].parent} ({one_line(error)}): fetch it again") from None
    return weights


def _build(class_name: str, settings: Mapping[str, Any], weights: Mapping[str, Tensor], place: Path) -> nn.Module:
    """Build the network over these weights, as float32.

    Raises:
        UserError: no such network can be built, or the weights are another's.
    """
    if wrong := [name for name, value in settings.items() if "layers" in name and _more(value, len(weights))]:
        raise UserError(f"{place / CONFIG}: {wrong[0]} is more than its {len(weights)} tensors can fill")
    try:
        with torch.device("meta"):
            check_names(str(place), weights, build_flow(class_name, settings).state_dict())
        with torch.random.fork_rng(devices=[]):
            net = build_flow(class_name, settings)
    except UserError:
        raise
    except Exception as error:  # the constructor's own, about settings that do not go together
        raise UserError(f"no {class_name} can be made of {place / CONFIG} ({one_line(error)})") from None
    whole = {name: weight.float() if weight.is_floating_point() else weight for name, weight in weights.items()}
    if damaged := [name for name, weight in whole.items() if not weight.isfinite().all()]:
        raise UserError(f"{place}: {damaged[0]} has numbers that are not finite: are the weights damaged?")
    net.load_state_dict(whole, assign=True)
    return net


def _more(value: Any, most: int) -> bool:
    return isinstance(value, int) and value > most


def _shape(facts: FlowFacts, config: Mapping[str, Any], options: AdaptOptions) -> tuple[int, ...]:
    own = config.get("sample_size")
    side = options.side or (own if isinstance(own, int) else SIDE)
    frames = (FRAMES,) if facts.dimensions == 5 else ()
    return (facts.channels(config)[0], *frames, side, side)


def _data(shape: tuple[int, ...], facts: FlowFacts) -> dict[str, Any]:
    kind = "image" if len(shape) == 3 and shape[0] in (1, 3) else "video" if shape[0] in (1, 3) else "latent"
    return {"shape": list(shape), "kind": kind, "num_classes": 0, "class_names": []}


def _try_lora(flow: AdaptedFlow, rank: int) -> None:
    """Refuse LoRA before training does: where peft is missing, or the network has nothing to put it beside."""
    import copy

    from ..models.lora import add_lora

    with torch.device("meta"):
        add_lora(copy.deepcopy(flow).to("meta"), rank)
