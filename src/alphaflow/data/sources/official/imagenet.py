"""ImageNet: its tars with the devkit, Kaggle's tree, torchvision's folders; and Tiny ImageNet.

Classes are numbered by the order of their WordNet ids (n01440764 is 0) in all of them, as everywhere else; the
devkit's own numbers, ILSVRC2012_ID, go by another order.
"""

import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alphaflow.errors import UserError

from ..classes import few
from ..label_tables import table_of
from .layout import Chosen, Layout, Numbers, by_listed, once, unique
from .place import Place

_SYNSET = re.compile(r"n\d{8}")
_VALIDATION = re.compile(r"ILSVRC2012_val_(\d{8})")
_LARGEST = 1 << 26  # bytes of meta.mat or meta.bin, which have a few hundred thousand


def find_tiny(place: Place) -> Layout | None:
    """Find Tiny ImageNet: wnids.txt beside train/n…/images, val/images with val_annotations.txt, and words.txt."""
    wnids = next((path for path in place.find("wnids.txt") if _all_synsets(place.maybe_lines(path))), None)
    if wnids is None:
        return None
    synsets = sorted(set(place.lines(wnids)))
    words = place.near(wnids, "words.txt")
    names = _named(synsets, dict(_two(place, words, "\t")) if words else {})
    root = wnids[: wnids.rfind("/") + 1]

    def choose(split: str, paths: Sequence[str]) -> Chosen:
        if split == "train":
            return _by_folders(paths, f"{root}train/", synsets, names)
        told = place.near(wnids, "val/val_annotations.txt")
        if split == "val" and told is None:  # some put its images into folders of their own
            return _by_folders(paths, f"{root}val/", synsets, names)
        if split == "test" or told is None:
            return Chosen(range(len(paths)))
        rows = [line.split() for line in place.lines(told)]
        return _by_list(
            place, told, [(row[0], row[1] if len(row) > 1 else "") for row in rows], paths, synsets, names
        )

    splits = [name for name in ("train", "val", "test") if f"{root}{name}" in place.folders]
    return (
        Layout("Tiny ImageNet", splits, lambda split: place.pictures(f"{root}{split}/"), choose)
        if splits
        else None
    )


def find_kaggle(place: Place) -> Layout | None:
    """Find Kaggle's tree: ILSVRC/Data/CLS-LOC/{train,val,test}, LOC_synset_mapping.txt, LOC_val_solution.csv."""
    mapping = place.first("LOC_synset_mapping.txt")
    if mapping is None and not place.holds("CLS-LOC"):
        return None
    bases = [folder[: -len("CLS-LOC")] for folder in place.folders if folder.endswith("Data/CLS-LOC")]
    if len(bases) != 1:
        return None
    base = f"{bases[0]}CLS-LOC/"
    pairs = _two(place, mapping, " ") if mapping else []
    trained = (folder[len(base) + 6 :] for folder in place.folders if folder.startswith(f"{base}train/"))
    synsets = sorted(synset for synset, _ in pairs) or sorted(filter(_SYNSET.fullmatch, trained))
    if not _all_synsets(synsets):
        return None
    names = _named(synsets, dict(pairs))

    def choose(split: str, paths: Sequence[str]) -> Chosen:
        if split == "train":
            return _by_folders(paths, f"{base}train/", synsets, names)
        solution = place.first(f"LOC_{split}_solution.csv")
        if solution is None:
            why = f"the images have no labels without LOC_{split}_solution.csv"
            return Chosen(range(len(paths)), passed_over=[why] if split == "val" else [])
        _, rows = table_of(place.read(solution), Path(place.called(solution)))
        listed = [(row[0], row[1].split(" ")[0]) for row in rows if row[0].lower() != "imageid"]
        return _by_list(place, solution, listed, paths, synsets, names)

    splits = [name for name in ("train", "val", "test") if f"{base}{name}" in place.folders]
    return Layout("ImageNet", splits, lambda split: place.pictures(f"{base}{split}/"), choose) if splits else None


