"""The listing of a tree is kept, and what has changed is noticed."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alphaflow.data.sources import tree
from alphaflow.data.sources.base import Names
from alphaflow.data.sources.classes import by_value
from alphaflow.data.sources.tree import Tree
from alphaflow.errors import UserError
from alphaflow.files import cache_folder


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def settle(root: Path) -> None:
    """As if nothing had happened to the folders for an hour."""
    for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
        state = folder.stat()
        os.utime(folder, ns=(state.st_atime_ns, state.st_mtime_ns - 3_600_000_000_000))


def paths(source: Tree) -> list[str]:
    return [source._names[k] for k in range(len(source))]


@pytest.fixture
def scanned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that were read from disk, in order."""
    seen: list[str] = []
    real = tree._scan
    monkeypatch.setattr(tree, "_scan", lambda root, path: (seen.append(path), real(root, path))[1])
    return seen


def test_an_unchanged_tree_is_not_read_again(tmp_path: Path, scanned: list[str]) -> None:
    touch(tmp_path, "b/2.png", "b/1.png", "a/x/3.JPG", "a/4.webp", "a/notes.txt", ".git/5.png", "a/.6.png")
    settle(tmp_path)
    first = Tree(tmp_path)
    assert paths(first) == ["a/4.webp", "a/x/3.JPG", "b/1.png", "b/2.png"] and first.class_names == ("a", "b")
    assert sorted(scanned) == ["", "a", "a/x", "b"]
    scanned.clear()
    again = Tree(tmp_path)
    assert scanned == [] and paths(again) == paths(first)
    assert again.digest == first.digest and again.stamp == first.stamp
    assert again.read(1) == b"a/x/3.JPG" and again.name(1) == str(tmp_path / "a/x/3.JPG")


def test_a_folder_that_has_just_changed_is_not_trusted(tmp_path: Path, scanned: list[str]) -> None:
    touch(tmp_path, "1.png")
    Tree(tmp_path)
    Tree(tmp_path)
    assert scanned == ["", ""]


