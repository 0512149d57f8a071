"""Tables of labels under the headers, and without them, under which data sets come."""

import logging
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alphaflow.data.sources import open_source
from alphaflow.errors import UserError

FILES = [f"{k:06}.jpg" for k in range(1, 7)]
WANTED = ["a", "b"] * 3


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "set").mkdir()
    for name in FILES:
        (tmp_path / "set" / name).write_bytes(name.encode())
    return tmp_path / "set"


def write(root: Path, text: str, name: str = "l.csv") -> str:
    (root.parent / name).write_text(text)
    return str(root.parent / name)


def rows(pattern: str, files: list[str] = FILES) -> str:
    return "".join(
        pattern.format(k=k, f=f, s=f.partition(".")[0], w=w) for k, (f, w) in enumerate(zip(files, WANTED))
    )


def check(root: Path, labels: str, origin: str) -> None:
    source = open_source(str(root), labels=labels)
    assert [source.class_names[k] for k in source.labels] == WANTED and source.class_names == ("a", "b")
    assert source.origin.partition(", images by")[0].rstrip(")") == f"labels from {origin}".rstrip(")")


@pytest.mark.parametrize(
    ("text", "column"),
    [
        (",filename,species\n" + rows("{k},{f},{w}\n"), "species"),  # pandas' index
        ("Unnamed: 0,species,filename\n" + rows("{k},{w},{f}\n"), "species"),
        ("label,filepath\n" + rows("{w},{f}\n"), "label"),
        ("species,filename\n" + rows("{w},{f}\n"), "species"),
        ("kind,photo\n" + rows("{w},{f}\n"), "kind"),
        ("kind\tphoto, if any\n" + rows("{w}\t{f}\n"), "kind"),
        ("species,photograph\n" + rows("{w},./{f}\n"), "species"),
        ("image,width,Class Name\n" + rows("{f},16,{w}\n"), "Class Name"),
        ("id;category\n" + rows("{s};{w}\n"), "category"),
        ("image_id\tbreed\n" + rows("{s}\t{w}\n"), "breed"),
        ('file,"label"\n' + rows('"{f}","{w}"\n'), "label"),
        ("path,label\n" + rows("set\\{f},{w}\n"), "label"),
        ("path,label\n" + rows("data/train/{s},{w}\n"), "label"),
    ],
)
def test_headers(root: Path, text: str, column: str) -> None:
    check(root, write(root, text), f"l.csv (column {column!r})")


@pytest.mark.parametrize(
    "text",
    [
        rows("{f} {w}\n"),  # list_eval_partition.txt, identity_CelebA.txt, UCF's lists
        rows("{w} {f}\n"),
        rows("{f}   {w}\n"),
        "# a remark\n" + rows("{s} {w}\n"),
        rows("{f},{w}\n"),
        rows("{w}\t{s}\n"),
    ],
)
def test_lists_without_a_header(root: Path, text: str) -> None:
    check(root, write(root, text, "l.txt"), "l.txt")


def test_columns_are_asked_for_and_can_be_named(root: Path) -> None:
    path = write(root, "image,width,species\n" + rows("{f},{k},{w}\n"))
    with pytest.raises(
        UserError, match=r"several columns .*\(width, species\): say which, such as .*l\.csv#width"
    ):
        open_source(str(root), labels=path)
    for asked in ("species", "Species", "3", "image,species", "1,3"):
        check(root, f"{path}#{asked}", "l.csv (column 'species')")
    with pytest.raises(UserError, match=r"has no column 'genus': it has image, width, species"):
        open_source(str(root), labels=f"{path}#genus")
    with pytest.raises(UserError, match=r"column 'image' names the images"):
        open_source(str(root), labels=f"{path}#image")
    headless = write(root, rows("{f},{k},{w}\n"))
    with pytest.raises(UserError, match=r"several columns .*\(2, 3\)"):
        open_source(str(root), labels=headless)
    check(root, f"{headless}#3", "l.csv")