def find_devkit(place: Place) -> Layout | None:
    """Find the tars or folders of ImageNet with the devkit: meta.mat, and the ground truth for validation."""
    meta, truth = place.first("meta.mat"), place.first("ILSVRC2012_validation_ground_truth.txt")
    if meta is None or truth is None:
        return None
    synset_of, words = _meta_mat(place, meta)
    synsets = sorted(synset_of.values())
    names = _named(synsets, words)
    every = place.pictures()
    train = [k for k, path in enumerate(every.names) if _synset_in(path)]
    validation = {k: int(found[1]) for k, path in enumerate(every.names) if (found := _VALIDATION.search(path))}
    test = [k for k, path in enumerate(every.names) if "ILSVRC2012_test_" in path]

    def choose(split: str, paths: Sequence[str]) -> Chosen:
        if split == "test":
            return Chosen(test)
        if split == "train":
            held = [k for k in train if k not in validation]
            once([paths[k] for k in held], "ImageNet")
            return _numbered(held, [_synset_in(paths[k]) for k in held], synsets, names, place.called(meta))
        numbers = _truth(place, truth)
        rows = list(validation)
        once([paths[k] for k in rows], "ImageNet")
        beyond = next((k for k in rows if not 1 <= validation[k] <= len(numbers)), None)
        if beyond is not None:
            raise UserError(
                f"{place.called(truth)} has {len(numbers):,} lines, and there is {paths[beyond]}: fetch it anew"
            )
        wrong = next((number for number in numbers if number not in synset_of), None)
        if wrong is not None:
            raise UserError(f"{place.called(truth)} names class {wrong}, which {place.called(meta)} does not know")
        return _numbered(
            rows, [synset_of[numbers[validation[k] - 1]] for k in rows], synsets, names, place.called(meta)
        )

    there = {"train": [k for k in train if k not in validation], "val": validation, "test": test}
    splits = [name for name, rows in there.items() if rows]
    return Layout("ImageNet", splits, lambda split: every, choose) if splits else None


def find_prepared(place: Place) -> Layout | None:
    """Find the folders that torchvision has prepared: train/n…, val/n… and meta.bin with the words."""
    meta = place.first("meta.bin")
    if meta is None or "/" in meta.removeprefix("../"):
        return None
    words = _meta_bin(place, meta)
    if words is None:
        return None
    splits = [name for name in ("train", "val") if name in place.folders]
    synsets = sorted(words)
    names = _named(synsets, words)

    def choose(split: str, paths: Sequence[str]) -> Chosen:
        return _by_folders(paths, f"{split}/", synsets, names)

    return Layout("ImageNet", splits, lambda split: place.pictures(f"{split}/"), choose) if splits else None


def _two(place: Place, name: str, mark: str) -> list[tuple[str, str]]:
    """Return the first word of each line, and what follows the mark."""
    pairs = [line.partition(mark) for line in place.lines(name)]
    return [(first.strip(), rest.strip()) for first, _, rest in pairs]


def _all_synsets(words: Sequence[str]) -> bool:
    return bool(words) and all(map(_SYNSET.fullmatch, words))


def _named(synsets: Sequence[str], words: dict[str, str]) -> list[str]:
    return unique([words.get(synset) or synset for synset in synsets], synsets)


def _synset_in(path: str) -> str:
    """Return the id of the class that an image of the training set has by its folder, or else by its name."""
    parts = path.split("/")
    folder = next((part for part in reversed(parts[:-1]) if _SYNSET.fullmatch(part)), None)
    named = re.match(r"(n\d{8})_\d+\.", parts[-1])
    return folder or (named[1] if named else "")


def _by_folders(paths: Sequence[str], base: str, synsets: Sequence[str], names: Sequence[str]) -> Chosen:
    found = [path[len(base) :].partition("/")[0] for path in paths]
    known = set(synsets)
    rows = [k for k, synset in enumerate(found) if synset in known]
    others = sorted({found[k] for k in range(len(found)) if found[k] not in known})
    told = [f"{len(paths) - len(rows):,} images in other folders ({few(others)})"] if others else []
    chosen = _numbered(rows, [found[k] for k in rows], synsets, names, "the lists")
    return Chosen(chosen.rows, chosen.labels, chosen.usual, told)


