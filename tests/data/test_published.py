"""MNIST's IDX, CIFAR's batches, small ImageNet, SVHN and STL-10 as they are published: exact small copies."""

import gzip
import io
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from alphaflow import UserError
from alphaflow.cli import run
from alphaflow.data import Images
from alphaflow.data.sources import open_source
from published_sets import assert_holds, pack_tar, packed, pixels, unpack


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(struct.pack(">I", size) for size in array.shape)
    return head + array.tobytes()


class Python2(pickle._Pickler):
    """Pickles strings as Python 2 wrote them, which is how CIFAR's batches were."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def save_old(self, text):
        raw = text if isinstance(text, bytes) else text.encode()
        self.write(b"U" + bytes([len(raw)]) + raw if len(raw) < 256 else b"T" + struct.pack("<i", len(raw)) + raw)
        self.memoize(text)

    dispatch[bytes] = dispatch[str] = save_old


def python2(content: object) -> bytes:
    file = io.BytesIO()
    Python2(file, protocol=2).dump(content)
    return file.getvalue()


def rows(images: np.ndarray) -> np.ndarray:
    """Images (N, H, W, 3) as rows of three planes."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2).reshape(len(images), -1))


# ---------------------------------------------------------------------------------------------------- IDX

TRAIN, TEST = pixels(12, 28, 28), pixels(7, 28, 28)
MNIST = {
    "train-images-idx3-ubyte": idx(TRAIN),
    "train-labels-idx1-ubyte": idx(np.arange(12, dtype=np.uint8) % 10),
    "t10k-images-idx3-ubyte": idx(TEST),
    "t10k-labels-idx1-ubyte": idx(np.arange(7, dtype=np.uint8)),
}


@pytest.fixture(params=["plain", "packed", "nested"])
def mnist(request, tmp_path: Path) -> Path:
    """The four files, as Debian's package and others have them."""
    inner = tmp_path / "set" / ("MNIST/raw" if request.param == "nested" else "")
    inner.mkdir(parents=True)
    for name, content in MNIST.items():
        if request.param == "packed":
            (inner / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (inner / name).write_bytes(content)
    (inner / "README.md").write_text("about")
    return tmp_path / "set"


def test_idx_files_of_a_folder_are_the_training_set_with_its_labels(mnist):
    source = open_source(str(mnist))
    assert_holds(source, TRAIN[..., None], [k % 10 for k in range(12)], "0123456789")
    assert source.origin.startswith("labels from train-labels-idx1-ubyte")
    assert source.passed_over == ("the split test",)


def test_the_other_split_is_asked_for_by_its_name(mnist):
    assert_holds(open_source(f"{mnist}#test"), TEST[..., None], range(7), "0123456")
    with pytest.raises(UserError, match=r"unknown split of .* 'val': choose one of"):
        open_source(f"{mnist}#val")


def test_one_of_the_files_finds_its_labels_beside_it(mnist):
    file = next(mnist.rglob("t10k-images*"))
    assert_holds(open_source(str(file)), TEST[..., None], range(7), "0123456")
    assert open_source(str(file), labels="none").labels is None


@pytest.mark.parametrize("ending", ["zip", "tar", "tar.gz"])
def test_an_archive_of_the_files(tmp_path, ending):
    path = tmp_path / f"mnist.{ending}"
    if ending == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in MNIST.items():
                archive.writestr(f"mnist/{name}.gz", gzip.compress(content))
    else:
        pack_tar(path, {f"mnist/{name}": content for name, content in MNIST.items()})
    assert_holds(open_source(f"{path}#test"), TEST[..., None], range(7), "0123456")
    assert len(open_source(str(path))) == 12


def test_a_file_among_others_as_downloaded(tmp_path):
    """A picture and hundreds of other files in the same folder are no hindrance."""
    unpack(tmp_path, MNIST | {"holiday.jpg": b"", ".lock": b""})
    unpack(tmp_path, {f"notes-{k}.txt": b"" for k in range(300)})
    source = open_source(f"{tmp_path}/train-images-idx3-ubyte")
    assert_holds(source, TRAIN[..., None], [k % 10 for k in range(12)], "0123456789")
    with pytest.raises(UserError, match="train-images does not exist"):
        open_source(f"{tmp_path}/train-images")


def test_letters_of_several_sets_are_asked_for_by_name(tmp_path):
    for kind, images in (("letters", TRAIN), ("digits", TEST)):
        (tmp_path / f"emnist-{kind}-train-images-idx3-ubyte").write_bytes(idx(images))
        (tmp_path / f"emnist-{kind}-train-labels-idx1-ubyte").write_bytes(idx(np.ones(len(images), np.uint8)))
    with pytest.raises(UserError, match=r"holds several sets .*: give one, such as"):
        open_source(str(tmp_path))
    source = open_source(f"{tmp_path}#emnist-letters-train-images-idx3-ubyte")
    assert_holds(source, TRAIN[..., None], [0] * 12, "1")


def test_colours_and_images_without_labels(tmp_path):
    images = pixels(3, 6, 6, 3)
    (tmp_path / "pictures.idx").write_bytes(idx(images))
    source = open_source(str(tmp_path))
    assert source.labels is None and (source.read(2) == images[2]).all()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "train-images-idx3-ubyte",
            MNIST["train-images-idx3-ubyte"][:-1],
            "should have 9,424 bytes and has 9,423",
        ),
        (
            "train-images-idx3-ubyte",
            MNIST["train-images-idx3-ubyte"] + b"0",
            "should have 9,424 bytes and has more",
        ),
        ("train-labels-idx1-ubyte", idx(np.zeros(12, np.uint8))[:-2], "should have 20 bytes and has 18"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content, said):
    for other, whole in MNIST.items():
        (tmp_path / other).write_bytes(content if other == name else whole)
    with pytest.raises(UserError, match=f"{name} is damaged: it {said}"):
        open_source(str(tmp_path))


