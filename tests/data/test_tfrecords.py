"""TFRecords as tfds, TensorFlow's older scripts and StyleGAN wrote them: small copies by a writer of our own."""

import contextlib
import gzip
import io
import json
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from alphaflow import UserError
from alphaflow.data import Images
from alphaflow.data.sources import open_source
from alphaflow.data.sources.crc32c import crc32c
from alphaflow.data.sources.tf_example import features_of
from published_sets import jpeg, unpack


def slow_crc(data: bytes) -> int:
    """CRC-32C bit by bit, by its definition."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    data = b""
    while number > 127:
        data += bytes([number & 127 | 128])
        number >>= 7
    return data + bytes([number])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def example(packed: bool = True, **features: object) -> bytes:
    """A `tf.train.Example`; `a__b` is the feature a/b."""
    entries = b""
    for name, value in features.items():
        values = value if isinstance(value, list) else [value]
        if isinstance(values[0], bytes):
            feature = field(1, b"".join(field(1, one) for one in values))
        elif isinstance(values[0], float):
            feature = field(2, field(1, struct.pack(f"<{len(values)}f", *values)))
        elif packed:
            feature = field(3, field(1, b"".join(map(varint, values))))
        else:
            feature = field(3, b"".join(varint(1 << 3) + varint(one) for one in values))
        entries += field(1, field(1, name.replace("__", "/").encode()) + field(2, feature))
    return field(1, entries)


def record(data: bytes) -> bytes:
    def mask(raw: bytes) -> bytes:
        crc = slow_crc(raw)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    length = struct.pack("<Q", len(data))
    return length + mask(length) + data + mask(data)


def png(level: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((6, 6), level, np.uint8)).save(file, "PNG")
    return file.getvalue()


def tfds(name: str = "mnist/3.0.1") -> dict[str, bytes]:
    """A folder as tfds leaves it: two shards of train, one of test."""

    def shard(*numbers: int) -> bytes:
        return b"".join(record(example(image=png(20 * k), label=k % 3, id=b"x")) for k in numbers)

    kind = "tensorflow_datasets.core.features"
    features = {
        "pythonClassName": f"{kind}.features_dict.FeaturesDict",
        "featuresDict": {
            "features": {
                "image": {"pythonClassName": f"{kind}.image_feature.Image", "image": {"dtype": "uint8"}},
                "label": {"pythonClassName": f"{kind}.class_label_feature.ClassLabel", "classLabel": {}},
                "id": {"pythonClassName": f"{kind}.text_feature.Text", "text": {}},
            }
        },
    }
    files = {
        "dataset_info.json": json.dumps({"name": "mnist", "fileFormat": "tfrecord"}).encode(),
        "features.json": json.dumps(features).encode(),
        "label.labels.txt": b"zero\none\ntwo\nthree\n",
        "mnist-train.tfrecord-00000-of-00002": shard(0, 1, 2),
        "mnist-train.tfrecord-00001-of-00002": shard(3, 4),
        "mnist-test.tfrecord-00000-of-00001": shard(8, 5),
    }
    return {f"{name}/{file}": data for file, data in files.items()}


@pytest.mark.parametrize("top", ["", "/mnist", "/mnist/3.0.1"])
def test_a_folder_of_tfds(tmp_path: Path, top: str) -> None:
    address = f"{unpack(tmp_path, tfds())}{top}"
    source = open_source(address)
    assert [source.read(k) for k in range(5)] == [png(20 * k) for k in range(5)]
    assert source.class_names == ("zero", "one", "two", "three") and source.labels.tolist() == [0, 1, 2, 0, 1]
    assert source.passed_over == ("the splits test (1 files)",)
    assert source.name(3).endswith("mnist-train.tfrecord-00001-of-00002") and "record 0 of" in source.name(3)
    test = open_source(f"{address}#test")
    assert test.labels.tolist() == [2, 2] and test.read(0) == png(160)
    assert open_source(address, labels="none").labels is None
    assert source.captions() == ["x"] * 5
    (tmp_path / "mnist/3.0.1/label.labels.txt").write_bytes(b"zero\n\ntwo\nthree\n\n")
    assert open_source(address).class_names == ("zero", "1", "two", "three")
    with pytest.raises(UserError, match=r"unknown feature of .* 'lable': did you mean 'label'"):
        open_source(address, labels="lable")
    with pytest.raises(UserError, match=r"no file is named like the split 'val'"):
        open_source(f"{address}#val")


def test_one_file_a_pattern_and_a_name_with_another_split(tmp_path: Path) -> None:
    folder = unpack(tmp_path, tfds()) / "mnist/3.0.1"
    assert len(open_source(str(folder / "mnist-test.tfrecord-00000-of-00001"))) == 2
    assert len(open_source(f"{folder}/mnist-*.tfrecord*")) == 5
    assert open_source(f"{folder}/mnist-*.tfrecord*#test").labels.tolist() == [2, 2]
    for file in folder.glob("mnist-*"):
        file.rename(folder / file.name.replace("mnist-", "my_test_set-"))
    assert len(open_source(str(folder))) == 5 and len(open_source(f"{folder}#test")) == 2


def test_of_several_class_labels_the_usual_one_is_taken(tmp_path: Path) -> None:
    """CIFAR-100 of tfds declares coarse_label before label; smallnorb has only labels of other names."""
    label = {"pythonClassName": "tensorflow_datasets.core.features.class_label_feature.ClassLabel"}
    data = record(example(image=png(9), label=50, coarse_label=7, label_azimuth=3))

    def write(*names: str) -> str:
        features = {"featuresDict": {"features": {name: label for name in names}}}
        return str(unpack(tmp_path, {"x-train.tfrecord": data, "features.json": json.dumps(features).encode()}))

    source = open_source(write("coarse_label", "label"))
    assert source.class_names == ("50",) and source.passed_over == (
        "the labels coarse_label (--data.labels coarse_label)",
    )
    source = open_source(write("coarse_label", "label_azimuth"))
    assert source.labels is None and "no labels among the features" in source.passed_over[0]
    assert open_source(write("label_azimuth")).class_names == ("3",)


def test_shards_that_are_not_there_are_told(tmp_path: Path) -> None:
    files = tfds()
    files.pop("mnist/3.0.1/mnist-train.tfrecord-00000-of-00002")
    source = open_source(str(unpack(tmp_path, files)))
    assert len(source) == 2 and "1 of the 2 files of mnist-train, which are not there" in source.passed_over


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("zipped", [False, True])
def test_imagenet_as_the_slim_scripts_wrote_it(tmp_path: Path, packed: bool, zipped: bool) -> None:
    def one(k: int) -> bytes:
        return example(
            packed,
            image__encoded=jpeg(10 * k),
            image__class__label=[1, 447, 1000][k % 3],
            image__class__synset=b"n01440764",
            image__format=b"JPEG",
            image__object__bbox__xmin=[0.25, 0.5],
            image__object__bbox__label=[3, 3],
            image__height=8,
        )

    end = ".tfrecord.gz" if zipped else ""
    for k, split in enumerate(["train", "train", "validation"]):
        data = b"".join(record(one(3 * k + i)) for i in range(3))
        name = f"{split}-0000{k % 2}-of-0000{2 - k // 2}{end}"
        (tmp_path / name).write_bytes(gzip.compress(data) if zipped else data)
    source = open_source(str(tmp_path))
    assert [source.read(k) for k in range(6)] == [jpeg(10 * k) for k in range(6)]
    assert source.class_names == ("1", "447", "1000") and source.labels.tolist() == [0, 1, 2] * 2
    assert len(open_source(f"{tmp_path}#validation")) == 3
    assert open_source(str(tmp_path), labels="image/class/synset").class_names == ("n01440764",)
    with pytest.raises(UserError, match=r"has no image/object/bbox/label that is one word or whole number"):
        open_source(str(tmp_path), labels="image/object/bbox/label")


def test_raw_pixels_with_their_shape(tmp_path: Path) -> None:
    """StyleGAN's first tool kept planes with `shape`; others keep rows with height and width."""
    planes = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    (tmp_path / "ffhq-r02.tfrecords").write_bytes(record(example(shape=[3, 4, 5], data=planes.tobytes())))
    source = open_source(f"{tmp_path}/ffhq-r02.tfrecords")
    assert (source.read(0) == planes.transpose(1, 2, 0)).all()
    rows = planes.reshape(4, 5, 3)
    (tmp_path / "x.tfrecord").write_bytes(record(example(image_raw=rows.tobytes(), height=4, width=5, label=7)))
    source = open_source(f"{tmp_path}/x.tfrecord")
    assert (source.read(0) == rows).all() and source.class_names == ("7",)


