"""Labels out of dataset.json, of .json files beside the images and of folders, in the forms in which sets come."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alphaflow.data.sources import open_source
from alphaflow.data.sources.classes import class_order, shown
from alphaflow.errors import UserError

Make = Callable[[dict[str, bytes | str]], str]


@pytest.fixture(params=["folder", "zip"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Files by their names, below a folder or in a zip; the address."""

    def folder(files: dict[str, bytes | str]) -> str:
        for name, content in files.items():
            path = tmp_path / "set" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(tmp_path / "set")

    def packed(files: dict[str, bytes | str]) -> str:
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return str(tmp_path / "set.zip")

    return folder if request.param == "folder" else packed


def edm(count: int = 2500, step: int = 250) -> list[str]:
    """Names as NVIDIA's dataset_tool gives them: folders of a thousand."""
    return [f"{k // 1000:05}/img{k:08}.png" for k in range(0, count, step)]


def dataset(names: list[str], label: Callable[[int], Any] = lambda k: k % 5) -> str:
    return json.dumps({"labels": [[name, label(k)] for k, name in enumerate(names)]})


def images(names: list[str]) -> dict[str, bytes | str]:
    return {name: name.encode() for name in names}


@pytest.mark.parametrize("top", ["", "images/"])
def test_the_labels_of_dataset_json(make: Make, top: str) -> None:
    names = edm()
    content = {f"{top}{name}": b for name, b in images(names).items()}
    source = open_source(make(content | {f"{top}dataset.json": dataset(names, lambda k: 11 - k)}))
    assert source.class_names == tuple(str(k) for k in range(2, 12)) and source.labels is not None
    for k in range(len(source)):
        name = bytes(source.read(k)).decode()
        assert source.class_names[source.labels[k]] == str(11 - names.index(name))
    assert source.origin == "labels from dataset.json"


def test_flat_files_and_names_with_backslashes(make: Make) -> None:
    names = ["img0.png", "img1.png"]
    listed = [[".\\img0.png".replace(".\\", ""), "dog"], ["./img1.png", "cat"]]
    source = open_source(make(images(names) | {"dataset.json": json.dumps({"labels": listed})}))
    assert source.class_names == ("cat", "dog") and source.labels.tolist() == [1, 0]


def test_ffhqs_pictures_are_in_folders_of_a_thousand_below_one(make: Make) -> None:
    names = [f"images1024x1024/{k // 1000 * 1000:05}/{k:05}.png" for k in range(0, 2500, 250)]
    source = open_source(make(images(names) | {"ffhq-dataset-v2.json": "{}", "LICENSE.txt": "words"}))
    assert source.labels is None and source.class_names == () and len(source) == 10


def test_vectors_with_a_single_1_are_classes(make: Make) -> None:
    names = edm()
    source = open_source(
        make(images(names) | {"dataset.json": dataset(names, lambda k: [float(k % 3 == c) for c in range(3)])})
    )
    assert source.class_names == ("0", "1", "2") and source.labels.tolist() == [k % 3 for k in range(10)]


@pytest.mark.parametrize("labels", [{"labels": None}, None])
def test_folders_of_a_thousand_are_no_classes(make: Make, labels: dict[str, None] | None) -> None:
    note = {} if labels is None else {"dataset.json": json.dumps(labels)}
    source = open_source(make(images(edm()) | note))
    assert source.labels is None and source.class_names == () and len(source) == 10


@pytest.mark.parametrize(
    "names",
    [
        [f"{k // 1000 * 1000:05}/{k:05}.png" for k in (0, 999, 1000, 69_999)],  # FFHQ
        [f"{k // 10_000:05}/{k:09}.jpg" for k in (3, 9_999, 10_000, 123_456)],  # img2dataset
    ],
)
def test_numbered_folders_of_other_tools_are_no_classes(make: Make, names: list[str]) -> None:
    assert open_source(make(images(names))).class_names == ()


def test_numbered_classes_stay_classes(make: Make) -> None:
    """GTSRB's folders look like the tools', but their files are numbered anew in each."""
    names = [f"{c:05}/{k:05}_{i:05}.png" for c in (0, 1, 42) for k in range(2) for i in range(3)]
    assert open_source(make(images(names))).class_names == ("00000", "00001", "00042")


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (lambda k: [0, 1, k % 2], r"gives .*img00000000\.png a vector of 3 numbers for a label"),
        (lambda k: -1 if k == 2 else k, r"img00000500\.png has the label -1, which says that there is none"),
        (lambda k: None if k == 1 else k, r"img00000250\.png None"),
        (lambda k: True, r"img00000000\.png True"),
        (lambda k: k + 0.5, r"img00000000\.png 0\.5"),
    ],
)
def test_labels_that_are_no_classes_are_refused_by_name(make: Make, label: Any, message: str) -> None:
    address = make(images(edm()) | {"dataset.json": dataset(edm(), label)})
    with pytest.raises(UserError, match=message):
        open_source(address)
    assert open_source(address, labels="none").labels is None