def test_dimensions_that_no_file_could_hold(tmp_path):
    head = bytes([0, 0, 8, 4]) + struct.pack(">IIII", *[2**31] * 4)
    for name, content in (("a.idx", head), ("b.idx.gz", gzip.compress(head))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{name} is damaged: it (declares|should have) 21,267,647,"):
            open_source(str(tmp_path / name))


def test_a_packed_file_that_is_cut(tmp_path):
    packed = gzip.compress(MNIST["train-images-idx3-ubyte"])
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(
        UserError, match=r"train-images-idx3-ubyte.gz is damaged \(it is cut short\): fetch it anew"
    ):
        open_source(str(tmp_path))


# -------------------------------------------------------------------------------------------------- CIFAR

BATCHES = [pixels(4, 32, 32, 3) for _ in range(3)]
NAMES = ["airplane", "automobile", "bird", "cat"]


def cifar10(kind: str) -> dict[str, bytes]:
    """Two training batches and one for tests, as the python or the binary version has them."""
    files = {}
    for k, (name, images) in enumerate(zip(["data_batch_1", "data_batch_2", "test_batch"], BATCHES)):
        labels = [(k + i) % 4 for i in range(4)]
        if kind == "python":
            batch = {
                b"data": rows(images),
                b"labels": labels,
                b"batch_label": b"training batch",
                b"filenames": [b"a"],
            }
            files[f"cifar-10-batches-py/{name}"] = python2(batch)
        else:
            records = np.concatenate([np.array(labels, np.uint8)[:, None], rows(images)], axis=1)
            files[f"cifar-10-batches-bin/{name}.bin"] = records.tobytes()
    if kind == "python":
        files["cifar-10-batches-py/batches.meta"] = python2({b"label_names": [n.encode() for n in NAMES]})
        files["cifar-10-batches-py/readme.html"] = b"<html>"
    else:
        files["cifar-10-batches-bin/batches.meta.txt"] = "\n".join(NAMES).encode() + b"\n\n"
    return files


@pytest.mark.parametrize("form", ["folder", "above", "tar.gz", "tar", "zip"])
@pytest.mark.parametrize("kind", ["python", "binary"])
def test_cifar_10(tmp_path, kind, form):
    files = cifar10(kind)
    if form in ("folder", "above"):
        place = unpack(tmp_path, files) / ("" if form == "above" else next(iter(files)).partition("/")[0])
    elif form == "zip":
        place = tmp_path / "cifar.zip"
        with zipfile.ZipFile(place, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        place = tmp_path / f"cifar-10-{kind}.{form}"
        pack_tar(place, files)
    every = np.concatenate(BATCHES[:2])
    assert_holds(open_source(str(place)), every, [0, 1, 2, 3, 1, 2, 3, 0], NAMES)
    assert_holds(open_source(f"{place}#test"), BATCHES[2], [2, 3, 0, 1], NAMES)


def test_one_batch_of_cifar(tmp_path):
    place = unpack(tmp_path, cifar10("python")) / "cifar-10-batches-py"
    assert_holds(open_source(str(place / "test_batch")), BATCHES[2], [2, 3, 0, 1], NAMES)
    assert_holds(open_source(str(place / "data_batch_2")), BATCHES[1], [1, 2, 3, 0], NAMES)


@pytest.mark.parametrize("kind", ["python", "binary"])
def test_cifar_100_has_fine_and_coarse_labels(tmp_path, kind):
    images, fine, coarse = BATCHES[0], [2, 0, 1, 2], [1, 0, 1, 1]
    if kind == "python":
        batch = {b"data": rows(images), b"fine_labels": fine, b"coarse_labels": coarse}
        meta = {b"fine_label_names": [b"ant", b"bee", b"cow"], b"coarse_label_names": [b"insects", b"large"]}
        unpack(tmp_path, {"cifar-100-python/train": python2(batch), "cifar-100-python/meta": python2(meta)})
    else:
        columns = np.array([coarse, fine], np.uint8).T
        files = {
            "train.bin": np.concatenate([columns, rows(images)], axis=1).tobytes(),
            "fine_label_names.txt": b"ant\nbee\ncow\n",
            "coarse_label_names.txt": b"insects\nlarge\n",
        }
        unpack(tmp_path, {f"cifar-100-binary/{name}": content for name, content in files.items()})
    source = open_source(str(tmp_path))
    assert_holds(source, images, fine, ["ant", "bee", "cow"])
    assert source.passed_over == ("the labels coarse_labels (--data.labels coarse_labels)",)
    assert_holds(open_source(str(tmp_path), labels="coarse_labels"), images, coarse, ["insects", "large"])
    assert open_source(str(tmp_path), labels="none").labels is None
    with pytest.raises(UserError, match="did you mean 'fine_labels'"):
        open_source(str(tmp_path), labels="fine_label")


def test_small_imagenet_counts_its_classes_from_1(tmp_path):
    """Downsampled ImageNet, 16 × 16 here: labels 1 … K, and a mean beside them; names come with none."""
    images = [pixels(3, 16, 16, 3), pixels(2, 16, 16, 3)]
    for k, (block, labels) in enumerate(zip(images, ([1, 2, 3], [12, 2]))):
        batch = {"data": rows(block), "labels": labels, "mean": np.zeros(768)}
        (tmp_path / f"train_data_batch_{[10, 2][k]}").write_bytes(pickle.dumps(batch, protocol=4))
    (tmp_path / "val_data").write_bytes(pickle.dumps({"data": rows(images[0]), "labels": [1, 2, 3]}, protocol=4))
    # batches are in the order of their numbers
    assert_holds(open_source(str(tmp_path)), np.concatenate(images[::-1]), [3, 1, 0, 1, 2], ["1", "2", "3", "12"])
    assert len(open_source(f"{tmp_path}#validation")) == 3


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_small_imagenet_as_npz(tmp_path, form):
    images = [pixels(3, 16, 16, 3), pixels(2, 16, 16, 3), pixels(4, 16, 16, 3)]
    files = {}
    for name, block, labels in zip(
        ["train_data_batch_10", "train_data_batch_2", "val_data"], images, ([1, 2, 3], [12, 2], [1, 2, 3, 12])
    ):
        file = io.BytesIO()
        np.savez(file, data=rows(block), labels=np.array(labels), mean=np.zeros(768))
        files[f"{name}.npz"] = file.getvalue()
    address = packed(tmp_path / "Imagenet64_train_npz", files, form)
    every = np.concatenate([images[1], images[0]])
    assert_holds(open_source(address), every, [3, 1, 0, 1, 2], ["1", "2", "3", "12"])
    assert_holds(open_source(f"{address}#validation"), images[2], [0, 1, 2, 3], ["1", "2", "3", "12"])
    files["train_data_batch_2.npz"] = files["train_data_batch_2.npz"][:-99]
    with pytest.raises(UserError, match=r"train_data_batch_2.npz: no whole .npz"):
        open_source(packed(tmp_path / "cut", files, form))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (python2({b"data": rows(BATCHES[0]), b"labels": [0, 1, 2]}), "3 labels in labels for 4 images"),
        (python2({b"data": rows(BATCHES[0])[:, :5], b"labels": [0] * 4}), "rows of 5 numbers"),
        (python2({b"labels": [0] * 4}), "holds no rows of uint8 named data"),
        (python2([1, 2]), "holds no dictionary"),
        (python2({b"data": rows(BATCHES[0]), b"labels": [0] * 4})[:-50], "damaged pickle"),
        (pickle.dumps({"data": Path("x")}), "it names pathlib"),
    ],
)
def test_a_batch_that_is_none_is_refused_by_name(tmp_path, content, said):
    unpack(tmp_path, {"cifar-10-batches-py/data_batch_1": content})
    with pytest.raises(UserError, match=said):
        open_source(str(tmp_path))


