"""Zips and tars: what is in them, and the hostile ones that must be refused by name."""

import contextlib
import io
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from alphaflow.data import Images
from alphaflow.data.sources import open_source
from alphaflow.data.sources.archive import Archive
from alphaflow.data.sources.archive_members import members_of
from alphaflow.data.sources.tree import Tree
from alphaflow.errors import UserError
from alphaflow.files import cache_folder

ENDINGS = ("zip", "tar", "tar.gz", "tgz", "tar.bz2", "tar.xz")
FILES = {f"{name}/{k}.png": os.urandom(50 + k) for name in ("cats", "dogs/deep") for k in range(4)}


def pack(path: Path, files: dict[str, bytes], level: int = zipfile.ZIP_STORED) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", level) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    end = path.name.split(".")[-1].replace("tgz", "gz")
    with tarfile.open(path, "w" if end == "tar" else f"w:{end}") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def unpack(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


@pytest.mark.parametrize("end", ENDINGS)
@pytest.mark.parametrize("top", ["", "pets/", "./", "other/"])
def test_an_archive_is_the_tree_that_was_packed(tmp_path: Path, end: str, top: str) -> None:
    tree = Tree(unpack(tmp_path / "pets", FILES))
    shuffled = {f"{top}{name}": FILES[name] for name in sorted(FILES, reverse=True)}
    path = pack(tmp_path / f"pets.{end}", shuffled | {f"{top}readme.txt": b"hello", "__MACOSX/._0.png": b""})
    archive = open_source(str(path))
    assert archive.class_names == tree.class_names == ("cats", "dogs")
    assert archive.labels.tolist() == tree.labels.tolist() and archive.digest == tree.digest
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(archive.read, range(8))) == [tree.read(k) for k in range(8)]
    assert archive.name(7) == f"{path}!dogs/deep/3.png"
    assert open_source(str(path)).stamp == archive.stamp


def test_a_lone_folder_of_folders_is_passed_over(tmp_path: Path) -> None:
    files = {f"whatever/{name}": content for name, content in FILES.items()}
    assert open_source(str(pack(tmp_path / "pets.zip", files))).class_names == ("cats", "dogs")
    flat = open_source(str(pack(tmp_path / "flat.tar", {"flat/1.png": b"1", "flat/2.png": b"2"})))
    assert flat.labels is None and flat.class_names == ()
    one = open_source(str(pack(tmp_path / "one.tar", {"cats/1.png": b"1", "cats/2.png": b"2"})))
    assert one.class_names == ("cats",)  # neither the archive's own name nor folders in it


def test_packed_members_and_labels_from_a_csv(tmp_path: Path) -> None:
    files = {f"{k}.png": bytes([k]) * 5000 for k in range(3)}
    (tmp_path / "labels.csv").write_text("0,b\n1,a\n2,b\n")
    path = pack(tmp_path / "a.zip", files, zipfile.ZIP_DEFLATED)
    source = open_source(str(path), labels=str(tmp_path / "labels.csv"))
    assert path.stat().st_size < 1000 and [source.read(k) for k in range(3)] == list(files.values())
    assert source.labels.tolist() == [1, 0, 1] and source.class_names == ("a", "b")


def test_training_data_from_an_archive(tmp_path: Path) -> None:
    for k, name in enumerate(("a", "b", "b")):
        (tmp_path / "set" / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 8), (90 * k, 0, 0)).save(tmp_path / "set" / name / f"{k}.png")
    files = {p.relative_to(tmp_path).as_posix(): p.read_bytes() for p in sorted(tmp_path.rglob("*.png"))}
    tree, archive = Images(tmp_path / "set", 8), Images(pack(tmp_path / "set.tar", files), 8)
    assert tree.fingerprint == archive.fingerprint and len(archive) == 3


# ---------------------------------------------------------------- hostile archives

OUTSIDE = ["/etc/x.png", "../x.png", "a/../../x.png", "a\\..\\..\\x.png", "C:\\x.png", "\\\\host\\x.png", "a/.."]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("end", ["zip", "tar"])
def test_names_that_lead_out_are_refused(tmp_path: Path, end: str, name: str) -> None:
    path = pack(tmp_path / f"a.{end}", {"a/1.png": b"1", name: b"2"})
    with pytest.raises(UserError, match=r"its name leads out of the archive.*without it") as caught:
        open_source(str(path))
    assert f"!{name} is refused" in str(caught.value)


KINDS = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]


