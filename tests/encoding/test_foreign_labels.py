"""Labels of latents as others keep them: taken where they are clear, else refused or asked about."""

import json
import pickle
import zipfile

import numpy as np
import pytest
import torch

from alphaflow.cli import run
from alphaflow.data import Latents
from alphaflow.encoding.forms import BadLabel, class_of
from alphaflow.errors import UserError
from foreign_samples import N, encode, labels_of, moments, refused, write


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (3, 3),
        (np.int32(3), 3),
        (3.0, 3),
        ("3", 3),
        ([3], 3),
        (torch.tensor([3]), 3),
        (torch.tensor(3.0, dtype=torch.bfloat16), 3),
        (np.eye(4)[2], 2),
        ([0, 0, 1], 2),
        (None, None),
        (0, 0),
    ],
)
def test_a_label_that_is_clear_is_taken(value, found) -> None:
    assert class_of(value) == found


@pytest.mark.parametrize(
    "value",
    [
        *(-1, 1.7, 10**12, 10**30, 2**20, float("nan"), float("inf"), "cat", "-1", ""),
        *([0.2, 0.8], [0, 0], [1, 1], [[1], [1]], [1, [2]], {"a": 1}, torch.zeros(2, 2), np.array(["a", "b"])),
        *(True, np.bool_(False), np.array([True]), torch.tensor(True)),
    ],
)
def test_a_label_that_is_no_class_is_refused(value) -> None:
    with pytest.raises(BadLabel, match=r"^label "):
        class_of(value)


@pytest.mark.parametrize("value", [-1, 1.7, 10**12, "cat", [0.5, 0.5], True, [0, 1, 0]])
def test_a_wrong_label_names_its_sample_and_leaves_nothing(tmp_path, capsys, value) -> None:
    """In the sample, in dataset.json, in a .json beside, in a label file: always with the name."""
    good = lambda k: value if k == 5 else k % 2  # noqa: E731
    for k in range(N):
        (tmp_path / "own").mkdir(exist_ok=True)
        torch.save({"moments": torch.from_numpy(moments(k)), "label": good(k)}, tmp_path / "own" / f"{k:02d}.pt")
    write(tmp_path / "edm")
    rows = [[f"{k:02d}.npz", good(k)] for k in range(N)]
    (tmp_path / "edm" / "dataset.json").write_text(json.dumps({"labels": rows}))
    write(tmp_path / "side")
    for k in range(N):
        (tmp_path / "side" / f"{k:02d}.json").write_text(json.dumps({"class": good(k)}))
    for name in ("own", "edm", "side"):
        said = refused(encode(tmp_path / name, tmp_path / "out"), capsys)
        assert "05.pt" in said or "05.npz" in said
        assert "label" in said and "--labels none" in said
        assert not (tmp_path / "out").exists()
        assert run(encode(tmp_path / name, tmp_path / f"{name}-out", "--labels", "none")) == 0
        assert Latents(tmp_path / f"{name}-out").num_classes == 0


@pytest.mark.parametrize("odd", [[0, 1, 0], [0, 1], 1])
def test_vectors_of_other_lengths_and_numbers_are_not_mixed(tmp_path, capsys, odd) -> None:
    label = lambda k: odd if k == 5 else [1, 0, 0, 0]  # noqa: E731
    write(tmp_path / "own", label=label)
    write(tmp_path / "edm")
    rows = [[f"{k:02d}.npz", label(k)] for k in range(N)]
    (tmp_path / "edm" / "dataset.json").write_text(json.dumps({"labels": rows}))
    for name in ("own", "edm"):
        said = refused(encode(tmp_path / name, tmp_path / "out", "--second", "logvar"), capsys)
        assert "05.npz" in said and "and the first sample's is a vector of 4 numbers" in said


def test_a_folder_that_was_there_is_left_as_it_was(tmp_path, capsys) -> None:
    write(tmp_path / "src", label=lambda k: -1)
    (tmp_path / "out").mkdir()
    refused(encode(tmp_path / "src", tmp_path / "out"), capsys)
    assert list((tmp_path / "out").iterdir()) == []
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    write(tmp_path / "good")
    assert "is not empty" in refused(encode(tmp_path / "good", tmp_path / "mine"), capsys)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"labels": 3}', '{"labels": [["a"]]}', '{"labels": [1]}', "[" * 9999]
)
def test_a_dataset_json_that_is_none_is_said_so(tmp_path, capsys, content) -> None:
    write(tmp_path / "src")
    (tmp_path / "src" / "dataset.json").write_text(content)
    assert "cannot understand dataset.json" in refused(encode(tmp_path / "src", tmp_path / "out"), capsys)
    assert not (tmp_path / "out").exists()


