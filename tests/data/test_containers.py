"""Containers of images: tars of tars as ImageNet's, LMDB as LSUN's, HDF5; and files that are none of them."""

import bz2
import contextlib
import io
import tarfile
import tempfile
from pathlib import Path

import h5py
import lmdb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from alphaflow import UserError
from alphaflow.data import Images
from alphaflow.data.sources import open_source
from published_sets import assert_holds, pack_tar, pixels, unpack

# ----------------------------------------------------------------------------------------- ImageNet's tars of tars


def jpeg(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), 20 * seed, np.uint8)).save(file, "JPEG")
    return file.getvalue()


def class_tars() -> dict[str, bytes]:
    """A tar for each class, whose images are named like it."""
    tars = {}
    for k, synset in enumerate(["n01440764", "n01443537", "n01484850"]):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as archive:
            for i in range(k + 1):
                info = tarfile.TarInfo(f"{synset}_{i}.JPEG")
                info.size = len(jpeg(k + i))
                archive.addfile(info, io.BytesIO(jpeg(k + i)))
        tars[f"{synset}.tar"] = file.getvalue()
    return tars


SYNSETS = ("n01440764", "n01443537", "n01484850")


def test_a_tar_of_tars_is_one_of_class_folders(tmp_path):
    pack_tar(tmp_path / "ILSVRC2012_img_train.tar", class_tars())
    source = open_source(str(tmp_path / "ILSVRC2012_img_train.tar"))
    assert source.class_names == SYNSETS and source.labels.tolist() == [0, 1, 1, 2, 2, 2]
    assert [source.read(k) for k in range(6)] == [jpeg(k + i) for k in range(3) for i in range(k + 1)]
    assert source.name(1).endswith("!n01443537/n01443537_0.JPEG")


def test_a_folder_of_class_tars(tmp_path):
    source = open_source(str(unpack(tmp_path, class_tars())))
    assert source.class_names == SYNSETS and source.labels.tolist() == [0, 1, 1, 2, 2, 2]
    assert source.origin == "labels from the names of the tars"
    assert open_source(str(tmp_path), labels="none").labels is None


def test_other_tars_are_classes_only_if_asked_for(tmp_path):
    for name in ("cat", "dog"):
        pack_tar(tmp_path / f"{name}.tar", {f"{k}.jpg": jpeg(k) for k in range(3)})
    source = open_source(str(tmp_path))
    assert source.labels is None
    assert "which are no classes unless --data.labels folders says so" in source.passed_over[-1]
    source = open_source(str(tmp_path), labels="folders")
    assert source.class_names == ("cat", "dog") and source.labels.tolist() == [0, 0, 0, 1, 1, 1]
    pack_tar(tmp_path / "one.tar", {"0.jpg": jpeg(0), "0.cls": b"3"})
    with pytest.raises(UserError, match="is one tar, and no class by itself"):
        open_source(str(tmp_path / "one.tar"), labels="folders")


def test_parts_whose_images_are_named_like_them_are_no_classes(tmp_path):
    for name in ("shard-000", "shard-001"):
        pack_tar(tmp_path / f"{name}.tar", {f"{name}_{k}.jpg": jpeg(k) for k in range(3)})
    assert open_source(str(tmp_path)).labels is None


def test_a_tar_beside_images_is_another_file(tmp_path):
    files = {"a.jpg": jpeg(1), "b.jpg": jpeg(2), "backup.tar": class_tars()["n01440764.tar"]}
    pack_tar(tmp_path / "photos.tar", files)
    assert len(open_source(str(tmp_path / "photos.tar"))) == 2


@pytest.mark.parametrize("cut", [512, 600, 1024])
def test_a_cut_tar_within_a_tar_is_named(tmp_path, cut):
    tars = class_tars()
    tars["n01443537.tar"] = tars["n01443537.tar"][:cut]
    pack_tar(tmp_path / "train.tar", tars)
    with pytest.raises(UserError, match=r"train.tar!n01443537.tar is damaged|is no whole archive"):
        open_source(str(tmp_path / "train.tar"))


# ------------------------------------------------------------------------------------------- LSUN's LMDB, and HDF5


def write_lmdb(path: Path, entries: dict[bytes, bytes], **how: bool) -> str:
    env = lmdb.open(str(path), map_size=1 << 22, **how)
    with env.begin(write=True) as transaction:
        for key, value in entries.items():
            transaction.put(key, value)
    env.close()
    return str(path)


