"""What evaluation is given: archives of samples, labels of other runs, places that cannot be written to."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alphaflow.cli import run

TINY = "--batch-size 16 --model.width 16 --model.depth 1 --model.heads 2 --model.patch 4 --log-every 1".split()


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "digits"
    words = ["--steps", "4", "--ema.profiles", "0.05", "0.1"]
    assert run(["train", "digits", "--out", str(out), *words, *TINY]) == 0
    return out


def scored(digits: Path, samples: Path, file: Path) -> dict:
    words = ["--metrics", "frechet", "accuracy", "--json", str(file)]
    assert run(["evaluate", str(digits), "--from-folder", str(samples), *words]) == 0
    return json.loads(file.read_text())["results"][0]


def test_an_archive_of_samples_is_scored_as_their_folder_is(digits, tmp_path, capsys, caplog):
    """Ours, ADM's, and a compressed one; labels are those of the samples wherever they stand."""
    for out in ("x.npz", "folder/"):
        assert (
            run(["sample", str(digits), "--out", str(tmp_path / out), "--count", "70", "--labels", "random"]) == 0
        )
    expected = scored(digits, tmp_path / "folder", tmp_path / "a.json")
    with np.load(tmp_path / "x.npz") as made:
        images, labels = made["images"], made["labels"]
    np.savez(tmp_path / "adm.npz", arr_0=images, arr_1=labels)
    np.savez_compressed(tmp_path / "small.npz", arr_0=images, labels=labels)
    capsys.readouterr()
    for name in ("x", "adm", "small"):
        found = scored(digits, tmp_path / f"{name}.npz", tmp_path / "b.json")
        assert found["figures"] == expected["figures"] and found["count"] == 70
        assert "70 samples against the run's data, 1,797 samples" in capsys.readouterr().out
    assert "the first is scored" not in caplog.text  # what we write holds them twice


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_a_packed_folder_is_scored_as_the_folder_is(kind, digits, tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 256, (70, 8, 8), np.uint8)
    for k, image in enumerate(images):
        (tmp_path / "set" / "ab"[k % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "set" / "ab"[k % 2] / f"{k}-class{k % 10}.png")
    (tmp_path / "set" / ".DS_Store").write_text("hidden")
    named = {"zip": "zip", "tar": "tar", "tar.gz": "gztar"}[kind]
    packed = shutil.make_archive(str(tmp_path / "set"), named, tmp_path, "set")
    expected = scored(digits, tmp_path / "set", tmp_path / "a.json")
    found = scored(digits, Path(packed), tmp_path / "b.json")
    assert found["figures"] == expected["figures"] and found["count"] == 70 and "accuracy" in found["figures"]
    (tmp_path / "broken.zip").write_bytes(b"PK nothing")
    capsys.readouterr()
    for name in ("broken.zip", "none.zip", "a.json"):
        assert run(["evaluate", str(digits), "--from-folder", str(tmp_path / name)]) == 1
        said = capsys.readouterr().err.strip()
        assert name in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("packed", [False, True])
def test_splits_and_colours_are_told(packed, digits, tmp_path, caplog):
    for k in range(16):
        file = tmp_path / "set" / ("train", "test")[k % 2] / f"{k}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (k, k, 2 * k)).save(file)
    place = shutil.make_archive(str(tmp_path / "set"), "zip", tmp_path / "set") if packed else tmp_path / "set"
    assert run(["evaluate", str(digits), "--from-folder", str(place), "--metrics", "frechet"]) == 0
    assert "holds splits of a data set (test, train): all are scored together" in caplog.text
    assert caplog.text.count("is in colour, and the run's data are grey") == 1


def test_two_arrays_of_images_are_told(digits, tmp_path, caplog):
    images = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "x.npz", images=images, arr_0=images[::-1])
    assert run(["evaluate", str(digits), "--from-folder", str(tmp_path / "x.npz"), "--metrics", "frechet"]) == 0
    assert "holds arr_0 and images: the first is scored" in caplog.text


@pytest.mark.parametrize(
    "labels, said",
    [
        (np.array([str(k % 10).encode() for k in range(40)]), ""),
        (np.arange(40)[:, None] % 10.0, ""),
        (np.arange(40) % 2 == 0, "its labels are bool (40,), not 40 numbers of classes: no accuracy"),
        (np.eye(40), "its labels are float64 (40, 40)"),
        (np.full(40, 2**63, np.uint64), "its labels are uint64 (40,)"),
        (np.full(40, 1e30), "its labels are float64 (40,)"),
        (np.full(40, np.nan), "its labels are float64 (40,)"),
        (np.array(["cat"] * 40), "images of class 'cat', which the run's data do not have (0, 1, 2, …)"),
        (np.arange(40) % 3 - 1, "images of class -1"),
    ],
)
def test_labels_of_every_type_are_used_or_told(labels, said, digits, tmp_path, capsys, caplog):
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "x.npz", images=images, labels=labels)
    file = tmp_path / "a.json"
    words = ["--metrics", "frechet", *(["accuracy"] if not said else []), "--json", str(file)]
    done = run(["evaluate", str(digits), "--from-folder", str(tmp_path / "x.npz"), *words])
    assert done == ("of class " in said) and said in caplog.text + capsys.readouterr().err
    assert done or ("accuracy" in json.loads(file.read_text())["results"][0]["figures"]) == (not said)