def test_celebas_attributes(root: Path) -> None:
    text = "6\n5_o_Clock_Shadow Male Young\n" + rows("{f} -1  1 -1\n").replace("2.jpg -1  1", "2.jpg -1 -1")
    path = write(root, text, "list_attr_celeba.txt")
    with pytest.raises(UserError, match=r"\(5_o_Clock_Shadow, Male, Young\): say which"):
        open_source(str(root), labels=path)
    source = open_source(str(root), labels=f"{path}#Male")
    assert source.class_names == ("-1", "1") and source.labels.tolist() == [1, 0, 1, 1, 1, 1]


def test_pets_and_birds(root: Path, tmp_path: Path) -> None:
    text = "#Image CLASS-ID SPECIES BREED ID\n#ID: 1:37 Class ids\n" + "".join(
        f"{f.partition('.')[0]} {k // 3} 1 {k}\n" for k, f in enumerate(FILES)
    )
    pets = open_source(str(root), labels=write(root, text, "list.txt"))
    assert pets.labels.tolist() == [0, 0, 0, 1, 1, 1] and "CLASS-ID" in pets.origin
    write(root, "".join(f"{k} {f}\n" for k, f in enumerate(FILES, 1)), "images.txt")
    labels = "".join(f"{k} {10 if k > 4 else 9}\n" for k in range(1, 7))
    birds = open_source(str(root), labels=write(root, labels, "image_class_labels.txt"))
    assert birds.class_names == ("9", "10") and birds.labels.tolist() == [0, 0, 0, 0, 1, 1]


def test_kaggles_boxes_give_their_first_word(root: Path) -> None:
    words = ["n01", "n02", "n01", "n03", "n02", "n01"]
    text = "ImageId,PredictionString\n" + "".join(
        f"{f[:-4]},{w} 85 1 499 {272 + k} {f'{w} 1 2 3 4 ' * (k % 2)}\n"
        for k, (f, w) in enumerate(zip(FILES, words))
    )
    source = open_source(str(root), labels=write(root, text))
    assert source.class_names == ("n01", "n02", "n03")
    assert [source.class_names[k] for k in source.labels] == words


def test_as_many_classes_as_images_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "set").mkdir()
    for k in range(9):
        (tmp_path / "set" / f"{k}.png").write_bytes(b"1")
    caplog.set_level(logging.WARNING, "alphaflow")
    path = write(tmp_path / "set", "file,label\n" + "".join(f"{k}.png,w{k}\n" for k in range(9)))
    assert len(open_source(str(tmp_path / "set"), labels=path).class_names) == 9
    assert (
        "9 classes for 9 images, by l.csv (column 'label', images by 'file'): is that what holds the labels?"
        in caplog.text
    )


def test_names_of_files_do_where_no_path_fits(tmp_path: Path) -> None:
    for k, f in enumerate(FILES):
        (tmp_path / "set" / "ab"[k % 2]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / "ab"[k % 2] / f).write_bytes(b"1")
    source = open_source(str(tmp_path / "set"), labels=write(tmp_path / "set", rows("{f},{w}\n")))
    assert source.class_names == ("a", "b") and source.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_two_images_may_share_a_row_by_their_stem(tmp_path: Path) -> None:
    for name in ("1.png", "1.jpg", "2.png"):
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / "set" / name).write_bytes(b"1")
    source = open_source(str(tmp_path / "set"), labels=write(tmp_path / "set", "1,x\n2,y\n"))
    assert source.labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\n" + rows("{f},\n"), r"no label for 6 of the 6"),
        ("file,label\n" + rows("{f},{k}\n").replace(",1\n", ",-1\n"), r"000002\.jpg has the label -1"),
        (
            "file,label\n" + "x" * 200_000 + ",1\n",
            r"cannot read labels from .*a cell of more than 131,072 characters",
        ),
        (rows("{f}\n"), "fewer than two columns"),
        ("path,label\n" + rows("x{f},{w}\n"), r"no column that names the images.*first image is 000001\.jpg"),
    ],
)
def test_tables_that_hold_no_labels_are_refused(root: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_source(str(root), labels=write(root, text))


def test_labels_that_look_like_names_of_images_are_labels(tmp_path: Path) -> None:
    for k in range(6):
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / "set" / f"{k}.png").write_bytes(b"1")
    text = "kind,photo\n" + "".join(f"{k % 2},{k}\n" for k in range(6))
    source = open_source(str(tmp_path / "set"), labels=write(tmp_path / "set", text))
    assert source.class_names == ("0", "1") and source.labels.tolist() == [0, 1] * 3


