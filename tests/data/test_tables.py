"""Parquet and Arrow files as people write them, by pyarrow and by Hugging Face's library itself."""

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from alphaflow.data import Images, to_uint8
from alphaflow.data.sources import open_source
from alphaflow.data.sources.table import ArrowRows, ParquetRows, Table
from alphaflow.errors import UserError

COUNT = 23


def png(k: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 5), (10 * k, 0, 255 - 10 * k)).save(buffer, "png")
    return buffer.getvalue()


PNGS = [png(k) for k in range(COUNT)]
WORDS = ["tree", "car", "house"]


def write(path: Path, columns: dict[str, object], **options: object) -> str:
    made = pa.table(columns)
    if path.suffix == ".parquet":
        parquet.write_table(made, path, **options)
    else:
        new = pa.ipc.new_stream if options.get("stream") else pa.ipc.new_file
        with pa.OSFile(str(path), "wb") as sink, new(sink, made.schema) as writer:
            writer.write_table(made, max_chunksize=7)
    return str(path)


@pytest.mark.parametrize(
    ("end", "options"),
    [("parquet", {"row_group_size": 5}), ("parquet", {}), ("arrow", {}), ("arrow", {"stream": True})],
)
def test_bytes_and_labels(tmp_path: Path, end: str, options: dict[str, object]) -> None:
    labels = [WORDS[k % 3] for k in range(COUNT)]
    path = write(tmp_path / f"a.{end}", {"label": labels, "image": PNGS, "note": labels}, **options)
    source = open_source(path)
    assert source.class_names == ("car", "house", "tree") and len(source) == COUNT
    assert [source.class_names[k] for k in source.labels] == labels
    with ThreadPoolExecutor(4) as pool:
        order = np.random.default_rng(0).permutation(COUNT).tolist()
        assert list(pool.map(source.read, order)) == [PNGS[k] for k in order]
    assert source.name(17) == f"row 17 of {path}"
    assert open_source(path, labels="none").labels is None
    assert open_source(path, labels="note").class_names == source.class_names
    with pytest.raises(UserError, match=r"unknown column of .* 'not': did you mean 'note'"):
        open_source(path, labels="not")


