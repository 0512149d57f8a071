"""CelebA, CUB-200-2011 and others with its lists, the Oxford pets and the 102 flowers."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from alphaflow.errors import UserError

from ..classes import by_value, few
from ..label_tables import table_of
from .imagenet import read_mat
from .layout import Chosen, Layout, Numbers, by_listed, once, unique
from .place import Pictures, Place

_CELEBA = re.compile(r"\d{6}\.(jpg|png)")
_FLOWER = re.compile(r"(?:^|/)image_(\d{5})\.\w+$")  # Caltech-101's have four digits
_PARTS = {"train": "0", "valid": "1", "test": "2"}


def find_celeba(place: Place) -> Layout | None:
    """Find CelebA: images by six digits, with list_attr_celeba, identity_CelebA or list_eval_partition beside."""
    files = {
        kind: place.first(f"{stem}.txt", f"{stem}.csv")
        for kind, stem in (
            ("attributes", "list_attr_celeba"),
            ("identity", "identity_CelebA"),
            ("partition", "list_eval_partition"),
        )
    }
    if not any(files.values()):
        return None
    pictures = _aligned(place)
    if not pictures.names:
        return None
    parts = _table(place, files["partition"]) if files["partition"] else None

    def choose(split: str, paths: Sequence[str]) -> Chosen:
        names = [path.rpartition("/")[2] for path in paths]
        rows, told = list(range(len(paths))), []
        if parts and split in _PARTS:
            part_of = {row[0]: row[1] for row in parts[1]}
            rows = [k for k, name in enumerate(names) if _without(part_of, name) == _PARTS[split]]
            unknown = sum(_without(part_of, name) is None for name in names)
            told = [f"{unknown:,} images that {files['partition']} does not name"] if unknown else []
        labels = _celeba_labels(place, files["attributes"], files["identity"], [names[k] for k in rows])
        return Chosen(rows, labels, None, told)

    return Layout("CelebA", tuple(_PARTS) if parts else (), lambda split: pictures, choose, whole=True)


def _aligned(place: Place) -> Pictures:
    """Return CelebA's images; where there are several kinds of them, the aligned ones."""
    every = place.pictures()
    folders = sorted({name.rpartition("/")[0] for name in every.names if _is_celeba(name)})
    if len(folders) > 1:
        kept = [folder for folder in folders if "align" in folder.lower() and not folder.lower().endswith("png")]
        if len(kept) != 1:
            raise UserError(
                f"{place.address} holds CelebA's images several times ({few(folders)}): give one, such as "
                f"--data.path {place.path}/{folders[0]}"
            )
        folders = kept
    return place.pictures(keep=lambda name: name.rpartition("/")[0] in folders and _is_celeba(name))


def _is_celeba(name: str) -> bool:
    return _CELEBA.fullmatch(name.rpartition("/")[2]) is not None


def _table(place: Place, name: str) -> tuple[list[str] | None, list[list[str]]]:
    """Return header and rows of one of CelebA's lists, whether by blanks or by commas."""
    header, rows = table_of(place.read(name), Path(place.called(name)))
    rows = [[cell.strip() for cell in row] for row in rows]
    if header is None and rows and not _CELEBA.fullmatch(rows[0][0]):
        header, rows = rows[0], rows[1:]
    return header, rows


def _without(table: dict[str, str], name: str) -> str | None:
    """Return what a table has for an image, which may be a PNG made of the JPEG that is listed."""
    return table.get(name, table.get(f"{name.rpartition('.')[0]}.jpg"))