def test_commas_within_columns_that_tabs_separate(root: Path) -> None:
    source = open_source(str(root), labels=write(root, rows("{f}\tspecies, {w}\n"), "l.tsv"))
    assert source.class_names == ("species, a", "species, b")


def numbered(tmp_path: Path, files: list[str]) -> Path:
    for name in files:
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(b"1")
    return tmp_path / "set"


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("id,filename,label", "{k},{f},{w}"),
        (",filename,label", "{k},{f},{w}"),
        ("index,picture,label", "{k},{f},{w}"),
        ("image_id,file_name,category", "{k},{f},{w}"),
        ("file_name,image_id,category", "{f},{k},{w}"),
    ],
)
def test_whole_names_win_over_numbers_of_rows(tmp_path: Path, header: str, row: str) -> None:
    files = [f"{k}.png" for k in (5, 4, 3, 2, 1, 0)]
    root = numbered(tmp_path, files)
    text = header + "\n" + "".join(row.format(k=k, f=f, w=f"c{f[0]}") + "\n" for k, f in enumerate(files))
    source = open_source(str(root), labels=write(root, text))
    assert source.labels.tolist() == list(range(6))
    assert (
        f"images by {next(name for name in header.split(',') if name[:4] in ('file', 'pict'))!r}" in source.origin
    )


def test_numbers_beside_files_that_are_not_there_name_no_images(tmp_path: Path) -> None:
    root = numbered(tmp_path, [f"{k}.png" for k in range(3)])
    path = write(root, "id,filename,label\n0,a.png,x\n1,b.png,y\n2,c.png,x\n")
    with pytest.raises(UserError, match=r"column 'filename' names files \(such as a\.png\) that are not among"):
        open_source(str(root), labels=path)
    assert open_source(str(root), labels=f"{path}#id,label").labels.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    "called",
    [
        "images/{f}",
        "/data/set/{f}",
        "C:\\set\\{f}",
        "https://example.com/a/{f}",
        "http://h.org/{f}?s=1#x",
        "x/{s}",
    ],
)
def test_labels_like_stems_beside_paths_are_labels(tmp_path: Path, called: str) -> None:
    root = numbered(tmp_path, [f"{k}.png" for k in range(6)])
    text = "file,label\n" + "".join(f"{called.format(f=f'{k}.png', s=k)},{k % 3}\n" for k in range(6))
    assert open_source(str(root), labels=write(root, text)).labels.tolist() == [0, 1, 2] * 2


def test_paths_elsewhere_of_names_that_are_there_twice(tmp_path: Path) -> None:
    root = numbered(tmp_path, ["a/0.png", "b/0.png", "b/1.png"])
    path = write(root, "file,label\n/x/a/0.png,0\n/x/b/0.png,1\n/x/b/1.png,1\n")
    assert open_source(str(root), labels=path).labels.tolist() == [0, 1, 1]


def test_a_row_with_more_cells_than_the_first_is_refused(root: Path) -> None:
    text = "file,label\n\n" + rows("{f},{w}\n")
    with pytest.raises(UserError, match=r"has 3 cells in line 4, and 2 in its first: put quotes about .*','"):
        open_source(str(root), labels=write(root, text.replace("2.jpg,b", "2.jpg,b, small")))
    check(root, write(root, text.replace("2.jpg,b", "2.jpg,b,")), "l.csv (column 'label'")