def test_labels_beside_samples(tmp_path) -> None:
    """α-Flow's own layout: x.pkl with x.json; in a folder and in a zip; DiT's pair of folders."""
    expected = [(3 * k) % 5 for k in range(N)]
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        for k in range(N):
            (tmp_path / "src" / "all").mkdir(parents=True, exist_ok=True)
            mean, logvar = moments(k)[:4], moments(k)[4:]
            path = tmp_path / "src" / "all" / f"{k:02d}.pkl"
            path.write_bytes(pickle.dumps({"mean": mean, "logvar": logvar}))
            path.with_suffix(".json").write_text(json.dumps({"class": expected[k]}))
            archive.write(path, path.name)
            archive.write(path.with_suffix(".json"), f"{k:02d}.json")
            for name, array in (("features", mean[None]), ("labels", np.array([expected[k]]))):
                folder = tmp_path / "dit" / f"imagenet_{name}"
                folder.mkdir(parents=True, exist_ok=True)
                np.save(folder / f"{k}.npy", array)
    assert labels_of(tmp_path / "src", tmp_path / "a") == expected
    assert labels_of(tmp_path / "packed.zip", tmp_path / "b") == expected
    assert labels_of(tmp_path / "dit", tmp_path / "c", second="none") == expected
    assert Latents(tmp_path / "c").shape == (4, 4, 4) and len(Latents(tmp_path / "c")) == N
    assert Latents(tmp_path / "a").class_names == ("0", "1", "2", "3", "4")


def test_a_json_without_a_label_is_none(tmp_path) -> None:
    write(tmp_path / "src")
    for k in range(N):
        (tmp_path / "src" / f"{k:02d}.json").write_text(json.dumps({"width": 16}))
    assert labels_of(tmp_path / "src", tmp_path / "out") is None
    (tmp_path / "src" / "03.json").write_text(json.dumps({"class": 1}))
    with pytest.raises(UserError, match=r"00.npz has no label, and .*03.npz has one"):
        labels_of(tmp_path / "src", tmp_path / "other")


def test_parts_of_a_data_set_are_no_classes_and_a_lone_folder_is_none(tmp_path, capsys) -> None:
    write(tmp_path / "both", folder=lambda k: ("train", "val")[k % 2] + "/cat")
    said = refused(encode(tmp_path / "both", tmp_path / "out"), capsys)
    assert "splits of a data set (train, val), which are no classes: give one of them" in said
    assert "both/train" in said
    for k, pair in enumerate((("trainA", "testA"), ("DIV2K_train_HR", "DIV2K_valid_HR"), ("train.v1", "val.v1"))):
        write(tmp_path / f"p{k}", folder=lambda n, pair=pair: pair[n % 2])
        assert f"p{k}/{pair[0]}" in refused(encode(tmp_path / f"p{k}", tmp_path / "out"), capsys)
    assert run(encode(tmp_path / "p0", tmp_path / "kept", "--labels", "folders", "--second", "logvar")) == 0
    assert Latents(tmp_path / "kept").class_names == ("testA", "trainA")
    write(tmp_path / "one", folder=lambda k: "train", label=lambda k: k % 3)  # MeanFlow's own preparation
    assert labels_of(tmp_path / "one", tmp_path / "a") == [k % 3 for k in range(N)]
    write(tmp_path / "deep", folder=lambda k: "train/" + ("cat", "dog")[k % 2])
    labels_of(tmp_path / "deep", tmp_path / "b")
    assert Latents(tmp_path / "b").class_names == ("cat", "dog")


def test_folders_of_numbers_are_in_their_order(tmp_path) -> None:
    write(tmp_path / "src", 12, folder=str)
    labels_of(tmp_path / "src", tmp_path / "out")
    assert Latents(tmp_path / "out").class_names == tuple(map(str, range(12)))


def test_folders_that_contradict_the_samples_are_asked_about(tmp_path, capsys) -> None:
    """Buckets of files by their number would otherwise pass for classes."""
    write(tmp_path / "src", folder=lambda k: f"0000{k // 4}", label=lambda k: k % 3)
    said = refused(encode(tmp_path / "src", tmp_path / "out"), capsys)
    assert "label 0 from folders is not its own, 1" in said and "--labels samples" in said
    assert labels_of(tmp_path / "src", tmp_path / "a", "samples") == [k % 3 for k in range(N)]
    assert labels_of(tmp_path / "src", tmp_path / "b", "folders") == [k // 4 for k in range(N)]
    assert run(encode(tmp_path / "src", tmp_path / "c", "--labels", "column")) == 2


def test_full_buckets_of_a_thousand_are_no_classes() -> None:
    from alphaflow.encoding.listing import by_folders

    thousands = [f"{k // 1000:05d}/img{k:08d}.npy" for k in range(2500)]
    assert by_folders("x", thousands) == (None, ())
    assert (
        by_folders("x", [name.replace("00002/", "02000/").replace("00001/", "01000/") for name in thousands])[1]
        == ()
    )
    assert by_folders("x", thousands[:1999] + thousands[2000:])[1] == ("00000", "00001", "00002")
