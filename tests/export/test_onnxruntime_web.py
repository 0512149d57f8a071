"""What npm hands over is compared with what is known of it before anything is unpacked."""

from pathlib import Path

import pytest

from alphaflow import UserError
from alphaflow.export import onnxruntime_web as runtime
from alphaflow.files import cache_folder
from browsing import need


def archive() -> Path:
    return cache_folder("npm") / f"{runtime.PACKAGE}-{runtime.VERSION}.tgz"


def test_it_is_fetched_once_and_comes_with_its_licence(tmp_path, monkeypatch):
    need("npm")
    runtime.vendor(tmp_path / "first")
    assert sorted(one.name for one in (tmp_path / "first").iterdir()) == ["LICENSE", "ort.js", "ort.wasm"]
    assert "Microsoft" in (tmp_path / "first" / "LICENSE").read_text()
    assert (tmp_path / "first" / "ort.wasm").read_bytes()[:4] == b"\0asm"
    monkeypatch.setenv("PATH", "")  # no npm any more
    runtime.vendor(tmp_path / "second")
    assert (tmp_path / "second" / "ort.js").read_bytes() == (tmp_path / "first" / "ort.js").read_bytes()


def test_another_archive_is_refused_and_thrown_away(tmp_path):
    archive().parent.mkdir(parents=True, exist_ok=True)
    archive().write_bytes(b"not what was published")
    with pytest.raises(UserError, match=r"SHA-512 differs"):
        runtime.vendor(tmp_path / "ort")
    assert not (tmp_path / "ort").exists() and not archive().exists()


def test_without_npm_the_message_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"npm is not on this machine.*install Node\.js, or put"):
        runtime.vendor(tmp_path / "ort")


def test_when_npm_fails_its_words_are_passed_on(tmp_path, monkeypatch):
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'ENOTFOUND registry' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"did not give .*ENOTFOUND registry"):
        runtime.vendor(tmp_path / "ort")
