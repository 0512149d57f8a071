"""A model goes to a hub and comes back the same. The hub stands in front of a local folder (`hub_server.py`); the
library that talks to it, and the commands, are the real ones."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import alphaflow as af
import forked
import hub_server
from alphaflow import UserError
from alphaflow.export import export
from alphaflow.runs import hub
from hub_server import TOKEN

pytest.importorskip("huggingface_hub")


@pytest.fixture
def alphaflow(tmp_path: Path) -> Iterator[object]:
    """`alphaflow WORDS...` as a process that knows the local hub."""
    server = subprocess.Popen(
        [sys.executable, hub_server.__file__, tmp_path / "hub"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout
    environment = {
        **os.environ,
        "HF_ENDPOINT": f"http://127.0.0.1:{server.stdout.readline().strip()}",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_TOKEN": TOKEN,
    }

    def run(*words: object, **extra: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "alphaflow", *map(str, words)]
        return forked.run(
            command, env={**environment, **extra}, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    yield run
    server.kill()
    server.wait()


def test_a_model_goes_to_the_hub_and_comes_back(alphaflow, digits, tmp_path):
    pushed = alphaflow("export", digits, "model", "--licence", "mit", "--push", "me/digits", "--private")
    assert pushed.returncode == 0, pushed.stderr
    assert "/me/digits" in pushed.stdout
    there = tmp_path / "hub" / "me" / "digits"
    for path in (tmp_path / "model").iterdir():
        assert (there / path.name).read_bytes() == path.read_bytes()
    assert json.loads((tmp_path / "hub" / "me" / "digits.json").read_text())["visibility"] == "private"
    sampled = alphaflow("sample", "hf://me/digits", "--out", "hub.npz", "--count", 20)
    assert sampled.returncode == 0, sampled.stderr
    with np.load(tmp_path / "hub.npz") as made:
        assert np.array_equal(made["images"], af.load(digits)(made["labels"]))
    # a second time nothing is loaded, and without a network what is there is used
    offline = alphaflow("sample", "hf://me/digits", "--out", "again.npz", "--count", 20, HF_HUB_OFFLINE="1")
    assert offline.returncode == 0, offline.stderr
    with np.load(tmp_path / "hub.npz") as first, np.load(tmp_path / "again.npz") as second:
        assert np.array_equal(first["images"], second["images"])
    # pushing again is an update
    again = alphaflow("export", digits, "model", "--licence", "apache-2.0", "--push", "me/digits")
    assert again.returncode == 0, again.stderr
    assert "apache-2.0" in (there / "README.md").read_text()


def test_what_the_hub_refuses_is_told_in_one_line(alphaflow, digits, tmp_path):
    refused = alphaflow("export", digits, "model", "--push", "me/digits", HF_TOKEN="wrong")
    assert refused.returncode == 1
    assert "cannot push to me/digits" in refused.stderr and "`hf auth login`" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert (tmp_path / "model" / "model.safetensors").exists()
    missing = alphaflow("sample", "hf://me/nothing", "--out", "x.npz")
    assert missing.returncode == 1
    assert "cannot load hf://me/nothing" in missing.stderr and missing.stderr.count("\n") == 1


def test_a_repository_without_a_model_is_named(alphaflow, digits, tmp_path):
    alphaflow("export", digits, "net", "--format", "onnx", "--push", "me/net")
    found = alphaflow("sample", "hf://me/net", "--out", "x.npz")
    assert found.returncode == 1
    assert "me/net holds no model of alphaflow" in found.stderr


def test_only_the_export_is_published(alphaflow, digits, tmp_path):
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "diary.txt").write_text("dear diary")
    refused = alphaflow("export", digits, "home", "--push", "me/digits")
    assert refused.returncode == 2
    assert "home holds diary.txt, which would be published: push from an empty folder" in refused.stderr
    assert not (tmp_path / "hub").exists()


@pytest.mark.parametrize("address", ["hf://alone", "hf://a/b/c", "hf://a/b@"])
def test_malformed_addresses(address):
    with pytest.raises(UserError, match="names no model on the hub: the form is hf://OWNER/NAME"):
        af.load(address)


def test_malformed_names_to_push_to(digits, tmp_path):
    with pytest.raises(UserError, match="--push digits: give OWNER/NAME"):
        export(digits, tmp_path / "model", push="digits")


def test_without_the_library_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'alphaflow\[hub\]'"):
        hub.fetch("hf://a/b", ["x"])
