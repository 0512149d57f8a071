"""Labels in metadata.csv and metadata.jsonl, as Hugging Face's image folders have them."""

import json
import zipfile
from pathlib import Path

import pytest

from alphaflow.data.sources import open_source
from alphaflow.errors import UserError

NAMES = ["0.png", "1.png", "2.png"]


def rows(names: list[str], key: str = "label", words: str = "bab") -> str:
    return f"file_name,{key}\n" + "".join(f"{name},{word}\n" for name, word in zip(names, words))


def lines(names: list[str], labels: list[object], key: str = "label") -> str:
    return "".join(json.dumps({"file_name": name, key: label}) + "\n" for name, label in zip(names, labels))


@pytest.fixture(params=["folder", "zip"])
def make(request: pytest.FixtureRequest, tmp_path: Path):
    """A set of images called by their names, with other files beside them; the address."""

    def made(names: list[str], **others: str) -> str:
        files = {name: name for name in names} | {key.replace("__", "/"): text for key, text in others.items()}
        if request.param == "zip":
            with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
                for name, text in files.items():
                    archive.writestr(name, text)
            return str(tmp_path / "set.zip")
        for name, text in files.items():
            (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "set" / name).write_text(text)
        return str(tmp_path / "set")

    return made


def by_name(source) -> dict[str, str]:
    return {bytes(source.read(k)).decode(): source.class_names[source.labels[k]] for k in range(len(source))}


@pytest.mark.parametrize("key", ["label", "labels", "Label", "class", "category"])
def test_metadata_csv_gives_the_labels(make, key: str) -> None:
    source = open_source(make(NAMES, **{"metadata.csv": "\ufeff" + rows(NAMES, key)}))
    assert source.origin.startswith("labels from metadata.csv")
    assert by_name(source) == dict(zip(NAMES, "bab"))


def test_metadata_jsonl_gives_the_labels(make) -> None:
    text = lines(NAMES, [10, 2, 10.0])
    source = open_source(make(NAMES, **{"metadata.jsonl": text.replace("\n", "\r\n")}))
    assert source.origin.startswith("labels from metadata.jsonl") and source.class_names == ("2", "10")
    assert by_name(source) == dict(zip(NAMES, ["10", "2", "10"]))


def test_metadata_come_before_folders_and_after_dataset_json(make) -> None:
    names = ["x/0.png", "x/1.png", "y/2.png"]
    table = {"metadata.csv": rows(names)}
    assert by_name(open_source(make(names, **table))) == dict(zip(names, "bab"))
    assert open_source(make(names, **table), labels="folders").class_names == ("x", "y")
    first = json.dumps({"labels": [[name, 5] for name in names]})
    assert open_source(make(names, **table, **{"dataset.json": first})).class_names == ("5",)


def test_a_folder_that_holds_all(make) -> None:
    inner = [f"images/{name}" for name in NAMES]
    source = open_source(make(inner, **{"images/metadata.csv": rows(NAMES)}))
    assert by_name(source) == dict(zip(inner, "bab"))


def test_a_split_alone_with_its_metadata_above_it(make) -> None:
    train = [f"train/{name}" for name in NAMES]
    assert by_name(open_source(make(train, **{"metadata.csv": rows(train)}))) == dict(zip(train, "bab"))


def test_splits_with_metadata_each_are_asked_for(tmp_path: Path) -> None:
    for split, words in (("train", "bab"), ("test", "ccc")):
        (tmp_path / split).mkdir()
        (tmp_path / split / "metadata.csv").write_text(rows(NAMES, words=words))
        for name in NAMES:
            (tmp_path / split / name).write_text(name)
    with pytest.raises(UserError, match=f"holds splits.*--data.path {tmp_path}/train"):
        open_source(str(tmp_path))
    assert open_source(str(tmp_path / "train")).class_names == ("a", "b")
    (tmp_path / "train" / "metadata.csv").rename(tmp_path / "metadata.csv")
    (told,) = open_source(str(tmp_path / "train")).passed_over
    assert told.endswith(f"which may hold labels: --data.labels {tmp_path}/metadata.csv reads it")
    assert open_source(str(tmp_path / "train"), labels=f"{tmp_path}/metadata.csv").class_names == ("a", "b")
    (tmp_path / "metadata.csv").write_text(rows([f"train/{name}" for name in NAMES]))
    with pytest.raises(UserError, match="holds splits"):
        open_source(str(tmp_path))


@pytest.mark.parametrize(
    "text",
    [
        "file_name,text\n0.png,a\n1.png,b\n2.png,c\n",
        "file_name\n0.png\n",
        "image,label\n0.png,a\n1.png,b\n2.png,a\n",
    ],
)
def test_metadata_without_labels_are_told(make, text: str) -> None:
    source = open_source(make(NAMES, **{"metadata.csv": text}))
    assert source.labels is None and "metadata.csv, which may hold labels" in source.passed_over[0]


def test_captions_that_are_no_table_are_no_hindrance(make) -> None:
    source = open_source(make(NAMES, **{"metadata.csv": 'file_name,text\n0.png,a "dog, a cat\n1.png,a,b\n'}))
    assert source.labels is None


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("metadata.csv", rows(NAMES[:2]), "has no label for 1 of the 3 images"),
        ("metadata.csv", "file_name,label\n", "names no image"),
        ("metadata.csv", "file_name,label\nx.png,a\n", "has no column that names the images"),
        ("metadata.csv", "file_name,label,split\n0.png,a,train\n1.png,b,test\n2.png,a,test\n", "several splits"),
        ("metadata.jsonl", lines(NAMES, [[0, 1], [1, 0], [0, 1]]), r"gives 0.png \[0, 1\] for a label"),
        ("metadata.jsonl", lines(NAMES, [0, None, 1]), "has no label for 1 of the 3 images"),
        ("metadata.jsonl", lines(NAMES, [0, -1, 1]), "says that there is none"),
        ("metadata.jsonl", lines(NAMES, [0, True, 1]), "gives 1.png true for a label"),
        ("metadata.jsonl", lines(NAMES, [0, 1, 1]) + '{"file_name": \n', "line 4 is no object of JSON"),
    ],
)
def test_metadata_that_do_not_label_every_image_are_refused(make, name: str, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        open_source(make(NAMES, **{name: text}))
    assert "--data.labels" in str(caught.value) and name in str(caught.value)


def test_json_by_lines_is_read_on_demand(tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / name).write_text(name)
    (tmp_path / "list.jsonl").write_text(lines(NAMES, ["cat", "dog", "cat"], "species"))
    source = open_source(str(tmp_path), labels=str(tmp_path / "list.jsonl"))
    assert source.class_names == ("cat", "dog") and source.labels.tolist() == [0, 1, 0]
