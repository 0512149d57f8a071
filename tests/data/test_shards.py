"""WebDataset shards, here and behind a real HTTP server."""

import http.server
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alphaflow.data.sources import open_source, shards
from alphaflow.data.sources.remote import expand
from alphaflow.data.sources.shards import Shards
from alphaflow.errors import UserError
from alphaflow.files import cache_folder

COUNT = 20
IMAGES = [b"image %d" % k * (k + 1) for k in range(COUNT)]


def pack(path: Path, members: list[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def sample(k: int, *, cls: bool = True) -> list[tuple[str, bytes]]:
    note = {"label": ["odd", "even"][k % 2], "caption": "a picture", "width": 8}
    made = [(f"{k:06}.json", json.dumps(note).encode()), (f"{k:06}.jpg", IMAGES[k])]
    return [(f"{k:06}.cls", b"%d\n" % (k % 3)), *made] if cls else made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for shard in range(4):
        members = [member for k in range(5 * shard, 5 * shard + 5) for member in sample(k)]
        pack(tmp_path / "set" / f"train-{shard:04}.tar", members)
    return tmp_path / "set"


def check(source: object) -> None:
    assert isinstance(source, Shards)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(source.read, range(COUNT))) == IMAGES
    assert source.labels is not None and source.labels.tolist() == [k % 3 for k in range(COUNT)]
    assert source.class_names == ("0", "1", "2")


@pytest.mark.parametrize("address", ["", "train-*.tar", "train-{0000..0003}.tar", "train-000{0,1,2,3}.tar"])
def test_a_folder_a_pattern_and_braces(folder: Path, address: str) -> None:
    source = open_source(str(folder / address) if address else str(folder))
    check(source)
    assert source.name(7) == f"{folder}/train-0001.tar!000007.jpg"


def test_part_of_the_shards_and_labels_from_elsewhere(folder: Path, tmp_path: Path) -> None:
    one = open_source(str(folder / "train-0002.tar"))
    assert isinstance(one, Shards) and one.read(0) == IMAGES[10] and one.labels.tolist() == [1, 2, 0, 1, 2]
    noted = open_source(str(folder), labels="label")
    assert noted.class_names == ("even", "odd") and noted.labels.tolist() == [1, 0] * 10
    assert open_source(str(folder / "train-0002.tar"), labels="width").class_names == ("8",)
    assert open_source(str(folder), labels="none").labels is None
    (tmp_path / "l.csv").write_text("".join(f"{k:06},{'ab'[k < 5]}\n" for k in range(COUNT)))
    assert open_source(str(folder), labels=str(tmp_path / "l.csv")).labels.tolist() == [1] * 5 + [0] * 15
    with pytest.raises(UserError, match=r"000000\.jpg: the \.json beside it has no label 'kind'"):
        open_source(str(folder), labels="kind")


def test_more_shards_than_may_be_open(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_OPEN", 1)
    source = open_source(str(folder))
    with ThreadPoolExecutor(8) as pool:
        order = [k for i in range(5) for k in range(i, COUNT, 5)] * 5
        assert list(pool.map(source.read, order)) == [IMAGES[k] for k in order]
    assert len(source._open) == 1


def test_samples_need_not_be_contiguous_and_names_may_have_folders(tmp_path: Path) -> None:
    pack(
        tmp_path / "a.tar",
        [("x.y/1.jpg", b"1"), ("x.y/2.PNG", b"2"), ("x.y/2.cls", b"b"), (".3.jpg", b"3"), ("x.y/1.cls", b"a")],
    )
    source = open_source(str(tmp_path / "a.tar"))
    assert len(source) == 2 and source.read(1) == b"2" and source.class_names == ("a", "b")


def test_compressed_shards(tmp_path: Path) -> None:
    for shard in range(2):
        pack(tmp_path / f"{shard}.tar.gz", [m for k in range(10 * shard, 10 * shard + 10) for m in sample(k)])
    check(open_source(str(tmp_path)))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("1.jpg", b""), ("1.png", b""), ("1.cls", b"0")], r"1\.jpg and 1\.png are both images of one sample"),
        ([("1.jpg", b""), ("1.cls", b"0"), ("2.jpg", b"")], r"2\.jpg has no \.cls beside it"),
        ([("1.txt", b""), ("1.cls", b"0")], "holds no images"),
        ([("1.jpg", b""), ("1.cls", bytes(2_000_000))], r"1\.jpg has no \.cls beside it that could hold"),
        ([("../1.jpg", b""), ("1.cls", b"0")], r"\.\./1\.jpg is refused"),
    ],
)
def test_shards_that_cannot_be_used_are_refused(
    tmp_path: Path, members: list[tuple[str, bytes]], message: str
) -> None:
    pack(tmp_path / "a.tar", members)
    with pytest.raises(UserError, match=message):
        open_source(str(tmp_path / "a.tar"))


def test_a_truncated_shard_is_named(folder: Path) -> None:
    path = folder / "train-0003.tar"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(UserError, match=r"train-0003\.tar is (no whole archive|damaged or cut)"):
        open_source(str(folder))