@pytest.mark.parametrize("subdir", [True, False])
def test_an_lmdb_of_images_by_key(tmp_path, subdir):
    entries = {bytes([98, k]) * 20: jpeg(k) for k in (5, 2, 9)}
    address = write_lmdb(tmp_path / "bedroom_train.lmdb", entries, subdir=subdir)
    source = open_source(address)
    assert [source.read(k) for k in range(3)] == [jpeg(k) for k in (2, 5, 9)]
    assert source.labels is None and len({source.name(k) for k in range(3)}) == 3
    assert len(Images(address, 8)) == 3
    assert open_source(address).digest == source.digest
    with pytest.raises(UserError, match=r"holds no labels 'species': give FILE.csv"):
        open_source(address, labels="species")


def test_an_lmdb_takes_labels_from_a_file_by_its_keys(tmp_path):
    address = write_lmdb(tmp_path / "set", {b"a.jpg": jpeg(1), b"b.jpg": jpeg(2)})
    (tmp_path / "labels.csv").write_text("file,label\na.jpg,sea\nb.jpg,land\n")
    source = open_source(address, labels=str(tmp_path / "labels.csv"))
    assert source.class_names == ("land", "sea") and source.labels.tolist() == [1, 0]


def test_lsuns_splits_are_folders_of_lmdbs(tmp_path):
    for split, count in (("train", 3), ("val", 2)):
        write_lmdb(tmp_path / f"bedroom_{split}_lmdb", {bytes([k]): jpeg(k) for k in range(1, count + 1)})
    source = open_source(str(tmp_path))
    assert len(source) == 3 and source.passed_over == ("the splits val (1 files)",)
    assert len(open_source(f"{tmp_path}#validation")) == 2
    write_lmdb(tmp_path / "church_outdoor_train_lmdb", {b"1": jpeg(1)})
    with pytest.raises(
        UserError, match=r"several LMDBs \(bedroom_train_lmdb, church_outdoor_train_lmdb\): give one"
    ):
        open_source(str(tmp_path))


@pytest.mark.parametrize(
    ("entries", "said"),
    [({b"num_samples": b"2", b"0": b"x"}, "are no JPEG, PNG or WebP files"), ({}, "an LMDB without entries")],
)
def test_an_lmdb_of_something_else(tmp_path, entries, said):
    with pytest.raises(UserError, match=said):
        open_source(write_lmdb(tmp_path / "set", entries))


def test_an_lmdb_that_is_cut_off(tmp_path):
    address = write_lmdb(tmp_path / "set", {bytes([k]): jpeg(k) * 20 for k in range(1, 9)})
    file = tmp_path / "set" / "data.mdb"
    file.write_bytes(file.read_bytes()[:8192])
    with pytest.raises(UserError, match=r"cannot read .* as an LMDB \("):
        open_source(address)


def test_arrays_of_hdf5(tmp_path):
    images = pixels(12, 6, 6, 3)
    with h5py.File(tmp_path / "set.h5", "w") as file:
        file["train/images"] = images
        file["train/labels"] = np.arange(12) % 3
        file["test/images"] = images[:4]
        file["about"] = "words"
    source = open_source(f"{tmp_path}/set.h5#train/images")
    assert_holds(source, images, [k % 3 for k in range(12)], "012")
    source = open_source(f"{tmp_path}/set.h5")  # of two splits the one to train on
    assert len(source) == 12 and "test/images" in source.passed_over[0]
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["x"], file["y"] = images, np.zeros(12, np.int64)
    assert_holds(open_source(f"{tmp_path}/x.hdf5"), images, [0] * 12, "0")
    with h5py.File(tmp_path / "vast.h5", "w") as file:  # declared, and not there
        file.create_dataset("images", (10**6, 64, 64, 3), np.uint8, chunks=(1, 64, 64, 3))
    with pytest.raises(UserError, match="images is refused: it declares 12288000000 bytes in 0"):
        open_source(f"{tmp_path}/vast.h5")
    (tmp_path / "cut.h5").write_bytes((tmp_path / "set.h5").read_bytes()[:1000])
    with pytest.raises(UserError, match=r"cut.h5 is no whole HDF5 file \("):
        open_source(f"{tmp_path}/cut.h5")


@pytest.mark.parametrize("name", ["data.7z", "photos.zst", "shard.tfrecord", "notes.bin"])
def test_a_file_of_no_known_kind_lists_what_can_be_read(tmp_path, name):
    (tmp_path / name).write_bytes(bz2.compress(b"something"))
    with pytest.raises(UserError, match=r"is of no kind that can be read: give .* MNIST and its like"):
        open_source(str(tmp_path / name))


@given(st.data())
def test_no_damage_to_an_hdf5_file_raises_anything_else(data):
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file["images"], file["labels"] = np.zeros((4, 6, 6, 3), np.uint8), np.arange(4)
    raw = bytearray(content.getvalue())
    raw[data.draw(st.integers(8, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "set.h5"
        path.write_bytes(raw)
        with contextlib.suppress(UserError):
            open_source(str(path)).read(0)