CHANGES = {
    "new file": (lambda root: touch(root, "a/new.png"), ["a"]),
    "file gone": (lambda root: (root / "a/x/3.png").unlink(), ["a/x"]),
    "new folders": (lambda root: touch(root, "c/d/new.png"), ["", "c", "c/d"]),
    "folder gone": (lambda root: ((root / "a/x/3.png").unlink(), (root / "a/x").rmdir()), ["a"]),
    "folder renamed": (lambda root: (root / "b").rename(root / "a/b"), ["", "a", "a/b"]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_only_what_has_changed_is_read_again(tmp_path: Path, scanned: list[str], change: str) -> None:
    root = tmp_path / "root"
    touch(root, "a/1.png", "a/x/3.png", "b/2.png")
    settle(root)
    Tree(root)
    scanned.clear()
    act, expected = CHANGES[change]
    act(root)
    cached = Tree(root)
    assert sorted(scanned) == expected
    for file in cache_folder("index").iterdir():
        file.unlink()
    fresh = Tree(root)
    assert paths(cached) == paths(fresh) and cached.digest == fresh.digest and cached.stamp == fresh.stamp
    assert np.array_equal(cached.labels, fresh.labels) and cached.class_names == fresh.class_names


def test_a_damaged_or_unwritable_cache_costs_only_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "1.png")
    first = Tree(tmp_path)
    (file,) = cache_folder("index").iterdir()
    for damage in (b"", file.read_bytes()[:300], b"PK nonsense"):
        file.write_bytes(damage)
        assert Tree(tmp_path).digest == first.digest
    monkeypatch.setenv("ALPHAFLOW_CACHE", "/proc/no/such/place")
    assert Tree(tmp_path).digest == first.digest


def test_links_are_followed_and_circles_are_not(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/1.png", "root/b/2.png")
    (tmp_path / "root" / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "up").symlink_to(tmp_path / "root")
    (tmp_path / "root" / "b" / "self").symlink_to(tmp_path / "root" / "b")
    (tmp_path / "root" / "b" / "dangling.png").symlink_to(tmp_path / "nowhere")
    assert paths(Tree(tmp_path / "root")) == ["a/1.png", "b/2.png"]


def test_the_digest_follows_names_sizes_labels_and_nothing_else(tmp_path: Path) -> None:
    for name in ("one", "two", "three", "four"):
        touch(tmp_path / name, "a/1.png", "b/2.png")
    (tmp_path / "three" / "a/1.png").write_bytes(b"longer than it was")
    (tmp_path / "four" / "a").rename(tmp_path / "four" / "c")
    (tmp_path / "two" / "b/2.png").write_bytes(b"2.png/b")
    digests = [Tree(tmp_path / name).digest for name in ("one", "two", "three", "four")]
    assert digests[0] == digests[1] and len(set(digests)) == 3
    assert Tree(tmp_path / "one", labels="none").digest not in digests
    assert Tree(tmp_path / "one").stamp != Tree(tmp_path / "two").stamp


@given(st.lists(st.text(st.characters(exclude_characters="\0"), max_size=9), max_size=12))
def test_names_are_a_list_of_strings(words: list[str]) -> None:
    words = [word.encode("utf-8", "replace").decode() for word in words]
    names = Names(words)
    packed = Names.packed(names.blob, names.ends)
    assert list(packed) == words and packed[:] == words and packed[1::2] == words[1::2]
    assert [packed[k] for k in range(len(words))] == words == [packed[k - len(words)] for k in range(len(words))]
    with pytest.raises(IndexError):
        _ = packed[len(words)]


def csv(tmp_path: Path, text: str) -> str:
    (tmp_path / "labels.csv").write_text(text)
    return str(tmp_path / "labels.csv")


@pytest.mark.parametrize(
    "text",
    [
        "file,label\na/1.png,cat\na/2.png,dog\n3.png,cat\n",
        "label;id;more\ncat;a/1;x\ndog;a/2;x\ncat;3;x\n",
        "\ufeffa/1.png\tcat\n./a/2.png\tdog\n\n3.png\tcat\nnot-there.png\tbird\n",
    ],
)
def test_labels_from_a_csv(tmp_path: Path, text: str) -> None:
    touch(tmp_path / "root", "a/1.png", "a/2.png", "3.png")
    source = Tree(tmp_path / "root", labels=csv(tmp_path, text))
    assert paths(source) == ["3.png", "a/1.png", "a/2.png"]
    assert source.class_names == ("cat", "dog") and source.labels.tolist() == [0, 0, 1]


def test_whole_numbers_are_classes_in_their_order(tmp_path: Path) -> None:
    touch(tmp_path / "root", *(f"{k:02}.png" for k in range(12)))
    rows = "".join(f"{k:02},{11 - k}\n" for k in range(12))
    source = Tree(tmp_path / "root", labels=csv(tmp_path, rows))
    assert source.class_names == tuple(map(str, range(12))) and source.labels.tolist() == list(range(11, -1, -1))


@given(st.lists(st.one_of(st.text(max_size=3), st.integers(-20, 20), st.sampled_from(["1", "01", " 1"]))))
def test_classes_are_the_values_that_occur(values: list[object]) -> None:
    labels, names = by_value(values)
    assert [names[k] for k in labels] == [str(value).strip() for value in values]
    assert len(set(names)) == len(names) and set(labels.tolist()) == set(range(len(names)))
    assert by_value(values[::-1])[1] == names
    if all(isinstance(value, int) for value in values):
        assert [int(name) for name in names] == sorted(map(int, names))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1.png,cat\n", r"no label for 1 of the 2 images of .*root \(first 2\.png\)"),
        ("1.png,cat\n2.png,dog\n1.png,dog\n", "gives 1.png two labels, 'cat' and 'dog'"),
        ("1.png,cat\n2.png\n", "fewer than two columns"),
        ("", "fewer than two columns"),
    ],
)
def test_a_csv_that_does_not_fit_is_refused(tmp_path: Path, text: str, message: str) -> None:
    touch(tmp_path / "root", "1.png", "2.png")
    with pytest.raises(UserError, match=message):
        Tree(tmp_path / "root", labels=csv(tmp_path, text))


def test_labels_that_are_no_csv_or_not_there_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "1.png")
    with pytest.raises(UserError, match=r"labels 'column' are no file.*FILE\.csv"):
        Tree(tmp_path, labels="column")
    with pytest.raises(UserError, match=r"cannot read labels from .*missing\.csv \(No such file"):
        Tree(tmp_path, labels=str(tmp_path / "missing.csv"))
