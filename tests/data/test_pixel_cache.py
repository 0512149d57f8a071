"""Decoded sets in a mapped file: the same data as in memory, made once, and whole after a kill."""

import errno
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alphaflow.data import Images, images, pixel_cache
from alphaflow.data.sources import open_source
from alphaflow.errors import UserError
from alphaflow.files import cache_folder
from alphaflow.runs.build import build_dataset
from alphaflow.runs.config import DataConfig


@pytest.fixture
def root(tmp_path: Path) -> Path:
    source = np.random.default_rng(0)
    for k in range(20):
        path = tmp_path / "set" / "ab"[k % 2] / f"{k:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if k in (3, 8):
            path.write_bytes(b"broken")
        else:
            Image.fromarray(source.integers(0, 256, (9, 11, 3), dtype=np.uint8)).save(path)
    return tmp_path / "set"


def same(one: Images, two: Images) -> bool:
    rows = torch.arange(len(one))
    (x1, y1), (x2, y2) = one.batch(rows), two.batch(rows)
    assert y1 is not None and y2 is not None
    return (
        torch.equal(x1, x2)
        and torch.equal(y1, y2)
        and (one.fingerprint, one.skipped) == (two.fingerprint, two.skipped)
    )


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the images that were decoded."""
    seen: list[int] = []
    real = images._read
    monkeypatch.setattr(
        images, "_read", lambda source, index, *rest: (seen.append(index), real(source, index, *rest))[1]
    )
    return seen


def test_a_mapped_set_is_the_same_data_and_decoded_once(root: Path, decoded: list[int]) -> None:
    in_memory = Images(root, 8, tolerance=0.2)
    assert not cache_folder("pixels").exists()
    decoded.clear()
    mapped = Images(root, 8, tolerance=0.2, memory=0)
    assert same(in_memory, mapped) and sorted(decoded) == list(range(20)) and len(mapped.skipped) == 2
    decoded.clear()
    assert same(mapped, Images(root, 8, tolerance=0.2, memory=0)) and decoded == []
    Images(root, 8, tolerance=0.2, memory=0, crop="box")
    Images(root, 4, tolerance=0.2, memory=0)
    assert len(decoded) == 40


@pytest.mark.parametrize("processes", ["1", "2"])
def test_processes_on_one_machine_share_the_file(root: Path, processes: str, monkeypatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)  # torchrun's
    build_dataset(DataConfig(name="folder", path=str(root), size=8))
    assert cache_folder("pixels").exists() == (processes == "2")


def test_the_limit_counts_decoded_bytes(root: Path) -> None:
    size = 20 * 3 * 8 * 8
    Images(root, 8, tolerance=0.2, memory=size / 1e9)
    assert not cache_folder("pixels").exists()
    Images(root, 8, tolerance=0.2, memory=(size - 1) / 1e9)
    assert cache_folder("pixels").exists()
    with pytest.raises(UserError, match="memory -1 is no amount"):
        Images(root, 8, memory=-1)


def test_a_changed_file_is_decoded_anew_though_names_and_sizes_stay(root: Path) -> None:
    before = Images(root, 8, tolerance=0.2, memory=0)
    path = root / "a" / "00.png"
    old = path.read_bytes()
    path.unlink()
    path.write_bytes(old[:-20] + bytes(20))
    os.utime(path, (1, 1))
    after = Images(root, 8, tolerance=0.2, memory=0)
    assert before.source.digest == after.source.digest
    assert before.fingerprint != after.fingerprint or len(after.skipped) == 3


def test_what_an_earlier_decoder_made_is_not_taken(
    root: Path, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(pixel_cache, "DECODER", pixel_cache.DECODER - 1)
        Images(root, 8, memory=0)
    assert len(decoded) == 20
    Images(root, 8, memory=0)
    assert len(decoded) == 40 and len(list(cache_folder("pixels").iterdir())) == 2


def test_an_interrupted_decoding_goes_on_where_it_was(
    root: Path, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixel_cache, "_CHUNK", 6)
    real = images.decode_range

    def killed(*arguments):  # type: ignore[no-untyped-def]
        if arguments[3].start >= 12:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(images, "decode_range", killed)
    with pytest.raises(KeyboardInterrupt):
        Images(root, 8, tolerance=0.2, memory=0)
    (notes,) = cache_folder("pixels").rglob("done.jsonl")
    with notes.open("a") as file:
        file.write('\n{"done": 18, "skip')  # a note cut short is no note
    monkeypatch.setattr(images, "decode_range", real)
    decoded.clear()
    mapped = Images(root, 8, tolerance=0.2, memory=0)
    assert sorted(decoded) == list(range(12, 20))
    assert same(mapped, Images(root, 8, tolerance=0.2))


def _open(root: Path, queue: "multiprocessing.Queue[tuple[str, int]]") -> None:
    count = 0
    real = images._read

    def counted(*arguments):  # type: ignore[no-untyped-def]
        nonlocal count
        count += 1
        return real(*arguments)

    images._read = counted  # type: ignore[assignment]
    queue.put((Images(root, 8, tolerance=0.2, memory=0).fingerprint, count))


def test_processes_that_start_together_decode_once(root: Path) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_open, args=(root, queue)) for _ in range(3)]
    for process in processes:
        process.start()
    found = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert len({fingerprint for fingerprint, _ in found}) == 1
    assert sorted(count for _, count in found) == [0, 0, 20]


def test_a_full_disk_is_named_before_anything_is_decoded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"need 0\.0 GB at .*No space left.*ALPHAFLOW_CACHE"):
        Images(root, 8, memory=0)


def test_a_cache_that_cannot_be_written_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALPHAFLOW_CACHE", "/proc/no")
    with pytest.raises(UserError, match=r"cannot write to the cache at /proc/no/pixels/.*ALPHAFLOW_CACHE"):
        Images(root, 8, memory=0)


def test_without_alphaflow_cache_it_lies_where_caches_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALPHAFLOW_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder("x") == Path("/somewhere/alphaflow/x")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_folder("x") == Path("/home/me/.cache/alphaflow/x")


def test_a_source_may_stand_for_its_address(root: Path) -> None:
    assert same(Images(open_source(str(root)), 8, tolerance=0.2), Images(root, 8, tolerance=0.2))
