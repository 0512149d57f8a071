"""Checkpoints of other code give networks that compute the same, and nothing in them is run."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import alphaflow as af
import foreign_transformers as theirs
from alphaflow import UserError
from alphaflow.cli import run
from alphaflow.encoding.vae import load_vae
from alphaflow.importing.import_checkpoint import ImportOptions, import_checkpoint
from alphaflow.importing.layouts import LAYOUTS
from alphaflow.runs import model_folder
from autoencoders import save_vae
from latent_sets import make_set

C = theirs.CLASSES


@pytest.mark.parametrize("form", ["zip", "old", "pickle"])
def test_a_snapshot_of_the_release(form, tmp_path):
    file, net, ema = theirs.alphaflow_file(tmp_path / "snapshot.pt", form)
    report = import_checkpoint(file, tmp_path / "ema")
    theirs.same(tmp_path / "ema", ema, "alphaflow")
    assert report.layout == "alphaflow" and report.record.step == 1200 and report.record.weights == "ema"
    assert "src.data.TensorGroup" in report.foreign
    settings = json.loads((tmp_path / "ema" / "imported-settings.json").read_text())
    assert settings["model"]["num_heads"] == theirs.HEADS and report.record.origin["imported"] == "snapshot.pt"
    import_checkpoint(file, tmp_path / "net", ImportOptions(weights="net"))
    theirs.same(tmp_path / "net", net, "alphaflow")


def test_modules_that_only_the_pickle_knows(tmp_path):
    """The networks themselves in a pickle, of classes that are gone: plainly, and by EDM's persistence."""
    ema = theirs.make("alphaflow", 2)
    with theirs.as_foreign(
        torch_utils__persistence=theirs.Persistent,
        src__training__dit=theirs.SiT,
        src__training__parts=theirs.Holder,
        dnnlib__util=theirs.EasyDict,
    ):
        theirs.restore.__module__ = "torch_utils.persistence"
        sys.modules["torch_utils.persistence"].restore = theirs.restore
        plain = theirs.pickled({"ema": ema})
        persistent = theirs.pickled({"ema": theirs.Persistent(ema)})
    moments = np.random.default_rng(0).standard_normal((3, 1, 8, theirs.SIDE, theirs.SIDE)).astype(np.float32)
    make_set(tmp_path / "set", moments)
    for name, data in (("plain", plain), ("persistent", persistent)):
        file = theirs.write(tmp_path / f"{name}.pkl", data)
        with pytest.raises(UserError, match=r"no ema\.(state\.)?autoencoder_mean .* --latents"):
            import_checkpoint(file, tmp_path / name, ImportOptions(heads=theirs.HEADS))
        wanted = ImportOptions(heads=theirs.HEADS, latents=tmp_path / "set")
        report = import_checkpoint(file, tmp_path / name, wanted)
        theirs.same(tmp_path / name, ema, "alphaflow")
        assert ("src.training.dit.SiT" if name == "plain" else "torch_utils.persistence.restore") in report.foreign


def test_the_release_brings_the_statistics_of_its_latents(tmp_path):
    """A value of its own for each place: latent = x · sqrt(variance) + mean."""
    file, *_ = theirs.alphaflow_file(tmp_path / "snapshot.pt")
    vae = save_vae(tmp_path / "vae")
    import_checkpoint(file, tmp_path / "model", ImportOptions(vae=str(vae)))
    generator = af.load(tmp_path / "model")
    assert generator.decoder is not None
    x = torch.randn(2, *generator.shape)
    expected = load_vae(str(vae)).decode((x * theirs.VARIANCE.sqrt() + theirs.MEAN).float())
    torch.testing.assert_close(generator.decoder(x), expected, rtol=1e-5, atol=1e-5)
    record = model_folder.read_record(tmp_path / "model").data["latents"]
    assert record["scale"] == "statistics" and record["vae"] == "unknown" and record["vae_name"] == str(vae)
    assert generator([0, 5]).shape == (2, 32, 32, 3)


def test_statistics_of_channels_stay_a_number_a_channel(tmp_path):
    ema = theirs.make("alphaflow", 2)
    snapshot = theirs.alphaflow_snapshot(ema, ema)
    for name, value in (("mean", theirs.MEAN), ("var", theirs.VARIANCE)):
        snapshot["ema"][f"autoencoder_{name}"] = value[:, :, :1, :1]
    import_checkpoint(theirs.write(tmp_path / "a.pt", theirs.torch_bytes(snapshot)), tmp_path / "model")
    record = model_folder.read_record(tmp_path / "model").data["latents"]
    assert record["offset"] == pytest.approx(theirs.MEAN[0, :, 0, 0].tolist())
    assert record["divisor"] == pytest.approx(theirs.VARIANCE[0, :, 0, 0].sqrt().tolist())


