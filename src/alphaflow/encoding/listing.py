"""The files among many that are samples of latents, those that stand beside them, and the classes of their
folders."""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from ..data.latents.shards import CLASSES_AT_MOST
from ..data.sources.classes import Classes, by_value
from ..data.sources.splits import refuse_splits
from ..errors import UserError, one_line
from .forms import BadLabel, class_of, refuse_another_kind

SUFFIXES = (".npy", ".npz", ".pt", ".pth", ".pkl", ".pickle")
DATASET = "dataset.json"
_STATISTICS = {"stat", "stats", "statistics"}
_FIGURES = {"mean", "means", "std", "stds", "var", "variance", "mu", "sigma", "scale", "scaling", "shift"}
_AROUND = {"latent", "latents", "vae", "channel", "factor", "data", "dataset", "train"}
_FEW = 8  # more files than these are not of statistics, whatever their names
_CONTAINERS = (".safetensors", ".tar", ".h5", ".hdf5", ".arrow", ".parquet", ".tfrecord", ".mdb", ".bin", ".zip")


def samples_among(address: str, sizes: Mapping[str, int], describe: Callable[[str], str]) -> tuple[list[str], str]:
    """Return the files with one sample each, sorted, and in words what is passed over.

    Args:
        address: what messages call the place of the files.
        sizes: the sizes of all files in bytes, by their relative paths with slashes.
        describe: a function from a file of another kind to what it holds.

    Raises:
        UserError: there are no samples, or other files are the bulk of it; the message says what can be read.
    """
    shown = [name for name in sizes if not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))]
    samples = sorted(name for name in shown if name.lower().endswith(SUFFIXES))
    statistics = [name for name in samples if is_statistics(name)]
    if 0 < len(statistics) <= _FEW:
        samples = [name for name in samples if name not in statistics]
    else:
        statistics = []
    chosen = {*samples, *statistics, DATASET, *json_beside(samples, sizes).values()}
    others = sorted(name for name in shown if name not in chosen)
    over = [f"{name} (statistics)" for name in statistics] + _by_suffix(others)
    bulk = [name for name in others if name.lower().endswith(_CONTAINERS)]
    if not samples or sum(sizes[name] for name in bulk) > sum(sizes[name] for name in samples):
        message = f"; it holds {', '.join(over)}" if over else ""
        message += f": {bulk[0]} holds {describe(bulk[0])}, and such files are not read" if bulk else ""
        few = f"only {len(samples)} {', '.join(SUFFIXES)} files" if samples else f"no {', '.join(SUFFIXES)} files"
        raise UserError(
            f"{address} holds {few} with a sample each{message}: save each latent as a file of its own"
        )
    return samples, ", ".join(over)


def is_statistics(name: str) -> bool:
    """Return whether a file's name says that it holds statistics of latents: latents_stats.pt, mean.npy."""
    stem = PurePosixPath(name).stem.lower()
    words = set(re.findall("[a-z]+", stem))
    figures = bool(words & _FIGURES) and words <= _FIGURES | _AROUND and not re.search("[0-9]", stem)
    return bool(words & _STATISTICS) or figures


def _by_suffix(names: Sequence[str]) -> list[str]:
    """Return how many files have each suffix, in words: 3 .txt (a.txt, …), 1 .safetensors (x.safetensors)."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(PurePosixPath(name).suffix.lower() or "without a suffix", []).append(name)
    return [f"{len(few)} {kind} ({few[0]}{', …' if len(few) > 1 else ''})" for kind, few in sorted(kinds.items())]


def json_beside(samples: Sequence[str], sizes: Mapping[str, int]) -> dict[str, str]:
    """Return the .json of the same name that stands beside a sample, by the sample's name."""
    beside = {name: name.rpartition(".")[0] + ".json" for name in samples}
    return {name: side for name, side in beside.items() if side in sizes}


