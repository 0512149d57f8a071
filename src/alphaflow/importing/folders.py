"""Folders of weights: one file, a network in parts, accelerate's, Orbax's; and hints for what cannot be read."""

import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from .distributed import METADATA, read_distributed
from .orbax import LINES, find_orbax, read_orbax
from .read_checkpoint import Content, read_checkpoint

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".npz", ".pkl", ".msgpack")
ORBAX = f"an Orbax checkpoint, whose arrays lie in the files beside it: give its folder; or {LINES}"
DCP = (
    "a checkpoint by torch.distributed.checkpoint, whose tensors lie in pieces: "
    "`python -m torch.distributed.checkpoint.format_utils dcp_to_torch DIR weights.pt`, then import weights.pt"
)
DEEPSPEED = "a checkpoint by DeepSpeed: `python zero_to_fp32.py . weights` in it, then import what that writes"
_INDEX = ".index.json"
_STATE = re.compile(r"optimizer|scheduler|scaler|random_states|sampler|dl_state|training_args|rng")
"""Words in the names of the files that accelerate and others keep beside weights."""
_PART = re.compile(r".+-\d{5}-of-\d{5}\.(safetensors|bin)")
_ACCELERATE = re.compile(r"(model|pytorch_model|custom_checkpoint)(_\d+)?")
_USUAL = re.compile(r"model|pytorch_model|diffusion_pytorch_model|consolidated")
_LARGEST_INDEX = 1 << 26


def read_source(path: str | Path) -> Content:
    """Read a checkpoint: a file, a network in parts (named by its index or any part), or a folder with either.

    Raises:
        UserError: as `read_checkpoint`; several files may be meant; or it is of a kind that another library reads,
            which the message names.
    """
    path = Path(path)
    if place := find_orbax(path):
        return read_orbax(place)
    if (path.parent / METADATA).is_file() and (path.name == METADATA or path.suffix == ".distcp"):
        return _read_distributed(path.parent)
    if path.is_dir():
        return _read_folder(path)
    if words := _pieces(path.parent, (path.name,)):
        raise UserError(f"{path} belongs to {words.replace('DIR', str(path.parent.resolve()))}")
    if path.name.endswith(_INDEX):
        return _read_parts(path)
    if _PART.fullmatch(path.name):
        index = sorted(path.parent.glob(f"{path.name.rsplit('-', 3)[0]}*{_INDEX}"))
        if not index:
            raise UserError(f"{path} is one part of a network, and no {_INDEX[1:]} is beside it: put it there")
        return _read_parts(index[0])
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = tuple(name.rpartition("/")[2] for name in archive.namelist())
        if words := _pieces(path, names):
            raise UserError(f"{path} is the archive of {words}; unpack it first, DIR is what is in it")
    return read_checkpoint(path)


def _read_folder(folder: Path) -> Content:
    try:
        names = sorted(entry.name for entry in folder.iterdir() if not entry.is_dir())
        inside = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    except OSError as error:
        raise UserError(f"cannot read {folder} ({error.strerror}): give a checkpoint") from None
    if parts := [place for place in (folder, *inside) if (place / METADATA).is_file()]:
        if len(parts) == 1:
            return _read_distributed(parts[0])
        contents = {place.name: _read_distributed(place) for place in parts}
        return Content("distributed", {name: one.tree for name, one in contents.items()})
    for place in (folder, *inside):
        if words := _pieces(place, None):
            raise UserError(f"{folder} is {words.replace('DIR', str(place.resolve()))}")
    if "alphaflow.json" in names or ("config.yaml" in names and (folder / "checkpoints").is_dir()):
        raise UserError(f"{folder} is a model or a run of alphaflow already: it is opened as it is")
    indices = [name for name in names if name.endswith(_INDEX)]
    whole = [
        name for name in names if name.endswith(WEIGHTS) and not _STATE.match(name) and not _PART.fullmatch(name)
    ]
    if len(indices) == 1 and not [name for name in whole if not name.startswith("custom_checkpoint")]:
        if not whole:
            return _read_parts(folder / indices[0])
    elif len(whole) == 1 and not indices and _USUAL.fullmatch(whole[0].split(".")[0]):
        return read_checkpoint(folder / whole[0])
    if whole + indices and all(_ACCELERATE.fullmatch(name.split(".")[0]) for name in whole + indices):
        return _together(folder, [*indices, *whole])
    if whole:
        raise UserError(f"{folder} is a folder with {_some(whole)}: give the file with the weights")
    held = [entry.name for entry in inside if any(name.suffix in WEIGHTS for name in entry.iterdir())]
    where = f", give {_some([f'{folder / name}' for name in held])}" if held else ""
    raise UserError(f"{folder} is a folder without a file of weights{where or ': give the file with the weights'}")


