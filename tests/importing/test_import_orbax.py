"""Orbax's checkpoints, in the forms that real versions of it wrote; see orbax/write.py."""

import shutil
import sys
import zipfile
from pathlib import Path

import pytest

import foreign_transformers as theirs
from alphaflow import UserError
from alphaflow.cli import run
from alphaflow.importing.folders import read_source
from alphaflow.importing.import_checkpoint import ImportOptions, import_checkpoint

pytest.importorskip("tensorstore")
WRITTEN = Path(__file__).parent / "orbax"
EMA, OWN = theirs.coarse("jax-meanflow", 2), theirs.coarse("jax-meanflow", 1)


def take(file, folder, **wanted):
    options = {"heads": theirs.HEADS, "side": theirs.SIDE, **wanted}
    return import_checkpoint(file, folder, ImportOptions(**options))


def unpacked(name, to):
    shutil.unpack_archive(WRITTEN / name, to)
    return to


@pytest.mark.parametrize("file", sorted(path.name for path in WRITTEN.glob("*.zip")))
def test_archives_and_folders_of_every_form_and_version(file, tmp_path):
    report = take(WRITTEN / file, tmp_path / "zip")
    assert report.layout == "jax-meanflow" and report.record.weights == "ema" and report.record.step == 1200
    assert report.record.origin["within"] == "ema_params.net" and report.record.origin["form"] == "orbax"
    theirs.same(tmp_path / "zip", EMA, "jax-meanflow")
    take(unpacked(file, tmp_path / "in"), tmp_path / "folder")
    theirs.same(tmp_path / "folder", EMA, "jax-meanflow")


def test_the_networks_own_weights_and_whatever_file_is_named(tmp_path):
    home = unpacked("flax-0.4.4.zip", tmp_path / "in") / "checkpoint_1200"
    words = ["--weights", "net", "--heads", str(theirs.HEADS), "--side", str(theirs.SIDE)]
    assert run(["import", str(home), str(tmp_path / "net"), *words]) == 0
    theirs.same(tmp_path / "net", OWN, "jax-meanflow")
    for name in ("checkpoint", "_METADATA", "manifest.ocdbt", "ocdbt.process_0/manifest.ocdbt"):
        assert read_source(home / name).tree.keys() == read_source(home).tree.keys()


def test_stores_that_nobody_joined(tmp_path):
    """As a kill before the end leaves it: each process has its own part."""
    home = unpacked("flax-0.12.8.zip", tmp_path / "in") / "checkpoint_1200"
    (home / "manifest.ocdbt").unlink()
    take(home, tmp_path / "model")
    theirs.same(tmp_path / "model", EMA, "jax-meanflow")


def test_several_checkpoints_are_asked_about(tmp_path):
    home = unpacked("flax-0.4.4.zip", tmp_path / "in")
    shutil.copytree(home / "checkpoint_1200", home / "checkpoint_900")
    shutil.copytree(home / "checkpoint_1200", home / "checkpoint_2000.orbax-checkpoint-tmp-17")  # unfinished
    with pytest.raises(
        UserError,
        match=r"holds 2 Orbax checkpoints \(checkpoint_900, checkpoint_1200\): give one .*checkpoint_1200$",
    ):
        take(home, tmp_path / "model")
    take(home / "checkpoint_900", tmp_path / "model")


def test_weights_whose_file_is_missing_are_not_zeros(tmp_path):
    """Zarr reads a piece that is not there as its fill value."""
    home = unpacked("plain-0.12.8.zip", tmp_path / "in")
    next(home.glob("ema_params*qkv*kernel/0*")).unlink()
    with pytest.raises(UserError, match=r"a piece of an array is not there \(.*\): fetch the whole"):
        take(home, tmp_path / "model")


def test_what_is_damaged_or_forged_is_one_line(tmp_path):
    home = unpacked("flax-0.12.8.zip", tmp_path / "in") / "checkpoint_1200"
    for file in (home / "ocdbt.process_0" / "d").iterdir():
        file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(UserError, match=r"checkpoint_1200 is an Orbax checkpoint and cannot be read|is damaged"):
        take(home, tmp_path / "model")
    (home / "manifest.ocdbt").write_bytes(b"x")
    with pytest.raises(UserError, match=r"cannot be read \(.*\): is it whole\? .*PyTreeCheckpointer\(\)\.restore"):
        take(home, tmp_path / "model")
    forged = unpacked("plain-0.12.8.zip", tmp_path / "plain")
    meta = forged / "rng" / ".zarray"
    meta.write_text(meta.read_text().replace('"shape":[2]', '"shape":[20000000000]'))
    with pytest.raises(UserError, match=r"unpacks to 80,000,\d{3},\d{3} bytes"):
        take(forged, tmp_path / "model")


def test_without_the_extra_the_message_says_both_ways(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    with pytest.raises(UserError, match=r"pip install 'alphaflow\[orbax\]'; or without it: in Python with orbax"):
        take(WRITTEN / "flax-0.12.8.zip", tmp_path / "model")


def test_a_lone_index_is_told_what_it_lacks(tmp_path):
    with zipfile.ZipFile(WRITTEN / "flax-0.4.4.zip") as archive:
        (tmp_path / "checkpoint").write_bytes(archive.read("checkpoint_1200/checkpoint"))
    with pytest.raises(
        UserError, match="it is the index of an Orbax checkpoint, whose arrays lie in the files beside"
    ):
        take(tmp_path / "checkpoint", tmp_path / "model")
