"""Clips in the forms in which sets are published: Kinetics' and UCF-101's lists, animations, folders of frames."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alphaflow import UserError
from alphaflow.data import VideoClips, to_uint8
from alphaflow.data.videos.clip_files import find_clips, read_clip
from clips import colour, numbers, write_clip

KINETICS = {  # id: (label, start, split)
    "-3B32lodo2M": ("riding a bike", 59, "train"),
    "0wR5jVB-WPk": ("abseiling", 417, "train"),
    "3caPS4FHFF8": ("abseiling", 36, "validate"),
    "ABCDEFGHIJK": ("zumba", 0, "train"),
    "gone_gone_g": ("yodeling", 1, "train"),
}
HEADER = "label,youtube_id,time_start,time_end,split\n"


def names(found) -> list[str]:
    return [path.name for path in found.paths]


def kinetics(root: Path, flat: bool, tables: str = "") -> Path:
    """The clips that there are, by id and seconds, and a table for each split."""
    for one, (label, start, split) in KINETICS.items():
        if one != "gone_gone_g":
            folder = root / {"train": "train", "validate": "val"}[split] / ("" if flat else label)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{one}_{start:06}_{start + 10:06}.mp4").write_bytes(one.encode())
    (root / tables).mkdir(exist_ok=True)
    for split, name in (("train", "train.csv"), ("validate", "val.csv")):
        rows = [f"{a},{one},{b},{b + 10},{c}\n" for one, (a, b, c) in KINETICS.items() if c == split]
        (root / tables / name).write_text(HEADER + "".join(rows))
    (root / tables / "test.csv").write_text("youtube_id,time_start,time_end,split\n-3B32lodo2M,59,69,test\n")
    return root


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("tables", ["", "annotations"])
def test_kinetics_by_its_tables(tmp_path: Path, flat: bool, tables: str) -> None:
    root = kinetics(tmp_path, flat, tables)
    for address in (root, f"{root}#train", root / tables / "train.csv"):
        found = find_clips(address)
        assert names(found) == [
            "-3B32lodo2M_000059_000069.mp4",
            "0wR5jVB-WPk_000417_000427.mp4",
            "ABCDEFGHIJK_000000_000010.mp4",
        ]
        assert found.class_names == ("abseiling", "riding a bike", "yodeling", "zumba")
        assert found.labels.tolist() == [1, 0, 3]
        assert found.passed_over == ("1 of 4 videos of train.csv, which are not there",)
    found = find_clips(f"{root}#validation")
    assert names(found) == ["3caPS4FHFF8_000036_000046.mp4"] and found.class_names == ("abseiling",)
    test = find_clips(root / tables / "test.csv")
    assert len(test.paths) == 1 and test.class_names == ()


def test_kinetics_files_that_are_called_by_the_id_alone(tmp_path: Path) -> None:
    (tmp_path / "0wR5jVB-WPk.mkv").write_bytes(b"1")
    (tmp_path / "k700_train.csv").write_text(HEADER + "abseiling,0wR5jVB-WPk,417,427,train\n")
    assert find_clips(tmp_path).class_names == ("abseiling",)
    (tmp_path / "k700_train.csv").write_text(HEADER + "abseiling,other,417,427,train\n")
    with pytest.raises(UserError, match=r"names 1 clips of Kinetics, and none is below .*other_000417_000427.mp4"):
        find_clips(tmp_path)
    with pytest.raises(UserError, match=r"has no list of the split 'test': there are k700_train.csv"):
        find_clips(f"{tmp_path}#test")


def ucf(root: Path) -> Path:
    videos = ["ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01", "Archery/v_Archery_g08_c01", "YoYo/v_YoYo_g01_c02"]
    for name in (*videos, "Archery/v_Archery_g01_c01"):
        (root / "UCF-101" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "UCF-101" / f"{name}.avi").write_bytes(name.encode())
    lists = root / "ucfTrainTestlist"
    lists.mkdir()
    numbered = {"ApplyEyeMakeup": 1, "Archery": 3, "YoYo": 101}
    lines = [f"{name}.avi {numbered[name.partition('/')[0]]}\r\n" for name in videos]
    (lists / "trainlist01.txt").write_text("".join(lines))
    (lists / "trainlist02.txt").write_text(lines[0])
    (lists / "testlist01.txt").write_text("Archery/v_Archery_g01_c01.avi\nYoYo/v_YoYo_g07_c02.avi\n")
    (lists / "classInd.txt").write_text("1 ApplyEyeMakeup\n2 ApplyLipstick\n3 Archery\n101 YoYo\n")
    return root


def test_ucf_101_by_its_lists(tmp_path: Path) -> None:
    root = ucf(tmp_path)
    for address in (root, f"{root}#train", f"{root}#trainlist01", root / "ucfTrainTestlist" / "trainlist01.txt"):
        found = find_clips(address)
        assert len(found.paths) == 3 and found.labels.tolist() == [0, 2, 3]
        assert found.class_names == ("ApplyEyeMakeup", "ApplyLipstick", "Archery", "YoYo")
    found = find_clips(f"{root}#test")
    write_clip(root / "as.mp4", 4).rename(found.paths[0])
    data = VideoClips(f"{root}#test", frames=2, rate=10, size=8)
    assert data.num_classes == 4 and data.batch(torch.tensor([0]))[1].tolist() == [2]
    assert "passed over: 1 of 2 videos of testlist01.txt" in data.found
    assert names(found) == ["v_Archery_g01_c01.avi"] and found.labels.tolist() == [2]
    assert found.passed_over == ("1 of 2 videos of testlist01.txt, which are not there",)
    assert len(find_clips(f"{root}#trainlist02").paths) == 1
    assert find_clips(root / "UCF-101").class_names == ("ApplyEyeMakeup", "Archery", "YoYo")
    (root / "ucfTrainTestlist" / "classInd.txt").unlink()
    assert find_clips(root).class_names == ("ApplyEyeMakeup", "Archery", "YoYo")
    (root / "UCF-101").rename(root.parent / f"{root.name}-elsewhere")
    with pytest.raises(
        UserError, match=r"trainlist01.txt names 3 videos such as ApplyEyeMakeup/.*, and none is below"
    ):
        find_clips(root)


def pictures(count: int) -> list[Image.Image]:
    return [Image.new("RGB", (24, 16), colour(k)) for k in range(count)]


@pytest.mark.parametrize("kind", ["webp", "png", "apng", "gif"])
def test_animations_are_clips(tmp_path: Path, kind: str) -> None:
    (tmp_path / "run").mkdir()
    first, *rest = pictures(12)
    how = {"lossless": True} if kind == "webp" else {"format": "PNG"} if kind == "apng" else {}
    first.save(tmp_path / "run" / f"a.{kind}", save_all=True, append_images=rest, duration=100, **how)
    (tmp_path / "jump").mkdir()
    first.save(tmp_path / "jump" / f"b.{kind}", save_all=True, append_images=rest[::-1], duration=100, **how)
    if kind != "gif":
        first.save(tmp_path / "jump" / "still.png")
    data = VideoClips(tmp_path, frames=4, rate=10, size=16)
    assert len(data) == 2 and data.class_names == ("jump", "run")
    run = to_uint8(data.batch(torch.tensor([1]))[0])[0]
    assert numbers(run) == [4, 5, 6, 7]
    assert len(find_clips(tmp_path / "run").paths) == 1
    slow = read_clip(tmp_path / "run" / f"a.{kind}", 3, 5, 16)
    assert np.diff(numbers(slow)).tolist() == [2, 2]
    with pytest.raises(OSError, match=r"it lasts 1.20 s, and 20 frames at 10 a second take"):
        read_clip(tmp_path / "run" / f"a.{kind}", 20, 10, 16)


def test_transparency_of_animations_lies_over_white(tmp_path: Path) -> None:
    frames = [Image.new("RGBA", (16, 16), (0, 0, 0, 255 * k)) for k in (0, 1, 0)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], duration=100, lossless=True)
    assert read_clip(tmp_path / "a.webp", 3, 10, 8).mean((1, 2, 3)).round().tolist() == [255, 0, 255]


def frames(folder: Path, count: int, name: str = "{:d}.jpg", first: int = 1) -> None:
    folder.mkdir(parents=True)
    for k, image in enumerate(pictures(count)):
        image.save(folder / name.format(k + first), quality=95)


def test_folders_of_frames(tmp_path: Path, capsys) -> None:
    frames(tmp_path / "set" / "run" / "v1", 12)  # 1.jpg, …, 12.jpg
    frames(tmp_path / "set" / "run" / "v2", 12, "img_{:05d}.png", 0)
    frames(tmp_path / "set" / "jump" / "v1", 9, "frame{:06d}.jpg")
    frames(tmp_path / "set" / "jump" / "short", 3)
    frames(tmp_path / "set" / "jump" / "broken", 6)
    (tmp_path / "set" / "jump" / "broken" / "3.jpg").write_bytes(b"\xff\xd8")
    found = find_clips(tmp_path / "set")
    assert names(found) == ["broken", "short", "v1", "v1", "v2"] and found.labels.tolist() == [0, 0, 0, 1, 1]
    data = VideoClips(tmp_path / "set", frames=4, rate=8, size=16, tolerance=0.5)
    assert "3 videos, 2 classes (jump, run), 2 skipped" in data.found
    said = capsys.readouterr().err
    assert "short: it has 3 frames, and a clip takes 4" in said and "broken: 3.jpg: " in said
    assert numbers(to_uint8(data.batch(torch.tensor([1]))[0])[0]) == [4, 5, 6, 7]
    digest = find_clips(tmp_path / "set").digest
    (tmp_path / "set" / "run" / "v1" / "12.jpg").unlink()
    assert find_clips(tmp_path / "set").digest != digest
    assert find_clips(tmp_path / "set" / "run").class_names == ()
    with pytest.raises(UserError, match=r"holds folders of frames .* beside"):
        frames(tmp_path / "set" / "loose", 4)
        find_clips(tmp_path / "set")


def test_splits_of_frames_and_of_videos(tmp_path: Path) -> None:
    for split in ("train", "val"):
        frames(tmp_path / "a" / split / "cat", 3)
        write_clip(tmp_path / "b" / split / "cat" / "1.mp4", 3)
        write_clip(tmp_path / "b" / split / "dog" / "1.mp4", 3)
    with pytest.raises(UserError, match="splits of a data set"):
        find_clips(tmp_path / "a")
    with pytest.raises(UserError, match="splits of a data set"):
        find_clips(tmp_path / "b")
    assert find_clips(f"{tmp_path / 'b'}#validation").class_names == ("cat", "dog")
    assert len(find_clips(f"{tmp_path / 'a'}#train").paths) == 1
    with pytest.raises(UserError, match=r"has no folder that 'test' means: it has train, val"):
        find_clips(f"{tmp_path / 'b'}#test")


def test_a_table_of_kinetics_with_all_splits(tmp_path: Path) -> None:
    root = kinetics(tmp_path, flat=True)
    texts = [(root / name).read_text() for name in ("train.csv", "val.csv")]
    for file in root.glob("*.csv"):
        file.unlink()
    (root / "kinetics700.csv").write_text(texts[0] + texts[1].removeprefix(HEADER))
    found = find_clips(root)
    assert len(found.paths) == 3 and found.passed_over[0] == "the splits validation of kinetics700.csv"
    validation = find_clips(f"{root}#val")
    assert names(validation) == ["3caPS4FHFF8_000036_000046.mp4"]
    assert validation.class_names == found.class_names  # all that the table names
    with pytest.raises(UserError, match=r"has no rows of the split 'test': there are train, validation"):
        find_clips(f"{root}#test")


def test_a_film_that_is_not_cut_into_kinetics_clips(tmp_path: Path) -> None:
    (tmp_path / "abc.mp4").write_bytes(b"film")
    (tmp_path / "train.csv").write_text(f"{HEADER}zumba,abc,0,10,train\nyodeling,abc,30,40,train\n")
    with pytest.raises(UserError, match=r"names clips of several labels in abc.mp4, which is not cut"):
        find_clips(tmp_path)


def test_frames_beside_their_optical_flow(tmp_path: Path) -> None:
    """As mmaction2's rawframes: img_00001.jpg, flow_x_00001.jpg and flow_y_00001.jpg in a folder."""
    folder = tmp_path / "yoyo" / "v1"
    folder.mkdir(parents=True)
    for number in range(1, 4):
        for kind, level in (("img", 100 + 20 * number), ("flow_x", 0), ("flow_y", 0)):
            Image.new("RGB", (8, 8), (level,) * 3).save(folder / f"{kind}_{number:05}.png")
    (path,) = find_clips(tmp_path).paths
    assert read_clip(path, 3, 8, 8)[:, 0, 0, 0].tolist() == [120, 140, 160]
    for file in folder.glob("img_*"):
        file.rename(folder / file.name.replace("img", "left"))
    with pytest.raises(OSError, match=r"several series of frames \(flow_x_#, flow_y_#, left_#\)"):
        read_clip(path, 3, 8, 8)
