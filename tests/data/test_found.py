"""What was found is said in one line, and recorded; a run keeps the order of its classes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alphaflow.cli import run
from alphaflow.data import Images
from alphaflow.data.class_words import class_of
from alphaflow.data.sources import open_source
from alphaflow.data.sources.words import found_words
from alphaflow.errors import UserError
from alphaflow.generation.generator import choose_labels
from alphaflow.runs.config import Config, DataConfig, DistillConfig
from alphaflow.runs.data_record import check_same, data_of, describe
from alphaflow.runs.folder import RunFolder
from alphaflow.runs.teacher import recorded_classes

SMALL = (
    "--data.size 8 --steps 1 --batch-size 4 --model.width 16 --model.depth 1 --model.heads 1 --device cpu".split()
)


def image(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (level, 0, 0)).save(path)


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    for k in range(12):
        image(tmp_path / "set" / str(k) / "1.png", 20 * k)
    return tmp_path / "set"


def test_the_line() -> None:
    line = found_words(
        "photos.zip",
        2500,
        [str(k) for k in range(10)],
        origin="labels from dataset.json",
        skipped=3,
        passed_over=["2 folders without PNG, JPEG or WebP (emu, fox)"],
    )
    assert line == (
        "photos.zip: 2,500 images, 10 classes (0, 1, 2, …), labels from dataset.json, 3 skipped; "
        "passed over: 2 folders without PNG, JPEG or WebP (emu, fox)"
    )
    assert found_words("x", 1, ["a\nb"]) == "x: 1 images, 1 class (a b)" and found_words("x", 9, ()).endswith(
        "no classes"
    )


def test_training_says_what_it_found(numbers: Path, tmp_path: Path, capsys, caplog) -> None:
    (numbers / "7" / "bad.png").write_bytes(b"")
    caplog.set_level("INFO", "alphaflow")
    words = [
        "train",
        "folder",
        "--data.path",
        str(numbers),
        "--data.flip",
        "False",
        *SMALL,
        "--monitor.every",
        "0",
    ]
    assert run([*words, "--out", str(tmp_path / "r")]) == 0
    said = f"{numbers}: 12 images, 12 classes (0, 1, 2, …), labels from the folders, 1 skipped"
    assert said in caplog.messages and caplog.messages.index(said) == 0
    recorded = RunFolder(tmp_path / "r").read_record()["data"]
    assert recorded["num_classes"] == 12 and recorded["class_names"] == [str(k) for k in range(12)]
    capsys.readouterr()
    assert (
        run(["sample", str(tmp_path / "r"), "--out", str(tmp_path / "s"), "--count", "2", "--labels", "nine"]) == 2
    )
    assert (
        "unknown class 'nine': give balanced, random, a number from 0 to 11, or a name: 0, 1, 2"
        in capsys.readouterr().err
    )


def test_a_run_keeps_the_order_of_its_classes(numbers: Path) -> None:
    """Runs of earlier versions have numbered folders in the alphabet's order, and go on with it."""
    old = sorted(str(k) for k in range(12))
    now, then = Images(numbers, 8), Images(numbers, 8, class_names=old)
    assert now.class_names == tuple(str(k) for k in range(12)) and then.class_names == tuple(old)
    rows = torch.arange(12)
    (x, y), (same, other) = now.batch(rows), then.batch(rows)
    assert torch.equal(x, same) and y is not None and other is not None and not torch.equal(y, other)
    assert [now.class_names[k] for k in y] == [then.class_names[k] for k in other]
    assert now.fingerprint != then.fingerprint
    assert Images(numbers, 8, class_names=["cat", "dog"]).class_names == now.class_names


def test_resumption_and_evaluation_take_the_recorded_order(numbers: Path, tmp_path: Path) -> None:
    config = Config(data=DataConfig(name="folder", path=str(numbers), size=8))
    then = Images(numbers, 8, class_names=sorted(str(k) for k in range(12)))
    folder = RunFolder(tmp_path / "r")
    folder.create(config, "", describe(then))
    assert data_of(folder).class_names == then.class_names and data_of(folder).fingerprint == then.fingerprint
    image(numbers / "12" / "1.png", 250)
    with pytest.raises(
        UserError, match=r"count 13 here, 12 there; class_names 13 \(0, 1, 2, …\) here, 12 \(0, 1, 10"
    ):
        data_of(folder)
    record = {key: value for key, value in describe(then).items() if key != "decoder"}
    with pytest.raises(UserError, match="decoder 3 here, 1 there"):
        check_same(then, "0123", record)


def test_a_run_that_begins_from_another_numbers_classes_as_that_one_did(numbers: Path, tmp_path: Path) -> None:
    """Its network knows them by number."""
    old = sorted(str(k) for k in range(12))
    config = Config(data=DataConfig(name="folder", path=str(numbers), size=8))
    RunFolder(tmp_path / "old").create(config, "", describe(Images(numbers, 8, class_names=old)))
    new = RunFolder(tmp_path / "new")
    assert recorded_classes(config, new) is None
    assert recorded_classes(replace(config, init=str(tmp_path / "old")), new) == old
    assert recorded_classes(replace(config, distill=DistillConfig(teacher=str(tmp_path / "old"))), new) == old
    assert recorded_classes(replace(config, init=str(tmp_path / "nowhere")), new) is None
    assert recorded_classes(config, RunFolder(tmp_path / "old")) == old


# ---------------------------------------------------------------- classes by words

ONES = [str(k) for k in range(1, 5)]


