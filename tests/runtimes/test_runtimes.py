"""Other runtimes draw what torch draws; which one and how precisely is said by whatever they made."""

import importlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import alphaflow as af
from alphaflow import UserError
from alphaflow.cli import run
from alphaflow.data.vocabulary import Vocabulary
from alphaflow.evaluation.comparison import compare
from alphaflow.files import cache_folder
from alphaflow.runtimes import EVERY_PRECISION, PRECISIONS, cached, check_runtime, running
from alphaflow.runtimes.running import InRuntime, choose_runtime, in_runtime, run_in
from browsing import small_model

OTHERS = ("onnx", "openvino")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _shared_cache(_own_cache: None, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache is this module's, so that its one network is written as ONNX once."""
    monkeypatch.setenv("ALPHAFLOW_CACHE", str(cache))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("models") / "model", guides=(0.0, 1.0))


@pytest.fixture(scope="module")
def generator(place: Path) -> Any:
    return af.load(place)


@pytest.fixture(scope="module")
def opened(generator: Any, cache: Path) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALPHAFLOW_CACHE", str(cache))
        return {f"{name} {precision}": in_runtime(generator, name, precision) for name, precision in WAYS}


WAYS = [
    (name, precision)
    for name, known in PRECISIONS.items()
    for precision in known
    if (name, precision) != ("openvino", "bfloat16")  # not every processor has it
]
SAMPLERS = {
    "one step": {},
    "consistency in four": {"nfe": 4, "method": "consistency"},
    "heun": {"nfe": 2, "method": "heun"},
    "guided": {"guidance": 1.5},
}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", OTHERS)
def test_samples_in_float32_are_those_of_torch_to_rounding(generator, opened, name, sampler):
    labels = torch.arange(70) % generator.num_classes  # a whole block and a part of one
    ours = generator.samples(labels, seed=3, **SAMPLERS[sampler])
    theirs = opened[f"{name} float32"].samples(labels, seed=3, **SAMPLERS[sampler])
    assert not torch.equal(theirs, torch.zeros_like(theirs))
    near = (
        2e-3 if sampler == "heun" else 1e-4
    )  # this network predicts data: its velocity at t = 0 divides by little
    torch.testing.assert_close(theirs, ours, rtol=near, atol=near)


@pytest.mark.parametrize("name", ["torch bfloat16", "onnx int8", "openvino int8"])
def test_reduced_precision_is_near_and_another(generator, opened, name):
    """So near as eight bits are, and not in truth the float32 network under another name."""
    ours, theirs = (one.samples([0, 1, 2] * 10) for one in (generator, opened[name]))
    error = ((theirs - ours).norm() / ours.norm()).item()
    assert 1e-4 < error < 0.05


def test_each_says_what_it_is_and_keeps_the_weights(generator, opened):
    assert {one.runtime for one in opened.values()} == set(opened)
    assert run_in(generator, None, None) is generator and generator.runtime == ""
    for one in opened.values():
        assert sum(w.numel() for w in one.net.parameters()) == sum(w.numel() for w in generator.net.parameters())


def test_openvino_is_told_not_to_use_bfloat16(monkeypatch, generator, opened):
    """It would, unasked, wherever the processor can."""
    import openvino

    asked = []
    compile_model = openvino.Core.compile_model

    def watched(self, model, device, settings):
        compiled = compile_model(self, model, device, settings)
        asked.append((settings, compiled.get_property("INFERENCE_PRECISION_HINT")))
        return compiled

    monkeypatch.setattr(openvino.Core, "compile_model", watched)
    in_runtime(generator, "openvino", "float32")
    (settings, used), *_ = asked
    assert settings["INFERENCE_PRECISION_HINT"] == "f32" and used == openvino.Type.f32
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        in_runtime(generator, "openvino", "bfloat16")
        assert asked[-1][1] == openvino.Type.bf16
    else:
        with pytest.raises(UserError, match=r"no products in bfloat16 for OpenVINO"):
            in_runtime(generator, "openvino", "bfloat16")


