"""`alphaflow sample`: what is refused before anything is loaded, and what is left behind."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import alphaflow as af
import forked
from alphaflow import UserError
from alphaflow.cli import run
from browsing import small_model
from children import child


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Whole ones; and one whose weights cannot be read, so that it shows what is looked at before."""
    folder = tmp_path_factory.mktemp("models")
    made = {"model": small_model(folder / "model"), "plain": small_model(folder / "plain", num_classes=0)}
    made["unreadable"] = small_model(folder / "unreadable")
    (made["unreadable"] / "model.safetensors").write_bytes(b"none")
    made["guided"] = small_model(folder / "guided", guides=(0.0, 1.0))
    return made


REFUSED = {
    "an ending for nothing": ("{out}/s.jpg", r"end its name in \.npz or \.png"),
    "an ending for videos": ("{out}/s.gif", r"end its name in \.npz or \.png, or name a folder"),
    "an ending that is a number": ("{out}/v1.5", r"or name a folder, with / at its end"),
    "no name": ("", r"--out is empty here"),
    "the root": ("/", r"--out / is no place for results"),
    "a home nobody expanded": ("~/s.png", r"begins with a ~ that the shell has left"),
    "a file as a folder": ("{file}", r"is a file: name a folder"),
    "no samples": ("{out}/s.npz --count 0", r"--count 0 must be at least 1"),
    "fewer": ("{out}/s.npz --count -3", r"--count -3"),
    "more than there can be": (
        "{out}/s.npz --count 1000000000000",
        r"--count 1000000000000 .* at most 100,000,000",
    ),
    "more than a grid holds": (
        "{out}/s.png --count 50000000",
        r"at most 1,\d+,\d+ fit; name a file ending in \.npz",
    ),
    "no evaluations": ("{out}/s.npz --nfe 0", r"--nfe 0 must be at least 1"),
    "an unknown method": ("{out}/s.npz --method odd", r"'odd': did you mean 'ode'"),
    "one unknown method of two": ("{out}/s.npz --nfe 2 --method ode,odd", r"'odd': did you mean 'ode'"),
    "methods for other intervals": ("{out}/s.npz --nfe 3 --method ode,heun", r"2 methods for 3 intervals"),
    "times that end early": ("{out}/s.npz --times 1,.5", r"'1,\.5' must end at 0"),
    "times that begin late": ("{out}/s.npz --times .5,0", r"'\.5,0' must begin at 1"),
    "times that rise": ("{out}/s.npz --times 0,1", r"must fall"),
    "times that stand": ("{out}/s.npz --times 1,.5,.5,0", r"must fall"),
    "one time": ("{out}/s.npz --times 1", r"must fall"),
    "times beyond 1": ("{out}/s.npz --times 2,1,0", r"must begin at 1"),
    "times below 0": ("{out}/s.npz --times 1,-1", r"must end at 0"),
    "times that are nan": ("{out}/s.npz --times nan,0", r"must fall"),
    "times that are words": ("{out}/s.npz --times one,0", r"falling numbers like 1,\.5,0"),
    "times beside evaluations": ("{out}/s.npz --times 1,0 --nfe 1", r"--nfe and --times both say"),
    "a rate of nothing": ("{out}/s.npz --rate 0", r"--rate 0 must be above 0"),
    "a rate that is nan": ("{out}/s.npz --rate nan", r"--rate nan"),
    "a rate without end": ("{out}/s.npz --rate inf", r"--rate inf"),
    "a rate of what does not move": (
        "{out}/s.npz --rate 8",
        r"--rate 8 is for videos, and this model makes images",
    ),
    "an average of no width": ("{out}/s.npz --ema -1", r"--ema -1 must be above 0"),
    "an average of nan": ("{out}/s.npz --ema nan", r"--ema nan must be finite"),
    "labels that are none": ("{out}/s.npz --labels one", r"unknown class 'one'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_words_are_looked_at_before_anything_is_loaded(models, tmp_path, capsys, case):
    words, said = REFUSED[case]
    (tmp_path / "file").touch()
    out, *options = words.format(out=tmp_path / "new", file=tmp_path / "file").split(" ")
    assert run(["sample", str(models["unreadable"]), "--out", out, *options]) == 2
    error = capsys.readouterr().err
    assert re.search(said, error) and error.startswith("alphaflow: ") and error.count("\n") == 1
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "model, options, said",
    [
        ("plain", "--labels balanced", "--labels balanced: this model has no classes"),
        ("plain", "--labels 0,1", "this model has no classes"),
        ("model", "--labels 3,11", "unknown class '11'"),
        ("model", "--labels=-1", "unknown class '-1'"),
        ("model", "--guidance 2", "guidance 2 needs a network"),
        ("guided", "--guidance nan", "guidance nan must be finite"),
        ("guided", "--guidance inf", "guidance inf must be finite"),
        ("guided", "--guidance -1", "guidance -1 must be a number"),
    ],
)
def test_words_that_do_not_suit_the_model_are_refused(models, tmp_path, capsys, model, options, said):
    out = tmp_path / "new" / "s.npz"
    assert run(["sample", str(models[model]), "--out", str(out), *options.split()]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_is_not_mixed_with_what_is_there(models, tmp_path, capsys):
    words = ["sample", str(models["model"]), "--out", f"{tmp_path}/many"]
    assert run([*words, "--count", "6"]) == 0
    before = {one.name: one.read_bytes() for one in (tmp_path / "many").iterdir()}
    assert run([*words, "--count", "4", "--labels", "1"]) == 1
    assert "many holds 000000-class0.png: samples of two draws would mix" in capsys.readouterr().err
    assert {one.name: one.read_bytes() for one in (tmp_path / "many").iterdir()} == before
    assert run(["sample", str(models["unreadable"]), "--out", f"{tmp_path}/many"]) == 1
    assert "many holds 000000-class0.png" in capsys.readouterr().err  # before anything is loaded


@pytest.mark.parametrize("name", ["s.npz", "s.png", "many.folder/"])
def test_files_hold_what_load_gives_whatever_the_number(models, tmp_path, name):
    """And so sample i is the same whatever is asked for beside it."""
    wanted = af.load(models["model"])([k % 10 for k in range(150)], seed=4)
    for count in (1, 65, 150):
        folder = tmp_path / str(count)
        out = f"{folder}/{name}"
        assert run(["sample", str(models["model"]), "--out", out, "--count", str(count), "--seed", "4"]) == 0
        if name == "s.npz":
            assert (np.load(out)["images"] == wanted[:count]).all()
        elif name == "s.png":
            from alphaflow.generation.pictures import image_grid

            assert (np.asarray(Image.open(out)) == np.asarray(image_grid(wanted[:count], 10))).all()
        else:
            files = sorted(Path(out).iterdir())
            assert len(files) == count and files[-1].name == f"{count - 1:06d}-class{(count - 1) % 10}.png"
            assert (np.asarray(Image.open(files[-1])) == wanted[count - 1, ..., 0]).all()
        assert len(list(folder.iterdir())) == 1  # and nothing beside it


def spoil(folder: Path, value: float, out: Path) -> Path:
    """A copy of a model of which one weight of one layer has this value."""
    out.mkdir()
    for file in folder.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    weights = load_file(out / "model.safetensors")
    name = next(name for name in weights if "final_layer.linear.weight" in name)
    weights[name].view(-1)[:8] = value
    save_file(weights, out / "model.safetensors")
    return out


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(models, tmp_path, capsys, value):
    spoilt = spoil(models["model"], value, tmp_path / "spoilt")
    for words in (
        ["sample", str(spoilt), "--out", f"{tmp_path}/s.npz"],
        ["export", str(spoilt), f"{tmp_path}/out"],
    ):
        assert run(words) == 1
        error = capsys.readouterr().err
        assert re.search(
            r"spoilt holds weights that are not finite \(.*final_layer.linear.weight, step 7\)", error
        )
    assert [one.name for one in tmp_path.iterdir()] == ["spoilt"]
    with pytest.raises(UserError, match="not finite"):
        af.load(spoilt)


def test_samples_that_are_not_finite_are_refused_by_name(models, tmp_path, capsys):
    """Weights that are finite, and whose products are not."""
    spoilt = spoil(models["model"], 3e38, tmp_path / "spoilt")
    (tmp_path / "s.png").write_text("old")
    for words in (
        ["sample", str(spoilt), "--out", f"{tmp_path}/s.png"],
        ["export", str(spoilt), f"{tmp_path}/out"],
    ):
        assert run(words) == 1
        assert "spoilt makes samples that are not finite: it has diverged by step 7" in capsys.readouterr().err
    assert sorted(one.name for one in tmp_path.iterdir()) == ["s.png", "spoilt"]
    assert (tmp_path / "s.png").read_text() == "old"


@pytest.mark.parametrize("name, number, status", [("s.npz", signal.SIGTERM, 143), ("many/", signal.SIGINT, 130)])
def test_a_draw_that_is_ended_leaves_nothing(models, tmp_path, name, number, status):
    words = [sys.executable, "-m", "alphaflow", "sample", str(models["model"]), "--out", f"{tmp_path}/{name}"]
    with child([*words, "--count", "3000000"], start=forked.Popen, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3)
        assert list(tmp_path.iterdir()) and process.poll() is None
        process.send_signal(number)
        assert process.wait(timeout=60) == status
    assert not list(tmp_path.iterdir())


def test_labels_in_python_are_whole_numbers(models):
    generator = af.load(models["model"])
    for labels in ([1.7], torch.tensor([1.0, math.nan]), np.array([True])):
        with pytest.raises(UserError, match="is no class: give whole numbers"):
            generator(labels)
    assert len(generator(np.array([1, 2], np.uint8))) == 2 and len(generator([])) == 0
    assert (generator([1.0, 2.0]) == generator([1, 2])).all()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number(models, tmp_path):
    """Of the whole command: before it streamed, 100,000 digits took 110 MB more as an array and 585 as a grid."""
    code = (
        "import json, resource, sys\nfrom alphaflow.cli import run\nfound = []\n"
        "for name, count in (('a.npz', 500), ('a.png', 500), ('b.npz', 40_000), ('b.png', 40_000)):\n"
        f"    words = ['sample', {str(models['model'])!r}, '--out', {str(tmp_path)!r} + '/' + name]\n"
        "    run([*words, '--count', str(count)])\n"
        "    found.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)\n"
        "print(json.dumps(found))"
    )
    words: dict[str, Any] = {"capture_output": True, "text": True, "check": True}
    said = subprocess.run([sys.executable, "-c", code], env=os.environ, **words).stdout
    _, few, array, grid = json.loads(said.splitlines()[-1])
    assert array - few < 20 and grid - few < 30, (few, array, grid)