def test_labels_beyond_the_names(tmp_path):
    files = cifar10("python") | {"cifar-10-batches-py/batches.meta": python2({b"label_names": [b"a", b"b"]})}
    with pytest.raises(UserError, match="labels go from 0 to 3, and 2 classes have names"):
        open_source(str(unpack(tmp_path, files)))


# --------------------------------------------------------------------------------------------- SVHN and STL-10


@pytest.mark.parametrize("packed", [False, True])
def test_svhn_where_10_stands_for_0(tmp_path, packed):
    images = {"train": pixels(5, 32, 32, 3), "test": pixels(3, 32, 32, 3), "extra": pixels(2, 32, 32, 3)}
    for split, block in images.items():
        y = np.array([10, 1, 2, 10, 9][: len(block)], np.uint8)[:, None]
        arrays = {"X": block.transpose(1, 2, 3, 0), "y": y}
        savemat(tmp_path / f"{split}_32x32.mat", arrays, do_compression=packed)
    assert_holds(open_source(str(tmp_path)), images["train"], [0, 1, 2, 0, 3], ["0", "1", "2", "9"])
    assert_holds(open_source(str(tmp_path / "test_32x32.mat")), images["test"], [0, 1, 2], ["0", "1", "2"])
    assert len(open_source(f"{tmp_path}#extra_32x32.mat")) == 2
    (tmp_path / "train_32x32.mat").write_bytes((tmp_path / "test_32x32.mat").read_bytes()[:400])
    with pytest.raises(UserError, match=r"train_32x32.mat holds no X and y"):
        open_source(str(tmp_path))