def _celeba_labels(
    place: Place, attributes: str | None, identity: str | None, names: Sequence[str]
) -> dict[str, Callable[[], Numbers]]:
    labels: dict[str, Callable[[], Numbers]] = {}

    def column(file: str, rows: list[list[str]], which: int) -> Callable[[], Numbers]:
        def read() -> Numbers:
            table = {row[0]: row[which] for row in rows}
            found = [_without(table, name) for name in names]
            bare = next((name for name, value in zip(names, found) if not value), None)
            if bare is not None:
                raise UserError(
                    f"{place.called(file)} has no label for {bare}: fetch it anew, or give --data.labels none"
                )
            # classes are all that the list names, so that every split has the same numbers
            classes = by_value([value for value in table.values() if value])[1]
            number = {one: k for k, one in enumerate(classes)}
            return Numbers([number[value or ""] for value in found], classes)

        return read

    if attributes:
        header, rows = _table(place, attributes)
        for k, word in enumerate(header or ()):
            if k:
                labels[word] = column(attributes, rows, k)
    if identity:
        labels["identity"] = column(identity, _table(place, identity)[1], 1)
    return labels


def find_birds(place: Place) -> Layout | None:
    """Find CUB-200-2011 and what has its lists: images.txt, image_class_labels.txt, classes.txt,
    train_test_split.txt."""
    lists = next((path for path in place.find("image_class_labels.txt") if place.near(path, "images.txt")), None)
    if lists is None:
        return None
    images = _pairs(place, place.near(lists, "images.txt") or "")
    classes = dict(_pairs(place, lists))
    file = place.near(lists, "classes.txt")
    words = dict(_pairs(place, file)) if file else {}
    parts_file = place.near(lists, "train_test_split.txt")
    parts = dict(_pairs(place, parts_file)) if parts_file else {}
    ids = sorted(
        words or set(classes.values()), key=lambda word: (len(word), word) if word.isdigit() else (99, word)
    )
    number = {one: k for k, one in enumerate(ids)}
    names = unique([words.get(one) or one for one in ids], ids)

    def choose(split: str, paths: Sequence[str]) -> Chosen:
        wanted = {"train": "1", "test": "0"}.get(split)
        kept = [(one, path) for one, path in images if wanted is None or parts.get(one) == wanted]
        depth = max((path.count("/") + 1 for _, path in kept), default=1)
        rows, entries, told = by_listed(
            [path for _, path in kept], paths, place.called(place.near(lists, "images.txt") or lists), depth
        )

        def labels() -> Numbers:
            found = [classes.get(kept[k][0]) for k in entries]
            wrong = next((k for k, one in zip(entries, found) if one not in number), None)
            if wrong is not None:
                raise UserError(
                    f"{place.called(lists)} gives {kept[wrong][1]} the class "
                    f"{classes.get(kept[wrong][0])!r}, which is none of the {len(ids)}: fetch it anew"
                )
            return Numbers([number[one or ""] for one in found], names)

        return Chosen(rows, {"classes": labels}, "classes", told)

    return Layout(
        "CUB-200-2011", ("train", "test") if parts else (), lambda split: place.pictures(), choose, whole=True
    )


def _pairs(place: Place, name: str) -> list[tuple[str, str]]:
    """Return the first word of each line, and the rest."""
    pairs = [line.partition(" ") for line in place.lines(name)]
    return [(first, rest.strip()) for first, _, rest in pairs]


def find_pets(place: Place) -> Layout | None:
    """Find the Oxford-IIIT pets: flat images, and annotations/trainval.txt and test.txt."""
    files = {name: place.first(f"{name}.txt") for name in ("trainval", "test", "list")}
    lists = {name: _pet_rows(place, file) for name, file in files.items() if file}
    lists = {name: rows for name, rows in lists.items() if rows}
    if not lists:
        return None
    every = [row for name, rows in lists.items() for row in rows]
    known = {row[0] for row in every}
    if _of_others(place, files[next(iter(lists))] or "", lambda name: PurePosixPath(name).stem in known):
        return None
    breeds = {int(row[1]): row[0].rpartition("_")[0] for row in every}
    ids = sorted(breeds)
    names = unique([breeds[one] for one in ids], [str(one) for one in ids])
    splits = [name for name in ("trainval", "test") if name in lists]

    def choose(split: str, paths: Sequence[str]) -> Chosen:
        rows = lists[split] if split in lists else list({row[0]: row for row in every}.values())
        found, entries, told = by_listed([row[0] for row in rows], paths, f"{split or 'list'}.txt")
        numbers = [ids.index(int(rows[k][1])) for k in entries]
        return Chosen(
            found,
            {
                "breed": lambda: Numbers(numbers, names),
                "species": lambda: Numbers([int(rows[k][2] != "1") for k in entries], ("cat", "dog")),
            },
            "breed",
            told,
        )

    def pictures(split: str) -> Pictures:
        return place.pictures(keep=lambda name: not name.lower().endswith(".png"))  # which the trimaps are

    return Layout("the Oxford pets", splits, pictures, choose, whole=True)


