"""`alphaflow adapt`: from a folder of diffusers to a run, and back."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import alphaflow as af
from alphaflow.cli import run
from alphaflow.runs.folder import RunFolder
from alphaflow.training.trainer import Trainer
from tiny_flows import tiny_batch, tiny_flow
from tiny_runs import same, weights

diffusers = pytest.importorskip("diffusers")
NAME = "SD3Transformer2DModel"
FEW = "--batch-size 16 --log-every 2 --monitor.every 0 --objective.alpha 0 --objective.label-drop 0.2"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A pipeline's folder with a tiny SD3."""
    out = tmp_path_factory.mktemp("sd3")
    tiny_flow(NAME).save_pretrained(out / "transformer")
    (out / "scheduler").mkdir()
    (out / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "FlowMatchEulerDiscreteScheduler"}')
    return out


@pytest.fixture(scope="module")
def folder(model) -> Path:
    assert run(["adapt", str(model), str(model / "split"), "--adapter", "split"]) == 0
    return model / "split"


def train(folder: Path, out: Path, *words: str, recipe: str = "digits") -> Path:
    assert run(["train", recipe, "--init", str(folder), "--out", str(out), *FEW.split(), *words]) == 0
    return out


@pytest.fixture(scope="module")
def trained(folder) -> Path:
    return train(folder, folder.parent / "run", "--steps", "4")


def test_the_folder_holds_the_network_as_it_was(model, folder):
    net = af.load(folder).net
    z, _, r, t = tiny_batch(NAME)
    plain = diffusers.SD3Transformer2DModel.from_pretrained(model / "transformer")
    y = {"encoder_hidden_states": torch.randn(4, 5, 12), "pooled_projections": torch.randn(4, 10)}
    with torch.no_grad():
        assert torch.equal(net(z, t, t, y), plain(hidden_states=z, timestep=1000 * t, **y).sample)
        assert not torch.equal(net(z, r, t, y), net(z, t, t, y))
    said = json.loads((folder / "alphaflow.json").read_text())
    assert (said["origin"]["told"], said["origin"]["answers"]) == ("1000 · t", "noise - x")
    assert said["network"]["settings"]["adapter"] == "split"


def test_a_run_goes_on_from_it_resumes_exactly_and_draws(folder, trained, tmp_path, caplog):
    parts = train(folder, tmp_path / "parts", "--steps", "4", "--stop-after", "2")
    assert f"the network is that of {folder}" in caplog.text
    assert run(["train", "--resume", str(parts)]) == 0
    assert same(weights(parts), weights(trained))
    before, after = load_file(folder / "model.safetensors"), weights(trained)
    assert all((after[f"model/{name}"] != one).any() for name, one in before.items() if "proj_out" in name)
    for nfe in ("1", "2"):
        file = tmp_path / f"{nfe}.npz"
        assert (
            run(["sample", str(trained), "--out", str(file), "--count", "4", "--nfe", nfe, "--guidance", "2"]) == 0
        )
        assert np.load(file)["arr_0"].shape == (4, 8, 8, 1)
    again = train(folder, tmp_path / "again", "--steps", "4", "--recompute", "True")
    assert same(weights(again), weights(trained))
    further = train(trained, tmp_path / "further", "--steps", "1")  # a run begins where an adapted one ended
    assert weights(further).keys() == after.keys()


def test_words_train_it_too(tmp_path, capsys):
    net = tiny_flow(NAME, in_channels=3, out_channels=3, sample_size=32, pos_embed_max_size=16)
    net.save_pretrained(tmp_path / "net")
    assert run(["adapt", str(tmp_path / "net"), str(tmp_path / "adapted"), "--adapter", "gate"]) == 0
    out = train(tmp_path / "adapted", tmp_path / "run", "--steps", "2", recipe="shapes")
    pictures = af.load(out)(prompts=["a small red circle", "a large blue square"])
    assert pictures.shape == (2, 32, 32, 3)
    assert run(["export", str(out), str(tmp_path / "pipe"), "--format", "diffusers"]) == 2
    assert "has a second embedding of the time" in capsys.readouterr().err


def test_lora_keeps_little_and_needs_its_base(model, tmp_path):
    pytest.importorskip("peft")
    base = tmp_path / "lora"
    assert run(["adapt", str(model), str(base), "--lora", "2"]) == 0
    out = train(base, tmp_path / "run", "--steps", "4")
    kept = weights(out)
    assert not any("proj_out" in name and ".lora_" not in name for name in kept)
    assert {name.split(".")[0] for name in kept if ".lora_" not in name} == {
        f"{part}/{own}" for part in ("model", "ema", "optimizer") for own in ("interval", "condition")
    }
    parts = train(base, tmp_path / "parts", "--steps", "4", "--stop-after", "2")
    assert Trainer.resume(RunFolder(parts)).train()
    assert same(weights(parts), kept)
    assert af.load(out)([0, 1]).shape == (2, 8, 8, 1)
    shutil.move(base, tmp_path / "elsewhere")
    with pytest.raises(af.UserError, match="weights that do not train"):
        af.load(out)
    other = tiny_flow(NAME, seed=5)
    other.save_pretrained(tmp_path / "other")
    assert run(["adapt", str(tmp_path / "other"), str(base)]) == 0
    with pytest.raises(af.UserError, match="other weights"):
        af.load(out)


