"""Captions of one's own pictures: from files beside them, from tables, and what is said where one is missing."""

import dataclasses
import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import alphaflow as af
from alphaflow.data.captioned import CaptionedImages, captions_in_table
from alphaflow.data.sources import open_source
from alphaflow.errors import UserError
from alphaflow.runs.build import build_dataset
from alphaflow.runs.config import DataConfig, ModelConfig, MonitorConfig
from alphaflow.runs.folder import RunFolder
from alphaflow.training.trainer import Trainer
from tiny_runs import TINY

WORDS = {"a/1.png": "A red  wall\n", "a/2.png": "a blue wall", "b/1.png": "a sky, at night"}


@pytest.fixture
def folder(tmp_path) -> Path:
    for k, (name, caption) in enumerate(WORDS.items()):
        file = tmp_path / "pictures" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 80 * k, np.uint8)).save(file)
        file.with_suffix(".txt").write_text(caption)
    return tmp_path / "pictures"


def told(data: CaptionedImages) -> dict[int, list[int]]:
    """Captions in numbers by the pictures' brightness."""
    x, y = data.batch(torch.arange(len(data)))
    return {round(float((picture[0, 0, 0] + 1) * 127.5)): row.tolist() for picture, row in zip(x, y)}


def expected(data: CaptionedImages) -> dict[int, list[int]]:
    return {80 * k: data.vocabulary.encode([text])[0].tolist() for k, text in enumerate(WORDS.values())}


def test_files_beside_pictures_are_their_captions(folder):
    data = build_dataset(DataConfig(name="folder", path=str(folder), captions="auto", size=8))
    assert data.num_classes == 0
    assert data.vocabulary.words == (",", "a", "at", "blue", "night", "red", "sky", "wall")
    assert told(data) == expected(data)
    before = data.fingerprint
    (folder / "a/1.txt").write_text("a green wall")
    assert (
        build_dataset(DataConfig(name="folder", path=str(folder), captions="auto", size=8)).fingerprint != before
    )


@pytest.mark.parametrize(
    ("text", "captions"),
    [
        ("file_name,text\na/1.png,{}\na/2.png,{}\nb/1.png,{}\n", "metadata.csv"),
        ("id,file,what\n1,a/1.png,{}\n2,./a/2.png,{}\n3,b/1.png,{}\n", "metadata.csv#what"),
        ("caption,image\n{},{{0}}/a/1.png\n{},{{0}}/a/2.png\n{},{{0}}/b/1.png\n", "metadata.csv"),
    ],
)
def test_a_table_of_captions_says_the_same_as_files(folder, text, captions):
    rows = text.format(*(f'"{one}"' for one in WORDS.values())).replace("{0}", str(folder))
    (folder / "metadata.csv").write_text(rows)
    data = CaptionedImages(open_source(str(folder), labels="none"), 8, captions)
    assert told(data) == expected(data)
    assert told(data) == told(CaptionedImages(open_source(str(folder), labels="none"), 8, "auto"))


def test_a_sets_own_captions_are_found_in_folders_archives_and_shards(folder, tmp_path):
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", folder)
    with tarfile.open(tmp_path / "00000.tar", "w") as shard:
        for k, (name, caption) in enumerate(WORDS.items()):
            members = {"png": (folder / name).read_bytes(), "json": json.dumps({"caption": caption}).encode()}
            for ending, content in members.items():
                entry = tarfile.TarInfo(f"{k:09d}.{ending}")
                entry.size = len(content)
                shard.addfile(entry, io.BytesIO(content))
    for address in (folder, packed, tmp_path / "00000.tar"):
        data = build_dataset(DataConfig(name="folder", path=str(address), captions="auto", size=8))
        assert told(data) == expected(data)
    for name in WORDS:
        (folder / name).with_suffix(".txt").unlink()
    with pytest.raises(UserError, match=r"has no captions .*: give --data\.captions FILE\.csv#COLUMN"):
        build_dataset(DataConfig(name="folder", path=str(folder), captions="auto", size=8))


def test_what_is_missing_is_named(folder):
    names = [str(folder / name) for name in WORDS]
    (folder / "a/2.txt").write_text(" \n")
    with pytest.raises(UserError, match=r"1 of 3 pictures have no caption .*first .*a/2\.png"):
        CaptionedImages(open_source(str(folder), labels="none"), 8, "auto")
    with pytest.raises(UserError, match=r"txt: no such file .*: give auto, .* or FILE\.csv#COLUMN"):
        captions_in_table(names, "txt", folder)
    (folder / "t.csv").write_text("file_name,what\na/1.png,x\n")
    with pytest.raises(UserError, match=r"no column caption, but file_name, what: give t\.csv#COLUMN"):
        captions_in_table(names, "t.csv", folder)
    with pytest.raises(UserError, match="2 of 3 pictures have no caption"):
        CaptionedImages(open_source(str(folder), labels="none"), 8, "t.csv#what")
    with pytest.raises(UserError, match=r"captions and data\.labels both"):
        dataclasses.replace(TINY, data=DataConfig(name="folder", path="x", captions="auto", labels="none"))


def test_long_captions_are_cut_and_said_so(folder, caplog):
    (folder / "a/1.txt").write_text("very " * 90 + "red")
    data = CaptionedImages(open_source(str(folder), labels="none"), 8, "auto")
    assert data.vocabulary.length == 64
    assert "cut to 64" in caplog.text


def test_a_run_on_ones_own_captions_draws_by_prompt(folder, tmp_path):
    config = dataclasses.replace(
        TINY,
        recipe="folder",
        steps=2,
        data=DataConfig(name="folder", path=str(folder), captions="auto", size=8),
        model=ModelConfig(width=16, depth=1, heads=2, patch=4, text_width=32, text_depth=0),
        monitor=MonitorConfig(),
    )
    Trainer.start(config, RunFolder(tmp_path / "run")).train()
    generator = af.load(tmp_path / "run")
    assert generator.vocabulary.examples == ("A red wall", "a blue wall", "a sky, at night")
    assert generator(prompts=["a red sky"]).shape == (1, 8, 8, 3)
