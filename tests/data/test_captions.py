"""Captions, from where sets have them."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from alphaflow import UserError
from alphaflow.data.sources import captions_of, open_source
from published_sets import jpeg, pack_tar, packed, unpack

WORDS = ["a cat", "two dogs, one café", "the sea"]
IMAGES = {f"{name}.jpg": jpeg(20 * k) for k, name in enumerate(["000", "001", "010"])}
FORMS = ["folder", "zip", "tar"]


def beside(ending: str, wrap=lambda word: word.encode()) -> dict[str, bytes]:
    return {name.replace(".jpg", ending): wrap(word) for name, word in zip(IMAGES, WORDS)}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("top", ["", "cats/"])
def test_a_text_beside_each_image(tmp_path: Path, form: str, top: str) -> None:
    files = IMAGES | beside(".txt", lambda word: f"{word}\n".encode())
    files |= {"010.txt": b"the sea", "readme.md": b""}
    files = {f"{top}{name}": data for name, data in files.items()}
    address = packed(tmp_path / "set", files, form)
    assert captions_of(open_source(address, labels="none")) == WORDS
    files.pop(f"{top}001.txt")
    gap = open_source(packed(tmp_path / "gap", files, form), labels="none")
    assert captions_of(gap) == ["a cat", "", "the sea"]


@pytest.mark.parametrize("form", FORMS)
def test_a_value_of_the_json_beside_each_image(tmp_path: Path, form: str) -> None:
    notes = beside(".json", lambda word: json.dumps({"width": 8, "Caption": [word, "another"]}).encode())
    address = packed(tmp_path / "set", IMAGES | notes, form)
    assert captions_of(open_source(address)) == WORDS
    notes["010.json"] = b"{"
    with pytest.raises(UserError, match=r"010.* is no JSON"):
        captions_of(open_source(packed(tmp_path / "cut", IMAGES | notes, form), labels="none"))


@pytest.mark.parametrize("form", ["folder", "zip"])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_column_of_the_metadata(tmp_path: Path, form: str, kind: str) -> None:
    rows = [{"file_name": name, "text": word} for name, word in zip(IMAGES, WORDS)][::-1]
    if kind == "csv":
        table = "file_name,text\n" + "".join(f'{row["file_name"]},"{row["text"]}"\n' for row in rows)
    else:
        table = "\n".join(json.dumps(row) for row in rows)
    address = packed(tmp_path / "set", IMAGES | {f"metadata.{kind}": table.encode()}, form)
    assert captions_of(open_source(address)) == WORDS


def test_the_column_of_a_table(tmp_path: Path) -> None:
    columns = {"image": pa.array(list(IMAGES.values())), "text": pa.array([*WORDS[:2], None])}
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert captions_of(open_source(f"{tmp_path}/a.parquet")) == [*WORDS[:2], ""]


def test_a_folder_of_img2dataset(tmp_path: Path) -> None:
    """Tars of .jpg, .txt and .json, each with a table of addresses and a note on how it went."""
    about = beside(".json", lambda word: json.dumps({"caption": word, "key": "0", "status": "success"}).encode())
    pack_tar(tmp_path / "00000.tar", IMAGES | beside(".txt") | about)
    pack_tar(tmp_path / "00001.tar", {"00001.jpg": jpeg(7), "00001.json": b'{"caption": "x"}'})
    for name in ("00000", "00001"):
        parquet.write_table(pa.table({"url": ["http://h/1"], "caption": ["a"]}), tmp_path / f"{name}.parquet")
        (tmp_path / f"{name}_stats.json").write_text("{}")
    source = open_source(str(tmp_path))
    assert len(source) == 4 and source.labels is None and captions_of(source) == [*WORDS, ""]
    pack_tar(tmp_path / "00000.tar", IMAGES | about)
    assert captions_of(open_source(str(tmp_path))) == [*WORDS, "x"]


def test_sets_without_captions(tmp_path: Path) -> None:
    assert captions_of(open_source(str(unpack(tmp_path / "a", IMAGES)))) is None
    assert captions_of(open_source(packed(tmp_path / "b", IMAGES | beside(".cls"), "tar"))) is None
    parquet.write_table(pa.table({"image": pa.array(list(IMAGES.values()))}), tmp_path / "a.parquet")
    assert captions_of(open_source(f"{tmp_path}/a.parquet")) is None
