"""ImageNet as it is published and prepared by others, and Tiny ImageNet: exact small copies."""

import io
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from alphaflow import UserError
from alphaflow.data import Images
from alphaflow.data.sources import open_source
from published_sets import jpeg, pack_tar, packed, tar_of, unpack

SYNSETS = ["n01440764", "n01443537", "n02012849", "n03126707", "n04485082"]
WORDS = ["tench, Tinca tinca", "goldfish, Carassius auratus", "crane", "crane", "tripod"]
NAMES = ("tench, Tinca tinca", "goldfish, Carassius auratus", "crane (n02012849)", "crane (n03126707)", "tripod")
IDS = [3, 5, 1, 2, 4]  # ILSVRC2012_ID of each, which goes by another order
VALIDATION = [4, 0, 2, 2, 1, 3]  # the class of each image of the validation set


def content(split: str, number: int) -> bytes:
    return jpeg(1 + number + {"train": 0, "val": 100, "test": 200}[split])


TRAIN = {f"{synset}/{synset}_{7 * k + 3}.JPEG": content("train", k) for k, synset in enumerate(SYNSETS) if k != 3}
VAL = {f"ILSVRC2012_val_{k + 1:08}.JPEG": content("val", k) for k in range(6)}


def devkit() -> dict[str, bytes]:
    """The devkit of the classification task: 5 classes and a node above them."""
    rows = [*zip(IDS, SYNSETS, WORDS, [0] * 5), (6, "n00000001", "thing", 5)]
    random.Random(1).shuffle(rows)
    kinds = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("gloss", object)]
    kinds += [
        ("num_children", object),
        ("children", object),
        ("wordnet_height", object),
        ("num_train_images", object),
    ]
    table = np.empty((len(rows), 1), kinds)
    for k, (number, synset, words, children) in enumerate(rows):
        table[k, 0] = (float(number), synset, words, "a gloss", float(children), np.zeros((1, 0)), 0.0, 1300.0)
    file = io.BytesIO()
    savemat(file, {"synsets": table}, do_compression=True)
    top = "ILSVRC2012_devkit_t12"
    return {
        f"{top}/data/meta.mat": file.getvalue(),
        f"{top}/data/ILSVRC2012_validation_ground_truth.txt": "".join(f"{IDS[k]}\n" for k in VALIDATION).encode(),
        f"{top}/readme.txt": b"about",
        f"{top}/evaluation/demo_eval.m": b"% code",
    }


def train_tar() -> dict[str, bytes]:
    """The tar of tars."""
    tars = {}
    for synset in SYNSETS:
        held = {name.rpartition("/")[2]: data for name, data in TRAIN.items() if name.startswith(synset)}
        if held:
            tars[f"{synset}.tar"] = tar_of(held)
    return tars


def assert_validation(source, names=NAMES) -> None:
    assert source.class_names == tuple(names) and source.labels.tolist() == VALIDATION
    assert [source.read(k) for k in range(6)] == list(VAL.values())


def assert_train(source, names=NAMES) -> None:
    assert source.class_names == tuple(names) and source.labels.tolist() == [0, 1, 2, 4]
    assert [source.read(k) for k in range(4)] == list(TRAIN.values())


@pytest.mark.parametrize("kit", ["tar.gz", "tar", "folder"])
def test_the_validation_tar_has_the_labels_of_the_devkit_beside_it(tmp_path: Path, kit: str) -> None:
    pack_tar(tmp_path / "ILSVRC2012_img_val.tar", VAL)
    if kit == "folder":
        unpack(tmp_path, devkit())
    else:
        pack_tar(tmp_path / f"ILSVRC2012_devkit_t12.{kit}", devkit())
    source = open_source(f"{tmp_path}/ILSVRC2012_img_val.tar")
    assert_validation(source)
    assert source.name(1).endswith("ILSVRC2012_img_val.tar!ILSVRC2012_val_00000002.JPEG")
    assert len(Images(source, 8)) == 6


