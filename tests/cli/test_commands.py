"""Every command, as a user types it, on a tiny run; and every mistake we could think of, case by case."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import alphaflow as af
from alphaflow.cli import COMMANDS, run
from alphaflow.costs import bench
from alphaflow.method.compiled import Compiled
from alphaflow.models.dit import PRESETS

TINY = "--batch-size 16 --model.width 16 --model.depth 1 --model.heads 2 --model.patch 4 --log-every 1".split()


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """A run of four steps."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    assert run(["train", "digits", "--out", str(out), "--steps", "4", *TINY]) == 0
    return out


@pytest.fixture(scope="session")
def toy(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "toy"
    words = "--steps 4 --batch-size 64 --model.width 16 --model.depth 1 --data.toy gaussians".split()
    assert run(["train", "toy", "--out", str(out), *words]) == 0
    return out


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """Two classes of eight small colour images."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name, level in (("dark", 40), ("light", 200)):
        (root / name).mkdir()
        for k in range(8):
            pixels = rng.normal(level, 10, (20, 24, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{k}.{'png' if k % 2 else 'jpg'}")
    return root


def alphaflow(*words: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "alphaflow", *map(str, words)], capture_output=True, text=True)


# ---------------------------------------------------------------------------------- what works


def test_help_names_every_command_and_loads_no_torch():
    check = "import sys; from alphaflow.cli import run; run(['--help']), run(['recipes']); "
    check += "print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == "False"
    assert all(name in said for name in COMMANDS)


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as end:
        raise SystemExit(run([command, "--help"]))
    assert end.value.code == 0
    assert "usage" in capsys.readouterr().out


def test_train_help_lists_every_setting(capsys):
    from alphaflow.runs.config import dotted_names

    assert run(["train", "digits", "--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"--{name}" in said for name in dotted_names())


def test_the_run_folder_holds_what_the_contract_says(digits):
    config = (digits / "config.yaml").read_text()
    assert "settings:" in config and "torch:" in config and "git:" in config
    rows = [json.loads(line) for line in (digits / "metrics.jsonl").read_text().splitlines()]
    wanted = "step loss residual tfm tc alpha flow_ratio lr grad_norm samples_per_second".split()
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(set(wanted) <= set(row) for row in rows)
    assert (digits / "checkpoints" / "latest").is_symlink()
    assert {p.name for p in (digits / "checkpoints" / "latest").iterdir()} >= {
        "model.safetensors",
        "ema.safetensors",
    }
    assert list((digits / "samples").glob("*.png"))
    assert list((digits / "tensorboard").iterdir())


def test_sample_to_npz_png_and_folder(digits, tmp_path):
    npz = tmp_path / "deep" / "s.npz"
    words = ["--count", "12", "--labels", "balanced", "--nfe", "2", "--method", "consistency", "--seed", "3"]
    assert run(["sample", str(digits), "--out", str(npz), *words]) == 0
    data = np.load(npz)
    assert data["images"].dtype == np.uint8 and data["images"].shape == (12, 8, 8, 1)
    assert data["labels"].dtype == np.int64 and data["labels"].tolist() == [*range(10), 0, 1]
    generator = af.load(digits)
    assert (generator(data["labels"], nfe=2, seed=3, method="consistency") == data["images"]).all()

    assert run(["sample", str(digits), "--out", str(tmp_path / "s.png"), "--count", "4", "--times", "1,.5,0"]) == 0
    assert Image.open(tmp_path / "s.png").size[0] > 40
    assert run(["sample", str(digits), "--out", str(tmp_path / "many"), "--count", "3", "--labels", "1,2"]) == 0
    names = sorted(p.name for p in (tmp_path / "many").iterdir())
    assert names == ["000000-class1.png", "000001-class2.png", "000002-class1.png"]


@pytest.mark.parametrize("method", ["ode", "consistency", "heun"])
def test_sample_i_of_a_seed_does_not_depend_on_what_else_is_asked_for(digits, method):
    generator = af.load(digits)
    many = generator([k % 10 for k in range(150)], nfe=2, seed=1, method=method)
    for count in (1, 64, 65, 130):
        few = generator([k % 10 for k in range(count)], nfe=2, seed=1, method=method)
        assert (few == many[:count]).all()
    assert (generator([0] * 150, seed=2) != generator([0] * 150, seed=1)).any()


def test_random_labels_follow_the_seed(digits, tmp_path):
    for name, count, seed in (("a", 20, 0), ("b", 40, 0), ("c", 40, 1)):
        words = ["--count", str(count), "--labels", "random", "--seed", str(seed)]
        assert run(["sample", str(digits), "--out", str(tmp_path / f"{name}.npz"), *words]) == 0
    a, b, c = (np.load(tmp_path / f"{name}.npz")["labels"] for name in "abc")
    assert (a == b[:20]).all() and (b != c).any() and set(b) <= set(range(10))


def test_a_hybrid_grid_of_methods(digits, tmp_path):
    words = ["--times", "1,.8,.6,0", "--method", "heun,euler,ode", "--count", "4"]
    assert run(["sample", str(digits), "--out", str(tmp_path / "s.npz"), *words]) == 0


def test_evaluate_prints_a_table_and_writes_json(digits, tmp_path, capsys):
    out = tmp_path / "e.json"
    assert run(["evaluate", str(digits), "--nfe", "1", "2", "--count", "64", "--json", str(out)]) == 0
    said = capsys.readouterr().out
    record = json.loads(out.read_text())
    assert [r["nfe"] for r in record["results"]] == [1, 2]
    assert set(record["halves"]) == {"frechet", "accuracy", "precision", "recall", "neighbour", "copies"}
    for result in record["results"]:
        assert result["count"] == 64 and result["labels"] == "from the data" and result["weights"] == "ema"
        assert f"{result['figures']['frechet']:.4g}" in said
        assert result["figures"]["frechet"] > 5 * record["halves"]["frechet"]  # four steps of training
    assert record["halves"]["accuracy"] > 0.99
    assert record["halves"]["copies"] == pytest.approx(0.01, abs=0.002)  # by its definition, of real data
    assert json.loads((digits / "evaluation.json").read_text()) == record


def test_evaluate_chosen_metrics_on_a_time_grid(digits, tmp_path):
    out = tmp_path / "e.json"
    words = ["--metrics", "neighbours", "--count", "20", "--times", "1,.7,.4,0", "--json", str(out)]
    assert run(["evaluate", str(digits), *words]) == 0
    (result,) = json.loads(out.read_text())["results"]
    assert result["nfe"] == 3 and set(result["figures"]) == {"neighbour", "copies"}


def test_toy_points_are_sampled_and_scored(toy, tmp_path, capsys):
    assert run(["sample", str(toy), "--out", str(tmp_path / "p.npz"), "--count", "100"]) == 0
    assert np.load(tmp_path / "p.npz")["points"].shape == (100, 2)
    assert run(["sample", str(toy), "--out", str(tmp_path / "p.png"), "--count", "100"]) == 0
    assert run(["evaluate", str(toy), "--nfe", "1", "--count", "500"]) == 0
    assert "energy" in capsys.readouterr().out


def test_a_folder_of_images_end_to_end(folder, tmp_path, capsys):
    out = tmp_path / "run"
    words = f"--data.path {folder} --data.size 16 --steps 3".split()
    assert run(["train", "folder", "--out", str(out), *words, *TINY]) == 0
    assert run(["sample", str(out), "--out", str(tmp_path / "s.npz"), "--count", "4"]) == 0
    assert np.load(tmp_path / "s.npz")["images"].shape == (4, 16, 16, 3)
    assert run(["evaluate", str(out), "--nfe", "1", "--count", "16"]) == 0
    assert "sliced_wasserstein" in capsys.readouterr().out


def test_an_archive_with_every_setting_of_images_end_to_end(folder, tmp_path, monkeypatch, capsys):
    """Labels from a CSV, the other crop, decoded into the cache; training goes on from there."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # as torchrun says that others of this machine want them, too
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", folder)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*g"))
    (tmp_path / "labels.csv").write_text("".join(f"{name},{k % 3}\n" for k, name in enumerate(names)))
    out = tmp_path / "run"
    words = f"--data.path {packed} --data.labels {tmp_path}/labels.csv --data.crop box".split()
    assert run(["train", "folder", "--out", str(out), "--data.size", "16", "--steps", "3", *words, *TINY]) == 0
    data = yaml.safe_load((out / "config.yaml").read_text())["data"]
    assert data["class_names"] == ["0", "1", "2"] and data["count"] == len(names)
    assert not (out / "skipped.txt").exists()
    assert run(["train", "--resume", str(out), "--steps", "4"]) == 0
    (tmp_path / "labels.csv").write_text("".join(f"{name},{k % 2}\n" for k, name in enumerate(names)))
    assert run(["train", "--resume", str(out), "--steps", "5"]) == 1
    assert "the data has changed" in capsys.readouterr().err