def test_splits_in_a_table_are_no_classes_and_are_not_mixed(root: Path) -> None:
    only = write(root, "file,split\n" + rows("{f},{w}\n").replace(",a", ",train").replace(",b", ",test"))
    with pytest.raises(UserError, match=r"column 'split' holds splits of a data set \(train 3, test 3\)"):
        open_source(str(root), labels=only)
    assert open_source(str(root), labels=f"{only}#split").class_names == ("test", "train")
    both = "file,subset,kind\n" + rows("{f},{w}n,{w}\n")
    with pytest.raises(UserError, match=r"of several splits by column 'subset' \(an 3, bn 3\): put those"):
        open_source(str(root), labels=write(root, both))
    check(root, write(root, both) + "#kind", "l.csv (column 'kind'")
    alone = both.replace("bn,", "an,") + "elsewhere.jpg,test,c\n"
    check(root, write(root, alone), "l.csv (column 'kind'")


@pytest.mark.parametrize("value", ["nan", "NaN", "<NA>"])
def test_a_missing_label_is_refused(root: Path, value: str) -> None:
    path = write(root, "file,label\n" + rows("{f},{w}\n").replace("2.jpg,b", f"2.jpg,{value}"))
    with pytest.raises(UserError, match=rf"000002\.jpg has the label {value}, which says that there is none"):
        open_source(str(root), labels=path)


def test_numbers_that_are_not_whole_are_no_labels(root: Path) -> None:
    path = write(root, "file,label\n" + rows("{f},{k}\n").replace(",1\n", ",1.5\n"))
    with pytest.raises(UserError, match=r"000002\.jpg has the label 1\.5, which is no class"):
        open_source(str(root), labels=path)


@pytest.mark.parametrize(
    "text",
    [
        "file|label\n" + rows("{f}|{w}\n"),
        "# made today, by hand\nfile,label\n# more\n" + rows("{f},{w}\n"),
        "#file,label\n" + rows("{f},{w}\n"),
        "sep=;\nfile;label\n" + rows("{f};{w}\n"),
        "kind\tfile\tlabel\n" + rows("{k}\tx\t{f}\t{w}\n"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_dialects(root: Path, text: str, encoding: str) -> None:
    (root.parent / "l.csv").write_text(text, encoding=encoding)
    check(root, str(root.parent / "l.csv"), "l.csv (column 'label'")


CELLS = st.sampled_from(
    ["0.png", "1.png", "0", "1", "-1", "a", "", "label", "file", "x y", '"', "#", "5.0", "\0", "n1 1 2 3 4"]
)


@settings(max_examples=25)
@given(st.lists(st.lists(CELLS, max_size=4), max_size=5), st.sampled_from([",", "\t", ";", " "]))
def test_no_table_raises_anything_but_an_error_for_people(
    tmp_path_factory: pytest.TempPathFactory, cells: list[list[str]], mark: str
) -> None:
    root = tmp_path_factory.mktemp("set") / "images"
    root.mkdir()
    for k in range(2):
        (root / f"{k}.png").write_bytes(b"1")
    path = write(root, "\n".join(map(mark.join, cells)))
    for labels in (path, f"{path}#1", f"{path}#label", f"{path}#file,label"):
        try:
            source = open_source(str(root), labels=labels)
        except UserError as error:
            assert "l.csv" in str(error) or "images" in str(error)
        else:
            assert source.labels is not None and len(source.class_names) in (1, 2)


def test_a_column_without_a_name_is_called_by_its_number(root: Path) -> None:
    """As in pandas' index, and in CelebA's list of attributes, whose header leaves it out."""
    source = open_source(str(root), labels=write(root, ",label\n" + rows("{f},{w}\n")))
    assert source.origin == "labels from l.csv (column 'label', images by column 1, which has no name)"