def label_files(samples: Sequence[str]) -> dict[str, str]:
    """Return the files with labels, by their sample's name, where samples and labels lie in a pair of folders with
    the same names in both, such as DiT's `imagenet256_features` and `imagenet256_labels`."""
    folders: dict[str, dict[str, str]] = {}
    for name in samples:
        folder, _, file = name.rpartition("/")
        folders.setdefault(folder, {})[file.partition(".")[0]] = name
    pairs: dict[str, str] = {}
    for folder, files in folders.items():
        if not {"label", "labels", "targets"} & set(re.findall("[a-z]+", folder.rpartition("/")[2].lower())):
            continue
        above = folder.rpartition("/")[0]
        others = [one for one in folders if one != folder and one.rpartition("/")[0] == above]
        for other in others:
            if folders[other].keys() == files.keys():
                pairs |= {folders[other][stem]: name for stem, name in files.items()}
    return pairs


def by_dataset_json(address: str, samples: Sequence[str], content: bytes) -> Classes:
    """Return labels that EDM's dataset.json gives; none where it says so.

    Raises:
        UserError: the file is damaged, gives no label for a sample, or one that is no class.
    """
    try:
        pairs = json.loads(content)["labels"]
        by_name = None if pairs is None else {str(name): label for name, label in pairs}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{address}: cannot understand {DATASET} ({one_line(error, 80)})") from None
    if not by_name:
        return None, ()
    labels = np.empty(len(samples), np.int64)
    first: int | None = None
    for k, name in enumerate(samples):
        if by_name.get(name) is None:
            raise UserError(f"{address}: {DATASET} has no label for {name}")
        try:
            label = class_of(by_name[name])
            first = label if first is None else first
            refuse_another_kind(label, first)
        except BadLabel as error:
            raise BadLabel(f"{address}: of {name} in {DATASET}, {error}{INSTEAD}") from None
        labels[k] = -1 if label is None else label  # it is not None here
    return labels, numbered(int(labels.max()))


INSTEAD = "; mend it, or leave labels out with --labels none"


def by_folders(address: str, samples: Sequence[str], *, wanted: bool = False) -> Classes:
    """Return labels from the first folder that not all samples share; none where that is no class.

    Args:
        address: what messages call the place of the samples.
        samples: their relative paths.
        wanted: whether the user said that the folders are classes.

    Raises:
        UserError: the folders are splits of a data set, such as train and val, and the user did not say so.
    """
    firsts = [name.split("/")[:-1] for name in samples]
    depth = 0
    while all(len(parts) > depth for parts in firsts) and len({parts[depth] for parts in firsts}) == 1:
        depth += 1
    if not all(len(parts) > depth for parts in firsts):
        return None, ()
    counts = Counter(parts[depth] for parts in firsts)
    if not wanted:
        where = "/".join([address.rstrip("/"), *firsts[0][:depth]])
        refuse_splits(
            counts,
            where,
            lambda name: f"{where}/{name}",
            option="",
            otherwise="to keep them as classes, add --labels folders",
        )
    if _are_buckets(counts):
        return None, ()
    return by_value([parts[depth] for parts in firsts])


def _are_buckets(counts: Mapping[str, int]) -> bool:
    """Return whether folders only keep a thousand files each: 00000, 00001, … (EDM) or 00000, 01000, … (FFHQ)."""
    names = sorted(counts)
    full = {counts[name] for name in names[:-1]}
    steps = [int(name) for name in names] if all(re.fullmatch("[0-9]{5,}", name) for name in names) else [1]
    regular = any(steps == [k * step for k in range(len(names))] for step in (1, 1000))
    return regular and full == {1000} and counts[names[-1]] <= 1000


def numbered(last: int) -> tuple[str, ...]:
    """Return names of classes 0 … last that have none."""
    return tuple(map(str, range(min(last + 1, CLASSES_AT_MOST))))


def label_in(content: Any, keys: Sequence[str]) -> Any:
    """Return the label that a file beside a sample holds, under one of `keys` or as a whole; None without one."""
    if isinstance(content, dict):
        return next((content[key] for key in (*keys, "arr_0") if key in content), None)
    return content
