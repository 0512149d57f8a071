"""Small files that declare much: refused by what they declare, before memory is taken for it."""

import io
import json
import resource
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import forked
from alphaflow.encoding import open_foreign
from alphaflow.encoding.forms import parse
from alphaflow.errors import UserError


def npy(shape, dtype="<f4", data=bytes(64)) -> bytes:
    """A .npy whose header says `shape`, whatever it holds."""
    head = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + data


def zipped(members, compression=zipfile.ZIP_DEFLATED) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return memory.getvalue()


BOMBS = {
    "a header of a terabyte": (".npy", lambda: npy((10**12,))),
    "a header of negative size": (".npy", lambda: npy((-4, 2))),
    "the same in an archive": (".npz", lambda: zipped({"moments.npy": npy((10**12,))})),
    "zeros that pack well": (".npz", lambda: zipped({"moments.npy": npy((2**26,), data=bytes(2**28))})),
    "many of them": (".npz", lambda: zipped({f"{k}.npy": npy((2**22,), data=bytes(2**24)) for k in range(20)})),
    "a checkpoint of zeros": (".pt", lambda: zipped({"a/data.pkl": b"\x80\x02N.", "a/data/0": bytes(2**28)})),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_what_declares_more_than_it_can_hold_is_refused(bomb) -> None:
    suffix, make = BOMBS[bomb]
    data = make()
    assert len(data) < 2**20
    with pytest.raises(UserError, match="cannot be read"):
        parse(data, suffix)


def test_refusing_takes_little_memory(tmp_path) -> None:
    """Of the largest of them, in a process of its own whose peak is looked at."""
    files = {f"{name}{suffix}": make() for name, (suffix, make) in BOMBS.items()}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    code = (
        "import resource, sys, pathlib\n"
        "from alphaflow.encoding.forms import parse\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        f"for path in pathlib.Path({str(tmp_path)!r}).iterdir():\n"
        "    try: parse(path.read_bytes(), path.suffix)\n"
        "    except ValueError: pass\n"
        "    else: sys.exit(9)\n"
        "print(peak() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 64 * 1024  # KiB
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0


def test_objects_beside_arrays_are_left_aside_and_not_loaded(tmp_path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, moments=np.zeros((2, 2, 2), np.float32), metadata=np.array([{"a": 1}], dtype=object))
    assert list(parse(path.read_bytes(), ".npz")) == ["moments"]


def test_a_dataset_json_larger_than_its_labels_is_not_read(tmp_path) -> None:
    content = json.dumps({"labels": None, "more": " " * 3_000_000})
    (tmp_path / "src.zip").write_bytes(zipped({"0.npy": npy((16,)), "dataset.json": content}, zipfile.ZIP_STORED))
    with pytest.raises(UserError, match=r"takes 30000\d\d bytes, too many for 1 labels"):
        open_foreign(str(tmp_path / "src.zip"))


def test_zips_of_latents_are_bounded_as_archives_of_images_are(tmp_path) -> None:
    for name, members, said in (
        ("ratio", {"0.npy": npy((2**26,), data=bytes(2**28))}, "it declares"),
        ("out", {"../0.npy": npy((16,))}, "leads out of the archive"),
    ):
        path = tmp_path / f"{name}.zip"
        path.write_bytes(zipped(members))
        with pytest.raises(UserError, match=said):
            open_foreign(str(path))
    (tmp_path / "cut.zip").write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match="no whole archive"):
        open_foreign(str(tmp_path / "cut.zip"))


def lmdb_of(root: Path, count: bytes):
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(root), map_size=2**24) as env, env.begin(write=True) as transaction:
        transaction.put(b"num_samples", count)
        for k in range(300):
            transaction.put(str(k).encode(), bytes(4000))
    return root


@pytest.mark.parametrize("count", [b"0", b"-3", b"1000000000000", b"many", b"301" * 9])
def test_an_lmdb_that_counts_more_than_it_holds_is_refused(tmp_path, count) -> None:
    with pytest.raises(UserError, match="as an LMDB with an entry num_samples"):
        open_foreign(str(lmdb_of(tmp_path / "db", count)))


def test_an_lmdb_that_was_cut_off_does_not_end_the_process(tmp_path) -> None:
    root = lmdb_of(tmp_path / "db", b"300")
    content = (root / "data.mdb").read_bytes()
    assert len(open_foreign(str(root))) == 300
    (root / "data.mdb").write_bytes(content[: len(content) // 2])
    code = f"from alphaflow.encoding import open_foreign\nopen_foreign({str(root)!r})"
    done = forked.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "it is cut off" in done.stderr