def test_a_broken_image_is_named_and_skipped(folder, tmp_path, capsys):
    (folder / "dark" / "broken.png").write_bytes(b"not an image")
    words = f"--data.path {folder} --data.size 16 --steps 1".split()
    try:
        assert run(["train", "folder", "--out", str(tmp_path / "run"), *words, *TINY]) == 0
        assert "broken.png" in capsys.readouterr().err
        skipped = (tmp_path / "run" / "skipped.txt").read_text()
        assert skipped == f"{folder}/dark/broken.png: not a PNG, JPEG or WebP image\n"
        assert (
            run(["train", "folder", "--out", str(tmp_path / "no"), *words, *TINY, "--data.tolerance", "0.01"]) == 1
        )
        assert not (tmp_path / "no").exists()
    finally:
        (folder / "dark" / "broken.png").unlink()


def test_bench_gives_ratios_to_flow_matching(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(PRESETS, "S", (1, 64, 2))
    out = tmp_path / "b.json"
    words = "--model S/16 --batch 2 --rounds 1 --shares 50 --precision bfloat16".split()
    assert run(["bench", *words, "--ways", "fused", "reverse", "--json", str(out)]) == 0
    record = json.loads(out.read_text())
    names = [row["name"] for row in record["steps"]]
    assert names == ["flow matching", "alpha 50%", "meanflow 50% fused", "meanflow 50% reverse"]
    assert record["machine"]["cores"] >= 1 and record["out_of_memory"] == []
    assert record["steps"][0]["ratio"] == record["steps"][0]["peak_ratio"] == 1
    assert all(row["peak_ratio"] > 0.5 for row in record["steps"])
    assert record["gemm_flops_per_second"] > 1e8 and record["peak_bytes_flow_matching"] > 1e6
    assert "% of the rate of plain matrix products" in capsys.readouterr().out


class Quick(Compiled):
    """Compiled, but by a backend that takes seconds, not minutes."""

    def __init__(self, objective) -> None:
        super().__init__(objective, backend="aot_eager")


def test_bench_times_compiled_steps_beside_the_eager_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "Compiled", Quick)
    monkeypatch.setitem(PRESETS, "S", (1, 64, 2))
    out = tmp_path / "b.json"
    words = "--model S/16 --batch 2 --rounds 1 --shares 50 --ways fused reverse --compile".split()
    assert run(["bench", *words, "--json", str(out)]) == 0
    names = [row["name"] for row in json.loads(out.read_text())["steps"]]
    eager = ["flow matching", "alpha 50%", "meanflow 50% fused", "meanflow 50% reverse"]
    assert names == [*eager, *(f"{name} compiled" for name in eager[:3])]