def test_the_network_is_written_once(monkeypatch, generator, opened):
    def refuse(*args, **kwargs):
        raise AssertionError("written again")

    monkeypatch.setattr(cached, "write_onnx", refuse)
    monkeypatch.setattr(cached, "quantise", refuse)
    assert cached.is_cached(generator.net) and cached.is_cached(generator.net, int8=True)
    for name, precision in WAYS:
        in_runtime(generator, name, precision)


def test_a_file_that_no_longer_computes_the_same_is_written_again(monkeypatch, generator, opened):
    form = {"shape": generator.shape, "num_classes": generator.num_classes}
    path = cached.exported(generator.net, **form)
    whole, other, written = path.read_bytes(), path.with_name("int8.onnx").read_bytes(), []

    def write(net: nn.Module, place: Path, **_: Any) -> None:  # what the exporter has written before
        written.append(place)
        place.write_bytes(whole)

    monkeypatch.setattr(cached, "write_onnx", write)
    for content in (other, whole[: len(whole) // 2]):  # what computes something else, and what cannot be read
        path.write_bytes(content)
        assert cached.exported(generator.net, **form) == path
        assert path.read_bytes() == whole
    assert len(written) == 2


def test_the_cache_does_not_grow_without_end(cache, generator, opened):
    folder = cache_folder("onnx")
    for k in range(cached.KEPT + 2):
        (folder / f"older-{k}").mkdir()
        os.utime(folder / f"older-{k}", (1000 + k, 1000 + k))
    path = cached.exported(generator.net, shape=generator.shape, num_classes=generator.num_classes)
    kept = {one.name for one in folder.iterdir() if one.is_dir()}
    assert kept == {path.parent.name, *(f"older-{k}" for k in range(3, cached.KEPT + 2))}


def test_auto_takes_the_quickest_and_says_so(monkeypatch, generator, opened, caplog):
    """Whatever the clock says; here it says that each name takes as long as it has letters."""
    monkeypatch.setattr(running, "_measured", lambda opened, rows, rounds=3: {one: len(one) for one in opened})
    with caplog.at_level("INFO", "alphaflow"):
        assert choose_runtime(generator, "auto") == "onnx"
    assert "onnx is the quickest here at 64 rows in float32: torch" in caplog.text
    assert choose_runtime(generator, "auto", "int8") == "onnx"
    assert choose_runtime(generator, "torch") == "torch"


def test_auto_measures_on_this_machine(generator, opened):
    assert choose_runtime(generator, "auto", rows=2) in PRECISIONS
    seconds = running._measured(opened, 4)
    assert set(seconds) == set(opened) and all(0 < value < 60 for value in seconds.values())


def test_auto_writes_nothing_for_what_torch_does_at_once(monkeypatch, tmp_path, generator):
    monkeypatch.setenv("ALPHAFLOW_CACHE", str(tmp_path))
    assert choose_runtime(generator, "auto", calls=1) == "torch"
    assert not list(tmp_path.rglob("*.onnx"))


def test_auto_falls_back_to_torch(monkeypatch, generator, opened, caplog):
    for name in ("onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, name, None)
    assert choose_runtime(generator, "auto") == "torch"
    with pytest.raises(UserError, match=r"pip install 'alphaflow\[onnx\]'"):
        choose_runtime(generator, "auto", "int8")
    for name in OTHERS:
        with pytest.raises(UserError, match=rf"--runtime {name} is not installed.*pip install 'alphaflow\[onnx"):
            in_runtime(generator, name)


class Branching(nn.Module):
    """What no exporter follows."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, z, r, t, y=None):
        return self.net(z, r, t, y) if t.max() > 2 else 2 * self.net(z, r, t, y)


def test_a_network_that_cannot_be_written_stays_in_torch(generator, caplog):
    odd = replace(generator, net=Branching(generator.net))
    assert choose_runtime(odd, "auto") == "torch"
    assert "onnx is left out: torch.export cannot follow Branching" in caplog.text
    with pytest.raises(UserError, match=r"cannot follow Branching"):
        in_runtime(odd, "onnx")


def test_a_network_that_takes_guidance_stays_in_torch(generator):
    told = replace(generator, scales=(1.0, 4.0))
    assert choose_runtime(told, "auto") == "torch"
    with pytest.raises(UserError, match=r"takes guidance as an input.*--runtime torch"):
        in_runtime(told, "onnx")
    with pytest.raises(UserError, match=r"--precision int8: no runtime has it .* takes guidance"):
        choose_runtime(told, "auto", "int8")


@pytest.fixture(scope="module")
def worded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    words = Vocabulary(("a", "blue", "circle", "red"), 9, ("a red circle", "a blue circle"))
    return af.load(small_model(tmp_path_factory.mktemp("models") / "worded", words=words))


@pytest.mark.parametrize("runtime", OTHERS)
def test_prompts_reach_a_network_in_any_runtime(worded, runtime):
    other = in_runtime(worded, runtime)
    prompts = ["a blue circle", "red", "", "größe"]
    expected = worded.samples(prompts=prompts, nfe=2)
    torch.testing.assert_close(other.samples(prompts=prompts, nfe=2), expected, atol=1e-4, rtol=0)
    assert not torch.equal(expected[0], worded.samples(prompts=["red"], nfe=2)[0])
    z, t = torch.randn(2, 1, 8, 8), torch.ones(2)
    torch.testing.assert_close(other.net(z, 0 * t, t), worded.net(z, 0 * t, t), atol=1e-4, rtol=0)


def test_words_beside_classes_in_eight_bits(worded):
    quantised = in_runtime(worded, "onnx", "int8").samples(prompts=["a red circle"], nfe=1)
    exact = worded.samples(prompts=["a red circle"], nfe=1)
    assert 0 < (quantised - exact).norm() / exact.norm() < 0.1


def test_a_signal_after_openvino_is_handled(place, cache, tmp_path):
    """What OpenVINO leaves for signals must outlive its models: else Ctrl-C ends in a crash and not in words."""
    program = tmp_path / "program.py"
    program.write_text(
        "import gc, os, signal, sys, threading\n"
        "import alphaflow as af\n"
        "from alphaflow.runtimes.running import in_runtime\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin without\n"
        "generator = af.load(sys.argv[1])\n"
        "held = [in_runtime(generator, 'openvino', one) for one in ('float32', 'int8')]\n"
        "gone = threading.Thread(target=held.pop)\n"
        "held.pop(0), gone.start(), gone.join(), gc.collect()\n"
        "try:\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "except KeyboardInterrupt:\n"
        "    print('heard')\n"
    )
    environment = {**os.environ, "ALPHAFLOW_CACHE": str(cache)}
    answer = subprocess.run(
        [sys.executable, str(program), str(place)], env=environment, capture_output=True, text=True, check=False
    )
    assert (answer.returncode, answer.stdout) == (0, "heard\n"), answer.stderr


WRONG = {
    ("onyx", "float32", "cpu"): r"unknown runtime 'onyx': did you mean 'onnx'",
    ("auto", "int4", "cpu"): r"unknown precision 'int4': did you mean 'int8'",
    ("torch", "int8", "cpu"): r"--precision int8: torch does not compute in it: choose --runtime onnx, openvino",
    ("onnx", "bfloat16", "cpu"): r"--precision bfloat16: onnx does not .* choose --runtime torch, openvino",
    ("onnx", "float32", "cuda"): r"--runtime onnx computes on the processor: leave out --device cuda",
    ("auto", "int8", "cuda:1"): r"--precision int8 computes on the processor: leave out --device cuda:1",
}


@pytest.mark.parametrize("words", WRONG)
def test_words_that_do_not_go_together_are_refused(words):
    with pytest.raises(UserError, match=WRONG[words]) as error:
        check_runtime(*words)
    assert error.value.status == 2


def test_no_precision_is_of_no_runtime():
    assert set(EVERY_PRECISION) == {one for known in PRECISIONS.values() for one in known}


def test_sample_says_what_drew_in_every_file(place, opened, tmp_path, capsys, caplog):
    words = ["sample", str(place), "--count", "5"]
    for number, asked in enumerate((["--runtime", "onnx"], ["--precision", "int8", "--runtime", "onnx"])):
        said = ("onnx float32", "onnx int8")[number]
        file, grid, folder = tmp_path / f"{number}.npz", tmp_path / f"{number}.png", tmp_path / f"{number}"
        for out in (file, grid, f"{folder}/"):
            assert run([*words, "--out", str(out), *asked]) == 0
        assert f"drawn by {said}" in caplog.text
        with np.load(file) as arrays:
            assert sorted(arrays) == ["arr_0", "images", "labels", "runtime"] and str(arrays["runtime"]) == said
        assert Image.open(grid).text == {"Runtime": said}
        assert all(Image.open(one).text == {"Runtime": said} for one in folder.iterdir())
    assert run([*words, "--out", str(tmp_path / "plain.npz")]) == 0
    with np.load(tmp_path / "plain.npz") as plain, np.load(tmp_path / "0.npz") as other:
        assert sorted(plain) == ["arr_0", "images", "labels"]  # torch, as ever: nothing was chosen
        assert np.abs(plain["images"].astype(int) - other["images"]).max() <= 1


def test_words_of_sample_are_refused_before_the_model_is_loaded(tmp_path):
    (tmp_path / "model").mkdir()
    for words in (["--runtime", "odd"], ["--runtime", "torch", "--precision", "int8"]):
        assert run(["sample", str(tmp_path / "model"), "--out", str(tmp_path / "s.npz"), *words]) == 2


def test_the_demo_says_what_computes(place, opened):
    from alphaflow.demo.service import Service, open_model

    service = Service([open_model(place, runtime="onnx"), open_model(place)])
    try:
        drawn = [service.compute(service.bounds.read({"model": k, "count": 3})) for k in (0, 1)]
    finally:
        service.close()
    assert [one.runtime for one in drawn] == ["onnx float32", "torch"]


def test_inputs_are_completed_as_the_network_would(generator, opened):
    net = opened["onnx float32"].net
    assert isinstance(net, InRuntime)
    z, r, t = torch.randn(3, *generator.shape), torch.zeros(3), torch.ones(3)
    with torch.no_grad():
        torch.testing.assert_close(net(z, r, t), generator.net(z, r, t), rtol=1e-4, atol=1e-4)
        turned = net(z.mT.double(), r.double(), t.double())
        torch.testing.assert_close(turned.float(), generator.net(z.mT, r, t), rtol=1e-4, atol=1e-4)
    assert turned.dtype == torch.float64


def test_evaluate_says_what_drew(tmp_path, capsys):
    """Each precision is scored and kept for itself, and two of them can be compared."""
    trained = tmp_path / "digits"
    small = "--steps 3 --batch-size 16 --model.width 16 --model.depth 1 --model.heads 2"
    assert run(["train", "digits", "--out", str(trained), *small.split()]) == 0
    words = ["evaluate", str(trained), "--nfe", "1", "--metrics", "frechet", "--count", "128", "--json"]
    assert run([*words, str(tmp_path / "a.json")]) == 0
    capsys.readouterr()
    assert run([*words, str(tmp_path / "b.json"), "--runtime", "torch", "--precision", "bfloat16"]) == 0
    assert "1 NFE, ode, torch bfloat16" in capsys.readouterr().out
    plain, half = (json.loads((tmp_path / f"{name}.json").read_text()) for name in "ab")
    assert [one["results"][0]["runtime"] for one in (plain, half)] == ["", "torch bfloat16"]
    (row,) = compare(plain, half)
    assert row.a != row.b and abs(row.a - row.b) < 0.05 * row.a
    assert run([*words, str(tmp_path / "c.json"), "--from-folder", str(tmp_path), "--precision", "int8"]) == 2


def test_the_benchmark_measures_every_way_that_there_is(generator, monkeypatch):
    folder = Path(__file__).parents[2] / "benchmarks"
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "sampling_runtimes", raising=False)
    found = importlib.import_module("sampling_runtimes").measure(generator, rows=2, rounds=1)
    assert {"torch float32", "onnx int8", "openvino float32"} <= set(found)
    assert found["torch float32"]["ratio"] == 1 and found["torch float32"]["error"] == 0
    assert 0 < found["openvino float32"]["error"] < 1e-4 < found["onnx int8"]["error"] < 0.2