@pytest.mark.parametrize(
    "held, message",
    [
        ({"x": np.zeros((9, 8, 8, 1), np.uint8)}, "holds x, not arr_0 or images"),
        ({"arr_0": np.zeros((9, 8, 8, 1))}, r"are float64 \(9, 8, 8, 1\), not uint8"),
        ({"arr_0": np.zeros((9, 8, 8, 3), np.uint8)}, r"are \(8, 8, 3\), and the run's data \(8, 8, 1\)"),
        ({"arr_0": np.zeros((3, 8, 8, 1), np.uint8)}, "holds 3 images, too few"),
        ({"arr_0": np.array([None])}, "holds Python objects"),
    ],
)
def test_archives_of_something_else_are_refused(held, message, digits, tmp_path, capsys):
    np.savez(tmp_path / "x.npz", **held)
    assert run(["evaluate", str(digits), "--from-folder", str(tmp_path / "x.npz")]) == 1
    (tmp_path / "damaged.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:-60])
    assert run(["evaluate", str(digits), "--from-folder", str(tmp_path / "damaged.npz")]) == 1
    said = capsys.readouterr().err
    assert message.replace("\\", "") in said and "cannot read" in said and "Traceback" not in said


def test_classes_that_the_run_does_not_have_and_few_samples(digits, tmp_path, capsys, caplog):
    (tmp_path / "d").mkdir()
    for k in range(20):
        Image.fromarray(np.full((8, 8), k, np.uint8)).save(tmp_path / "d" / f"{k}-class{k % 10}.png")
    assert run(["evaluate", str(digits), "--from-folder", str(tmp_path / "d"), "--metrics", "frechet"]) == 0
    assert "20 samples against" in capsys.readouterr().out
    assert "20 samples for 64 features" in caplog.text
    (tmp_path / "d" / "3-class3.png").rename(tmp_path / "d" / "3-class99.png")
    assert run(["evaluate", str(digits), "--from-folder", str(tmp_path / "d")]) == 1
    assert "images of class 99, and the run's data have 10 classes" in capsys.readouterr().err


def test_a_run_that_cannot_be_written_to(digits, tmp_path, capsys, caplog):
    """As on a read-only disk: the figures go where the user says, or nothing is begun."""
    (digits / "evaluations").rename(digits / "kept") if (digits / "evaluations").exists() else None
    (digits / "evaluations").write_text("in the way")
    words = ["evaluate", str(digits), "--count", "16", "--metrics", "accuracy", "--nfe", "1"]
    try:
        assert run(words) == 1
        assert "cannot be written to" in (said := capsys.readouterr().err) and "--json FILE" in said
        assert run([*words, "--json", str(tmp_path / "x.json")]) == 0
        assert len(json.loads((tmp_path / "x.json").read_text())["results"]) == 1
        assert "no figures are kept there" in caplog.text and not (digits / "evaluation.json").exists()
    finally:
        (digits / "evaluations").unlink()


@pytest.mark.parametrize(
    "status, words, message",
    [
        (2, ["--plot", "x.jpg"], "end its name in .png"),
        (2, ["--json", ""], "--json is empty here"),
        (1, ["--csv", "."], "--csv . is a folder: name a file"),
    ],
)
def test_places_for_figures_are_looked_at_before_the_work(status, words, message, digits, capsys):
    assert run(["evaluate", str(digits), "--count", "16", *words]) == status
    assert message in capsys.readouterr().err


def test_an_average_of_steps_that_were_not_made(digits, capsys):
    assert run(["ema", str(digits), "--std", "0.08", "--step", "999"]) == 2
    assert "step 999 is after the last stored average, of step 4" in capsys.readouterr().err
    assert not list(digits.glob("ema-*"))


def test_a_model_without_its_data_is_told_what_to_do(digits, tmp_path, capsys):
    assert run(["export", str(digits), str(tmp_path / "m"), "--format", "safetensors"]) == 0
    assert run(["export", str(digits), str(tmp_path / "p"), "--format", "diffusers"]) == 0
    for model, drawn in ((tmp_path / "m", True), (tmp_path / "p", False), ("hf://OWNER/NAME", True)):
        capsys.readouterr()
        assert run(["evaluate", str(model), "--ema", "0.05", "--count", "16"]) == 2
        said = capsys.readouterr().err.strip()
        assert f"{model} is a model without the data of its run" in said and len(said.splitlines()) == 1
        assert (f"alphaflow sample {model} --out DIR/" in said) == drawn and "--from-folder DIR" in said


@pytest.mark.parametrize(
    "words, said",
    [
        ("--from-folder {pictures} --vae x", "--vae x is for runs on latents, and this one is not: leave it out"),
        ("--count 192 --metrics limit", "192 samples are too few to extrapolate from: draw at least 193"),
    ],
)
def test_what_has_no_effect_or_cannot_be_is_refused_before_the_work(words, said, digits, tmp_path, capsys):
    for k in range(8):
        Image.fromarray(np.full((8, 8), k, np.uint8)).save(tmp_path / f"{k}.png")
    capsys.readouterr()
    assert run(["evaluate", str(digits), *words.format(pictures=tmp_path).split()]) == 2
    assert said in capsys.readouterr().err