def test_meanflow_in_pytorch(tmp_path):
    net, ema = theirs.make("meanflow", 1), theirs.make("meanflow", 2)
    checkpoint = theirs.zhuyu_checkpoint(net, ema)
    file = theirs.write(tmp_path / "0000400.pt", theirs.torch_bytes(checkpoint))
    report = import_checkpoint(file, tmp_path / "ema")
    theirs.same(tmp_path / "ema", ema, "meanflow")
    assert report.layout == "meanflow" and report.record.step == 400 and report.foreign == ("argparse.Namespace",)
    record = report.record.data[
        "latents"
    ]  # x = 0.18125 latent, as since 28 May 2025: before all published results
    assert record["offset"] == [0.0] * 4 and record["divisor"] == pytest.approx([1 / 0.18125] * 4)
    import_checkpoint(file, tmp_path / "net", ImportOptions(weights="net"))
    theirs.same(tmp_path / "net", net, "meanflow")


@pytest.mark.parametrize("layout, out", [("sit", 8), ("sit", 4), ("repa", 4)])
def test_flow_matching_networks_keep_their_velocity_whatever_r_is(layout, out, tmp_path):
    """SiT's time runs the other way and its variance is learnt; both are folded into the weights."""
    net = theirs.make(layout, 3, out=out)
    save_file({name: value.clone() for name, value in net.state_dict().items()}, tmp_path / "net.safetensors")
    wanted = ImportOptions(heads=theirs.HEADS)
    with pytest.raises(UserError, match="may be sit or repa"):
        import_checkpoint(tmp_path / "net.safetensors", tmp_path / "model", wanted)
    wanted = ImportOptions(heads=theirs.HEADS, layout=layout)
    report = import_checkpoint(tmp_path / "net.safetensors", tmp_path / "model", wanted)
    theirs.same(tmp_path / "model", net, layout)
    assert report.record.weights == "net" and report.record.data["latents"]["scale"] == "0.18215"
    generator = af.load(tmp_path / "model")  # labels were dropped in training: guidance can be applied
    z, _, t, y = (part.float() if part.is_floating_point() else part for part in theirs.inputs())
    bare, told = (generator.net(z, t, t, labels) for labels in (None, y))
    torch.testing.assert_close(generator.guided(3.0)(z, t, t, y), bare + 3 * (told - bare))
    z, r, t, y = (part.float() if part.is_floating_point() else part for part in theirs.inputs())
    u = af.load(tmp_path / "model").net
    torch.testing.assert_close(u(z, r, t, y), u(z, t, t, y))
    assert u.d_embedder.mlp[0].weight.abs().sum() > 0  # so that fine-tuning can use the second time


@pytest.mark.parametrize("form", ["npz", "pickle", "flax"])
def test_meanflow_in_jax(form, tmp_path):
    net, ema = theirs.make("jax-meanflow", 1), theirs.make("jax-meanflow", 2)
    tree, averaged = theirs.flax_tree(net), theirs.flax_tree(ema)
    file = tmp_path / f"checkpoint.{form}"
    if form == "npz":
        np.savez(file, **{f"ema_params/net/{key}": value for key, value in theirs.flat(averaged).items()})
    else:
        state = {
            "step": 70,
            "params": {"net": tree},
            "ema_params": {"net": averaged},
            "opt_state": {"0": {"mu": {"net": tree}}},
        }
        theirs.write(file, theirs.pickled(state) if form == "pickle" else theirs.pack(state))
    report = import_checkpoint(file, tmp_path / "model", ImportOptions(heads=theirs.HEADS, side=theirs.SIDE))
    theirs.same(tmp_path / "model", ema, "jax-meanflow")
    assert report.layout == "jax-meanflow" and report.record.step == (0 if form == "npz" else 70)


def test_arrays_that_flax_cut_are_joined(tmp_path):
    """Beyond 2^30 bytes it stores pieces."""
    tree = theirs.flax_tree(theirs.make("jax-meanflow", 2))
    kernel = tree["final_layer"]["linear"]["_flax_linear"]["kernel"]
    parts = np.array_split(kernel.reshape(-1), 3)
    tree["final_layer"]["linear"]["_flax_linear"]["kernel"] = {
        "__msgpack_chunked_array__": True,
        "shape": {str(k): size for k, size in enumerate(kernel.shape)},
        "chunks": {str(k): part for k, part in enumerate(parts)},
    }
    file = theirs.write(tmp_path / "checkpoint_70", theirs.pack({"ema_params": tree}))
    import_checkpoint(file, tmp_path / "model", ImportOptions(heads=theirs.HEADS, side=theirs.SIDE))
    theirs.same(tmp_path / "model", theirs.make("jax-meanflow", 2), "jax-meanflow")


