"""Arrays in the layouts in which people keep images."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from alphaflow.data.sources import decode, open_source
from alphaflow.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 6, 5, 3), dtype=np.uint8)
GREY = PIXELS[..., :1]
LABELS = np.array([2, 0, 1, 1, 0, 2, 2])


def save(path: Path, **arrays: np.ndarray) -> str:
    if path.suffix == ".npy":
        np.save(path, arrays["images"])
    else:
        np.savez_compressed(path, **arrays)
    return str(path)


@pytest.mark.parametrize("end", ["npy", "npz"])
@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (PIXELS, PIXELS),
        (PIXELS.transpose(0, 3, 1, 2), PIXELS),
        (GREY, GREY),
        (GREY.transpose(0, 3, 1, 2), GREY),
        (GREY[..., 0], GREY),
    ],
)
def test_layouts(tmp_path: Path, end: str, array: np.ndarray, expected: np.ndarray) -> None:
    path = save(tmp_path / f"a.{end}", images=array)
    source = open_source(path)
    assert len(source) == 7 and source.labels is None and source.class_names == ()
    assert all(np.array_equal(source.read(k), expected[k]) for k in range(7))
    assert decode(source.read(3), 4).shape == (3, 4, 4)
    assert source.name(3) == f"image 3 of {path}"


def test_labels_of_an_npz(tmp_path: Path) -> None:
    words = np.array(["b", "a", "c", "c", "a", "b", "b"])
    path = save(tmp_path / "a.npz", x=PIXELS, y=LABELS, words=words, other=PIXELS)
    assert open_source(path).labels.tolist() == LABELS.tolist()
    assert open_source(path, labels="words").class_names == ("a", "b", "c")
    assert open_source(path, labels="none").labels is None
    np.save(tmp_path / "l.npy", LABELS[:, None] + 5)
    beside = open_source(path, labels=str(tmp_path / "l.npy"))
    assert beside.class_names == ("5", "6", "7") and beside.labels.tolist() == LABELS.tolist()
    with pytest.raises(UserError, match=r"unknown array of .* 'word': did you mean 'words'"):
        open_source(path, labels="word")


def test_labels_that_are_words_in_bytes(tmp_path: Path) -> None:
    words = np.array([b"cat", b"dog", b"caf\xe9", b"dog", b"cat", b"cat", b"dog"])
    source = open_source(save(tmp_path / "a.npz", images=PIXELS, labels=words[:, None]))
    assert source.class_names == ("caf\\xe9", "cat", "dog") and source.labels.tolist() == [1, 2, 0, 2, 1, 1, 2]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS == 0, r"labels labels are bool \(7,\).*labels.astype\(int\)"),
        (np.eye(7), r"are float64 \(7, 7\).*labels.argmax\(1\)"),
        (np.where(LABELS == 0, np.inf, 1.0), "are float64"),
        (np.where(LABELS == 0, np.nan, 1.0), "are float64"),
        (LABELS.astype(complex), "are complex128"),
    ],
)
def test_labels_that_are_no_classes_are_refused(tmp_path: Path, labels: np.ndarray, message: str) -> None:
    np.save(tmp_path / "l.npy", labels)
    with pytest.raises(UserError, match=message):
        open_source(save(tmp_path / "a.npz", images=PIXELS, labels=labels))
    with pytest.raises(UserError, match=message.replace("labels labels", "labels .*l.npy")):
        open_source(save(tmp_path / "b.npz", images=PIXELS), labels=str(tmp_path / "l.npy"))


def test_labels_that_are_python_objects_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "l.npy", np.array(["a"] * 7, object))
    with pytest.raises(UserError, match=r"l.npy .*it holds Python objects"):
        open_source(save(tmp_path / "a.npz", images=PIXELS), labels=str(tmp_path / "l.npy"))


def test_the_only_array_of_bytes_is_taken_whatever_its_name(tmp_path: Path) -> None:
    assert len(open_source(save(tmp_path / "a.npz", samples=PIXELS, labels=LABELS))) == 7
    with pytest.raises(UserError, match=r"no array named images, x or arr_0, but a uint8 .* b uint8"):
        open_source(save(tmp_path / "b.npz", a=PIXELS, b=PIXELS))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": PIXELS.astype(np.float32)}, "of type float32: images must be uint8"),
        ({"images": PIXELS[0, 0]}, r"has the shape \(5, 3\)"),
        ({"images": np.zeros((7, 6, 5, 4), np.uint8)}, r"has the shape \(7, 6, 5, 4\)"),
        ({"images": PIXELS[:0]}, r"has the shape \(0, 6, 5, 3\)"),
        ({"images": PIXELS, "labels": LABELS[:6]}, r"are int64 \(6,\), not 7 whole numbers"),
        ({"images": PIXELS, "labels": LABELS / 2}, "are float64"),
    ],
)
def test_arrays_that_cannot_be_used_are_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        open_source(save(tmp_path / "a.npz", **arrays))


@pytest.mark.parametrize("end", ["npy", "npz"])
def test_nothing_pickled_is_loaded(tmp_path: Path, end: str) -> None:
    class Trap:
        def __reduce__(self):  # type: ignore[no-untyped-def]
            return (Path.touch, (tmp_path / "executed",))

    path = tmp_path / f"a.{end}"
    trap = np.array([Trap()], dtype=object)
    np.save(path, trap, allow_pickle=True) if end == "npy" else np.savez(path, images=trap)
    with pytest.raises(UserError, match="no whole array file"):
        open_source(str(path))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("end", ["npy", "npz"])
def test_damaged_and_missing_files_are_refused(tmp_path: Path, end: str) -> None:
    path = tmp_path / f"a.{end}"
    save(path, images=PIXELS)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"nonsense" * 99):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"a\.{end}"):
            open_source(str(path))
    path.unlink()
    with pytest.raises(UserError, match="No such file"):
        open_source(str(path))


def test_an_array_that_declares_more_than_it_holds_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (1 << 60, 3)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images.npy", header.getvalue() + bytes(99))
    with pytest.raises(
        UserError, match=r"images\.npy is refused: it declares an array of \(1152921504606846976, 3\)"
    ):
        open_source(str(tmp_path / "a.npz"))


def test_a_bomb_of_zeros_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", images=np.zeros((10_000, 32, 32, 3), np.uint8))
    with pytest.raises(UserError, match="it declares 30720128 bytes in"):
        open_source(path)


def test_other_pixels_of_the_same_shape_have_another_stamp(tmp_path: Path) -> None:
    one = open_source(save(tmp_path / "a.npy", images=PIXELS))
    two = open_source(save(tmp_path / "a.npy", images=255 - PIXELS))
    assert one.digest == two.digest and one.stamp != two.stamp


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_one_picture_is_no_set_of_grey_ones(tmp_path: Path, channels: int) -> None:
    np.save(tmp_path / "one.npy", np.zeros((8, 8, channels), np.uint8))
    with pytest.raises(UserError, match=r"one\.npy has the shape .* which is one picture: images must be"):
        open_source(str(tmp_path / "one.npy"))


def test_arrays_that_could_be_labels_are_told(tmp_path: Path) -> None:
    about = {"fine_labels": np.arange(5), "coarse_labels": np.arange(5), "mean": np.zeros(3)}
    source = open_source(save(tmp_path / "a.npz", images=np.zeros((5, 8, 8, 3), np.uint8), **about))
    assert source.labels is None
    told = "no array of labels among fine_labels, coarse_labels: --data.labels ARRAY takes one"
    assert source.passed_over == (told,)


def test_splits_of_medmnist_and_labels_in_a_column(tmp_path: Path) -> None:
    splits = {"train": PIXELS, "val": PIXELS[:3], "test": PIXELS[2:]}
    arrays = {f"{name}_images": images for name, images in splits.items()}
    labels = {
        f"{name}_labels": (np.arange(len(images)) % 3 * 2).astype(np.uint8)[:, None]
        for name, images in splits.items()
    }
    path = save(tmp_path / "pathmnist.npz", **arrays, **labels)
    for asked, images in {"": PIXELS, "#val": PIXELS[:3], "#validation": PIXELS[:3], "#test": PIXELS[2:]}.items():
        source = open_source(path + asked)
        assert all(np.array_equal(source.read(k), images[k]) for k in range(len(images)))
        assert source.class_names == ("0", "2", "4") and source.labels.tolist() == [
            k % 3 for k in range(len(images))
        ]
    several = {"train_labels": np.arange(14, dtype=np.uint8).reshape(7, 2) % 3 % 2}
    path = save(tmp_path / "chestmnist.npz", train_images=PIXELS, **several)
    with pytest.raises(
        UserError, match=r"\(7, 2\).*an image may have several of them: --data.labels 'train_labels#1'"
    ):
        open_source(path)
    source = open_source(path, labels="train_labels#2")
    assert source.labels.tolist() == several["train_labels"][:, 1].tolist()
    for column in ("0", "3", "x"):
        with pytest.raises(UserError, match=rf"train_labels has no column '{column}': give a number from 1 to 2"):
            open_source(path, labels=f"train_labels#{column}")


def test_dsprites_has_pixels_of_0_and_1_and_columns_of_classes(tmp_path: Path) -> None:
    images = np.zeros((9, 8, 8), np.uint8)
    images[:, 2:5, 3:6] = 1
    classes = np.stack([np.zeros(9, np.int64), np.arange(9) % 3], 1)
    about = {"metadata": np.array({"title": "dSprites"}, object), "latents_values": np.zeros((9, 2))}
    path = save(tmp_path / "dsprites.npz", imgs=images, latents_classes=classes, **about)
    source = open_source(path, labels="latents_classes#2")
    assert np.array_equal(source.read(4)[..., 0], images[4] * 255) and source.labels.tolist() == [0, 1, 2] * 3
    told = open_source(path).passed_over
    assert told[0] == "the array metadata of Python objects" and "latents_classes#2' takes the second" in told[1]


def arrays_in(folder: Path, names: tuple[str, ...]) -> Path:
    folder.mkdir()
    for name in names:
        np.save(folder / f"{name}.npy", PIXELS)
    return folder


def test_quickdraws_bitmaps_one_file_a_class(tmp_path: Path) -> None:
    drawings = np.random.default_rng(1).integers(0, 256, (9, 784), dtype=np.uint8)
    for k, name in enumerate(["cat", "aircraft carrier", "dog"]):
        np.save(tmp_path / f"full_numpy_bitmap_{name}.npy", drawings[3 * k : 3 * k + 3])
    source = open_source(str(tmp_path))
    assert (
        source.class_names == ("aircraft carrier", "cat", "dog")
        and source.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    )
    assert np.array_equal(source.read(4)[..., 0], drawings[1].reshape(28, 28))
    assert source.name(4) == f"image 1 of {tmp_path}/full_numpy_bitmap_cat.npy"
    assert open_source(str(tmp_path), labels="none").labels is None
    for file in list(tmp_path.glob("*.npy")):
        (tmp_path / "within" / file.stem[18:]).mkdir(parents=True)
        file.rename(tmp_path / "within" / file.stem[18:] / file.name)
    again = open_source(f"{tmp_path}/within")
    assert again.class_names == source.class_names and np.array_equal(again.read(4), source.read(4))


def test_a_class_called_train_and_parts_that_are_no_classes(tmp_path: Path) -> None:
    bucket = arrays_in(tmp_path / "bucket", ("train", "truck", "cat"))  # as in QuickDraw's
    assert open_source(str(bucket)).class_names == ("cat", "train", "truck")
    for names in (("images_0", "images_1"), ("part1", "part2")):
        folder = arrays_in(tmp_path / names[0], names)
        with pytest.raises(UserError, match="which may be classes or parts of one set"):
            open_source(str(folder))
        assert open_source(str(folder), labels="none").labels is None
        assert len(open_source(str(folder), labels="folders").class_names) == 2
    digits = arrays_in(tmp_path / "digits", ("0", "1", "2"))
    assert open_source(str(digits)).class_names == ("0", "1", "2")


def test_other_folders_of_arrays(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    save(tmp_path / "a" / "mnist.npz", images=PIXELS, labels=LABELS)
    assert open_source(str(tmp_path / "a")).labels.tolist() == LABELS.tolist()
    save(tmp_path / "a" / "other.npz", images=PIXELS)
    (tmp_path / "of-another-kind").mkdir()
    (tmp_path / "of-another-kind/mnist-train.array_record-00000-of-00001").write_bytes(b"\0")
    with pytest.raises(UserError, match="holds no images"):
        open_source(f"{tmp_path}/of-another-kind")
    with pytest.raises(UserError, match=r"several files of arrays \(mnist.npz, other.npz\): give one of them"):
        open_source(str(tmp_path / "a"))
    (tmp_path / "b").mkdir()
    np.save(tmp_path / "b" / "x_train.npy", PIXELS)
    np.save(tmp_path / "b" / "train.npy", PIXELS)
    with pytest.raises(UserError, match="several files of arrays"):
        open_source(str(tmp_path / "b"))


def test_quickdraws_strokes_are_no_pixels(tmp_path: Path) -> None:
    strokes = np.empty(2, object)
    strokes[:] = [np.zeros((3, 3), np.int16), np.zeros((4, 3), np.int16)]
    np.savez(tmp_path / "cat.npz", train=strokes, valid=strokes, test=strokes)
    with pytest.raises(UserError, match=r"only Python objects .*, as QuickDraw's drawings by strokes are"):
        open_source(f"{tmp_path}/cat.npz")