def test_resume_continues_and_lengthens(tmp_path):
    out = str(tmp_path / "run")
    assert run(["train", "digits", "--out", out, "--steps", "6", "--stop-after", "2", *TINY]) == 0
    assert run(["train", "--resume", out]) == 0
    assert run(["train", "--resume", out, "--steps", "8", "--device", "cpu"]) == 0
    rows = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows == list(range(1, 9))


@pytest.mark.parametrize(
    "words",
    [
        "--objective.alpha linear(0%,100%)",
        "--objective.alpha exponential(0,4) --objective.flow-ratio linear(0%,100%,first=0.75,last=0.25)",
        "--objective.alpha logarithmic(0,4) --objective.coupling scaled --objective.r-law uniform",
        "--objective.alpha step(50%) --objective.coupling minimum --objective.t-law beta(2,1)",
        "--objective.alpha 0.5 --objective.coupling truncated --objective.t-law arctan(0,1) --objective.clip 4",
        "--objective.alpha 0.5 --objective.coupling dyadic --objective.shift model --objective.weight power",
        "--objective.name meanflow --objective.derivative reverse --objective.flow-law uniform",
        "--objective.name meanflow --objective.derivative difference --objective.weight scaled",
        "--objective.omega 2 --objective.kappa 0.5 --objective.guide-to 0.8 --objective.label-drop 0.1",
        "--model.guided --objective.scales 1 4 --objective.label-drop 0.1",
        "--objective.weight adaptive --objective.weight-power 0.5 --objective.weight-c 0.01 --precision bfloat16",
        "--model.predicts data --objective.name discrete-consistency --accumulate 2",
        "--parallel.strategy fsdp --optimizer.decay linear(60%,100%) --data.flip --ema.ramp 0.1",
    ],
)
def test_settings_from_the_command_line(words, tmp_path):
    assert run(["train", "digits", "--out", str(tmp_path / "r"), "--steps", "2", *TINY, *words.split()]) == 0