def test_many_files_are_one_set(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir(parents=True)
    for k, (start, stop) in enumerate([(0, 9), (9, 9), (9, 23)]):
        columns = {"img": pa.array(PNGS[start:stop], pa.binary()), "y": pa.array(range(start, stop), pa.int64())}
        write(tmp_path / "set" / f"part-{k}.parquet", columns, row_group_size=4)
    folder = open_source(str(tmp_path / "set"), labels="y")
    assert len(folder) == COUNT and folder.class_names == tuple(map(str, range(COUNT)))
    assert [folder.read(k) for k in range(COUNT)] == PNGS and folder.labels.tolist() == list(range(COUNT))
    assert folder.name(9) == f"row 0 of {tmp_path}/set/part-2.parquet"
    for address in ("part-?.parquet", "part-{0,2}.parquet", "part-{0..2}.parquet"):
        pattern = open_source(str(tmp_path / "set" / address))
        assert len(pattern) == COUNT and pattern.labels is None and pattern.read(22) == PNGS[22]
    write(tmp_path / "set" / "other.parquet", {"img": [b""]})
    with pytest.raises(UserError, match="has other columns than"):
        open_source(str(tmp_path / "set"))
    with pytest.raises(UserError, match=r"nothing matches .*nowhere"):
        open_source(str(tmp_path / "nowhere*.parquet"))


def test_a_parquet_file_in_order_unpacks_each_row_group_once(tmp_path: Path) -> None:
    path = Path(write(tmp_path / "a.parquet", {"image": PNGS}, row_group_size=5))
    rows, reads = ParquetRows([path]), []

    class Counted:
        def __init__(self, file: parquet.ParquetFile) -> None:
            self.file = file

        def read_row_group(self, number: int, columns: list[str]) -> pa.Table:
            reads.append(number)
            return self.file.read_row_group(number, columns)

    rows.files = [Counted(file) for file in rows.files]
    # As threads do that are not quite in step: a row of one group, a row of the next.
    order = sorted(range(COUNT), key=lambda k: k + 5 * (k % 2))
    assert [rows.value(k, "image") for k in order] == [PNGS[k] for k in order]
    assert reads == [0, 1, 2, 3, 4]
    with ThreadPoolExecutor(8) as pool:  # how far apart these come is the system's to say
        assert list(pool.map(lambda k: rows.value(k, "image"), range(COUNT))) == PNGS


def test_paths_in_a_table_stay_below_it(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "1.png").write_bytes(PNGS[1])
    (tmp_path / "secret.png").write_bytes(PNGS[2])
    (tmp_path / "set" / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "set" / "notes.txt").write_text("secret")
    paths = ["1.png", "../secret.png", str(tmp_path / "secret.png"), "link.png", "notes.txt", None, "2.png"]
    source = open_source(write(tmp_path / "set" / "a.parquet", {"image": paths}))
    assert source.read(0) == PNGS[1]
    for k in (1, 2, 3, 4):
        with pytest.raises(OSError, match="is no image below"):
            source.read(k)
    with pytest.raises(OSError, match="holds no image"):
        source.read(5)
    with pytest.raises(FileNotFoundError):
        source.read(6)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": [1]}, "no column of encoded images among label"),
        ({"left": [b"1"], "right": [b"2"]}, r"several columns of images \(left, right\)"),
        ({"image": [b"1", b"2"], "label": [1, None]}, "column label holds None in row 1 of .*1 such row"),
        ({"image": [b"1"], "label": [0.5]}, r"column label holds 0\.5"),
        ({"image": [b"1"], "label": [[1]]}, r"column label holds \[1\]"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(tmp_path: Path, columns: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_source(write(tmp_path / "a.parquet", columns))


@pytest.mark.parametrize("end", ["parquet", "arrow"])
def test_damaged_tables_are_refused(tmp_path: Path, end: str) -> None:
    path = tmp_path / f"a.{end}"
    write(path, {"image": PNGS})
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"nonsense" * 99):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"a\.{end}"):
            open_source(str(path))
    path.unlink()
    with pytest.raises(UserError, match=rf"cannot read .*a\.{end}"):
        open_source(str(path))


# ---------------------------------------------------------------- Hugging Face's library


@pytest.fixture
def saved(tmp_path: Path) -> datasets.Dataset:
    features = datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(names=WORDS)})
    rows = {"picture": [{"bytes": one, "path": None} for one in PNGS], "kind": [k % 2 for k in range(COUNT)]}
    return datasets.Dataset.from_dict(rows, features=features)


def check(source, order=range(COUNT)) -> None:  # type: ignore[no-untyped-def]
    assert source.class_names == tuple(WORDS) and source.labels.tolist() == [k % 2 for k in order]
    assert [source.read(k) for k in range(len(source))] == [PNGS[k] for k in order]


def test_a_saved_data_set_and_its_parquet_file(tmp_path: Path, saved: datasets.Dataset) -> None:
    saved.save_to_disk(tmp_path / "saved")
    saved.to_parquet(tmp_path / "a.parquet")
    check(open_source(str(tmp_path / "saved")))
    check(open_source(str(tmp_path / "a.parquet")))
    check(open_source(str(next((tmp_path / "saved").glob("*.arrow")))))
    data = Images(str(tmp_path / "saved"), 4)  # the class that no image has is no class of unreadable ones
    assert data.class_names == tuple(WORDS) and len(data) == COUNT


@pytest.mark.parametrize("mode", ["P", "CMYK", "I;16", "I", "F", "L", "RGBA"])
def test_what_datasets_writes_of_any_mode_is_read(tmp_path: Path, mode: str) -> None:
    """TIFF, of those that PNG does not hold."""
    plain = Image.new("L", (8, 8), 100)
    deep = Image.new("I;16", (8, 8), 100 * 257)
    image = {
        "I;16": deep,
        "P": plain.convert("RGB").quantize(4),
        "CMYK": plain.convert("RGB").convert("CMYK"),
    }.get(mode) or plain.convert(mode)
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict({"image": [image]}, features=features).to_parquet(tmp_path / "t.parquet")
    data = Images(str(tmp_path / "t.parquet"), 8)
    assert np.abs(to_uint8(data.batch(torch.tensor([0]))[0]).astype(int) - 100).max() <= 1


