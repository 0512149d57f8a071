"""Splits of a data set (train, validation, test): they are told apart from classes, and never mixed in silence."""

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from alphaflow.errors import UserError
from alphaflow.files import shell_word

log = logging.getLogger("alphaflow")

_KINDS = {
    "train": ("train", "training", "trn", "trainset", "trainval", "traina", "trainb"),
    "validation": ("val", "valid", "validation", "valset", "minival", "dev", "vala", "valb"),
    "test": ("test", "testing", "tst", "testset", "eval", "evaluation", "holdout", "testa", "testb", "t10k"),
    "unlabeled": ("unlabeled", "unlabelled"),
}
_KIND_OF = {word: kind for kind, words in _KINDS.items() for word in words}
_SHORT = {"tr": "train", "va": "validation", "te": "test", "ts": "test"}
"""Short names that mean splits only where there is nothing else, since they name languages too."""
_BESIDE = {
    *("set", "split", "data", "dataset", "image", "images", "img", "imgs", "seg", "full", "folder"),
    *("clips", "video", "videos", "frames", "latent", "latents", "feature", "features", "moments"),
}
"""Words that may stand beside a split's in a folder's name: `train_images`, `seg_test`."""
_HUB = re.compile(r"(.+)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?")  # SPLIT-00000-of-00002, as the Hugging Face hub has it


def split_of(folder: str) -> str | None:
    """Return "train", "validation", "test" or "unlabeled" for a folder that is named like one (`train`, `val2017`,
    `Test_Images`), and `None` for any other.
    """
    words = _words(folder)
    kinds = [_KIND_OF[word] for word in words if word in _KIND_OF]
    rest = [word for word in words if word not in _KIND_OF and word not in _BESIDE and not word.isdigit()]
    return kinds[0] if len(kinds) == 1 and not rest else None


def refuse_splits(
    folders: Iterable[str],
    where: str,
    inside: Callable[[str], str],
    *,
    option: str = "--data.path ",
    otherwise: str = "to train on them as classes, add --data.labels folders",
) -> None:
    """Raise a `UserError` if folders that would be taken for classes are the splits of a data set.

    They are if all of them are named like splits, or if two are that are named like different ones: a class may
    well be called train.

    Args:
        folders: the names of the folders.
        where: what messages call the place that they lie in.
        inside: a function from a folder's name to its address.
        option: the option that takes that address.
        otherwise: how they may be classes after all; "": they may not.

    Raises:
        UserError: the folders are splits; the message names the one to give.
    """
    folders = sorted(folders)
    kinds = {folder: split_of(folder) for folder in folders} | _by_pairs(folders)
    if len(folders) > 1 and all(folder.lower() in _SHORT for folder in folders):
        kinds = {folder: _SHORT[folder.lower()] for folder in folders}
    named = [folder for folder, kind in kinds.items() if kind]
    if not named or (len(named) < len(kinds) and len({kinds[folder] for folder in named}) < 2):
        return
    first = next((folder for folder in named if kinds[folder] == "train"), named[0])
    raise UserError(
        f"{where} holds splits of a data set ({', '.join(named)}), which are no classes: give one of them, "
        f"{option}{shell_word(inside(first))}{'; ' * bool(otherwise)}{otherwise}"
    )


def refuse_inner_splits(paths: Iterable[str], where: str) -> None:
    """Raise a `UserError` if a class folder holds the splits of a data set, as `bottle/train` and `bottle/test` of
    MVTec AD."""
    inner: dict[str, set[str]] = {}
    for path in paths:
        parts = path.split("/", 2)
        if len(parts) == 3:
            inner.setdefault(parts[0], set()).add(parts[1])
    for folder, names in inner.items():
        kinds = {name: kind for name in sorted(names) if (kind := split_of(name))}
        if len(set(kinds.values())) > 1:
            raise UserError(
                f"{where} holds splits of a data set within its folders "
                f"({', '.join(f'{folder}/{name}' for name in kinds)}): put the images of one split, a folder "
                "for each class, into a folder of their own; to train on all of them, add --data.labels folders"
            )