def test_a_folder_of_the_tars_with_the_devkit(tmp_path: Path) -> None:
    pack_tar(tmp_path / "ILSVRC2012_img_val.tar", VAL)
    pack_tar(tmp_path / "ILSVRC2012_img_train.tar", train_tar())
    pack_tar(tmp_path / "ILSVRC2012_devkit_t12.tar.gz", devkit())
    assert_train(open_source(str(tmp_path)))
    assert_validation(open_source(f"{tmp_path}#val"))
    assert open_source(str(tmp_path)).passed_over[0] == "the split val"
    source = open_source(str(tmp_path), labels="wnids")
    assert source.class_names == tuple(SYNSETS) and source.labels.tolist() == [0, 1, 2, 4]  # as with words


def test_unpacked_validation_images_beside_the_devkit(tmp_path: Path) -> None:
    unpack(tmp_path / "val", VAL)
    unpack(tmp_path, devkit())
    assert_validation(open_source(str(tmp_path)))


def test_tars_that_are_unpacked_beside_count_once(tmp_path: Path) -> None:
    pack_tar(tmp_path / "ILSVRC2012_img_val.tar", VAL)
    pack_tar(tmp_path / "ILSVRC2012_img_train.tar", train_tar())
    pack_tar(tmp_path / "ILSVRC2012_devkit_t12.tar.gz", devkit())
    moved = {f"val/{SYNSETS[k]}/{name}": data for k, (name, data) in zip(VALIDATION, VAL.items())}
    unpack(tmp_path, moved | {f"train/{name}": data for name, data in TRAIN.items()})
    assert_train(open_source(str(tmp_path)))
    source = open_source(f"{tmp_path}#val")
    assert {source.read(k): label for k, label in enumerate(source.labels)} == dict(zip(VAL.values(), VALIDATION))


def test_many_validation_images_in_the_devkits_own_folder(tmp_path: Path) -> None:
    kit = devkit()
    kit["ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"] += b"3\n" * 294
    more = {f"ILSVRC2012_val_{k:08}.JPEG": jpeg(9) for k in range(7, 301)}
    source = open_source(str(unpack(tmp_path, VAL | more | kit)))
    assert source.labels.tolist() == VALIDATION + [0] * 294