def test_a_chosen_and_shuffled_part_that_was_saved(tmp_path: Path, saved: datasets.Dataset) -> None:
    order = np.random.default_rng(0).permutation(COUNT)[:9].tolist()
    saved.select(order).save_to_disk(tmp_path / "part")
    check(open_source(str(tmp_path / "part")), order)


def test_splits(tmp_path: Path, saved: datasets.Dataset) -> None:
    both = datasets.DatasetDict({"train": saved.select(range(9)), "test": saved.select(range(9, COUNT))})
    both.save_to_disk(tmp_path / "both")
    check(open_source(f"{tmp_path}/both"), range(9))
    assert open_source(f"{tmp_path}/both").passed_over == ("the split test",)
    check(open_source(f"{tmp_path}/both#test"), range(9, COUNT))
    with pytest.raises(UserError, match=r"unknown split of .* 'tests': did you mean 'test'"):
        open_source(f"{tmp_path}/both#tests")
    saved.save_to_disk(tmp_path / "one")
    with pytest.raises(UserError, match="is one split: give it without #test"):
        open_source(f"{tmp_path}/one#test")


def test_what_load_dataset_loads(tmp_path: Path, saved: datasets.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    (tmp_path / "repo").mkdir()
    saved.to_parquet(tmp_path / "repo" / "train-00000-of-00001.parquet")
    saved.select(range(3)).to_parquet(tmp_path / "repo" / "test-00000-of-00001.parquet")
    check(open_source(f"hf://{tmp_path}/repo"))
    check(open_source(f"hf://{tmp_path}/repo#test"), range(3))
    check(open_source(f"hf://{tmp_path}/repo:default#train[:5]"), range(5))
    with pytest.raises(
        UserError, match=r"cannot load hf://.*validation.*the form is hf://OWNER/NAME:CONFIG#SPLIT"
    ):
        open_source(f"hf://{tmp_path}/repo#validation")
    with pytest.raises(UserError, match=r"cannot load hf://.*other"):
        open_source(f"hf://{tmp_path}/repo:other")


def test_a_data_set_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="cannot load hf://nobody/nothing: "):
        open_source("hf://nobody/nothing")


def test_labels_outside_the_declared_classes_are_refused(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=WORDS)})
    rows = {"image": [{"bytes": PNGS[0], "path": None}], "label": [-1]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "test.parquet")
    with pytest.raises(UserError, match="holds -1 in row 0"):
        open_source(str(tmp_path / "test.parquet"))
    assert open_source(str(tmp_path / "test.parquet"), labels="none").labels is None


def test_a_declared_image_column_among_others_of_bytes(tmp_path: Path) -> None:
    features = datasets.Features({"raw": datasets.Value("binary"), "photo": datasets.Image()})
    rows = {"raw": [b"x"], "photo": [{"bytes": PNGS[3], "path": None}]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    assert open_source(str(tmp_path / "a.parquet")).read(0) == PNGS[3]


def test_a_path_in_a_table_without_a_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(PNGS[1])
    rows = ArrowRows(pa.table({"image": [{"bytes": None, "path": str(tmp_path / "1.png")}]}), "memory")
    source = Table(rows, address="memory", folder=None, labels=None, files={}, stamp="")
    with pytest.raises(OSError, match=r"holds a path, .*1\.png, and no image"):
        source.read(0)


def test_a_column_of_labels_in_other_case_or_under_another_name(tmp_path: Path) -> None:
    columns = {"image": [png(k) for k in range(2)], "width": [8, 8]}
    assert open_source(write(tmp_path / "a.parquet", {**columns, "Label": ["x", "y"]})).class_names == ("x", "y")
    source = open_source(write(tmp_path / "b.parquet", {**columns, "species": ["x", "y"]}))
    assert source.labels is None
    assert source.passed_over == ("no column of labels among width, species: --data.labels COLUMN takes one",)