def _read_distributed(folder: Path) -> Content:
    return read_distributed(folder, DCP.replace("DIR", str(folder.resolve())))


def _together(folder: Path, names: list[str]) -> Content:
    """Return each file as a branch with its name: accelerate numbers networks, and keeps averages beside them."""
    contents = {name.split(".")[0]: read_source(folder / name) for name in names}
    foreign: dict[str, int] = {}
    for entry in contents.values():
        foreign |= entry.foreign
    tree = {name: content.tree for name, content in contents.items()}
    return Content(" and ".join(dict.fromkeys(entry.form for entry in contents.values())), tree, foreign)


def _read_parts(index: Path) -> Content:
    """Read a network in parts, by the index that says which tensor lies in which."""
    try:
        if index.stat().st_size > _LARGEST_INDEX:
            raise ValueError(f"more than {_LARGEST_INDEX} bytes")
        record = json.loads(index.read_text())
        places: Any = record["weight_map"]
        files = sorted(set(places.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"cannot read {index} ({type(error).__name__}): give the file with the weights") from None
    tree: dict[str, Any] = {}
    forms: list[str] = []
    for name in files:
        if not isinstance(name, str) or Path(name).name != name:
            raise UserError(f"{index} names {name!r}, which is no file beside it: not read")
        content = read_checkpoint(index.parent / name)
        forms.append(content.form)
        tree |= content.tree
    if missing := [name for name in places if name not in tree]:
        raise UserError(f"{index} names {_some(missing)}, which no part holds: are all of one save?")
    return Content(f"{forms[0]} in {len(files)} parts" if forms else "parts", tree)


def _pieces(folder: Path, given: tuple[str, ...] | None) -> str:
    """Return what to say of a folder, or a file in it, whose tensors another library puts together; else ""."""
    names = given or tuple(entry.name for entry in folder.iterdir())
    marks: Mapping[str, tuple[str, ...]] = {
        ORBAX: ("_CHECKPOINT_METADATA",),
        DEEPSPEED: ("zero_to_fp32.py",),
    }
    for words, some in marks.items():
        if set(some) & set(names):
            return words
    return DCP if any(name.endswith(".distcp") for name in names) else ""


def hint(content: Content) -> str:
    """Return what a checkpoint without networks seems to be; "" if nothing is known of it."""
    leaves = [value for value in _leaves(content.tree) if isinstance(value, str)]
    if any(value.startswith("PLACEHOLDER://") for value in leaves[:1000]):
        return f"it is the index of {ORBAX}"
    if any(name.endswith((".DTensor", ".ShardedTensor")) for name in content.foreign):
        return (
            "its tensors are the part of one process (DTensor): save whole ones, as "
            "torch.distributed.checkpoint.state_dict.get_model_state_dict does with full_state_dict=True"
        )
    if content.form == "npz" and any("Python objects" in value for value in leaves[:1000]):
        return (
            "its arrays are Python objects, which are not opened: save them one by one, numpy.savez(FILE, **flat)"
        )
    return ""


def _leaves(tree: Any) -> list[Any]:
    waiting, leaves = [tree], []
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        else:
            leaves.append(value)
    return leaves


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
