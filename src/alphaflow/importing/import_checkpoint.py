"""Other people's checkpoints become a model's folder: `alphaflow import FILE DIR`.

read (nothing is executed) -> find the weights -> name them -> fold them into a DiT of this package -> write
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError, one_line
from ..files import write_text
from ..runs import hub
from ..runs.folder import versions
from ..runs.model_folder import ModelRecord, describe_network, write_model
from .averages import WeightSet, choose_weights, find_networks, only_weights, unwrapped
from .build_network import BuiltNetwork, ImportOptions, build_dit, build_improved, first_number
from .describe_samples import describe_samples
from .folders import hint, read_source
from .improved import is_improved
from .read_checkpoint import Content, flatten
from .stored import StoredTensor
from .strangers import stranger

log = logging.getLogger("alphaflow")


SETTINGS = "imported-settings.json"
"""The file in the model's folder with the settings that lay beside the weights."""
_STEPS = ("stats.cur_step", "steps", "step", "global_step", "train_steps")
"""Names under which checkpoints keep the number of steps, which their weights do not tell."""
_LICENCES = {"alphaflow": "other (the release is for non-commercial use: see its LICENSE)"}


@dataclass(frozen=True)
class Report:
    """The outcome of an import."""

    layout: str
    record: ModelRecord
    foreign: tuple[str, ...]
    passed: tuple[str, ...] = ()
    """Other networks that the file holds, by the beginnings of their names."""


def import_checkpoint(path: str | Path, folder: Path, wanted: ImportOptions | None = None) -> Report:
    """Write the network in the checkpoint `path` as the model's folder `folder`, which `alphaflow.load` opens.

    Tensors are mapped from the file and written one after the other: the memory taken is the file's size at most,
    and the system may take that back.

    Raises:
        UserError: the file cannot be read or understood.
    """
    wanted = wanted or ImportOptions()
    if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]):
        raise UserError(f"{folder} exists already: choose another DIR, or remove it first")
    if hub.is_address(path):
        raise UserError(
            f"hf://{str(path)[4:].lstrip('/')} is an address of the hub, and import reads files: load one with "
            "`hf download OWNER/NAME FILE --local-dir DIR`, and give it; an export opens without import",
            status=2,
        )
    content = read_source(path)
    flat = unwrapped(flatten(content.tree))
    try:
        chosen = only_weights(_choose_weights(flat, wanted.weights, content))
        _warn_of_others(chosen)
        if not is_improved(chosen) and (said := stranger({**_settings(flat), **chosen.weights})):
            raise UserError(said)
        built = build_improved(chosen, wanted) if is_improved(chosen) else build_dit(chosen, flat, wanted)
        data = describe_samples(wanted, flat, chosen, built, Path(path))
    except UserError as error:
        raise UserError(f"{path}: {error}", status=error.status) from None
    except (ValueError, RuntimeError, IndexError) as error:  # torch's, about shapes not foreseen above
        raise UserError(f"{path}: its tensors have unexpected shapes ({one_line(error)})") from None
    record = ModelRecord(
        network=describe_network(built.net),
        data=data,
        step=int(first_number(flat, _STEPS) or 0),
        weights="ema" if chosen.averaged else "net",
        guides=built.guides,
        origin=_origin(path, content, built, chosen),
        licence=_LICENCES.get(built.layout, ""),
        versions=versions(),
    )
    write_model(folder, record, built.weights)
    settings = next((content.tree[key] for key in ("cfg", "args", "config") if content.tree.get(key)), None)
    if settings is not None:
        write_text(folder / SETTINGS, json.dumps(_json(settings), indent=2) + "\n")
    others = [other.where for other in find_networks(flat) if other.where != chosen.where]
    return Report(built.layout, record, tuple(sorted(content.foreign)), tuple(others))


def _settings(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return the leaves that are no tensors."""
    return {name: value for name, value in flat.items() if not isinstance(value, StoredTensor)}


def _choose_weights(flat: Mapping[str, Any], asked: str | None, content: Content) -> WeightSet:
    ordered = not content.form.startswith(("safetensors", "orbax", "distributed"))
    try:
        return choose_weights(flat, asked, ordered=ordered)
    except UserError as error:
        reason = (hint(content) or stranger(flat)) if not find_networks(flat, ordered=ordered) else ""
        raise (UserError(reason) if reason else error) from None


def _warn_of_others(chosen: WeightSet) -> None:
    """Log numbers of types that no weight has. Counters beside the weights mean nothing, and are passed over."""
    names = [
        f"{name} ({str(value.dtype).removeprefix('torch.')})"
        for name, value in (chosen.aside or {}).items()
        if value.shape not in ((), (1,))
    ]
    if names:
        more = ", …" if len(names) > 6 else ""
        log.warning("left aside, as no weight has such a type: %s%s", ", ".join(names[:6]), more)


def _size(path: Path) -> int:
    """Return the bytes of the file, or of all files in the folder."""
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def _origin(path: str | Path, content: Content, built: BuiltNetwork, chosen: WeightSet) -> dict[str, Any]:
    """Return the record of where the model comes from."""
    return {
        "imported": Path(path).name,
        "bytes": _size(Path(path)),
        "within": chosen.where.rstrip("."),
        "form": content.form,
        "layout": built.layout,
        "not_run": sorted(content.foreign),
    }


def _json(value: Any) -> Any:
    """Return a tree with words in place of tensors and of all else that JSON does not have."""
    if isinstance(value, Mapping):
        return {str(key): _json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    if isinstance(value, StoredTensor):
        return f"<{value.dtype}, {value.shape}>"
    return value if isinstance(value, str | int | float | bool | None) else str(value)