@pytest.mark.parametrize("rank", [None, "2"])
def test_plain_diffusers_opens_what_was_exported(model, trained, rank, tmp_path):
    if rank:
        pytest.importorskip("peft")
        assert run(["adapt", str(model), str(tmp_path / "lora"), "--lora", rank]) == 0
        trained = train(tmp_path / "lora", tmp_path / "run", "--steps", "2")
    out = tmp_path / "pipe"
    assert run(["export", str(trained), str(out), "--format", "diffusers"]) == 0
    net = af.load(trained).net
    z, _, r, t = tiny_batch(NAME)
    labels = torch.tensor([0, 3, 9, 10])
    tokens, pooled, _ = net.condition(labels, z)
    plain = diffusers.SD3Transformer2DModel.from_pretrained(out / "transformer")
    u = plain(hidden_states=z, timestep=1000 * t, encoder_hidden_states=tokens, pooled_projections=pooled).sample
    assert torch.equal(u, net(z, t, t, labels))
    beside = load_file(out / "flow_map.safetensors")
    assert beside and all(torch.equal(one, net.state_dict()[name]) for name, one in beside.items())
    assert run(["adapt", str(out), str(tmp_path / "again")]) == 0  # with another adapter, and what it was told
    assert torch.equal(af.load(tmp_path / "again").net(z, t, t, labels), u)
    assert run(["export", str(trained), str(tmp_path / "model")]) == 0
    again = af.load(tmp_path / "model").net
    assert torch.equal(again(z, r, t, labels), net(z, r, t, labels))


def test_what_cannot_be_adapted_is_said_in_one_line(model, trained, tmp_path, capsys):
    def refused(*words: str) -> str:
        assert run([*words]) in (1, 2)
        said = capsys.readouterr().err.strip().splitlines()
        return said[-1]

    def changed(name: str, **settings) -> str:
        place = shutil.copytree(model, tmp_path / name, ignore=shutil.ignore_patterns("split", "run"))
        file = place / "transformer" / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | settings))
        return str(place)

    out = str(tmp_path / "out")
    assert "is not there" in refused("adapt", str(tmp_path / "none"), out)
    assert "is a file" in refused("adapt", str(model / "transformer" / "config.json"), out)
    assert "holds neither" in refused("adapt", str(trained), out)
    assert "exists already" in refused("adapt", str(model), str(model))
    assert "invalid choice" in refused("adapt", str(model), out, "--adapter", "both")
    assert "predicts noise" in refused("adapt", changed("noise", _class_name="PixArtTransformer2DModel"), out)
    assert "no facts are known" in refused("adapt", changed("unknown", _class_name="Other"), out)
    assert "quantised" in refused("adapt", changed("eight", quantization_config={}), out)
    assert "num_layers is more" in refused("adapt", changed("deep", num_layers=10**6), out)
    assert "does not fit the network" in refused("adapt", changed("wide", num_attention_heads=4), out)
    assert "--side gives another" in refused("adapt", str(model), out, "--side", "7")
    file = Path(changed("epsilon")) / "scheduler" / "scheduler_config.json"
    file.write_text('{"prediction_type": "epsilon"}')
    assert "predicts no velocity" in refused("adapt", str(file.parents[1]), out)
    pickled = Path(changed("pickled")) / "transformer"
    (pickled / "diffusion_pytorch_model.safetensors").rename(pickled / "diffusion_pytorch_model.bin")
    assert "pickles alone" in refused("adapt", str(pickled.parent), out)
    broken = Path(changed("broken")) / "transformer" / "diffusion_pytorch_model.safetensors"
    numbers = load_file(broken)
    save_file({name: one / 0 for name, one in numbers.items()}, broken)
    assert "not finite" in refused("adapt", str(broken.parents[1]), out)
    assert not Path(out).exists()
    line = ["train", "digits", "--model.name", "adapted", "--out", out]
    assert "add --init DIR" in refused(*line)
    few = ["train", "digits", "--init", str(trained), "--out", out]
    assert "leave it out" in refused(*few, "--compile-blocks", "True")
    assert "takes (C, H, W) with C = 1" in refused("train", "shapes", "--init", str(trained), "--out", out)
    assert "no graph is made" in refused("export", str(trained), out, "--format", "onnx")