def _by_list(
    place: Place,
    file: str,
    listed: Sequence[tuple[str, str]],
    paths: Sequence[str],
    synsets: Sequence[str],
    names: Sequence[str],
) -> Chosen:
    rows, entries, told = by_listed([name for name, _ in listed], paths, place.called(file))
    if len(rows) < len(paths):
        there = set(rows)
        bare = [path for k, path in enumerate(paths) if k not in there]
        told.append(f"{len(bare):,} images that {place.called(file)} does not name ({few(bare)})")
    chosen = _numbered(rows, [listed[k][1] for k in entries], synsets, names, place.called(file))
    return Chosen(chosen.rows, chosen.labels, chosen.usual, told)


def _numbered(
    rows: Sequence[int], found: Sequence[str], synsets: Sequence[str], names: Sequence[str], called: str
) -> Chosen:
    number = {synset: k for k, synset in enumerate(synsets)}

    def labels(names: Sequence[str]) -> Numbers:
        wrong = next((synset for synset in found if synset not in number), None)
        if wrong is not None:
            raise UserError(
                f"{called} names the class {wrong or 'nothing'!r}, which is none of the set's: fetch it anew"
            )
        return Numbers([number[synset] for synset in found], names)

    return Chosen(rows, {"synsets": lambda: labels(names), "wnids": lambda: labels(synsets)}, "synsets")


def _truth(place: Place, name: str) -> list[int]:
    lines = place.lines(name)
    wrong = next((line for line in lines if not line.isdigit()), None)
    if wrong is not None:
        raise UserError(f"{place.called(name)} has the line {wrong[:40]!r}, which is no number of a class")
    return [int(line) for line in lines]


def read_mat(place: Place, name: str, *variables: str) -> dict[str, Any]:
    """Return variables of a MATLAB file.

    Raises:
        UserError: it is damaged, or lacks one of them.
    """
    from scipy.io import loadmat

    try:
        arrays = loadmat(io.BytesIO(place.read(name, _LARGEST)), variable_names=variables, squeeze_me=True)
        return {variable: arrays[variable] for variable in variables}
    except UserError:
        raise
    except Exception as error:  # a damaged file makes its reader raise nearly anything
        raise UserError(
            f"{place.called(name)} holds no {' and '.join(variables)} as MATLAB has them ({error}): fetch it anew"
        ) from None


def _meta_mat(place: Place, name: str) -> tuple[dict[int, str], dict[str, str]]:
    """Return the WordNet id of each of the devkit's numbers, and the words of each id, of classes alone."""
    table = np.atleast_1d(read_mat(place, name, "synsets")["synsets"])
    fields = table.dtype.names or ()
    if not {"ILSVRC2012_ID", "WNID", "words", "num_children"} <= set(fields):
        raise UserError(f"{place.called(name)} lists no synsets with ILSVRC2012_ID, WNID and words: fetch it anew")
    try:
        leaves = [row for row in table if int(row["num_children"]) == 0]
        synset_of = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in leaves}
    except (TypeError, ValueError) as error:
        raise UserError(f"{place.called(name)} has a synset without a number ({error}): fetch it anew") from None
    return synset_of, {str(row["WNID"]): str(row["words"]) for row in leaves}


def _meta_bin(place: Place, name: str) -> dict[str, str] | None:
    """Return the words of each WordNet id as torchvision keeps them; `None` if the file is another one."""
    import torch

    try:
        content = torch.load(io.BytesIO(place.read(name, _LARGEST)), weights_only=True, map_location="cpu")
    except Exception:  # another file of that name
        return None
    words = content[0] if isinstance(content, tuple | list) and content else None
    if not isinstance(words, dict) or not _all_synsets([str(key) for key in words]):
        return None
    return {
        str(key): ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
        for key, value in words.items()
    }


FINDERS: tuple[Callable[[Place], Layout | None], ...] = (find_tiny, find_kaggle, find_devkit, find_prepared)