def test_of_several_resolutions_the_largest_is_taken(tmp_path: Path) -> None:
    for level in (2, 3, 10):
        planes = np.full((3, level, level), level, np.uint8)
        data = record(example(shape=[3, level, level], data=planes.tobytes()))
        (tmp_path / f"ffhq-r{level:02}.tfrecords").write_bytes(data)
    source = open_source(str(tmp_path))
    assert len(source) == 1 and source.read(0).shape == (10, 10, 3)
    assert source.passed_over == ("the other resolutions r02, r03",)
    assert open_source(f"{tmp_path}#r03").read(0).shape == (3, 3, 3)


def test_a_damaged_image_is_skipped_and_a_cut_file_refused(tmp_path: Path) -> None:
    folder = unpack(tmp_path, tfds()) / "mnist/3.0.1"
    file = folder / "mnist-train.tfrecord-00000-of-00002"
    whole = bytearray(file.read_bytes())
    at = whole.index(b"IDAT") + 6
    whole[at] ^= 1
    file.write_bytes(whole)
    data = Images(str(folder), 6, tolerance=0.5)
    assert len(data) == 4 and data.skipped[0][1] == "the record is damaged: its bytes do not match their checksum"
    file.write_bytes(whole[:-5])
    with pytest.raises(UserError, match=r"00000-of-00002 is damaged or cut after byte [\d,]+ \(2 records\)"):
        open_source(str(folder))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            record(example(x=[1, 2], y=b"words")),
            "of the features x, y one must be an encoded image, and there are none",
        ),
        (record(example(a=jpeg(1), b=jpeg(2))), r"there are several \(a, b\)"),
        (record(b"nonsense"), r"record 0 of .* is no tf.train.Example"),
        (record(b""), "has no features"),
    ],
)
def test_records_of_something_else(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "x.tfrecord").write_bytes(data)
    with pytest.raises(UserError, match=said):
        open_source(f"{tmp_path}/x.tfrecord")