def test_without_the_devkit_there_are_no_labels(tmp_path: Path) -> None:
    pack_tar(tmp_path / "ILSVRC2012_img_val.tar", VAL)
    assert open_source(f"{tmp_path}/ILSVRC2012_img_val.tar").labels is None


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("ILSVRC2012_validation_ground_truth.txt", b"3\n4\n", r"has 2 lines, and there is .*00000003.JPEG"),
        ("ILSVRC2012_validation_ground_truth.txt", b"9\n" * 6, r"names class 9, which .*meta.mat does not know"),
        ("ILSVRC2012_validation_ground_truth.txt", b"n1\n" * 6, r"the line 'n1', which is no number"),
        ("meta.mat", b"MATLAB 5.0 MAT-file" + bytes(200), r"holds no synsets as MATLAB has them"),
    ],
)
def test_a_damaged_devkit_is_named(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    unpack(tmp_path / "val", VAL)
    unpack(tmp_path, devkit() | {f"ILSVRC2012_devkit_t12/data/{name}": data})
    with pytest.raises(UserError, match=said):
        open_source(str(tmp_path))


def kaggle() -> dict[str, bytes]:
    base = "ILSVRC/Data/CLS-LOC"
    solution = ["ImageId,PredictionString"]
    for k in [3, 0, 5, 1, 2, 4]:
        boxes = f"{SYNSETS[VALIDATION[k]]} 85 1 499 272 " * (1 + k % 2)
        solution.append(f"ILSVRC2012_val_{k + 1:08},{boxes}")
    return {
        **{f"{base}/train/{name}": data for name, data in TRAIN.items()},
        **{f"{base}/val/{name}": data for name, data in VAL.items()},
        f"{base}/test/ILSVRC2012_test_00000001.JPEG": content("test", 0),
        "ILSVRC/ImageSets/CLS-LOC/val.txt": b"ILSVRC2012_val_00000001 1\n",
        "ILSVRC/Annotations/CLS-LOC/val/ILSVRC2012_val_00000001.xml": b"<annotation/>",
        "LOC_synset_mapping.txt": "".join(f"{a} {b}\n" for a, b in zip(SYNSETS, WORDS)).encode(),
        "LOC_val_solution.csv": "\n".join(solution).encode(),
        "LOC_train_solution.csv": b"ImageId,PredictionString\n",
        "LOC_sample_submission.csv": b"ImageId,PredictionString\n",
    }


@pytest.mark.parametrize("form", ["folder", "zip", "tar.gz"])
def test_kaggles_tree(tmp_path: Path, form: str) -> None:
    address = packed(tmp_path / "imagenet-object-localization-challenge", kaggle(), form)
    assert_train(open_source(address))
    assert_validation(open_source(f"{address}#validation"))
    test = open_source(f"{address}#test")
    assert test.labels is None and test.read(0) == content("test", 0)
    assert open_source(address, labels="none").labels is None
    with pytest.raises(UserError, match=r"unknown split of .* '7': choose one of train, val, test"):
        open_source(f"{address}#7")
    within = open_source(f"{address}#ILSVRC/Data/CLS-LOC/train")  # a folder is one as of any archive
    assert within.origin == "labels from the folders" and within.labels.tolist() == [0, 1, 2, 3]
    if form == "folder":
        assert_validation(open_source(f"{unpack(tmp_path / 'a/b/c', kaggle())}/../../#val"))


def test_kaggles_tree_without_some_images_and_without_the_solution(tmp_path: Path) -> None:
    files = kaggle()
    files.pop("ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000002.JPEG")
    files["ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000009.JPEG"] = jpeg(9)
    source = open_source(f"{unpack(tmp_path / 'a', files)}#val")
    assert source.labels.tolist() == [4, 2, 2, 1, 3]
    said = " ".join(source.passed_over)
    assert "1 of 6 images of" in said and "1 images that" in said and "00000009" in said
    files.pop("LOC_val_solution.csv")
    source = open_source(f"{unpack(tmp_path / 'b', files)}#val")
    assert source.labels is None and "LOC_val_solution.csv" in source.passed_over[1]


@pytest.mark.parametrize("form", ["folder", "tar.gz"])
def test_kaggles_archive_alone_has_the_ids_for_names(tmp_path: Path, form: str) -> None:
    """The lists lie beside imagenet_object_localization_patched2019.tar.gz, not in it."""
    lists = {name: data for name, data in kaggle().items() if name.startswith("LOC_")}
    files = {name: data for name, data in kaggle().items() if name not in lists}
    address = packed(tmp_path / "alone" if form == "folder" else tmp_path / "imagenet_object", files, form)
    source = open_source(address)
    there = tuple(name for name in SYNSETS if name != "n03126707")
    assert source.class_names == there and source.labels.tolist() == [0, 1, 2, 3]
    assert open_source(f"{address}#val").labels is None
    if form == "tar.gz":
        unpack(tmp_path, lists)
        assert_validation(open_source(f"{address}#val"))


def tiny() -> dict[str, bytes]:
    top = "tiny-imagenet-200"
    order = [SYNSETS[k] for k in (2, 0, 4, 3, 1)]
    files = {f"{top}/wnids.txt": "\n".join(order).encode(), f"{top}/test/images/test_0.JPEG": content("test", 0)}
    words = [*zip(SYNSETS, WORDS), ("n00001740", "entity")]
    files[f"{top}/words.txt"] = "".join(f"{a}\t{b}\n" for a, b in reversed(words)).encode()
    for name, data in TRAIN.items():
        synset = name.partition("/")[0]
        files[f"{top}/train/{synset}/images/{synset}_0.JPEG"] = data
        files[f"{top}/train/{synset}/{synset}_boxes.txt"] = f"{synset}_0.JPEG\t0\t0\t62\t63\n".encode()
    told = []
    for k in (5, 2, 1, 0, 4, 3):
        files[f"{top}/val/images/val_{k}.JPEG"] = content("val", k)
        told.append(f"val_{k}.JPEG\t{SYNSETS[VALIDATION[k]]}\t0\t32\t44\t62\n")
    files[f"{top}/val/val_annotations.txt"] = "".join(told).encode()
    return files


@pytest.mark.parametrize("form", ["folder", "inner", "zip", "tar"])
def test_tiny_imagenet(tmp_path: Path, form: str) -> None:
    address = packed(tmp_path / "set", tiny(), "folder" if form == "inner" else form)
    address += "/tiny-imagenet-200" * (form == "inner")
    assert_train(open_source(address))
    assert Images(address, 8).num_classes == 5  # of which one has no image
    assert_validation(open_source(f"{address}#val"))
    assert open_source(f"{address}#test").labels is None


def test_tiny_imagenet_whose_validation_images_were_moved(tmp_path: Path) -> None:
    files = tiny()
    for k in range(6):
        data = files.pop(f"tiny-imagenet-200/val/images/val_{k}.JPEG")
        files[f"tiny-imagenet-200/val/{SYNSETS[VALIDATION[k]]}/val_{k}.JPEG"] = data
    for listed in (True, False):
        if not listed:
            files.pop("tiny-imagenet-200/val/val_annotations.txt")
        source = open_source(f"{unpack(tmp_path / str(listed), files)}#val")
        found = {source.read(k): int(source.labels[k]) for k in range(6)}
        assert found == dict(zip(VAL.values(), VALIDATION)) and source.class_names == NAMES


def test_tiny_imagenet_with_a_broken_image_and_an_unknown_class(tmp_path: Path) -> None:
    files = tiny()
    files["tiny-imagenet-200/val/images/val_3.JPEG"] = b"\xff\xd8cut"
    data = Images(f"{unpack(tmp_path / 'a', files)}#val", 8, tolerance=0.2)
    assert len(data) == 5 and data.num_classes == 5 and data.skipped[0][0].endswith("val_3.JPEG")
    files["tiny-imagenet-200/wnids.txt"] = "\n".join(SYNSETS[:4]).encode()
    with pytest.raises(UserError, match=r"val_annotations.txt names the class 'n04485082', which is none of"):
        open_source(f"{unpack(tmp_path / 'b', files)}#val")


def test_folders_that_torchvision_has_prepared(tmp_path: Path) -> None:
    for k, (name, data) in enumerate(VAL.items()):
        unpack(tmp_path / "val", {f"{SYNSETS[VALIDATION[k]]}/{name}": data})
    unpack(tmp_path / "train", TRAIN)
    words = {synset: tuple(text.split(", ")) for synset, text in zip(SYNSETS, WORDS)}
    torch.save((words, [SYNSETS[k] for k in VALIDATION]), tmp_path / "meta.bin")
    assert_train(open_source(str(tmp_path)))
    source = open_source(f"{tmp_path}#val")
    found = {source.read(k): int(source.labels[k]) for k in range(6)}
    assert found == dict(zip(VAL.values(), VALIDATION)) and source.class_names == NAMES
    (tmp_path / "meta.bin").unlink()
    with pytest.raises(UserError, match=r"holds splits of a data set \(train, val\).*--data.path"):
        open_source(str(tmp_path))
    assert open_source(f"{tmp_path}#validation").class_names == tuple(SYNSETS)


def test_a_devkit_whose_synsets_have_no_numbers(tmp_path: Path) -> None:
    kinds = [(name, object) for name in ("ILSVRC2012_ID", "WNID", "words", "num_children")]
    table = np.empty((2, 1), kinds)
    table[:, 0] = [("one", "n01440764", "tench", 0.0), (2.0, "n01443537", "goldfish", 0.0)]
    file = io.BytesIO()
    savemat(file, {"synsets": table})
    unpack(tmp_path / "val", VAL)
    unpack(tmp_path, devkit() | {"ILSVRC2012_devkit_t12/data/meta.mat": file.getvalue()})
    with pytest.raises(UserError, match=r"meta.mat has a synset without a number"):
        open_source(str(tmp_path))


def test_a_list_of_the_same_name_is_no_published_set(tmp_path: Path) -> None:
    unpack(
        tmp_path,
        {"wnids.txt": b"n1\n", "meta.bin": b"x", "list.txt": b"\xff", "a/1.jpg": jpeg(1), "b/1.jpg": jpeg(2)},
    )
    assert open_source(str(tmp_path)).class_names == ("a", "b")


def test_a_zip_that_is_packed_with_deflate(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "tiny.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in tiny().items():
            archive.writestr(name, data)
    assert_train(open_source(f"{tmp_path}/tiny.zip"))
    assert Image.open(io.BytesIO(open_source(f"{tmp_path}/tiny.zip").read(0))).size == (8, 8)
