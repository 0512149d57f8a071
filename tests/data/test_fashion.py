"""Fashion-MNIST: known by what is in its files, packed or not; Debian's, a folder's or its publisher's."""

import gzip
import hashlib
import http.server
import os
import shutil
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alphaflow.cli import run
from alphaflow.data import Dataset, Fashion, to_uint8
from alphaflow.data import fashion as published
from alphaflow.data.fashion import DEBIAN
from alphaflow.errors import UserError
from alphaflow.fetched import PublishedFile
from alphaflow.metrics import load_detector
from alphaflow.runs.build import build_dataset
from alphaflow.runs.config import DataConfig

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@pytest.fixture(scope="module")
def debian() -> Path:
    """The folder of the package; on a machine that runs the tests for others it must be there."""
    if not DEBIAN.is_dir():
        words = "dataset-fashion-mnist is not on this machine: `make test` installs it where apt-get may"
        pytest.fail(words) if os.environ.get("CI") else pytest.skip(words)
    return DEBIAN


@pytest.fixture(scope="module")
def unpacked(debian: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fashion")
    for name in NAMES:
        (folder / name).write_bytes(gzip.decompress((debian / f"{name}.gz").read_bytes()))
    return folder


def test_it_is_the_published_set_and_images_are_grey(debian: Path) -> None:
    data: Dataset = Fashion()
    rows = torch.tensor([0, 59_999, 7])
    x, y = data.batch(rows)
    assert (len(data), data.num_classes, data.shape) == (60_000, 10, (1, 28, 28))
    assert x.dtype == torch.float32 and x.min() == -1 and x.max() <= 1
    assert y is not None and [data.class_names[label] for label in y] == ["ankle boot", "sandal", "pullover"]
    raw = np.frombuffer(gzip.decompress((debian / f"{NAMES[0]}.gz").read_bytes()), np.uint8)[16:]
    assert np.array_equal(to_uint8(x)[1].ravel(), raw[-784:])
    flipped, _ = data.batch(rows, torch.tensor([True, False, False]))
    assert torch.equal(flipped[0], x[0].flip(-1)) and torch.equal(flipped[1:], x[1:])
    every = data.batch(torch.arange(len(data)))[1]
    assert every is not None and torch.bincount(every).tolist() == [6000] * 10


def test_the_packing_changes_nothing(debian: Path, unpacked: Path) -> None:
    assert Fashion(unpacked, "test").fingerprint == Fashion(debian, "test").fingerprint != Fashion().fingerprint


def test_the_setting_names_the_folder(unpacked: Path) -> None:
    data = build_dataset(DataConfig(name="fashion", path=str(unpacked)))
    assert isinstance(data, Fashion) and len(data) == 60_000


def test_another_file_of_that_name_is_refused(unpacked: Path, tmp_path: Path) -> None:
    for name in NAMES:
        shutil.copy(unpacked / name, tmp_path)
    labels = tmp_path / NAMES[3]
    labels.write_bytes(labels.read_bytes()[:-1] + b"\x09")
    with pytest.raises(UserError, match=r"t10k-labels-idx1-ubyte has sha256 .* not the published file"):
        Fashion(tmp_path, "test")


def test_a_packed_file_that_ends_early_is_said_to_be_unreadable(debian: Path, tmp_path: Path) -> None:
    for name in NAMES:
        shutil.copy(debian / f"{name}.gz", tmp_path)
    labels = tmp_path / f"{NAMES[3]}.gz"
    labels.write_bytes(labels.read_bytes()[:-100])
    with pytest.raises(
        UserError, match=r"cannot read .*t10k-labels-idx1-ubyte\.gz \(.*give a file that can be read"
    ):
        Fashion(tmp_path, "test")


def test_a_missing_file_is_named_with_its_address(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"no file .*train-images-idx3-ubyte\.gz: give .* from http://fashion-mnist"
    ):
        Fashion(tmp_path)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.mark.parametrize("damage", [False, True])
def test_a_packed_file_is_fetched_and_known_by_its_content(
    damage: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALPHAFLOW_CACHE", str(tmp_path / "cache"))
    content, served = bytes(range(256)) * 20, tmp_path / "served"
    served.mkdir()
    packed = gzip.compress(content)
    (served / "some.gz").write_bytes(packed[:-20] if damage else packed)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(served))) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{running.server_port}/some.gz"
        file = PublishedFile("some.gz", url, hashlib.sha256(content).hexdigest(), "data", "--data.path")
        if damage:
            with pytest.raises(UserError, match=r"gave a file of sha256 none .*removed"):
                file.read()
        else:
            assert file.read() == content
        running.shutdown()
    assert (tmp_path / "cache" / "data" / "some.gz").exists() is not damage


def test_without_any_copy_it_is_fetched_into_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALPHAFLOW_CACHE", str(tmp_path))
    monkeypatch.setattr(published, "DEBIAN", tmp_path / "none")
    nowhere = {"train": tuple(PublishedFile(f.file, "http://127.0.0.1:9/x", f.sha256, f.kind, f.option) for f in
                              published.FILES["train"])}  # fmt: skip
    monkeypatch.setattr(published, "FILES", nowhere)
    with pytest.raises(UserError, match=r"put it into .*data, or name it with --data\.path"):
        Fashion()


def test_the_classifier_knows_images_it_has_not_seen(debian: Path) -> None:
    data, detector = Fashion(part="test"), load_detector("fashion")
    x, y = data.batch(torch.arange(len(data)))
    seen = detector(to_uint8(x))
    assert seen.features.shape == (10_000, 64) and seen.features.abs().max() <= 1
    assert (seen.logits.argmax(1) == y).double().mean() > 0.91


@pytest.mark.usefixtures("debian")
def test_the_recipe_trains_and_is_scored_by_its_own_classifier(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    words = ["--model.width", "16", "--model.depth", "1", "--model.heads", "2", "--batch-size", "8"]
    assert run(["train", "fashion", "--out", out, "--steps", "2", "--monitor.every", "0", *words]) == 0
    assert run(["stats", "fashion#test", str(tmp_path / "test.npz"), "--detector", "fashion"]) == 0
    capsys.readouterr()
    words = ["--detector", "fashion", "--reference", str(tmp_path / "test.npz"), "--count", "256"]
    assert run(["evaluate", out, "--nfe", "1", *words]) == 0
    assert "fashion-cnn" in capsys.readouterr().out


@pytest.mark.usefixtures("debian")
def test_a_folder_of_that_name_is_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that leads somewhere comes before a name of ours."""
    monkeypatch.chdir(tmp_path)
    assert run(["stats", "fashion#test", "ours.npz", "--detector", "fashion"]) == 0
    (tmp_path / "fashion").mkdir()
    for number in range(2):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / "fashion" / f"{number}.png")
    assert run(["stats", "fashion", "theirs.npz", "--detector", "fashion"]) == 2  # RGB, which it does not take
    assert not (tmp_path / "theirs.npz").exists()