@pytest.mark.parametrize("kind", KINDS)
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("a/0.png"))
        member = tarfile.TarInfo("a/1.png")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(UserError, match=r"a\.tar!a/1\.png is refused: it is a link, a device"):
        open_source(str(tmp_path / "a.tar"))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices_in_a_zip_are_refused(tmp_path: Path, kind: int) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo("a/1.png")
        info.create_system, info.external_attr = 3, (kind | 0o644) << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(UserError, match=r"a\.zip!a/1\.png is refused: it is a link or a device"):
        open_source(str(tmp_path / "a.zip"))


def test_a_member_that_declares_too_much_is_refused(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", {"a/1.png": bytes(30_000_000)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    with pytest.raises(UserError, match=r"a/1\.png is refused: it declares 30000000 bytes in \d{5}"):
        open_source(str(path))
    big = tarfile.TarInfo("a/1.png")
    big.size = 1 << 29
    with (tmp_path / "b.tar").open("wb") as file:
        file.write(big.tobuf())
        file.truncate((1 << 29) + 1024)  # sparse on disk: it takes no room
    with pytest.raises(UserError, match="536870912 bytes, too many for an image"):
        open_source(str(tmp_path / "b.tar"))


def test_a_member_that_unpacks_to_more_than_it_declares_is_not_unpacked(tmp_path: Path) -> None:
    """The table lies about the size; only the bytes that it declares, and one more, are ever unpacked."""
    path = pack(tmp_path / "a.zip", {"a/1.png": bytes(30_000_000)}, zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    for place in [k for k in range(len(data) - 4) if data[k : k + 4] == struct.pack("<I", 30_000_000)]:
        data[place : place + 4] = struct.pack("<I", 1000)
    path.write_bytes(data)
    with pytest.raises(OSError, match="unpacks to more than the 1000 bytes"):
        open_source(str(path)).read(0)


def test_members_that_overlap_are_refused(tmp_path: Path) -> None:
    """As in Fifield's zip bomb: many entries of the table point at the same bytes."""
    path = pack(tmp_path / "a.zip", {"a/1.png": b"x" * 99, "a/2.png": b"x" * 99})
    data = bytearray(path.read_bytes())
    second = data.rindex(b"PK\1\2")
    data[second + 42 : second + 46] = struct.pack("<I", 0)
    path.write_bytes(data)
    with pytest.raises(UserError, match="it overlaps another member"):
        open_source(str(path))


@pytest.mark.parametrize("end", ["tar.gz", "tar.xz", "tar.bz2"])
def test_a_compressed_tar_that_grows_without_bound_is_refused(tmp_path: Path, end: str) -> None:
    path = pack(tmp_path / f"a.{end}", {"a/1.png": bytes(20_000_000)})
    with pytest.raises(UserError, match="unpacks to more than 200 times its size"):
        open_source(str(path))
    left = [file for file in cache_folder("unpacked").rglob("*") if file.is_file() and file.stat().st_size]
    assert left == []


def test_encryption_foreign_packing_and_doubles_are_refused(tmp_path: Path) -> None:
    path = pack(tmp_path / "lzma.zip", {"a/1.png": b"1" * 100}, zipfile.ZIP_LZMA)
    with pytest.raises(UserError, match="neither deflate nor nothing"):
        open_source(str(path))
    path = pack(tmp_path / "locked.zip", {"a/1.png": b"1"})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="it is encrypted"):
        open_source(str(path))
    with tarfile.open(tmp_path / "twice.tar", "w") as tar:
        for _ in range(2):
            tar.addfile(tarfile.TarInfo("a/1.png"))
    with pytest.raises(UserError, match=r"a/1\.png is there twice"):
        open_source(str(tmp_path / "twice.tar"))


# ---------------------------------------------------------------- damaged archives


@pytest.mark.parametrize("end", ENDINGS)
def test_truncated_archives_and_other_files_are_refused(tmp_path: Path, end: str) -> None:
    path = pack(tmp_path / f"a.{end}", FILES)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"certainly not an archive" * 100):
        path.write_bytes(content)
        with pytest.raises(UserError, match=str(path)):
            open_source(str(path))
    path.unlink()
    with pytest.raises(UserError, match="No such file"):
        open_source(str(path))


