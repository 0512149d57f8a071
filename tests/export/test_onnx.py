"""ONNX files compute what the network does, for every network we have and any batch."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from alphaflow import UserError, models
from alphaflow.export.network_to_onnx import load_runtime, write_onnx
from alphaflow.export.network_to_program import export_program, write_program

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
    from alphaflow.export import network_to_onnx as onnx

    monkeypatch.setattr(onnx, "ONE_FILE", 0)
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


def test_the_weights_can_be_quantised(tmp_path):
    """onnxruntime turns them, and stumbled over shapes that were said a second time."""
    import numpy as np
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    net, shape, classes = make("dit")
    write_onnx(net, tmp_path / "net.onnx", shape=shape, num_classes=classes)
    graph = onnx.load(tmp_path / "net.onnx").graph
    assert not {one.name for one in graph.value_info} & {one.name for one in graph.initializer}
    quantize_dynamic(tmp_path / "net.onnx", tmp_path / "int8.onnx", weight_type=QuantType.QInt8)
    z = np.random.default_rng(0).standard_normal((2, *shape), np.float32)
    feed = {"z": z, "r": np.zeros(2, np.float32), "t": np.ones(2, np.float32), "y": np.arange(2)}
    sessions = [load_runtime().InferenceSession(tmp_path / f"{name}.onnx") for name in ("net", "int8")]
    plain, quantised = (one.run(None, feed)[0] for one in sessions)
    assert np.abs(plain - quantised).max() < 0.1 * np.abs(plain).max()