@pytest.mark.parametrize(
    ("word", "names", "expected"),
    [
        ("cat", ["ant", "cat"], 1),
        ("1", ["ant", "cat"], 1),
        ("2", ["ant", "cat"], 2),  # no class
        ("3", list("01234"), 3),
        ("0", ONES, 0),
        ("name:2", ONES, 1),
        ("number:2", ONES, 2),
        ("7", ["3", "7"], 1),
    ],
)
def test_words_for_classes(word: str, names: list[str], expected: int) -> None:
    assert class_of(word, names) == expected


@pytest.mark.parametrize(
    ("word", "names", "message"),
    [
        (
            "cta",
            ["ant", "cat"],
            r"unknown class 'cta': did you mean 'cat'\? give balanced, random, a number from 0 to 1, or a name: "
            r"ant, cat",
        ),
        ("3", ["ant", "cat"], "a number from 0 to 1, or a name: ant, cat"),
        ("-1", ["ant", "cat"], "a number from 0 to 1"),
        ("2", ONES, "'2' is the name of class number 1 and the number of class '3': give name:2 or number:2"),
        ("4", ONES, "'4' is the name of class number 3 and the number of class 'no class'"),
        ("name:9", ONES, "a number from 0 to 3"),
        ("³", ONES, "a number from 0 to 3"),
    ],
)
def test_words_for_no_class_are_refused(word: str, names: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        class_of(word, names)
    assert caught.value.status == 2


def test_labels_by_name_and_by_number_may_be_mixed() -> None:
    names = ["tench, Tinca tinca", "cat", "dog"]
    assert choose_labels("cat,0", 3, 3, names=names).tolist() == [1, 0, 1]
    assert choose_labels("tench, Tinca tinca", 2, 3, names=names).tolist() == [0, 0]
    assert choose_labels("0,2", 2, 3).tolist() == [0, 2]
    with pytest.raises(UserError, match="give balanced, random, or classes"):
        choose_labels("cat,,dog", 2, 3, names=names)


# ---------------------------------------------------------------- names that are no UTF-8


def test_a_run_on_folders_that_are_no_utf_8_is_reported_and_handed_on(tmp_path: Path) -> None:
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    image(tmp_path / "set" / "ok" / "1.png", 9)
    image(tmp_path / "set" / name / "1.png", 99)
    words = ["train", "folder", "--data.path", str(tmp_path / "set"), *SMALL, "--monitor.every", "0"]
    folder = RunFolder(tmp_path / "r")
    assert run([*words, "--out", str(folder.path)]) == 0
    assert folder.read_record()["data"]["class_names"] == ["caf\\xe9", "ok"]
    for text in ("caf\\xe9", '"caf\\uDCE9"'):  # as it is now, and as earlier versions wrote it
        folder.config_file.write_text(folder.config_file.read_text().replace("- caf\\xe9", f"- {text}"))
        assert run(["export", str(folder.path), str(tmp_path / f"model {len(text)}")]) == 0
        card = (tmp_path / f"model {len(text)}" / "README.md").read_text()
        assert "caf\\\\xe9" in card  # a backslash, as Markdown has it
    assert run(["sample", str(folder.path), "--out", str(tmp_path / "s"), "--count", "1", "--labels", "ok"]) == 0
    assert [file.name for file in (tmp_path / "s").iterdir()] == ["000000-class1.png"]


# ---------------------------------------------------------------- what cannot be read


@pytest.mark.parametrize(
    "name", ["train-images-idx3-ubyte.gz", "a.h5", "b.mat", "c.7z", "d.tfrecord", "e.tar.zst", "f"]
)
def test_a_file_of_another_kind_is_told_what_can_be_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\1\2\3")
    with pytest.raises(UserError) as caught:
        open_source(str(tmp_path / name))
    said = str(caught.value)
    assert f"{name} is of no kind that can be read: give" in said
    assert all(word in said for word in ("folder", ".zip", ".tar", ".parquet", "WebDataset", ".npz", "hf://"))


def test_a_folder_that_only_looks_like_a_saved_set_is_told(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(UserError, match=r"cannot read .* as a set that `datasets` has saved"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("address", ["hf://", "hf:///", "hf://#train"])
def test_the_hub_wants_a_name(address: str) -> None:
    with pytest.raises(UserError, match=f"{address} names no data set: the form is hf://OWNER/NAME"):
        open_source(address)


def test_a_name_that_no_file_can_have_is_told() -> None:
    with pytest.raises(UserError, match=r"cannot read xxx.* .File name too long"):
        open_source("x" * 5000)


def test_arrays_of_rows_and_objects_beside_them(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    planes = pixels.transpose(0, 3, 1, 2).reshape(5, -1)  # as CIFAR and ImageNet 64 have them
    np.savez(tmp_path / "a.npz", data=planes, labels=np.arange(5), metadata=np.array({"a": 1}, dtype=object))
    source = open_source(str(tmp_path / "a.npz"))
    assert all(np.array_equal(np.asarray(source.read(k)).reshape(8, 8, 3), pixels[k]) for k in range(5))
    assert source.passed_over == ("the array metadata of Python objects",) and len(source.class_names) == 5
    np.save(tmp_path / "b.npy", pixels[..., 0].reshape(5, -1))
    assert np.array_equal(open_source(str(tmp_path / "b.npy")).read(2)[..., 0], pixels[2, ..., 0])
    np.save(tmp_path / "c.npy", pixels.reshape(5, -1)[:, :50])
    with pytest.raises(UserError, match=r"shape \(5, 50\): images must be .*rows of 3·S² or S² numbers"):
        open_source(str(tmp_path / "c.npy"))
    with pytest.raises(UserError, match=r"an \.npy holds one array without a name: leave #x away"):
        open_source(f"{tmp_path}/b.npy#x")