def test_stl_10_lies_by_columns_and_counts_from_1(tmp_path):
    train, unlabeled = pixels(3, 96, 96, 3), pixels(2, 96, 96, 3)
    files = {
        "train_X.bin": train.transpose(0, 3, 2, 1).tobytes(),
        "train_y.bin": bytes([1, 3, 2]),
        "unlabeled_X.bin": unlabeled.transpose(0, 3, 2, 1).tobytes(),
        "class_names.txt": b"airplane\nbird\ncar\n",
        "fold_indices.txt": b"0 1\n",
    }
    pack_tar(
        tmp_path / "stl10_binary.tar.gz", {f"stl10_binary/{name}": content for name, content in files.items()}
    )
    place = tmp_path / "stl10_binary.tar.gz"
    assert_holds(open_source(str(place)), train, [0, 2, 1], ["airplane", "bird", "car"])
    source = open_source(f"{place}#unlabeled")
    assert source.labels is None and (source.read(1) == unlabeled[1]).all()
    files["train_y.bin"] = bytes([1, 3])
    with pytest.raises(UserError, match=r"train_y.bin is damaged: it should have 3 bytes and has 2"):
        open_source(str(unpack(tmp_path / "other", files)))


# ----------------------------------------------------------------------------------------------------- as a set


def test_a_published_set_trains(mnist, tmp_path, caplog):
    caplog.set_level("INFO", "alphaflow")
    words = (
        "--data.size 8 --steps 2 --batch-size 4 --model.width 16 --model.depth 1 --model.heads 2 --model.patch 4"
    )
    out = tmp_path / "run"
    assert run(["train", "folder", "--data.path", str(mnist), "--out", str(out), *words.split()]) == 0
    assert "12 images, 10 classes (0, 1, 2, …), labels from train-labels" in caplog.text


def test_the_pixels_decide_the_fingerprint(tmp_path):
    prints = []
    for change in (0, 1):
        folder = tmp_path / str(change)
        folder.mkdir()
        (folder / "train-images-idx3-ubyte").write_bytes(idx(TRAIN + np.uint8(change)))
        prints.append(Images(str(folder), 28).fingerprint)
    assert prints[0] != prints[1]
