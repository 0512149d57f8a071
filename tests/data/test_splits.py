"""Splits of a data set are told from classes, wherever they lie, and are not mixed."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from alphaflow.data.sources import open_source
from alphaflow.data.sources.splits import split_of
from alphaflow.errors import UserError


def touch(root: Path, *names: str) -> str:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return str(root)


def zipped(path: Path, *names: str) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, name)
    return str(path)


def table(path: Path, count: int, column: str = "image") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = pa.binary() if column == "image" else pa.string()
    values = [b"1"] * count if column == "image" else ["http://h"] * count
    parquet.write_table(pa.table({column: pa.array(values, kind)}), path)


KINDS = {
    "train": ("train", "Training_Set", "train_images", "trainval"),
    "validation": ("val2017", "validation", "dev"),
    "test": ("test", "seg_test"),
    None: ("trains", "cat", "test_tube", "train_station", "train_test", "7", "valley", ""),
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in KINDS.items() for name in names])
def test_what_is_named_like_a_split(kind: str | None, name: str) -> None:
    assert split_of(name) == kind


SPLITS = [
    ("train", "val"),
    ("train", "val", "test"),
    ("Training", "Testing"),
    ("DIV2K_train_HR", "DIV2K_valid_HR"),
    ("trainA", "testA"),
    ("train2017", "val2017", "unlabeled2017"),
    ("train", "unlabeled"),
    ("train-images", "t10k-images"),
    ("tr", "te"),
]


@pytest.mark.parametrize("splits", SPLITS)
def test_splits_are_no_classes(tmp_path: Path, splits: tuple[str, ...]) -> None:
    names = [f"{s}/{c}/0.png" for s in splits for c in ("cat", "dog")]
    root = touch(tmp_path / "set", *names)
    with pytest.raises(UserError, match=rf"splits.*no classes.*--data\.path {root}/{splits[0]};"):
        open_source(root)
    assert open_source(f"{root}/{splits[0]}").class_names == ("cat", "dog")
    assert open_source(root, labels="folders").class_names == tuple(sorted(splits))
    assert open_source(root, labels="none").labels is None


def test_languages_are_classes_though_two_are_short_for_splits(tmp_path: Path) -> None:
    root = touch(tmp_path, "en/1.png", "te/2.png", "tr/3.png")
    assert open_source(root).class_names == ("en", "te", "tr")


def test_splits_within_classes_are_not_mixed(tmp_path: Path) -> None:
    names = [f"{c}/{s}/1.png" for c in ("bottle", "cable") for s in ("train/good", "test/broken", "ground_truth")]
    root = touch(tmp_path / "mvtec", *names)
    with pytest.raises(UserError, match=r"within its folders \(bottle/test, bottle/train\): put the images"):
        open_source(root)
    assert open_source(root, labels="folders").class_names == ("bottle", "cable")
    assert open_source(touch(tmp_path / "towns", "a/train/1.png", "a/bus/2.png", "b/bus/3.png")).labels is not None


def test_splits_below_a_lone_folder(tmp_path: Path) -> None:
    names = [f"ILSVRC/Data/CLS-LOC/{s}/{c}/0.png" for s in ("train", "val") for c in ("n01", "n02")]
    root = touch(tmp_path / "kaggle", *names)
    with pytest.raises(UserError, match=rf"splits.*--data\.path {root}/ILSVRC/Data/CLS-LOC/train;"):
        open_source(root)
    packed = zipped(tmp_path / "kaggle.zip", *names)
    with pytest.raises(UserError, match=rf"splits.*--data\.path {packed}#ILSVRC/Data/CLS-LOC/train;"):
        open_source(packed)
    source = open_source(f"{packed}#ILSVRC/Data/CLS-LOC/train")
    assert source.class_names == ("n01", "n02") and len(source) == 2
    assert source.read(0) == b"ILSVRC/Data/CLS-LOC/train/n01/0.png"


def test_splits_in_a_tar(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        for name in ("set/train/a/1.png", "set/train/b/2.png", "set/test/a/3.png"):
            member = tarfile.TarInfo(name)
            member.size = 1
            archive.addfile(member, io.BytesIO(b"1"))
    with pytest.raises(UserError, match=r"set\.tar#set/train"):
        open_source(str(tmp_path / "set.tar"))
    assert open_source(f"{tmp_path}/set.tar#set/train").class_names == ("a", "b")
    with pytest.raises(UserError, match=r"#set/trian holds no images"):
        open_source(f"{tmp_path}/set.tar#set/trian")


def test_splits_with_labels_beside_the_images_are_not_mixed(tmp_path: Path) -> None:
    root = touch(tmp_path / "set", "train/1.png", "val/2.png")
    for name in ("train/1.json", "val/2.json"):
        (tmp_path / "set" / name).write_text('{"class": 3}')
    with pytest.raises(UserError, match=rf"--data\.path {root}/train;"):
        open_source(root)
    assert open_source(f"{root}/train").class_names == ("3",)


def test_a_path_with_blanks_is_given_as_a_shell_takes_it(tmp_path: Path) -> None:
    root = touch(tmp_path / "my set", "train/a/1.png", "test/a/2.png")
    with pytest.raises(UserError, match=rf"--data\.path '{root}/train';"):
        open_source(root)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    root = touch(tmp_path / "vehicles", "bus/1.png", "car/2.png", "train/3.png")
    assert open_source(root).class_names == ("bus", "car", "train")


@pytest.mark.parametrize("folder", ["train", "val"])
def test_a_lone_split_is_no_class_either(tmp_path: Path, folder: str) -> None:
    root = touch(tmp_path / "set", f"{folder}/1.png", f"{folder}/2.png")
    with pytest.raises(UserError, match=rf"--data\.path {root}/{folder};"):
        open_source(root)


def test_a_single_class_that_holds_all_classes_is_refused(tmp_path: Path) -> None:
    root = touch(tmp_path / "CUB", "images/001.Albatross/1.png", "images/002.Auklet/2.png")
    with pytest.raises(UserError, match=rf"one folder, images, with all others in it.*--data\.path {root}/images"):
        open_source(root)
    assert open_source(f"{root}/images").class_names == ("001.Albatross", "002.Auklet")
    assert open_source(root, labels="folders").class_names == ("images",)


def test_a_single_class_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = touch(tmp_path / "celeba", "img_align_celeba/1.jpg", "img_align_celeba/2.jpg")
    caplog.set_level("WARNING", "alphaflow")
    assert open_source(root).class_names == ("img_align_celeba",)
    assert f"give --data.path {root}/img_align_celeba to train without classes" in caplog.text


# ---------------------------------------------------------------- tables, shards, arrays


def test_of_tables_train_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for k in range(2):
        table(tmp_path / "d" / f"train-{k:05}-of-00002.parquet", 6)
    table(tmp_path / "d" / "test-00000-of-00001-0a1b.parquet", 5)
    for address in (str(tmp_path / "d"), f"{tmp_path}/d/*.parquet"):
        source = open_source(address)
        assert len(source) == 12 and source.passed_over == ("the splits test (1 files)",)
    assert len(open_source(f"{tmp_path}/d#test")) == len(open_source(f"{tmp_path}/d#TEST")) == 5
    assert len(open_source(f"{tmp_path}/d/{{train-00000-of-00002,test-00000-of-00001-0a1b}}.parquet")) == 11
    assert "names files of several splits (test, train): all of them are used" in caplog.text
    with pytest.raises(UserError, match=r"no file is named like the split 'val' \(splits here: test, train\)"):
        open_source(f"{tmp_path}/d#val")


def test_without_train_the_split_is_asked_for(tmp_path: Path) -> None:
    table(tmp_path / "test-00000-of-00001.parquet", 2)
    table(tmp_path / "validation-00000-of-00001.parquet", 3)
    with pytest.raises(
        UserError, match=rf"several splits \(test, validation\): give one, such as {tmp_path}#test"
    ):
        open_source(str(tmp_path))


def test_the_clone_of_a_hub_repository(tmp_path: Path) -> None:
    touch(tmp_path, "README.md", ".gitattributes", ".git/x.png")
    table(tmp_path / "data" / "train-00000-of-00001.parquet", 4)
    table(tmp_path / "data" / "test-00000-of-00001.parquet", 3)
    assert len(open_source(str(tmp_path))) == 4 and len(open_source(f"{tmp_path}#test")) == 3
    table(tmp_path / "other" / "train-00000-of-00001.parquet", 4)
    with pytest.raises(UserError, match=rf"several folders \(data, other\).*{tmp_path}/data"):
        open_source(str(tmp_path))


def test_folders_of_splits_with_tables(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("test", 3)):
        table(tmp_path / "plain_text" / split / "0000.parquet", count)
    assert len(open_source(str(tmp_path))) == 4 and len(open_source(f"{tmp_path}#test")) == 3


def test_a_pointer_of_git_lfs_is_told(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(UserError, match=r"pointer of Git LFS.*git lfs pull"):
        open_source(str(tmp_path))


def test_tars_of_images_win_over_a_table_of_their_addresses(tmp_path: Path) -> None:
    """What img2dataset leaves: 00000.tar, 00000.parquet, 00000_stats.json."""
    with tarfile.open(tmp_path / "00000.tar", "w") as archive:
        for name in ("000000.jpg", "000000.json", "000001.jpg", "000001.json"):
            content = json.dumps({"url": "u"}).encode() if name.endswith("json") else b"1"
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    table(tmp_path / "00000.parquet", 3, "url")
    touch(tmp_path, "00000_stats.json")
    assert len(open_source(str(tmp_path))) == 2
    table(tmp_path / "00000.parquet", 3)
    assert len(open_source(str(tmp_path))) == 3


def test_of_shards_train_is_taken(tmp_path: Path) -> None:
    for name, count in (("set-train-000000", 3), ("set-train-000001", 2), ("set-val-000000", 4)):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as archive:
            for k in range(count):
                for end in ("jpg", "cls"):
                    member = tarfile.TarInfo(f"{k}.{end}")
                    member.size = 1
                    archive.addfile(member, io.BytesIO(b"1"))
    assert len(open_source(str(tmp_path))) == 5 and len(open_source(f"{tmp_path}#val")) == 4


def test_of_arrays_train_is_taken_and_others_by_name(tmp_path: Path) -> None:
    train, test = np.zeros((4, 6, 6), np.uint8), np.ones((3, 6, 6), np.uint8)
    labels = {"y_train": np.array([7, 10, 9, 7]), "y_test": np.array([1, 0, 1])}
    np.savez(tmp_path / "mnist.npz", x_train=train, x_test=test, **labels)
    source = open_source(str(tmp_path / "mnist.npz"))
    assert len(source) == 4 and source.class_names == ("7", "9", "10") and "x_test" in source.passed_over[0]
    other = open_source(f"{tmp_path}/mnist.npz#x_test")
    assert len(other) == 3 and other.labels.tolist() == [1, 0, 1] and other.read(0).max() == 1
    np.savez(
        tmp_path / "med.npz", train_images=train, val_images=test, train_labels=np.array([[1], [0], [1], [0]])
    )
    assert open_source(str(tmp_path / "med.npz")).labels.tolist() == [1, 0, 1, 0]
    np.savez(tmp_path / "two.npz", left=train, right=test)
    with pytest.raises(UserError, match=r"say which by its name, such as '.*two\.npz#left'"):
        open_source(str(tmp_path / "two.npz"))
    with pytest.raises(UserError, match=r"unknown array of .*'lift': did you mean 'left'"):
        open_source(f"{tmp_path}/two.npz#lift")


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_afhq_by_the_names_of_its_splits(tmp_path: Path, form: str) -> None:
    names = [
        f"afhq/{split}/{kind}/flickr_{split}.png" for split in ("train", "val") for kind in ("cat", "dog", "wild")
    ]
    address = touch(tmp_path / "set", *names) if form == "folder" else zipped(tmp_path / "set.zip", *names)
    for part, split in (("train", "train"), ("val", "val"), ("validation", "val"), ("afhq/val", "val")):
        source = open_source(f"{address}#{part}")
        assert source.class_names == ("cat", "dog", "wild") and source.labels.tolist() == [0, 1, 2]
        assert [source.read(k) for k in range(3)] == [name.encode() for name in names if f"/{split}/" in name]
    with pytest.raises(UserError, match=r"does not exist|holds no images"):
        open_source(f"{address}#test")
    with pytest.raises(UserError, match="splits of a data set"):
        open_source(address)


def test_arrays_of_a_split_are_asked_for_by_its_name(tmp_path: Path) -> None:
    arrays = {f"{a}_{b}": np.full(3 + k, k) for k, b in enumerate(("train", "test")) for a in "xy"}
    images = {name: np.full((len(value), 6, 6), 7, np.uint8) for name, value in arrays.items() if name[0] == "x"}
    np.savez(tmp_path / "mnist.npz", **(arrays | images))
    source = open_source(f"{tmp_path}/mnist.npz#test")
    assert len(source) == 4 and source.class_names == ("1",)
    with pytest.raises(UserError, match=r"unknown array of .* 'val'"):
        open_source(f"{tmp_path}/mnist.npz#val")
