"""ONNX files compute what the network does, for every network we have and any batch."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from alphaflow import UserError, load, models
from alphaflow.cli import run
from alphaflow.export.network_to_onnx import load_runtime, open_onnx, write_onnx
from alphaflow.export.network_to_program import example_inputs, export_program, write_program
from alphaflow.export.quantised import relative_error, write_int8
from alphaflow.runtimes.openvino import open_openvino
from browsing import small_model

IMAGE, CLASSES = (1, 8, 8), 5
NETWORKS = {
    "dit": (lambda: models.DiT(8, 2, 1, 16, 2, 2, CLASSES), IMAGE, CLASSES),
    "mlp": (lambda: models.MLP(3, 16, 2), (3,), 0),
    "unet": (lambda: models.UNet(1, width=8, multipliers=(1, 2), num_classes=CLASSES), IMAGE, CLASSES),
    "video-dit": (lambda: models.VideoDiT(4, 2, 2, 1, 16, 2, 2, 0, attention="factorised"), (1, 2, 4, 4), 0),
    "data prediction": (lambda: models.DataPrediction(models.DiT(8, 4, 1, 16, 1, 2, CLASSES)), IMAGE, CLASSES),
}


def make(kind: str) -> tuple[nn.Module, tuple[int, ...], int]:
    """A network whose last layers are not zero."""
    build, shape, classes = NETWORKS[kind]
    torch.manual_seed(0)
    net = build()
    for weight in net.parameters():
        nn.init.normal_(weight, std=0.1)
    return net, shape, classes


@pytest.mark.parametrize("kind", NETWORKS)
def test_onnxruntime_computes_what_torch_does_for_any_batch(kind, tmp_path):
    net, shape, classes = make(kind)
    net.train()
    difference = write_onnx(net, tmp_path / "net.onnx", shape=shape, num_classes=classes)
    assert net.training  # as it was
    assert difference <= 1e-4
    session = load_runtime().InferenceSession(tmp_path / "net.onnx")
    assert [one.name for one in session.get_inputs()] == ["z", "r", "t", *(["y"] if classes else [])]
    assert session.get_inputs()[0].shape == ["batch", *shape] == session.get_outputs()[0].shape
    source = torch.Generator().manual_seed(1)
    for rows in (1, 2, 9):
        r, t = torch.rand(2, rows, generator=source).sort(dim=0).values
        inputs = {"z": torch.randn(rows, *shape, generator=source), "r": r, "t": t}
        if classes:
            inputs["y"] = torch.randint(classes + 1, (rows,), generator=source)
        with torch.no_grad():
            ours = net.eval()(**inputs)
        theirs = torch.from_numpy(session.run(None, {key: one.numpy() for key, one in inputs.items()})[0])
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["dit", "mlp"])
def test_a_program_is_read_back_without_the_network(kind, tmp_path):
    net, shape, classes = make(kind)
    assert write_program(net, tmp_path / "net.pt2", shape=shape, num_classes=classes) == 0
    loaded = torch.export.load(tmp_path / "net.pt2").module()
    z, r, t = torch.randn(6, *shape), torch.zeros(6), torch.linspace(0, 1, 6)
    y = (torch.arange(6),) if classes else ()
    assert torch.equal(loaded(z, r, t, *y), net.eval()(z, r, t, *y))


def test_large_weights_lie_beside_the_file(tmp_path, monkeypatch):
    """Protobuf ends at 2 GiB; here that is brought down to nothing."""
    from alphaflow.export import network_to_onnx

    monkeypatch.setattr(network_to_onnx, "ONE_FILE", 0)
    net, shape, classes = make("dit")
    assert write_onnx(net, tmp_path / "net.onnx", shape=shape, num_classes=classes) <= 1e-4
    weights = sum(one.numel() * one.element_size() for one in net.parameters())
    assert (tmp_path / "net.onnx.data").stat().st_size > weights / 2


def test_a_network_that_branches_on_values_is_refused(tmp_path):
    class Branching(nn.Module):
        def forward(self, z, r, t):
            return z if t.max() > 0.5 else 2 * z

    with pytest.raises(UserError, match=r"cannot follow Branching .* branches on values"):
        export_program(Branching(), shape=(2,), num_classes=0)


def test_weights_that_are_not_finite_are_not_passed_on(tmp_path):
    net, shape, classes = make("mlp")
    nn.init.constant_(net.out_layer.bias, float("nan"))
    with pytest.raises(UserError, match=r"net\.onnx differs from the network by nan .* don't use it"):
        write_onnx(net, tmp_path / "net.onnx", shape=shape, num_classes=classes)


def test_a_place_that_does_not_exist_is_named(tmp_path):
    net, shape, classes = make("mlp")
    for write in (write_onnx, write_program):
        with pytest.raises(UserError, match=r"cannot write .*none/net.* choose another place"):
            write(net, tmp_path / "none" / "net", shape=shape, num_classes=classes)


def test_onnxruntime_reports_to_nobody(tmp_path):
    """Where it means to report, it keeps an identifier of the machine under the home folder (seen with 1.31)."""
    net, shape, classes = make("mlp")
    write_onnx(net, tmp_path / "net.onnx", shape=shape, num_classes=classes)
    home = tmp_path / "home"
    home.mkdir()
    code = "from alphaflow.export.network_to_onnx import load_runtime\nload_runtime().InferenceSession('net.onnx')"
    environment = {"HOME": str(home), "PYTHONPATH": ":".join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, check=True)
    assert not list(home.rglob("*"))


def test_without_the_extra_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    net, shape, classes = make("mlp")
    with pytest.raises(UserError, match=r"pip install 'alphaflow\[onnx\]'"):
        write_onnx(net, tmp_path / "net.onnx", shape=shape, num_classes=classes)
    assert not list(Path(tmp_path).iterdir())


def test_the_weights_can_be_quantised(tmp_path, capsys):
    """By the command; onnxruntime and OpenVINO then both compute nearly the same."""
    model = small_model(tmp_path / "model")
    assert run(["export", str(model), str(tmp_path / "net"), "--format", "onnx", "--int8"]) == 0
    told = re.search(r"weights of 8 bits, differs from torch by ([\d.]+) %", capsys.readouterr().out)
    assert told and 0.01 < float(told[1]) < 5
    assert told[0] in (tmp_path / "net" / "README.md").read_text()
    path = tmp_path / "net" / "model.onnx"
    graph = onnx.load(path).graph
    weights = [numpy_helper.to_array(one) for one in graph.initializer if one.data_type == onnx.TensorProto.INT8]
    matrices = [one for one in weights if one.ndim == 2]
    assert len(matrices) >= 6  # those of the blocks
    assert max(np.abs(one.astype(int)).max() for one in matrices) <= 64  # seven bits: eight overflow on AVX2
    net, rows = load(model), 9
    inputs = example_inputs(net.shape, net.num_classes, rows)
    with torch.no_grad():
        plain = net.net(*inputs)
    for run_it in (open_onnx(path), open_openvino(path, "int8")):
        error = ((run_it(inputs) - plain).norm() / plain.norm()).item()
        assert 1e-4 < error < 0.05


def test_int8_goes_with_onnx_alone(tmp_path, capsys):
    assert run(["export", str(tmp_path / "model"), str(tmp_path / "net"), "--format", "program", "--int8"]) == 2
    assert "--int8 goes with --format onnx, and this is program" in capsys.readouterr().err


def test_a_network_that_int8_does_not_suit_is_refused(tmp_path):
    class NoProducts(nn.Module):
        def forward(self, z, r, t):
            return z * t[:, None]

    with pytest.raises(UserError, match=r"no products of matrices"):
        write_int8(NoProducts(), tmp_path / "net.onnx", shape=(2,), num_classes=0)
    net, shape, classes = make("mlp")
    with pytest.raises(UserError, match=r"differs from the network by 1e\+02 % .* eight bits are too few"):
        relative_error(net, lambda inputs: 0 * inputs[0], "net.onnx", shape=shape, num_classes=classes)