def test_several_sets_below_one_folder(tmp_path: Path) -> None:
    unpack(tmp_path, tfds("mnist/3.0.1") | tfds("mnist/1.0.0"))
    with pytest.raises(UserError, match=r"TFRecords in several folders \(1.0.0, 3.0.1\): give one"):
        open_source(str(tmp_path / "mnist"))


@pytest.mark.parametrize("length", [0, 1, 3, 4, 9, 1023, 1024, 1025, 4097, 9000])
def test_the_checksum_is_that_of_the_definition(length: int) -> None:
    data = np.random.default_rng(length).bytes(length)
    assert crc32c(data) == slow_crc(data)


def test_the_checksums_of_the_standard() -> None:
    assert crc32c(b"123456789") == 0xE3069283 and crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4


@given(st.data())
def test_no_damage_to_a_message_raises_anything_but_one_line(data: st.DataObject) -> None:
    raw = bytearray(example(image=png(9), label=[1, 2], name=b"x"))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.tfrecord"
        path.write_bytes(record(bytes(raw)))
        with contextlib.suppress(UserError):
            source = open_source(str(path))
            source.captions()
            with contextlib.suppress(OSError):
                source.read(0)


@given(st.binary(max_size=60))
def test_no_message_raises_anything_but_a_value_error(data: bytes) -> None:
    for raw in (data, field(1, field(1, data))):
        try:
            for feature in features_of(raw).values():
                feature.values()
        except ValueError:
            pass