def test_a_tree_with_its_archive_beside_it_is_a_tree(tmp_path: Path) -> None:
    pack(tmp_path / "set" / "set.tar", sample(0))
    (tmp_path / "set" / "cats").mkdir()
    (tmp_path / "set" / "cats" / "1.png").write_bytes(b"1")
    assert open_source(str(tmp_path / "set")).class_names == ("cats",)


def test_files_of_several_kinds_are_refused(tmp_path: Path) -> None:
    for name in ("a.zip", "b.tar"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match="names 2 files: several may be tars, or tables"):
        open_source(str(tmp_path / "*.*"))


@given(st.integers(0, 999), st.integers(0, 30), st.integers(1, 6))
def test_braces_count_as_shells_do(first: int, more: int, width: int) -> None:
    start, stop = f"{first:0{width}}", f"{first + more:0{width}}"
    names = expand(f"s3://b/{{x,y}}-{{{start}..{stop}}}.tar")
    assert names == [f"s3://b/{w}-{k:0{width}}.tar" for w in "xy" for k in range(first, first + more + 1)]


def test_braces_that_count_nothing_or_too_much_are_refused() -> None:
    for text in ("{5..3}", "{0..99999999}"):
        with pytest.raises(UserError, match="counts no files"):
            expand(text)


# ---------------------------------------------------------------- elsewhere


class Server(http.server.SimpleHTTPRequestHandler):
    asked: list[str]
    cut: bool

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        if "forbidden" in self.path:
            self.send_error(403, "not for you")
        else:
            super().do_GET()

    def do_HEAD(self) -> None:
        if "forbidden" in self.path:
            self.send_error(403, "not for you")
        else:
            super().do_HEAD()

    def copyfile(self, source: object, outputfile: object) -> None:
        data = source.read()  # type: ignore[attr-defined]
        outputfile.write(data[: len(data) // 2] if self.cut else data)  # type: ignore[attr-defined]

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(folder: Path) -> Iterator[tuple[str, type[Server]]]:
    class Here(Server):
        asked: list[str] = []  # noqa: RUF012
        cut = False

        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(folder))  # type: ignore[arg-type]

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Here) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", Here
        running.shutdown()


def test_shards_by_http_are_fetched_once(server: tuple[str, type[Server]], folder: Path) -> None:
    url, handler = server
    address = f"{url}/train-{{0000..0003}}.tar"
    first = open_source(address)
    check(first)
    assert sorted(path for path in handler.asked if path.endswith("tar")) == [
        f"/train-000{k}.tar" for k in range(4)
    ]
    again = open_source(address)
    check(again)
    assert len(handler.asked) == 4 and again.digest == first.digest == open_source(str(folder)).digest


def test_what_cannot_be_fetched_is_named(server: tuple[str, type[Server]]) -> None:
    url, handler = server
    with pytest.raises(UserError, match=r"cannot fetch http.*/missing\.tar"):
        open_source(f"{url}/missing.tar")
    with pytest.raises(UserError, match=r"is of no kind that can be read: it must end in \.zip"):
        open_source(f"{url}/")
    handler.cut = True
    with pytest.raises(UserError, match=r"train-0000\.tar"):
        open_source(f"{url}/train-0000.tar")
    left = [path for path in cache_folder("fetched").rglob("*") if path.is_file() and path.stat().st_size]
    assert left == []
    with pytest.raises(UserError, match=r"cannot open nosuch://x/a\.tar: .*alphaflow\[remote\]"):
        open_source("nosuch://x/a.tar")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("{}/no.zip", "the server answers 404 File not found: look at the address"),
        ("{}/forbidden.zip", "the server answers 403 not for you: it does not give this to you"),
        ("http://no-such-host.invalid/x.zip", "there is no host no-such-host.invalid, or no network"),
        ("http://127.0.0.1:9/x.zip", "nothing listens at 127.0.0.1:9"),
        ("memory://nowhere/x.zip", "there is no such file"),
    ],
)
def test_why_something_cannot_be_fetched(server: tuple[str, type[Server]], url: str, reason: str) -> None:
    with pytest.raises(UserError) as caught:
        open_source(url.format(server[0]))
    assert str(caught.value).startswith(f"cannot fetch {url.format(server[0])}: {reason}")


