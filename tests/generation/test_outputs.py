"""Files of samples: what is in them, what stays when they cannot be written, and how much memory it takes."""

import io
import resource
import signal
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_image

from alphaflow import UserError
from alphaflow.generation import outputs
from alphaflow.generation.outputs import ending_of, grid_scale, samples_into
from alphaflow.generation.pictures import enlargement, image_grid
from alphaflow.generation.videos import check_videos, videos_into


def noise(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def blocks(samples: NDArray[Any], size: int) -> Iterator[NDArray[Any]]:
    return (samples[k : k + size] for k in range(0, len(samples), size))


def write(out: Path | str, samples: NDArray[Any], columns: int | None = None, size: int = 64) -> None:
    with samples_into(out, samples.shape[1:], np.arange(len(samples)), columns) as take:
        for block in blocks(samples, size):
            take(block)


# ------------------------------------------------------------------------------------------------------- content


@pytest.mark.parametrize("size", [1, 7, 64])
@pytest.mark.parametrize(
    "shape, columns",
    [((10, 8, 8, 1), 10), ((23, 8, 12, 3), None), ((1, 50, 60, 3), None), ((12, 49, 7, 4), 5), ((9, 5, 5, 2), 4)],
)
def test_a_streamed_grid_is_the_one_made_at_once(tmp_path, shape, columns, size):
    images = noise(*shape)
    write(tmp_path / "grid.png", images, columns, size)
    with Image.open(tmp_path / "grid.png") as opened:
        opened.load()
        found = np.asarray(opened)
    np.testing.assert_array_equal(found, np.asarray(image_grid(images, columns)))


def test_a_streamed_grid_is_about_as_small_as_pillows(tmp_path):
    """Of a photograph, and of noise that is enlarged."""
    photograph = load_sample_image("china.jpg")[:384, :576]
    tiles = photograph.reshape(6, 64, 9, 64, 3).swapaxes(1, 2).reshape(-1, 64, 64, 3)
    for images in (tiles, noise(100, 8, 8, 1)):
        write(tmp_path / "grid.png", images)
        memory = io.BytesIO()
        image_grid(images).save(memory, format="png")
        assert (tmp_path / "grid.png").stat().st_size < 1.1 * len(memory.getvalue())


@pytest.mark.parametrize("size", [5, 64])
def test_streamed_arrays_are_those_of_savez(tmp_path, size):
    for name, samples in (("images", noise(70, 6, 5, 3)), ("points", noise(70, 2).astype(np.float32))):
        write(tmp_path / "s.npz", samples, size=size)
        again = {"arr_0": samples} if name == "images" else {}  # for ADM's evaluator
        np.savez(tmp_path / "plain.npz", **{name: samples, "labels": np.arange(70)}, **again)
        with np.load(tmp_path / "s.npz", allow_pickle=False) as found, np.load(tmp_path / "plain.npz") as wanted:
            assert sorted(found) == sorted(wanted)
            for key in wanted:
                assert found[key].dtype == wanted[key].dtype
                np.testing.assert_array_equal(found[key], wanted[key])


def test_points_become_dots_and_images_single_files(tmp_path):
    write(tmp_path / "p.png", noise(100, 2).astype(np.float32))
    assert Image.open(tmp_path / "p.png").size == (440, 440)
    images = noise(3, 8, 8, 1)
    write(str(tmp_path / "single") + "/", images)
    names = sorted(one.name for one in (tmp_path / "single").iterdir())
    assert names == ["000000-class0.png", "000001-class1.png", "000002-class2.png"]
    assert (np.asarray(Image.open(tmp_path / "single" / names[1])) == images[1, ..., 0]).all()


def test_videos_are_streamed_as_well(tmp_path):
    videos = noise(20, 3, 6, 6, 3)
    for name in ("v.npz", "v.png", "v.gif"):
        with videos_into(tmp_path / name, videos.shape[1:], np.arange(20)) as take:
            for block in blocks(videos, 8):
                take(block)
    assert (np.load(tmp_path / "v.npz")["videos"] == videos).all()
    strips = np.asarray(Image.open(tmp_path / "v.png"))
    np.testing.assert_array_equal(strips, np.asarray(image_grid(videos.reshape(60, 6, 6, 3), 3)))
    with Image.open(tmp_path / "v.gif") as opened:
        assert opened.n_frames == 3


@pytest.mark.parametrize("name, bound", [("s.npz", 500_000), ("s.png", 2_500_000), ("single", 500_000)])
def test_memory_does_not_grow_with_the_number(tmp_path, name, bound):
    """20,000 digits: 58 MB as a grid, 1.3 MB as an array."""
    count = 1_000 if name == "single" else 20_000

    def peak(count: int) -> int:
        tracemalloc.start()
        with samples_into(tmp_path / f"{count}-{name}", (8, 8, 1), np.zeros(count, np.int64)) as take:
            for first in range(0, count, 50):
                take(noise(50, 8, 8, 1, seed=first))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(50)  # what is imported, or kept, once
    few = peak(100)
    assert peak(count) - few < bound  # labels, and a row of the grid


# -------------------------------------------------------------------------------------------------------- bounds


def test_large_grids_are_enlarged_less_and_larger_ones_refused(tmp_path):
    assert grid_scale(tmp_path, (8, 8, 1), 64) == enlargement(8, 8) == 6
    assert grid_scale(tmp_path, (8, 8, 1), 100_000) == 3
    assert grid_scale(tmp_path, (8, 8, 1), 1_000_000) == 1
    with pytest.raises(UserError, match=r"a grid of 10,000,000 images .* at most (1,\d{3},\d{3}) fit") as error:
        write_nothing(tmp_path / "s.png", (8, 8, 1), 10_000_000)
    assert error.value.status == 2
    most = int(str(error.value).split("at most ")[1].split(" fit")[0].replace(",", ""))
    assert grid_scale(tmp_path, (8, 8, 1), most) == 1
    with pytest.raises(UserError, match="at most 78 fit"):
        write_nothing(tmp_path / "s.png", (1024, 1024, 3), 100, columns=13)
    with pytest.raises(UserError, match="has no 5 channels"):
        write_nothing(tmp_path / "s.png", (8, 8, 5), 4)
    with pytest.raises(UserError, match=r"2,000,000 points .*at most 1,000,000"):
        write_nothing(tmp_path / "p.png", (2,), 2_000_000)
    with pytest.raises(UserError, match=r"too large to be shown: at most \d+ fit into \.gif"):
        check_videos(tmp_path / "v.gif", (16, 256, 256, 3), 1000)
    assert not list(tmp_path.iterdir())


def test_what_the_disk_has_no_room_for_is_refused_with_what_it_has(tmp_path):
    with pytest.raises(UserError, match=r"take [\d,]+\.\d GB as \.npz, and .* has room for [\d,]+ of them"):
        outputs.check_samples(tmp_path / "deep" / "s.npz", (1024, 1024, 3), 10**8)
    with pytest.raises(UserError, match=r"10,000,000,000,000 files, and .* has room for [\d,]+ of them"):
        outputs.check_samples(tmp_path / "deep", (8, 8, 1), 10**13)
    outputs.check_samples(tmp_path / "deep", (8, 8, 1), 1000)
    assert not list(tmp_path.iterdir())


def write_nothing(out: Path, shape: tuple[int, ...], count: int, columns: int | None = None) -> None:
    with samples_into(out, shape, np.zeros(count, np.int64), columns):
        raise AssertionError("this should not have begun")


@pytest.mark.parametrize(
    "out, said",
    [
        ("", "names no file or folder"),
        ("/", "names no file or folder"),
        ("//", "names no file or folder"),
        ("~/x.png", "the shell left its ~"),
        ("x.jpg", r"end its name in \.npz or \.png"),
        ("v1.5", r"end its name in \.npz or \.png"),
        ("x.gif", r"end its name in \.npz or \.png"),
        ("there.png", "is a folder: name a file"),
        ("file", "is a file: name a folder"),
        ("file/", "is a file: name a folder"),
    ],
)
def test_places_that_are_none(tmp_path, monkeypatch, out, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.png").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=said) as error:
        ending_of(out, outputs.ENDINGS)
    assert error.value.status == 2


@pytest.mark.parametrize(
    "out, ending", [("x.npz", ".npz"), ("X.PNG", ".png"), ("a.b/c", ""), ("v1.5/", ""), ("there.1", ""), (".", "")]
)
def test_places_that_are_some(tmp_path, monkeypatch, out, ending):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.1").mkdir()
    assert ending_of(out, outputs.ENDINGS) == ending


# ------------------------------------------------------------------------------------------------- nothing is lost


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    write(tmp_path / "single", noise(6, 8, 8, 1))
    before = {one: one.read_bytes() for one in (tmp_path / "single").iterdir()}
    with pytest.raises(UserError, match=r"single holds 000000-class0\.png: samples of two draws would mix"):
        write(tmp_path / "single", noise(4, 8, 8, 1, seed=1))
    assert {one: one.read_bytes() for one in (tmp_path / "single").iterdir()} == before
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", noise(4, 8, 8, 1))


@pytest.mark.parametrize("name", ["s.npz", "s.png", "single"])
@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_what_breaks_off_leaves_what_was_there(tmp_path, name, kind):
    out = tmp_path / "new" / name
    with pytest.raises(kind), samples_into(out, (8, 8, 1), np.zeros(100, np.int64)) as take:
        take(noise(50, 8, 8, 1))
        raise kind
    assert not list(tmp_path.iterdir())
    if name != "single":
        out = tmp_path / name
        out.write_text("old")
        with pytest.raises(kind), samples_into(out, (8, 8, 1), np.zeros(100, np.int64)) as take:
            take(noise(50, 8, 8, 1))
            raise kind
        assert [one.name for one in tmp_path.iterdir()] == [name] and out.read_text() == "old"


@pytest.fixture
def full_disk() -> Iterator[None]:
    """The system refuses files of more than 20 KB, as a full disk would refuse them."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("name", ["s.npz", "s.png", "v.npz", "v.png", "v.gif", "v.mp4", "single", "films"])
def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path, full_disk, name):
    out, old = tmp_path / name, []
    if out.suffix:
        out.write_text("old")
        old = [name]
    if name[0] in "vf":
        shape: tuple[int, ...] = (8, 96, 96, 3)
        opened = videos_into(out, shape, np.zeros(8, np.int64))
    else:
        shape = (200, 200, 1)
        opened = samples_into(out, shape, np.zeros(8, np.int64))
    with pytest.raises(UserError, match=f"cannot write .*{name} \\(.+\\): choose another place"), opened as take:
        for k in range(8):
            take(noise(1, *shape, seed=k))
    assert [one.name for one in tmp_path.iterdir()] == old
    assert not old or out.read_text() == "old"


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "real.png").write_text("old")
    (tmp_path / "link.png").symlink_to(tmp_path / "disk" / "real.png")
    write(tmp_path / "link.png", noise(4, 8, 8, 1))
    assert (tmp_path / "link.png").is_symlink()
    assert Image.open(tmp_path / "disk" / "real.png").width > 10
    assert [one.name for one in (tmp_path / "disk").iterdir()] == ["real.png"]
