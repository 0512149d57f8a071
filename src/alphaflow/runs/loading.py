"""Opening what was trained, exported or imported, for sampling."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data import Vocabulary, told_in
from ..data.sources.classes import shown
from ..devices import choose_device
from ..encoding.decoder import Decoder
from ..errors import UserError
from ..generation.generator import Generator
from ..models.adapted import AdaptedFlow
from ..models.lora import merge_lora
from . import checkpoint, hub, model_folder
from .averages import make_average
from .build import build_model
from .folder import RunFolder


def load(
    path: str | Path,
    device: str | torch.device = "cpu",
    ema: float | None = None,
    vae: str | None = None,
) -> Generator:
    """Open a run's newest checkpoint (its EMA weights), or an exported or imported model, for sampling.

    Args:
        path: the folder of a run, as `alphaflow train --out` made it; or of a model, as `alphaflow export` and
            `alphaflow import` make it, here or on the Hugging Face hub: `hf://OWNER/NAME`.
        device: "cpu", "cuda", or "auto": cuda where there is one.
        ema: average the weights over this share of the run instead, 0.08 for instance; the run must have stored
            averages (`ema.profiles`).
        vae: of a run on latents alone: where the autoencoder is, if not where it was. Its weights are compared.

    Returns:
        The generator: `load(path)(labels=[0, 1], nfe=1, seed=0)` gives uint8 images (2, H, W, C).

    Raises:
        UserError: the folder is no run, or holds no checkpoint; or a model's files do not fit each other.
    """
    where = choose_device(str(device))
    if hub.is_address(path) or model_folder.is_model(Path(path)):
        return _load_model(path, where, ema, vae)
    folder = RunFolder(Path(path))
    config, data = folder.read_config(), folder.read_record()["data"]
    net = build_model(config.model, data["shape"], told_in(data))
    if ema is None:
        stored = checkpoint.newest(folder.checkpoints)
        step, weights = stored.step, stored.whole("ema")
    else:
        average = make_average(folder, ema)
        step, weights = average.step, average.weights
    net.load_state_dict(weights)
    if isinstance(net, AdaptedFlow) and net.frozen:
        net = merge_lora(net)
    net = net.to(where).eval().requires_grad_(False)
    generator = _generator(net, data, step, where, "ema" if ema is None else f"ema {ema:g}", vae)
    _check_weights(str(path), net, step)
    ours = config.objective
    return replace(
        generator,
        name=str(path),
        guides=(ours.guide_from, ours.guide_to) if ours.label_drop else None,
        scales=(ours.scales[0], ours.scales[1]) if ours.scales else None,
        intervals=ours.intervals,
    )


def data_record(path: str | Path) -> Mapping[str, Any]:
    """Return what a run or a model says of its samples (shape, kind, num_classes, class_names, vocabulary).

    Raises:
        UserError: as `load`, as far as that goes.
    """
    if hub.is_address(path) or model_folder.is_model(Path(path)):
        return model_folder.read_record(model_folder.folder_of(path)).data
    return RunFolder(Path(path)).read_record()["data"]


def _check_weights(name: str, net: nn.Module, step: int) -> None:
    """Refuse a network of which nothing but NaN can come."""
    for key, tensor in net.state_dict().items():
        if not bool(tensor.isfinite().all()):
            raise UserError(
                f"{name} holds weights that are not finite ({key}, step {step}): the run has diverged; train it "
                "again with a smaller --optimizer.lr"
            )


def _load_model(path: str | Path, device: torch.device, ema: float | None, vae: str | None) -> Generator:
    folder = model_folder.folder_of(path)
    record = model_folder.read_record(folder)
    if ema is not None:
        raise UserError(
            f"{path} holds one set of weights ({record.weights}): --ema goes with a run's folder", status=2
        )
    net = model_folder.load_network(folder, record, device)
    generator = _generator(net, record.data, record.step, device, record.weights, vae)
    _check_weights(str(path), net, record.step)
    return replace(
        generator,
        name=str(path),
        guides=(record.guides[0], record.guides[1]) if record.guides else None,
        scales=(record.scales[0], record.scales[1]) if record.scales else None,
        intervals=record.intervals,
    )


def _generator(
    net: nn.Module, data: Mapping[str, Any], step: int, device: torch.device, weights: str, vae: str | None
) -> Generator:
    if vae and "latents" not in data:
        raise UserError(
            f"vae {vae!r} is for models of latents, and this one makes {data['kind']}s: leave it out", status=2
        )
    return Generator(
        net=net,
        shape=tuple(data["shape"]),
        num_classes=data["num_classes"],
        class_names=tuple(map(shown, data["class_names"])),
        vocabulary=Vocabulary.from_record(data.get("vocabulary")),
        kind=data["kind"],
        step=step,
        device=device,
        weights=weights,
        decoder=Decoder(data["latents"], device, vae) if "latents" in data else None,
    )