def test_patterns_and_other_kinds_on_any_file_system_that_fsspec_knows(folder: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/bucket/set", recursive=True)
    check(open_source("memory://bucket/set/train-*.tar"))
    with pytest.raises(UserError, match="nothing matches memory://bucket/set/test"):
        open_source("memory://bucket/set/test-*.tar")
    with memory.open("/bucket/a.zip", "wb") as file:
        import zipfile

        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("cats/1.png", b"1")
    zipped = open_source("memory://bucket/a.zip")
    assert zipped.name(0) == "memory://bucket/a.zip!cats/1.png" and zipped.read(0) == b"1"


# ---------------------------------------------------------------- dots in names


def noted(*samples: tuple[str, str, str]) -> list[tuple[str, bytes]]:
    """(image, note, label): members of a shard; the image's content is its name."""
    return [
        member for image, note, label in samples for member in ((image, image.encode()), (note, label.encode()))
    ]


@pytest.mark.parametrize(
    "samples",
    [
        [(f"img{k}_v1.5.jpg", f"img{k}_v1.5.cls", "ab"[k % 2]) for k in range(4)],
        [(f"scale_1.{k}.jpg", f"scale_1.{k}.cls", "ab"[k % 2]) for k in range(4)],
        [(f"{k:06}.image.png", f"{k:06}.label.cls", "ab"[k % 2]) for k in range(4)],
        [(f"{k:06}.jpg", f"{k:06}.label.cls", "ab"[k % 2]) for k in range(4)],
        [(f"{k:06}.input.JPG", f"{k:06}.cls", "ab"[k % 2]) for k in range(4)],
        [(f"a.b/shot 10.{k}.jpg", f"a.b/shot 10.{k}.target.cls", "ab"[k % 2]) for k in range(4)],
        [(f"2024.01.0{k}.jpg", f"2024.01.0{k}.cls", "ab"[k % 2]) for k in range(4)],
    ],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_names_with_dots_keep_their_labels(
    tmp_path: Path, samples: list[tuple[str, str, str]], reverse: bool
) -> None:
    members = noted(*samples)
    pack(tmp_path / "a.tar", members[::-1] if reverse else members)
    source = open_source(str(tmp_path / "a.tar"))
    wanted = {image: label for image, _, label in samples}
    assert source.class_names == ("a", "b") and len(source) == 4
    for k in range(4):
        assert source.class_names[source.labels[k]] == wanted[source.read(k).decode()]


def test_the_note_named_most_like_the_image_is_taken(tmp_path: Path) -> None:
    members = [("1.jpg", b""), ("1.fine.cls", b"9"), ("1.cls", b"a"), ("2.jpg", b""), ("2.cls", b"b")]
    pack(tmp_path / "a.tar", members)
    assert open_source(str(tmp_path / "a.tar")).class_names == ("a", "b")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("1.input.jpg", b""), ("1.target.jpg", b""), ("1.cls", b"0")], "both images of one sample.*first dot"),
        ([("v_1.5.jpg", b""), ("v_1.6.cls", b"0")], r"v_1\.5\.jpg has no \.cls beside it"),
        ([("1.jpg", b""), ("1.fine.cls", b"0"), ("1.coarse.cls", b"1")], r"1\.fine\.cls and 1\.coarse\.cls both"),
        (
            [("1.0.jpg", b""), ("1.1.jpg", b""), ("1.cls", b"0")],
            "both images of one sample.*dots out of the names",
        ),
        ([("1.jpg", b""), ("1.cls", b" ")], r"1\.jpg has an empty label"),
    ],
)
def test_dots_that_leave_a_doubt_are_refused(
    tmp_path: Path, members: list[tuple[str, bytes]], message: str
) -> None:
    pack(tmp_path / "a.tar", members)
    with pytest.raises(UserError, match=message):
        open_source(str(tmp_path / "a.tar"))


def test_a_label_in_the_json_of_shards_needs_no_word(tmp_path: Path) -> None:
    for k in range(2):
        pack(tmp_path / "noted" / f"{k}.tar", sample(2 * k, cls=False) + sample(2 * k + 1, cls=False))
    source = open_source(str(tmp_path / "noted"))
    assert source.class_names == ("even", "odd") and source.origin.startswith("labels from 'label' in the .json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe1", r"000000\.jpg has a \.cls beside it that is no UTF-8"),
        (b"1.5", r"has 1\.5 for a label in its"),
    ],
)
def test_a_cls_that_holds_no_label_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    pack(tmp_path / "a.tar", [("000000.jpg", b"1"), ("000000.cls", content), ("1.jpg", b"2"), ("1.cls", b"a")])
    with pytest.raises(UserError, match=message):
        open_source(str(tmp_path / "a.tar"))


def test_dots_within_names_of_several_parts(tmp_path: Path) -> None:
    members = [
        (f"i{k}_v1.{v}.{kind}", content)
        for k in range(2)
        for v in (5, 6)
        for kind, content in (("image.jpg", b"%d%d" % (k, v)), ("label.cls", b"%d" % v))
    ]
    pack(tmp_path / "a.tar", members)
    source = open_source(str(tmp_path / "a.tar"))
    assert len(source) == 4 and source.class_names == ("5", "6") and source.labels.tolist() == [0, 1, 0, 1]
    assert [source.read(k) for k in range(4)] == [b"05", b"06", b"15", b"16"]


def test_notes_of_shards_that_are_not_read_are_told(tmp_path: Path) -> None:
    pack(tmp_path / "a.tar", [(f"{k}.{kind}", b"1") for k in range(2) for kind in ("jpg", "class.txt")])
    pack(tmp_path / "b.tar", [(f"{k}.{kind}", b"1") for k in range(2, 4) for kind in ("jpg", "class.txt")])
    source = open_source(f"{tmp_path}/{{a,b}}.tar")
    assert source.labels is None and "0.class.txt beside 0.jpg: labels are read from .cls" in source.passed_over[0]