def _by_pairs(folders: Sequence[str]) -> dict[str, str]:
    """Return the kinds of folders whose names differ in that word alone: `DIV2K_train_HR` and `DIV2K_valid_HR`."""
    by_rest: dict[tuple[str, ...], dict[str, str]] = {}
    for folder in folders:
        words = _words(folder)
        kinds = [_KIND_OF[word] for word in words if word in _KIND_OF]
        if len(kinds) == 1:
            by_rest.setdefault(tuple(word for word in words if word not in _KIND_OF), {})[folder] = kinds[0]
    pairs = [same for same in by_rest.values() if len(set(same.values())) > 1]
    return {folder: kind for same in pairs for folder, kind in same.items()}


def of_one_split(
    paths: Sequence[Path], wanted: str, address: str, split: Callable[[Path], str] | None = None
) -> tuple[list[Path], list[str]]:
    """Return the files of one split among those that an address names.

    Files belong to a split by a word in their name (`train-00000-of-00002.parquet`, `set_test.arrow`,
    `val-0001.tar`), or in that of their folder.

    Args:
        paths: the files.
        wanted: the split; "" for train where there are several.
        address: the address, for messages.
        split: a function from a file to its split; `None`: the one just said.

    Returns:
        the files, and what was passed over, in words.

    Raises:
        UserError: there is no such split, or there are several and none of them is train.
    """
    groups: dict[str, list[Path]] = {}
    for path in paths:
        groups.setdefault((split or _split_of_file)(path), []).append(path)
    if wanted:
        name = next((name for name in groups if wanted.lower() in (name.lower(), _KIND_OF.get(name))), None)
        if name is None:
            listed = ", ".join(filter(None, groups)) or "none"
            raise UserError(f"{address}: no file is named like the split {wanted!r} (splits here: {listed})")
    elif len(groups) == 1:
        return list(paths), []
    else:
        name = next((name for name in groups if _KIND_OF.get(name) == "train"), None)
        if name is None:
            bare = address.partition("#")[0]
            named = [f"{bare}#{name}" for name in groups if name]
            raise UserError(
                f"{address} holds files of several splits "
                f"({', '.join(name or paths[0].name for name in groups)}): "
                f"give one, such as {named[0]}, or name the files by a pattern"
            )
    rest = [f"{other or 'other'} ({len(files)} files)" for other, files in groups.items() if other != name]
    return groups[name], [f"the splits {', '.join(rest)}"] if rest else []


def folder_meant(folders: Iterable[str], part: str) -> str | None:
    """Return the folder that is meant by a part of an address that is none: `afhq/val` by val or by validation.

    Args:
        folders: paths of folders.
        part: the name of one, or of a split.

    Returns:
        the least deep folder that has this name or, where none does, is named like this split; `None` if there is
        none, or several.
    """
    kind = split_of(part)
    best: dict[tuple[int, int], list[str]] = {}
    for folder in folders:
        last = folder.rpartition("/")[2]
        rank = 0 if last.lower() == part.lower() else 1 if kind and split_of(last) == kind else None
        if rank is not None:
            best.setdefault((rank, folder.count("/")), []).append(folder)
    found = best[min(best)] if best else []
    return found[0] if len(found) == 1 else None


def tell_mixed(paths: Sequence[Path], address: str) -> None:
    """Warn if files that were all asked for are of several splits."""
    splits = sorted(set(map(_split_of_file, paths)))
    if len({_KIND_OF[name] for name in splits if name in _KIND_OF}) > 1:
        log.warning("%s names files of several splits (%s): all of them are used", address, ", ".join(splits))


def kind_of_file(name: str) -> str | None:
    """Return "train", "validation", "test" or "unlabeled" for a file with such a word in its name, else `None`."""
    return _KIND_OF.get(_split_of_file(Path(name)))


def _split_of_file(path: Path) -> str:
    stem = path.name.partition(".")[0]
    hub = _HUB.fullmatch(stem)
    words = _words(hub[1] if hub else stem)
    split = next((word for word in words if word in _KIND_OF), None)
    if split is None and hub is None and split_of(path.parent.name):
        return next(word for word in _words(path.parent.name) if word in _KIND_OF)
    return split or (hub[1] if hub else "")


def _words(name: str) -> list[str]:
    """Return the words of a name in lower case, without digits at their ends: val and images for
    "Val2017_images"."""
    words = re.split(r"[^a-z0-9]+", name.lower())
    return [word.rstrip("0123456789") or word for word in words if word]