def test_a_table_without_a_row_for_no_class(tmp_path):
    """As of the release without label dropout: the mean of the classes stands in."""
    file, _, ema = theirs.alphaflow_file(tmp_path / "snapshot.pt", rows=C)
    import_checkpoint(file, tmp_path / "model")
    theirs.same(tmp_path / "model", ema, "alphaflow", rows=slice(0, C))
    table = af.load(tmp_path / "model").net.y_embedder.embedding_table.weight
    torch.testing.assert_close(table[C], table[:C].mean(0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_other_precision(dtype, tmp_path):
    net = theirs.make("meanflow", 2).to(dtype)
    file = theirs.write(tmp_path / "net.pt", theirs.torch_bytes(net.state_dict()))
    import_checkpoint(file, tmp_path / "model", ImportOptions(heads=theirs.HEADS))
    net.pos_embed.data = theirs.make("meanflow").pos_embed.data  # which in the file are rounded, and not learnt
    theirs.same(tmp_path / "model", net, "meanflow")
    assert af.load(tmp_path / "model").net.x_embedder.proj.weight.dtype == torch.float32


def test_the_command(tmp_path, capsys):
    file, *_ = theirs.alphaflow_file(tmp_path / "snapshot.pt")
    vae = save_vae(tmp_path / "vae")
    assert run(["import", str(file), str(tmp_path / "model"), "--vae", str(vae)]) == 0
    said = capsys.readouterr().out
    assert "src.data.TensorGroup" in said and "alphaflow, depth 2, width 24, 3 heads, patch 2, 5 classes" in said
    assert run(["sample", str(tmp_path / "model"), "--out", str(tmp_path / "x.npz"), "--count", "3"]) == 0
    assert np.load(tmp_path / "x.npz")["images"].shape == (3, 32, 32, 3)
    assert json.loads((tmp_path / "model" / "alphaflow.json").read_text())["origin"]["layout"] == "alphaflow"
    assert run(["import", str(tmp_path / "none.pt"), str(tmp_path / "b")]) == 1


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Latents 4 × 8 × 8 of 12 pictures, encoded by an autoencoder of the tests'."""
    home = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    vae = save_vae(home / "vae")
    for k in range(2 * C):
        (home / "images" / f"class{k % C}").mkdir(parents=True, exist_ok=True)
        picture = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(picture).save(home / "images" / f"class{k % C}" / f"{k}.png")
    for scale in ("statistics", "scalar"):
        words = ["--vae", str(vae), "--size", "32", "--scale", scale]
        assert run(["encode", str(home / "images"), str(home / scale), *words]) == 0
    return home


def tune(photos, model, out, data="statistics", **changes):
    sizes = {"width": theirs.WIDTH, "depth": theirs.DEPTH, "heads": theirs.HEADS, "patch": theirs.PATCH} | changes
    options = [f"--model.{key}={value}" for key, value in sizes.items()]
    options += ["--steps", "1", "--batch-size", "4", "--optimizer.lr", "1e-30", "--model.activation=gelu-tanh"]
    places = ["--data.path", str(photos / data), "--out", str(out), "--init", str(model), "--device", "cpu"]
    return run(["train", "latents", *places, *options])


def test_training_goes_on_from_an_imported_network(photos, tmp_path, capsys):
    """At a rate next to 0 the run ends with the weights that were imported, in the network and its average."""
    file, _, ema = theirs.alphaflow_file(tmp_path / "snapshot.pt")
    import_checkpoint(file, tmp_path / "model")
    assert tune(photos, tmp_path / "model", tmp_path / "run") == 0
    theirs.same(tmp_path / "run", ema, "alphaflow")
    last = tmp_path / "run" / "checkpoints" / "latest"
    expected = load_file(tmp_path / "model" / "model.safetensors")
    for part in ("model", "ema"):
        found = load_file(last / f"{part}.safetensors")
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    capsys.readouterr()
    assert tune(photos, tmp_path / "model", tmp_path / "a", heads=4) == 1
    assert "heads 3 and this run's has 4" in capsys.readouterr().err
    assert tune(photos, tmp_path / "model", tmp_path / "b", "scalar") == 1
    assert "trained on latents with scale statistics" in capsys.readouterr().err
    (tmp_path / "model" / "model.safetensors").write_bytes(b"short")
    assert tune(photos, tmp_path / "model", tmp_path / "c") == 1
    assert "cannot read its weights" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_the_documentation_tells_of_every_layout():
    rows = (Path(__file__).parents[2] / "docs" / "import.md").read_text()
    assert all(f"\n| `{name}` |" in rows for name in (*LAYOUTS, "imf"))