def _pet_rows(place: Place, name: str) -> list[list[str]]:
    """Return rows such as `Abyssinian_100 1 1 1`: image, class, species, breed; none of another list."""
    rows = [line.split() for line in place.maybe_lines(name) if not line.startswith("#")]
    fits = all(len(row) == 4 and re.fullmatch(r".+_\d+", row[0]) and "".join(row[1:]).isdigit() for row in rows)
    return rows if fits else []


def find_flowers(place: Place) -> Layout | None:
    """Find the Oxford flowers: image_00001.jpg, …, with imagelabels.mat and setid.mat."""
    file, parts_file = place.first("imagelabels.mat"), place.first("setid.mat")
    if file is None or _of_others(place, file, lambda name: _FLOWER.search(name) is not None):
        return None
    labels = np.atleast_1d(read_mat(place, file, "labels")["labels"])
    names_of = {"train": "trnid", "valid": "valid", "test": "tstid"}
    read = read_mat(place, parts_file, *names_of.values()) if parts_file else {}
    wrong = next((name for name, value in read.items() if np.asarray(value).dtype.kind not in "iuf"), None)
    if wrong is not None:
        raise UserError(f"{place.called(parts_file or file)}: {wrong} holds no numbers of images: fetch it anew")
    parts = {name: set(np.ravel(read[key]).astype(int).tolist()) for name, key in names_of.items() if read}
    if labels.ndim != 1 or labels.dtype.kind not in "iuf":
        raise UserError(
            f"{place.called(file)}: labels are {labels.dtype} {labels.shape}, not a number for each image"
        )
    classes = labels.astype(int).tolist()
    ids = list(range(1, max(classes, default=0) + 1))

    def choose(split: str, paths: Sequence[str]) -> Chosen:
        numbers = {k: int(found[1]) for k, path in enumerate(paths) if (found := _FLOWER.search(path))}
        once([paths[k] for k in numbers], "the Oxford flowers")
        wanted = parts.get(split)
        rows = [k for k, number in numbers.items() if wanted is None or number in wanted]
        beyond = next((k for k in rows if not 1 <= numbers[k] <= len(classes)), None)
        if beyond is not None:
            raise UserError(f"{place.called(file)} has {len(classes):,} labels, and there is {paths[beyond]}")
        absent = len(wanted) - len(rows) if wanted is not None else 0
        told = [f"{absent:,} of {len(wanted or ()):,} images of {place.called(parts_file or file)} are not there"]
        values = [classes[numbers[k] - 1] - 1 for k in rows]
        if min(values, default=0) < 0:
            raise UserError(f"{place.called(file)} has labels below 1: fetch it anew")
        return Chosen(
            rows, {"labels": lambda: Numbers(values, [str(one) for one in ids])}, "labels", told * bool(absent)
        )

    return Layout("the Oxford flowers", tuple(parts), lambda split: place.pictures(), choose, whole=True)


def _of_others(place: Place, file: str, fits: Callable[[str], bool]) -> bool:
    """Return whether a list lies beside an archive that holds none of its images, as in a folder of downloads."""
    return file.startswith("../") and not any(map(fits, place.pictures().names))


FINDERS: tuple[Callable[[Place], Layout | None], ...] = (find_celeba, find_birds, find_pets, find_flowers)
