"""Other people's checkpoints as a model's folder: `alphaflow import FILE DIR`.

read (nothing is executed) -> find the weights -> name them -> fold them into a DiT of ours
    -> compare with a second computation from the file's own tensors -> write
"""

import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from .data.latents import read_manifest
from .errors import UserError
from .interop.files import Content, flatten, read_checkpoint
from .interop.foreign_pickles import Stored
from .interop.improved import (
    GUIDANCE,
    OriginalImproved,
    canonical,
    is_improved,
    rename_improved,
    shape_of_improved,
)
from .interop.layouts import POSITIONS, SD, Scale
from .interop.network import Found, Shape, choose_layout, find_weights, fold, rename, shape_of, unwrapped
from .interop.original import Original
from .models import PRESETS, DiT, ImprovedDiT
from .models.dit import position_table
from .portable import ModelRecord, describe_network, write_model
from .results import write_text
from .training.run import versions

log = logging.getLogger("alphaflow")

TOLERANCE = 1e-4
"""Largest difference from the second computation that passes, relative to its largest value."""

SETTINGS = "imported-settings.json"
"""In the model's folder: the settings that lay beside the weights."""
_HEADS = ("cfg.model.num_heads", "args.num_heads", "config.num_heads")
_CLASSES = ("cfg.dataset.label_shape.0", "args.num_classes", "config.num_classes")
_STEPS = ("stats.cur_step", "steps", "step", "global_step", "train_steps")
"""Where checkpoints keep what their weights do not tell."""
_LICENCES = {"alphaflow": "other (the release is for non-commercial use: see its LICENSE)"}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the person says of a checkpoint. None: it is found out.

    layout: one of `LAYOUTS`. weights: "ema" or "net". heads: of the attention. classes: without the row for "no
    class". side: of a sample, in pixels or latent pixels. latents: a set by `alphaflow encode` whose scale is the
    network's. vae: the autoencoder that decodes the samples: a name, or a folder. guidance, interval: what
    improved MeanFlow's network is told; see `ImprovedDiT`.
    """

    layout: str | None = None
    weights: str | None = None
    heads: int | None = None
    classes: int | None = None
    side: int | None = None
    latents: Path | None = None
    vae: str | None = None
    guidance: float | None = None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Report:
    """What an import found. difference: of the two computations, relative to their largest value."""

    layout: str
    record: ModelRecord
    difference: float
    foreign: tuple[str, ...]


def import_checkpoint(path: str | Path, folder: Path, wanted: Wanted | None = None) -> Report:
    """Write the network in the checkpoint `path` as the model's folder `folder`, which `alphaflow.load` opens.

    Tensors are mapped from the file and written one after the other: the memory taken is the file's size at most,
    and the system may take that back.

    Raises:
        UserError: the file cannot be read or understood, or the network computes something else than its original.
    """
    wanted = wanted or Wanted()
    if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]):
        raise UserError(f"{folder} exists already: choose another DIR, or remove it first")
    content = read_checkpoint(path)
    flat = unwrapped(flatten(content.tree))
    try:
        found, which = _choose_weights(flat, wanted.weights)
        taken = _take_improved(found, wanted) if is_improved(found) else _take_dit(found, flat, wanted)
        data = _data(wanted, flat, found, taken, Path(path))
    except UserError as error:
        raise UserError(f"{path}: {error}", status=error.status) from None
    except (ValueError, RuntimeError, IndexError) as error:  # of torch, about shapes that nothing above foresees
        raise UserError(f"{path}: its tensors have unexpected shapes ({' '.join(str(error).split())})") from None
    record = ModelRecord(
        network=describe_network(taken.net),
        data=data,
        step=int(_first(flat, _STEPS) or 0),
        weights=which,
        guides=taken.guides,
        origin=_origin(path, content, taken),
        licence=_LICENCES.get(taken.layout, ""),
        versions=versions(),
    )
    write_model(folder, record, taken.weights)
    settings = next((content.tree[key] for key in ("cfg", "args", "config") if content.tree.get(key)), None)
    if settings is not None:
        write_text(folder / SETTINGS, json.dumps(_json(settings), indent=2) + "\n")
    return Report(taken.layout, record, taken.difference, tuple(sorted(content.foreign)))


@dataclass(frozen=True)
class _Taken:
    """A network of ours over foreign weights, found to compute the same."""

    net: DiT | ImprovedDiT
    weights: Mapping[str, Tensor]
    layout: str
    scale: Scale | None
    difference: float
    guides: tuple[float, float] | None = None


def _take_dit(found: Found, flat: Mapping[str, Any], wanted: Wanted) -> _Taken:
    layout = choose_layout(found, wanted.layout)
    shape = shape_of(found, layout)
    heads = _heads(wanted.heads, flat, shape)
    num_classes = _num_classes(wanted.classes, flat, shape)
    if wanted.guidance is not None or wanted.interval is not None:
        raise UserError(f"--guidance and --interval are for imf, and these weights are {layout.name}", status=2)
    weights = fold(rename(found, layout, shape), layout, shape, num_classes)
    settings = {
        "input_size": _side(wanted.side, shape.tokens, shape.patch),
        "patch": shape.patch,
        "channels": shape.channels,
        "width": shape.width,
        "depth": shape.depth,
        "heads": heads,
        "num_classes": num_classes,
        "mlp_ratio": shape.hidden / shape.width,
    }
    net = _over(DiT, settings, weights)
    net.place_positions("cpu")
    _check_positions(found, shape)
    difference = _compare(net, Original(found, layout, shape, heads).velocity)
    # Of flow matching, a row for no class says that labels were dropped; the others have guidance trained in.
    plain = len(layout.embedders) == 1 and shape.rows > num_classes
    return _Taken(net, weights, layout.name, layout.scale, difference, (0.0, 1.0) if plain else None)


def _take_improved(found: Found, wanted: Wanted) -> _Taken:
    if wanted.layout not in (None, "imf") or wanted.heads is not None or wanted.classes is not None:
        raise UserError(
            "these weights are improved MeanFlow's, which tell all sizes: leave --layout, --heads and "
            "--classes away",
            status=2,
        )
    found = canonical(found)
    shape = shape_of_improved(found)
    weights = rename_improved(found, shape)
    guidance, interval = GUIDANCE.get(shape.depth, (1.0, (0.0, 1.0)))
    guidance = guidance if wanted.guidance is None else wanted.guidance
    interval = wanted.interval or interval
    settings = {**vars(shape), "input_size": _side(wanted.side, None, shape.patch)}
    net = _over(ImprovedDiT, {**settings, "guidance": guidance, "interval": interval}, weights)
    difference = _compare(net, OriginalImproved(found, shape, guidance, interval).velocity)
    return _Taken(net, weights, "imf", SD, difference)


N = TypeVar("N", DiT, ImprovedDiT)


def _over(kind: type[N], settings: Mapping[str, Any], weights: Mapping[str, Tensor]) -> N:
    """A network over these tensors, which are not copied."""
    try:
        with torch.device("meta"):
            net = kind(**settings)
        net.load_state_dict(weights, assign=True)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"no {kind.__name__} can be made of it ({' '.join(str(error).split())})") from None
    return net.eval().requires_grad_(False)


def _choose_weights(flat: Mapping[str, Any], wanted: str | None) -> tuple[Found, str]:
    plain, averaged = find_weights(flat)
    if wanted == "net" or (averaged is None and wanted is None):
        if plain is None:
            raise UserError("it holds averaged weights only: leave --weights net away")
        return plain, "net"
    if averaged is None:
        raise UserError("it holds no averaged weights: leave --weights ema away")
    return averaged, "ema"


def _first(flat: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """The first number among leaves of these names."""
    values = (flat.get(name) for name in names)
    values = (
        value.read().item() if isinstance(value, Stored) and value.shape == () else value for value in values
    )
    return next((value for value in values if isinstance(value, int | float)), None)


def _heads(wanted: int | None, flat: Mapping[str, Any], shape: Shape) -> int:
    heads = wanted or _first(flat, _HEADS)
    heads = heads or {(depth, width): n for depth, width, n in PRESETS.values()}.get((shape.depth, shape.width))
    if heads is None:
        raise UserError(
            f"depth {shape.depth} and width {shape.width} are no published size, and weights do not tell the "
            "number of attention heads: add --heads N",
            status=2,
        )
    if heads < 1 or shape.width % heads:
        raise UserError(f"--heads {heads} does not divide the width {shape.width}", status=2)
    return int(heads)


def _num_classes(wanted: int | None, flat: Mapping[str, Any], shape: Shape) -> int:
    if not shape.rows:
        return 0
    found = wanted or _first(flat, _CLASSES) or (1000 if shape.rows == 1000 else shape.rows - 1)
    if found not in (shape.rows, shape.rows - 1):
        raise UserError(f"{found} classes do not fit a table of {shape.rows} rows: add --classes N", status=2)
    if found == shape.rows:
        log.warning('the table has no row for "no class": the mean of all stands in for it')
    return int(found)


def _side(wanted: int | None, tokens: int | None, patch: int) -> int:
    if tokens is None:
        if wanted is None:
            log.warning("the file does not tell the size of a sample: taken as 32 × 32 (--side says otherwise)")
        return wanted or 32
    side = math.isqrt(tokens) * patch
    if wanted not in (None, side):
        raise UserError(f"--side {wanted} does not fit the file, whose samples are {side} × {side}", status=2)
    return side


def _check_positions(found: Found, shape: Shape) -> None:
    if POSITIONS in found.weights:
        side = math.isqrt(shape.tokens or 0)
        stored, exact = found.weights[POSITIONS].read(), position_table(side, side, shape.width)
        off = float((stored.float().reshape(exact.shape) - exact).abs().max())
        if off > max(1e-3, torch.finfo(stored.dtype).eps):
            raise UserError(f"its positions are not DiT's sines and cosines (off by {off:.2g}): not taken in")


@torch.no_grad()
def _compare(net: DiT | ImprovedDiT, original: Callable[..., Tensor]) -> float:
    """The largest difference between the two computations on one input, relative to the largest value."""
    source = torch.Generator().manual_seed(0)
    z = torch.randn(1, *net.shape, generator=source)
    r, t = torch.tensor([0.3]), torch.tensor([0.8])
    y = torch.tensor([min(207, net.num_classes - 1)]) if net.num_classes else None
    ours, theirs = net(z, r, t, y), original(z, r, t, y)
    largest = float(theirs.abs().max())
    if not math.isfinite(largest):
        raise UserError("its output is not finite: are the weights damaged?")
    difference = float((ours - theirs).abs().max()) / max(largest, 1e-12)
    if not difference <= TOLERANCE:
        raise UserError(
            f"the imported network differs from the original by {difference:.2g} of its largest value: not written"
        )
    return difference


def _data(wanted: Wanted, flat: Mapping[str, Any], found: Found, taken: _Taken, path: Path) -> dict[str, Any]:
    """What the samples are, as config.yaml says it."""
    shape, num_classes = taken.net.shape, taken.net.num_classes
    pixels = shape[0] in (1, 3) and wanted.latents is None and wanted.vae is None
    data: dict[str, Any] = {
        "shape": list(shape),
        "num_classes": num_classes,
        "class_names": [str(k) for k in range(num_classes)],
        "kind": "image" if pixels else "latent",
    }
    if pixels:
        return data
    if wanted.latents is not None:
        manifest = read_manifest(wanted.latents)
        if manifest.shape != shape:
            raise UserError(f"the latents in {wanted.latents} are {manifest.shape}, not {shape}")
        record = manifest.record()
        if len(manifest.fingerprint.class_names) == num_classes:
            data["class_names"] = list(manifest.fingerprint.class_names)
        data |= {"count": manifest.fingerprint.count, "fingerprint": manifest.fingerprint.digest}
    else:
        record = _scale(flat, found, taken, path)
    return data | {"latents": record | ({"vae_name": wanted.vae} if wanted.vae else {})}


def _scale(flat: Mapping[str, Any], found: Found, taken: _Taken, path: Path) -> dict[str, Any]:
    """The fingerprint of the latents, as far as the checkpoint or its layout tells."""
    channels = taken.net.shape[0]
    if taken.scale is not None:
        scale, offset, divisor = taken.scale.words, list(taken.scale.offset), list(taken.scale.divisor)
        vae, crop = taken.scale.vae, taken.scale.crop
    else:
        scale, vae, crop = "statistics", "sd-vae-ft-ema", "lanczos"
        offset, divisor = _statistics(flat, found, channels)
    if len(offset) != channels:
        raise UserError(
            f"samples have {channels} channels, and the scale of {taken.layout} is for {len(offset)}: add "
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


def _statistics(flat: Mapping[str, Any], found: Found, channels: int) -> tuple[list[Any], list[Any]]:
    """Offset and divisor, (C,) or (C, h, w), of the mean and the variance that α-Flow's release stores with the
    weights, (1, C, h, w) or (1, C, 1, 1)."""
    above = found.where.removesuffix("model.")
    stored = [flat.get(f"{above}autoencoder_{name}") for name in ("mean", "var")]
    if not all(isinstance(one, Stored) for one in stored):
        raise UserError(
            f"it has no {above}autoencoder_mean and no _var, so the scale of its latents is not known: add "
            "--latents DST, the encoded set that it was trained on",
            status=2,
        )
    mean, variance = (one.read().double() for one in stored if one is not None)
    if mean.shape != variance.shape or mean.ndim != 4 or mean.shape[:2] != (1, channels):
        raise UserError(
            f"the statistics of its latents have the shape {tuple(mean.shape)}: only images are taken in"
        )
    offset, divisor = mean[0].float(), (variance[0] + 1e-16).sqrt().float()
    if offset.shape[1:] == (1, 1):
        offset, divisor = offset.flatten(), divisor.flatten()
    return offset.tolist(), divisor.tolist()


def _origin(path: str | Path, content: Content, taken: _Taken) -> dict[str, Any]:
    """Where the model comes from."""
    return {
        "imported": Path(path).name,
        "bytes": Path(path).stat().st_size,
        "form": content.form,
        "layout": taken.layout,
        "difference": taken.difference,
        "not_run": sorted(content.foreign),
    }


def _json(value: Any) -> Any:
    """The same with tensors and other strangers to JSON as words."""
    if isinstance(value, Mapping):
        return {str(key): _json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_json(one) for one in value]
    if isinstance(value, Stored):
        return f"<{value.dtype}, {value.shape}>"
    return value if isinstance(value, str | int | float | bool | None) else str(value)