# ---------------------------------------------------------------------------------- what is refused

TRAIN = "train digits --out {out} --steps 2"
TOLD = TRAIN + " --model.guided"
REFUSED = {
    "an unknown command": (2, "trian digits --out {out}", "did you mean 'train'"),
    "an unknown recipe": (2, "train digts --out {out}", "did you mean 'digits'"),
    "no recipe": (2, "train --out {out}", "no recipe given"),
    "no folder": (2, "train digits", "add --out DIR"),
    "an unknown setting": (2, TRAIN + " --objective.flw-ratio 0.5", "did you mean '--objective.flow-ratio'"),
    "a word for a number": (2, TRAIN + " --batch-size many", "many"),
    "a choice that is none": (2, TRAIN + " --precision float16", "float16"),
    "no steps": (2, TRAIN + " --batch-size 0", "alphaflow: batch_size 0 must be at least 1"),
    "no checkpoint to keep": (2, TRAIN + " --keep-checkpoints 0", "keep_checkpoints 0 must be at least 1"),
    "averages stored backwards": (
        2,
        TRAIN + " --ema.store-every -3",
        "alphaflow: ema.store_every -3 must be at least 0",
    ),
    "no patience": (2, TRAIN + " --parallel.timeout 0", "parallel.timeout 0 must be above 0 minutes"),
    "a batch that does not divide": (2, TRAIN + " --batch-size 10 --accumulate 3", "equal parts"),
    "an unknown member": (2, TRAIN + " --objective.name meanfow", "did you mean 'meanflow'"),
    "a ratio out of range": (2, TRAIN + " --objective.flow-ratio 1.5", "flow_ratio 1.5 lies outside [0, 1]"),
    "an alpha out of range": (2, TRAIN + " --objective.alpha 2", "alpha 2 lies outside [0, 1]"),
    "an unknown schedule": (2, TRAIN + " --objective.alpha sigmod(0,1)", "did you mean 'sigmoid'"),
    "a schedule's bad number": (2, TRAIN + " --objective.alpha linear(0,x)", "'x' is not a number"),
    "a schedule that rises": (2, TRAIN + " --objective.alpha linear(9,3)", "end 3 lies before start 9"),
    "an unknown law": (2, TRAIN + " --objective.t-law logitnormal", "did you mean 'logit-normal'"),
    "an unknown derivative": (2, TRAIN + " --objective.derivative forwards", "did you mean 'forward'"),
    "a patch that does not fit": (2, TRAIN + " --model.patch 3", "patch"),
    "a network that does not fit": (2, TRAIN + " --model.name mlp", "does not fit samples of shape"),
    "a U-Net too deep": (2, TRAIN + " --model.name unet --model.depth 5", "smaller model.depth"),
    "guidance that diverges": (2, TRAIN + " --objective.kappa 1.5", "kappa 1.5 must be below 1"),
    "scales for a network that is deaf": (2, TRAIN + " --objective.scales 1 4", "add --model.guided"),
    "a network told nothing": (2, TRAIN + " --model.guided", "model.guided needs objective.scales"),
    "one scale": (2, TOLD + " --objective.scales 4", "objective.scales 4: give 1"),
    "scales above 1": (2, TOLD + " --objective.scales 2 4", "objective.scales 2 4: give 1"),
    "scales that fall": (2, TOLD + " --objective.scales 1 0.5 --objective.label-drop 0.1", "must rise from 1"),
    "scales without drops": (2, TOLD + " --objective.scales 1 4", "add --objective.label-drop 0.1"),
    "intervals without scales": (2, TRAIN + " --objective.intervals", "objective.intervals goes with"),
    "guidance without classes": (2, "train toy --out {out} --model.guided", "data that have classes"),
    "an interval for a deaf network": (2, "sample {run} --out {out}.npz --guide-to 0.9", "needs a network"),
    "a scale for a file": (2, "export {run} {out} --guidance 2", "leave --guidance out"),
    "a scale for a deaf graph": (2, "export {run} {out} --format program --guidance 2", "takes none as an input"),
    "an unknown toy": (2, "train toy --out {out} --data.toy spiral", "did you mean 'spirals'"),
    "no data path": (2, "train folder --out {out}", "add --data.path DIR"),
    "a data path that is none": (1, "train folder --out {out} --data.path {none}", "none"),
    "an unwritable folder": (1, "train digits --steps 1 --out /dev/null/run", "/dev/null/run"),
    "a resumed run that is none": (1, "train --resume {none}", "is not a run"),
    "settings on resume": (2, "train --resume {run} --batch-size 3", "--batch-size"),
    "a folder in use": (1, "train digits --out {run}", "already holds a run"),
    "a device that is absent": (1, TRAIN + " --device cuda", "no GPU"),
    "sampling from no run": (1, "sample {none} --out {out}.npz", "is not a run"),
    "an ending we cannot write": (2, "sample {run} --out {out}.jpeg", ".npz or .png"),
    "no samples": (2, "sample {run} --out {out}.npz --count 0", "--count 0 must be at least 1"),
    "no evaluations": (2, "sample {run} --out {out}.npz --nfe 0", "--nfe 0"),
    "labels out of range": (2, "sample {run} --out {out}.npz --labels 3,11", "unknown class '11'"),
    "labels that are none": (2, "sample {run} --out {out}.npz --labels one", "balanced, random"),
    "times that rise": (2, "sample {run} --out {out}.npz --times 0,1", "must fall"),
    "times that are none": (2, "sample {run} --out {out}.npz --times 1,half,0", "falling numbers"),
    "an unknown sampler": (2, "sample {run} --out {out}.npz --method odes", "did you mean 'ode'"),
    "too many samplers": (2, "sample {run} --out {out}.npz --method ode,heun,ode", "3 methods for 1 intervals"),
    "an unwritable file": (1, "sample {run} --out /dev/null/s.npz", "/dev/null/s.npz"),
    "an unknown metric": (2, "evaluate {run} --metrics fid", "unknown metric 'fid'"),
    "too few samples": (2, "evaluate {run} --count 3", "too few"),
    "a metric that does not apply": (2, "evaluate {toy} --metrics frechet", "needs a detector"),
    "no rounds": (2, "bench --rounds 0", "--rounds 0"),
    "a share that is none": (2, "bench --shares 150", "--shares 150 must be at most 100"),
    "a way that is none": (2, "bench --ways fusd", "did you mean 'fused'"),
    "a preset that is none": (2, "bench --model Q/2 --rounds 1", "unknown DiT size"),
    "a missing option": (2, "sample {run}", "--out"),
    "reporting on no run": (1, "report {none}", "is not a run"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_is_one_clear_line_with_the_right_status_and_nothing_written(
    case, digits, toy, tmp_path, capsys
):
    status, words, message = REFUSED[case]
    places = {"out": tmp_path / "out", "none": tmp_path / "none", "run": digits, "toy": toy}
    before = sorted(digits.rglob("*"))
    assert run(words.format(**places).split()) == status
    said = capsys.readouterr()
    last = said.err.strip().splitlines()[-1]
    assert last.startswith("alphaflow: ") and message in last, last
    assert "Traceback" not in said.err
    assert not list(tmp_path.iterdir()) and sorted(digits.rglob("*")) == before


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_wrong_value_is_one_line_whatever_signs_the_terminal_has(encoding, tmp_path):
    words = ["train", "digits", "--out", str(tmp_path / "run"), "--batch-size", "0"]
    env = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-m", "alphaflow", *words], env=env, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == "alphaflow: batch_size 0 must be at least 1\n"


def test_a_typed_mistake_in_a_config_file_is_found(digits, tmp_path, capsys):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(digits, copy, symlinks=True)
    text = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(text.replace("flow_ratio:", "flow_ratoi:"))
    assert run(["train", "--resume", str(copy)]) == 1
    assert "did you mean 'flow_ratio'" in capsys.readouterr().err
    (copy / "config.yaml").write_text(text.replace("batch_size: 16", "batch_size: sixteen"))
    assert run(["train", "--resume", str(copy)]) == 1
    assert "batch_size is 'sixteen': it must be of type int" in capsys.readouterr().err


@pytest.mark.slow
def test_the_installed_command_and_debug(tmp_path):
    wrong = alphaflow("sample", tmp_path / "none", "--out", tmp_path / "x.npz")
    assert wrong.returncode == 1 and len(wrong.stderr.strip().splitlines()) == 1
    assert "Traceback" in alphaflow("sample", tmp_path / "none", "--out", tmp_path / "x.npz", "--debug").stderr
    assert alphaflow("--version").stdout.strip() == af.__version__
