"""A model's folder gives back the network that was written, and says what is wrong where it cannot."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import alphaflow as af
from alphaflow import UserError, models
from alphaflow.runs import model_folder
from alphaflow.runs.model_folder import ModelRecord

NETS = {
    "dit": lambda: models.DiT((8, 4), 2, 1, 16, 2, 2, 3, mlp_ratio=2.0, activation="silu"),
    "video-dit": lambda: models.VideoDiT(4, 2, 2, 1, 16, 2, 2, 3, attention="factorised"),
    "mlp": lambda: models.MLP(2, 8, 1, 3),
    "unet": lambda: models.UNet(1, width=8, multipliers=(1, 2), num_classes=3),
    "data prediction": lambda: models.DataPrediction(models.MLP(2, 8, 1, 3)),
}
SHAPES = {"dit": (1, 8, 4), "video-dit": (1, 2, 4, 4), "unet": (1, 8, 8)}


def write(kind: str, folder: Path) -> nn.Module:
    """A network with random weights, written."""
    torch.manual_seed(0)
    net = NETS[kind]()
    for weight in net.parameters():
        nn.init.normal_(weight, std=0.1)
    shape = list(SHAPES.get(kind, (2,)))
    data = {"shape": shape, "kind": "image", "num_classes": 3, "class_names": ["a", "b", "c"]}
    record = ModelRecord(network=model_folder.describe_network(net), data=data, step=7)
    model_folder.write_model(folder, record, net.state_dict())
    return net


@pytest.mark.parametrize("kind", NETS)
def test_what_is_read_computes_what_was_written(kind, tmp_path):
    net = write(kind, tmp_path / "model")
    generator = af.load(tmp_path / "model")
    assert (generator.step, generator.class_names, generator.num_classes) == (7, ("a", "b", "c"), 3)
    assert not generator.net.training
    inputs = torch.randn(4, *generator.shape), torch.rand(4) / 2, torch.ones(4), torch.arange(4)
    with torch.no_grad():
        assert torch.equal(generator.net(*inputs), net.eval()(*inputs))


def test_a_model_is_one_of_ours():
    with pytest.raises(UserError, match=r"type Linear cannot be described .* one of DiT, VideoDiT, MLP, UNet"):
        model_folder.describe_network(nn.Linear(1, 1))


def test_samples_of_another_shape_than_the_networks_are_refused(tmp_path):
    write("dit", tmp_path)
    change(tmp_path, data={"shape": [1, 8, 8], "kind": "image", "num_classes": 3, "class_names": []})
    with pytest.raises(UserError, match=r"makes samples of \(1, 8, 4\) and the data are \[1, 8, 8\]"):
        af.load(tmp_path)


def change(folder: Path, **values: object) -> None:
    path = folder / model_folder.RECORD
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    "values, message",
    [
        ({"format": "alphaflow model 9"}, "not of the format 'alphaflow model 1': open it with a newer alphaflow"),
        ({"data": {"shape": [2]}}, "does not say class_names, kind, num_classes of the data"),
        (
            {"data": {"shape": [2], "kind": "points", "num_classes": 9, "class_names": []}},
            "the network has 3 classes and the data 9",
        ),
        ({"network": ["mlp"]}, r"cannot read .*alphaflow\.json"),
        ({"network": {"name": "mlp"}}, "it names no network with settings"),
        ({"network": {"name": "mpl", "settings": {}}}, "unknown network 'mpl': did you mean 'mlp'"),
        ({"network": {"name": "mlp", "settings": {"high": 2}}}, "no MLP can be made of the settings"),
        (
            {"network": {"name": "mlp", "settings": {"depth": 2, "width": 9, "num_classes": 3}}},
            r"blocks.1.fc1.bias is missing; .* more",
        ),
        ({"network": {"name": "mlp", "settings": {"width": 9, "num_classes": 3}}}, r"\(8,\) and not \(9,\)"),
        (
            {"network": {"name": "mlp", "settings": {"dim": 2, "width": 8, "depth": 0, "num_classes": 3}}},
            "weight is not the network's",
        ),
    ],
)
def test_a_record_that_does_not_fit_is_refused_by_name(values, message, tmp_path):
    write("mlp", tmp_path)
    change(tmp_path, **values)
    with pytest.raises(UserError, match=message):
        af.load(tmp_path)


def test_damaged_files_are_named(tmp_path):
    write("mlp", tmp_path)
    weights = tmp_path / model_folder.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"cannot read .*model\.safetensors .* export the model again"):
        af.load(tmp_path)
    weights.unlink()
    with pytest.raises(UserError, match=r"cannot read .*model\.safetensors"):
        af.load(tmp_path)
    (tmp_path / model_folder.RECORD).write_text("[]")
    with pytest.raises(UserError, match=r"cannot read .*alphaflow\.json"):
        af.load(tmp_path)


def test_other_averages_are_asked_of_a_run(tmp_path):
    write("mlp", tmp_path)
    with pytest.raises(UserError, match=r"holds one set of weights \(ema\): --ema goes with a run's folder"):
        af.load(tmp_path, ema=0.1)


def test_a_folder_is_written_again_while_its_weights_are_in_use(tmp_path):
    """They are mapped from the file, not copied."""
    write("mlp", tmp_path)
    generator = af.load(tmp_path)
    before = generator.samples([0, 1])
    record = model_folder.read_record(tmp_path)
    zeros = {name: torch.zeros_like(one) for name, one in generator.net.state_dict().items()}
    model_folder.write_model(tmp_path, record, zeros)
    assert torch.equal(generator.samples([0, 1]), before)
    assert not torch.equal(af.load(tmp_path).samples([0, 1]), before)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write to .*file/model .* choose another place"):
        write("mlp", tmp_path / "file" / "model")