def test_a_changed_tar_is_listed_anew(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", FILES)
    assert len(Archive(path)) == 8
    pack(path, {"x/new.png": b"new"})
    assert Archive(path).read(0) == b"new"


def test_an_archive_cut_while_it_is_read_is_an_os_error(tmp_path: Path) -> None:
    for end in ("zip", "tar"):
        source = Archive(pack(tmp_path / f"a.{end}", FILES))
        (tmp_path / f"a.{end}").write_bytes(b"")
        with pytest.raises(OSError, match=r"truncated|damaged"):
            source.read(0)


@given(st.data())
def test_no_damage_to_a_zip_gives_wrong_bytes(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever bytes are changed, each member reads as it was, or is refused; nothing else is raised."""
    path = pack(tmp_path_factory.mktemp("zip") / "a.zip", FILES, data.draw(st.sampled_from([0, 8])))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    wanted = set(FILES.values())
    try:
        members = members_of(path)
        read = members.opened()
    except UserError:
        return
    for k in range(len(members.names)):
        with contextlib.suppress(OSError):
            assert read(k) in wanted or zlib.crc32(read(k)) == members.checks[k]


@given(st.data())
def test_no_damage_to_a_tar_raises_anything_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = pack(tmp_path_factory.mktemp("tar") / "a.tar", FILES)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        members = members_of(path)
        read = members.opened()
        assert all(len(read(k)) == members.sizes[k] for k in range(len(members.names)))
    except (UserError, OSError):
        pass


def test_members_are_checked_even_where_they_are_not_wanted(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", {"a/1.png": b"1", "../../.bashrc": b"2"})
    with pytest.raises(UserError, match="bashrc is refused"):
        members_of(path, lambda name: name.endswith(".png"))
    assert np.array_equal(members_of(pack(tmp_path / "b.zip", {"1.png": b"1"})).sizes, [1])


# ---------------------------------------------------------------- archives from Windows and from Macs


def windows_zip(path: Path, names: list[str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            info = zipfile.ZipInfo("x")
            info.filename = (
                name  # as PowerShell's Compress-Archive and .NET have it: zipfile would turn the slashes
            )
            archive.writestr(info, b"" if name.endswith("\\") else name.encode())
    return path


@pytest.mark.parametrize("top", ["", "pets\\", "other\\"])
def test_backslashes_are_slashes(tmp_path: Path, top: str) -> None:
    names = [f"{top}{c}\\{k}.PNG" for c in ("cat", "dog") for k in range(3)]
    path = windows_zip(tmp_path / "pets.zip", [f"{top}cat\\", *names, f"{top}cat\\Thumbs.db", f"{top}cat/._0.png"])
    source = open_source(str(path))
    assert source.class_names == ("cat", "dog") and source.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert source.read(4) == names[4].encode() and source.name(4) == f"{path}!dog/1.PNG"


def test_the_same_name_with_both_slashes_is_there_twice(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cat/0\.png is there twice"):
        open_source(str(windows_zip(tmp_path / "a.zip", ["cat\\0.png", "cat/0.png"])))


@pytest.mark.parametrize("kind", ["zip", "tar", "folder"])
def test_what_is_not_used_is_said(tmp_path: Path, kind: str) -> None:
    files = {
        f"set/{name}": b"1" for name in ("cat/1.png", "cat/2.bmp", "cat/3.heic", "dog/1.png", "dog/notes.txt")
    }
    files |= {"set/emu/1.bmp": b"1", "set/fox/1.tif": b"1", "set/fox/x/2.tif": b"1", "set/readme.md": b"1"}
    files |= {"set/.ipynb_checkpoints/1-checkpoint.png": b"1", "__MACOSX/set/cat/._1.png": b"1"}
    if kind == "folder":
        (tmp_path / "set" / "gnu").mkdir(parents=True)
        source = open_source(str(unpack(tmp_path, files) / "set"))
    else:
        path = pack(tmp_path / f"set.{kind}", files)
        if kind == "zip":
            with zipfile.ZipFile(path, "a") as archive:
                archive.mkdir("set/gnu")
        else:
            with tarfile.open(path, "a") as tar:
                member = tarfile.TarInfo("set/gnu")
                member.type = tarfile.DIRTYPE
                tar.addfile(member)
        assert open_source(str(path)).passed_over  # and from the cache
        source = open_source(str(path))
    assert len(source) == 2 and source.class_names == ("cat", "dog")
    bare = "3 folders without PNG, JPEG or WebP (emu, fox, gnu)"
    assert source.passed_over == (bare, "2 files of other kinds (.bmp, .heic)")


@pytest.mark.parametrize("kind", ["zip", "tar", "folder"])
def test_an_address_without_images_says_what_it_holds(tmp_path: Path, kind: str) -> None:
    files = {"set/a/1.bmp": b"1", "set/a/2.bmp": b"1", "set/n01.7z": b"1"}
    where = unpack(tmp_path, files) / "set" if kind == "folder" else pack(tmp_path / f"set.{kind}", files)
    with pytest.raises(UserError, match=r"holds no images \(it holds files of other kinds: 2 \.bmp, 1 \.7z\)"):
        open_source(str(where))
