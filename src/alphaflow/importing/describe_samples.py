"""The record of what an imported network's samples are, with the scale of their latents."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.latents import read_manifest
from ..errors import UserError
from .averages import WeightSet
from .build_network import BuiltNetwork, ImportOptions
from .stored import StoredTensor


def describe_samples(
    options: ImportOptions, flat: Mapping[str, Any], chosen: WeightSet, built: BuiltNetwork, path: Path
) -> dict[str, Any]:
    """Return the description of the samples, as config.yaml has it under `data`."""
    shape, num_classes = built.net.shape, built.net.num_classes
    pixels = shape[0] in (1, 3) and options.latents is None and options.vae is None
    data: dict[str, Any] = {
        "shape": list(shape),
        "num_classes": num_classes,
        "class_names": [str(k) for k in range(num_classes)],
        "kind": "image" if pixels else "latent",
    }
    if pixels:
        return data
    if options.latents is not None:
        manifest = read_manifest(options.latents)
        if manifest.shape != shape:
            raise UserError(f"the latents in {options.latents} are {manifest.shape}, not {shape}")
        record = manifest.record()
        if len(manifest.fingerprint.class_names) == num_classes:
            data["class_names"] = list(manifest.fingerprint.class_names)
        data |= {"count": manifest.fingerprint.count, "fingerprint": manifest.fingerprint.digest}
    else:
        record = _scale(flat, chosen, built, path)
    return data | {"latents": record | ({"vae_name": options.vae} if options.vae else {})}


def _scale(flat: Mapping[str, Any], chosen: WeightSet, built: BuiltNetwork, path: Path) -> dict[str, Any]:
    """Return the fingerprint of the latents, as far as the checkpoint or its layout tells."""
    channels = built.net.shape[0]
    if built.scale is not None:
        scale, offset, divisor = built.scale.words, list(built.scale.offset), list(built.scale.divisor)
        vae, crop = built.scale.vae, built.scale.crop
    else:
        scale, vae, crop = "statistics", "sd-vae-ft-ema", "lanczos"
        offset, divisor = _statistics(flat, chosen, channels)
    if len(offset) != channels:
        raise UserError(
            f"samples have {channels} channels, and the scale of {built.layout} is for {len(offset)}: add "
            "--latents DST, the encoded set that it was trained on",
            status=2,
        )
    return {
        "vae": "unknown",
        "vae_name": vae,
        "scale": scale,
        "shift": 0.0,
        "crop": crop,
        "size": 0,
        "flips": "unknown",
        "precision": "unknown",
        "source": "unknown",
        "address": path.name,
        "count": 0,
        "code": "",
        "offset": offset,
        "divisor": divisor,
    }


def _statistics(flat: Mapping[str, Any], chosen: WeightSet, channels: int) -> tuple[list[Any], list[Any]]:
    """Return the offset and the divisor, (C,) or (C, h, w), that undo the normalisation of the latents.

    They come from the mean and the variance that α-Flow's release stores with the weights, (1, C, h, w) or
    (1, C, 1, 1).
    """
    above = chosen.where if f"{chosen.where.removesuffix('model.')}autoencoder_mean" in flat else chosen.home
    above = above.removesuffix("model.")
    stored = [flat.get(f"{above}autoencoder_{name}") for name in ("mean", "var")]
    if not all(isinstance(part, StoredTensor) for part in stored):
        raise UserError(
            f"it has no {above}autoencoder_mean and no _var, so the scale of its latents is not known: add "
            "--latents DST, the encoded set that it was trained on",
            status=2,
        )
    mean, variance = (part.read().double() for part in stored if part is not None)
    if mean.shape != variance.shape or mean.ndim != 4 or mean.shape[:2] != (1, channels):
        raise UserError(
            f"the statistics of its latents have the shape {tuple(mean.shape)}: only images are taken in"
        )
    offset, divisor = mean[0].float(), (variance[0] + 1e-16).sqrt().float()
    if offset.shape[1:] == (1, 1):
        offset, divisor = offset.flatten(), divisor.flatten()
    return offset.tolist(), divisor.tolist()