def test_names_that_do_not_match_the_images_are_refused(make: Make) -> None:
    content = images(edm(2000)) | {"dataset.json": dataset(edm(2500))}
    with pytest.raises(UserError, match=r"dataset\.json names 00002/img00002000\.png, which is not among the 8"):
        open_source(make(content))


def test_an_image_without_a_label_is_named(make: Make) -> None:
    with pytest.raises(UserError, match=r"dataset\.json has no label for 2 of the 10.*img00002000\.png"):
        open_source(make(images(edm(2500)) | {"dataset.json": dataset(edm(2000))}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"dataset\.json is no JSON"),
        ("[" * 100_000, r"dataset\.json is no JSON"),
        ('{"labels": [1, 2]}', "must be a list of pairs"),
        ('{"labels": [["a.png", 1, 2]]}', "must be a list of pairs"),
        ('{"labels": 5}', "must be a list of pairs"),
        ('{"labels": [["a.png", 1], ["a.png", 2]]}', r"gives a\.png two labels, 1 and 2"),
        ('{"labels": [' + " " * (3 << 20) + "]}", "too many for the labels of 1 images"),
    ],
)
def test_a_dataset_json_of_another_form_is_refused(make: Make, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_source(make({"a.png": b"1", "dataset.json": text}))


def test_a_dataset_json_without_labels_is_somebody_elses(make: Make) -> None:
    source = open_source(make({"cat/a.png": b"1", "dog/b.png": b"2", "dataset.json": '{"name": "pets"}'}))
    assert source.class_names == ("cat", "dog")


def test_the_folders_can_be_asked_for(make: Make) -> None:
    address = make(images(edm()) | {"dataset.json": dataset(edm())})
    assert open_source(address, labels="folders").class_names == ("00000", "00001", "00002")


def test_a_dataset_json_from_elsewhere(make: Make, tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text(dataset(edm()))
    source = open_source(make(images(edm())), labels=str(tmp_path / "labels.json"))
    assert source.class_names == tuple("01234")


# ---------------------------------------------------------------- beside each image


def beside(notes: list[Any]) -> dict[str, bytes | str]:
    made: dict[str, bytes | str] = {}
    for k, note in enumerate(notes):
        made |= {f"a/{k}.png": f"{k}", f"a/{k}.json": json.dumps(note)}
    return made


@pytest.mark.parametrize("labels", [None, "class"])
def test_a_json_beside_each_image(make: Make, labels: str | None) -> None:
    source = open_source(make(beside([{"class": 10.0}, {"class": 9}, {"class": 2}])), labels=labels)
    assert source.class_names == ("2", "9", "10") and source.labels.tolist() == [2, 1, 0]
    assert source.origin == "labels from 'class' in the .json beside each image"


def test_a_json_without_labels_is_passed_over_unless_asked_for(make: Make) -> None:
    address = make(beside([{"caption": "a cat"}, {"caption": "a dog"}]) | {"b/3.png": b"3"})
    assert open_source(address).class_names == ("a", "b")
    with pytest.raises(UserError, match=r"b/3\.png has no \.json beside it"):
        open_source(address, labels="caption")


def test_a_value_that_no_json_has_is_named(make: Make) -> None:
    with pytest.raises(UserError, match=r"0\.json has no label 'class'"):
        open_source(make(beside([{"caption": "a cat"}] * 2)), labels="class")


@pytest.mark.parametrize(
    ("note", "message"),
    [
        ({"class": [1, 0]}, r"1\.json has no label 'class', a word or whole number"),
        ({"class": None}, r"1\.json has no label 'class'"),
        ({}, r"1\.json has no label 'class'"),
        ({"class": -1}, r"1\.png has the label -1"),
        ({"class": ""}, r"1\.png has an empty label"),
        ({"class": "x" * (2 << 20)}, r"1\.json is refused: 2\d+ bytes are too many"),
    ],
)
def test_a_note_that_holds_no_label_is_named(make: Make, note: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_source(make(beside([{"class": 0}, note, {"class": 1}])))


VALUES = st.recursive(
    st.sampled_from([None, True, 0, 1, -1, 1.0, 0.5, "0", "a", "", "0.png", "1.png", float("nan"), 10**400]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["labels", "class"]), inner, max_size=2)
    ),
    max_leaves=8,
)


@given(VALUES | VALUES.map(lambda labels: {"labels": labels}), VALUES)
def test_no_json_raises_anything_but_an_error_for_people(
    tmp_path_factory: pytest.TempPathFactory, content: Any, note: Any
) -> None:
    root = tmp_path_factory.mktemp("set")
    for k in range(2):
        (root / f"{k}.png").write_bytes(b"1")
        (root / f"{k}.json").write_text(json.dumps({"class": note} if k else note))
    (root / "dataset.json").write_text(json.dumps(content))
    for labels in (None, "class", str(root / "dataset.json")):
        try:
            source = open_source(str(root), labels=labels)
        except UserError as error:
            assert str(root) in str(error) or "image" in str(error) or ".png" in str(error)
        else:
            assert len(source) == 2 and len(source.class_names) in (0, 1, 2)


# ---------------------------------------------------------------- one order, safe names


def test_all_sources_put_classes_into_one_order(tmp_path: Path) -> None:
    numbers = [str(k) for k in (10, 2, 0, 11, 1)]
    for k, name in enumerate(numbers):
        (tmp_path / "folders" / name).mkdir(parents=True)
        (tmp_path / "folders" / name / "1.png").write_bytes(b"%d" % k)
        (tmp_path / "flat").mkdir(exist_ok=True)
        (tmp_path / "flat" / f"{k}.png").write_bytes(b"%d" % k)
    (tmp_path / "l.csv").write_text("file,label\n" + "".join(f"{k}.png,{n}.0\n" for k, n in enumerate(numbers)))
    np.savez(tmp_path / "a.npz", images=np.zeros((5, 4, 4, 3), np.uint8), labels=np.array(numbers, np.float64))
    expected = ("0", "1", "2", "10", "11")
    assert open_source(str(tmp_path / "folders")).class_names == expected
    by_csv = open_source(str(tmp_path / "flat"), labels=str(tmp_path / "l.csv"))
    by_array = open_source(str(tmp_path / "a.npz"))
    assert by_csv.class_names == by_array.class_names == expected
    assert by_csv.labels.tolist() == by_array.labels.tolist() == [3, 2, 0, 4, 1]
    assert class_order(["b10", "b2", "7"]) == ["7", "b10", "b2"]


def test_names_that_are_no_utf_8_can_be_written_anywhere(tmp_path: Path) -> None:
    for name in (b"caf\xe9", b"the"):
        (tmp_path / "set" / name.decode("utf-8", "surrogateescape")).mkdir(parents=True)
        (tmp_path / "set" / name.decode("utf-8", "surrogateescape") / "1.png").write_bytes(b"1")
    source = open_source(str(tmp_path / "set"))
    assert source.class_names == ("caf\\xe9", "the") and source.read(0) == b"1"
    assert "".join(source.class_names).encode()
    assert shown("\ud800") == "\\ud800" and shown("naïve") == "naïve"


def test_labels_that_are_not_read_are_told(make: Make) -> None:
    source = open_source(
        make({**images(["1.png", "2.png"]), "metadata.csv": "file_name,kind\n1.png,a\n2.png,b\n"})
    )
    (told,) = source.passed_over
    assert source.labels is None and "metadata.csv, which may hold labels" in told
    if "--data.labels" in told:
        table = told.partition("--data.labels ")[2].removesuffix(" reads it")
        assert open_source(source.address, labels=table).class_names == ("a", "b")


def test_a_dataset_json_in_other_case_and_one_without_labels(make: Make) -> None:
    source = open_source(make({**images(["1.png", "2.png"]), "Dataset.json": dataset(["1.png", "2.png"])}))
    assert source.class_names == ("0", "1")
    source = open_source(make({**images(["1.png", "2.png"]), "Dataset.json": '{"classes": [0, 1]}'}))
    assert source.labels is None and 'Dataset.json, which holds no "labels"' in source.passed_over[0]


def test_values_beside_images_in_other_case_or_under_other_names(make: Make) -> None:
    notes = {f"{k}.json": json.dumps({"width": 8, "Label": "ab"[k]}) for k in range(2)}
    assert open_source(make({**images(["0.png", "1.png"]), **notes})).class_names == ("a", "b")


def test_values_under_other_names_are_told(make: Make) -> None:
    notes = {f"{k}.json": json.dumps({"width": 8, "species": "ab"[k]}) for k in range(2)}
    source = open_source(make({**images(["0.png", "1.png"]), **notes}))
    assert source.labels is None
    assert source.passed_over == (
        "the .json beside each image, with no label among width, species: --data.labels KEY takes one",
    )
