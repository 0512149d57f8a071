"""Checkpoints of other code give networks that compute the same, and nothing in them is run."""

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import alphaflow as af
import foreign_transformers as theirs
from alphaflow import UserError, portable
from alphaflow.cli import run
from alphaflow.importing import Wanted, import_checkpoint
from alphaflow.vae import load_vae
from autoencoders import save_vae
from latent_sets import make_set

C = theirs.CLASSES


def inputs(seed=1):
    source = torch.Generator().manual_seed(seed)
    z = torch.randn(6, 4, theirs.SIDE, theirs.SIDE, generator=source, dtype=torch.float64)
    r, t = torch.rand(2, 6, generator=source, dtype=torch.float64).sort(dim=0).values
    return z, r, t, torch.arange(6)


def same(folder, net, layout, rows=slice(None)):
    """Our network computes what theirs does, in float64 so that only the taking over is judged."""
    z, r, t, y = (part[rows] for part in inputs())
    with torch.no_grad():
        ours = af.load(folder).net.double()(z, r, t, y)
        expected = theirs.velocity(net.double(), layout, z, r, t, y)
    net.float()
    assert expected.std() > 0.1
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


def alphaflow_file(path, form="zip", **options):
    net, ema = theirs.make("alphaflow", 1, **options), theirs.make("alphaflow", 2, **options)
    snapshot = theirs.alphaflow_snapshot(net, ema)
    with theirs.as_foreign(
        src__structs=theirs.EasyDict,
        src__data=theirs.TensorGroup,
        omegaconf__x=theirs.DictConfig,
        omegaconf__nodes=theirs.Node,
    ):
        snapshot["vis"] = theirs.TensorGroup(noise=torch.zeros(2))
        snapshot["cfg"] = {
            "zip": theirs.SETTINGS,
            "old": theirs.EasyDict(theirs.SETTINGS),
            "pickle": theirs.DictConfig(theirs.SETTINGS),
        }[form]
        data = theirs.pickled(snapshot) if form == "pickle" else theirs.torch_bytes(snapshot, zipped=form == "zip")
    return theirs.write(path, data), net, ema


@pytest.mark.parametrize("form", ["zip", "old", "pickle"])
def test_a_snapshot_of_the_release(form, tmp_path):
    file, net, ema = alphaflow_file(tmp_path / "snapshot.pt", form)
    report = import_checkpoint(file, tmp_path / "ema")
    same(tmp_path / "ema", ema, "alphaflow")
    assert report.layout == "alphaflow" and report.record.step == 1200 and report.record.weights == "ema"
    assert "src.data.TensorGroup" in report.foreign
    assert report.record.origin["settings"]["model"]["num_heads"] == theirs.HEADS
    import_checkpoint(file, tmp_path / "net", Wanted(weights="net"))
    same(tmp_path / "net", net, "alphaflow")


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
            import_checkpoint(file, tmp_path / name, Wanted(heads=theirs.HEADS))
        wanted = Wanted(heads=theirs.HEADS, latents=tmp_path / "set")
        report = import_checkpoint(file, tmp_path / name, wanted)
        same(tmp_path / name, ema, "alphaflow")
        assert ("src.training.dit.SiT" if name == "plain" else "torch_utils.persistence.restore") in report.foreign


def test_the_release_brings_the_statistics_of_its_latents(tmp_path):
    """A value of its own for each place: latent = x · sqrt(variance) + mean."""
    file, *_ = alphaflow_file(tmp_path / "snapshot.pt")
    vae = save_vae(tmp_path / "vae")
    import_checkpoint(file, tmp_path / "model", Wanted(vae=str(vae)))
    generator = af.load(tmp_path / "model")
    assert generator.decoder is not None
    x = torch.randn(2, *generator.shape)
    expected = load_vae(str(vae)).decode((x * theirs.VARIANCE.sqrt() + theirs.MEAN).float())
    torch.testing.assert_close(generator.decoder(x), expected, rtol=1e-5, atol=1e-5)
    record = portable.read_record(tmp_path / "model").data["latents"]
    assert record["scale"] == "statistics" and record["vae"] == "unknown" and record["vae_name"] == str(vae)
    assert generator([0, 5]).shape == (2, 32, 32, 3)


def test_statistics_of_channels_stay_a_number_a_channel(tmp_path):
    ema = theirs.make("alphaflow", 2)
    snapshot = theirs.alphaflow_snapshot(ema, ema)
    for name, value in (("mean", theirs.MEAN), ("var", theirs.VARIANCE)):
        snapshot["ema"][f"autoencoder_{name}"] = value[:, :, :1, :1]
    import_checkpoint(theirs.write(tmp_path / "a.pt", theirs.torch_bytes(snapshot)), tmp_path / "model")
    record = portable.read_record(tmp_path / "model").data["latents"]
    assert record["offset"] == pytest.approx(theirs.MEAN[0, :, 0, 0].tolist())
    assert record["divisor"] == pytest.approx(theirs.VARIANCE[0, :, 0, 0].sqrt().tolist())


def test_meanflow_in_pytorch(tmp_path):
    net, ema = theirs.make("meanflow", 1), theirs.make("meanflow", 2)
    checkpoint = theirs.zhuyu_checkpoint(net, ema)
    file = theirs.write(tmp_path / "0000400.pt", theirs.torch_bytes(checkpoint))
    report = import_checkpoint(file, tmp_path / "ema")
    same(tmp_path / "ema", ema, "meanflow")
    assert report.layout == "meanflow" and report.record.step == 400 and report.foreign == ("argparse.Namespace",)
    record = report.record.data["latents"]  # x = (latent - mean) / (2 std), as its evaluation undoes it
    assert record["offset"][0] == 0.86488 and record["divisor"][3] == pytest.approx(3.9870003 / 0.5)
    import_checkpoint(file, tmp_path / "net", Wanted(weights="net"))
    same(tmp_path / "net", net, "meanflow")


@pytest.mark.parametrize("layout, out", [("sit", 8), ("sit", 4), ("repa", 4)])
def test_flow_matching_networks_keep_their_velocity_whatever_r_is(layout, out, tmp_path):
    """SiT's time runs the other way and its variance is learnt; both are folded into the weights."""
    net = theirs.make(layout, 3, out=out)
    save_file({name: value.clone() for name, value in net.state_dict().items()}, tmp_path / "net.safetensors")
    wanted = Wanted(heads=theirs.HEADS)
    with pytest.raises(UserError, match="may be sit or repa"):
        import_checkpoint(tmp_path / "net.safetensors", tmp_path / "model", wanted)
    wanted = Wanted(heads=theirs.HEADS, layout=layout)
    report = import_checkpoint(tmp_path / "net.safetensors", tmp_path / "model", wanted)
    same(tmp_path / "model", net, layout)
    assert report.record.weights == "net" and report.record.data["latents"]["scale"] == "0.18215"
    z, r, t, y = (part.float() if part.is_floating_point() else part for part in inputs())
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
    report = import_checkpoint(file, tmp_path / "model", Wanted(heads=theirs.HEADS, side=theirs.SIDE))
    same(tmp_path / "model", ema, "jax-meanflow")
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
    import_checkpoint(file, tmp_path / "model", Wanted(heads=theirs.HEADS, side=theirs.SIDE))
    same(tmp_path / "model", theirs.make("jax-meanflow", 2), "jax-meanflow")


def test_a_table_without_a_row_for_no_class(tmp_path):
    """As of the release without label dropout: the mean of the classes stands in."""
    file, _, ema = alphaflow_file(tmp_path / "snapshot.pt", rows=C)
    import_checkpoint(file, tmp_path / "model")
    same(tmp_path / "model", ema, "alphaflow", rows=slice(0, C))
    table = af.load(tmp_path / "model").net.y_embedder.embedding_table.weight
    torch.testing.assert_close(table[C], table[:C].mean(0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_other_precision(dtype, tmp_path):
    net = theirs.make("meanflow", 2).to(dtype)
    file = theirs.write(tmp_path / "net.pt", theirs.torch_bytes(net.state_dict()))
    import_checkpoint(file, tmp_path / "model", Wanted(heads=theirs.HEADS))
    net.pos_embed.data = theirs.make("meanflow").pos_embed.data  # which in the file are rounded, and not learnt
    same(tmp_path / "model", net, "meanflow")
    assert af.load(tmp_path / "model").net.x_embedder.proj.weight.dtype == torch.float32


# ---------------------------------------------------------------------- nothing is run, and what is wrong is named


class Evil:
    def __init__(self, function, *words):
        self.call = function, words

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("form", ["zip", "old", "pickle"])
def test_programs_in_a_checkpoint_are_named_and_not_run(form, tmp_path):
    mark = tmp_path / "mark"
    programs = [
        Evil(os.system, f"touch {mark}"),
        Evil(eval, f"open({str(mark)!r}, 'w')"),
        Evil(subprocess.call, ["touch", str(mark)]),
        Evil(getattr, "x", "upper"),
        Evil(np.load, str(mark)),
    ]
    net = theirs.make("meanflow", 2)
    content = {"ema": net.state_dict(), "more": programs, programs[0]: 1, "args": {"num_heads": theirs.HEADS}}
    data = theirs.pickled(content) if form == "pickle" else theirs.torch_bytes(content, zipped=form == "zip")
    report = import_checkpoint(theirs.write(tmp_path / "evil.pt", data), tmp_path / "model")
    assert {f"{os.system.__module__}.system", "builtins.eval", "builtins.getattr", "subprocess.call"} <= set(
        report.foreign
    )
    assert "numpy.load" in report.foreign and not mark.exists()
    same(tmp_path / "model", net, "meanflow")
    with pytest.raises(UserError, match="no diffusion transformer in it"):
        import_checkpoint(theirs.write(tmp_path / "b.pkl", pickle.dumps(programs)), tmp_path / "b")
    inner = Evil(torch.storage._load_from_bytes, theirs.torch_bytes(programs[0], zipped=False))
    with pytest.raises(UserError, match="a storage that is none"):
        import_checkpoint(theirs.write(tmp_path / "c.pkl", pickle.dumps(inner)), tmp_path / "c")
    assert not mark.exists()


def test_damaged_files_are_refused(tmp_path):
    file, *_ = alphaflow_file(tmp_path / "snapshot.pt", "old")
    data = file.read_bytes()
    for number, (damaged, message) in enumerate(
        [
            (data[: len(data) // 2], "cut short|damaged"),
            (data[:300], "cut short|damaged"),
            (b"", "cannot read"),
            (b"hello world, this is text", "not a checkpoint"),
            (theirs.pack({"a": np.zeros(9, np.float32)})[:-5], "cut short"),
            (b"\xdf\x00\x00\x00\x01\xa1a\xc1", "no msgpack"),
        ]
    ):
        with pytest.raises(UserError, match=message):
            import_checkpoint(theirs.write(tmp_path / str(number), damaged), tmp_path / "model")
    with pytest.raises(UserError, match="is a folder"):
        import_checkpoint(tmp_path, tmp_path / "model")
    with pytest.raises(UserError, match="exists already"):
        import_checkpoint(file, tmp_path)
    assert not (tmp_path / "model").exists()


def test_a_tensor_cannot_reach_beyond_its_storage(tmp_path):
    net = theirs.make("meanflow", 2)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    file = theirs.write(tmp_path / "net.pt", theirs.torch_bytes(state, zipped=False))
    longer = file.read_bytes().replace(
        b"K\x06K\x18\x86", b"K\x7fK\x18\x86"
    )  # the table of classes: 127 rows for 6
    assert longer != file.read_bytes()
    with pytest.raises(UserError, match="damaged tensor"):
        import_checkpoint(
            theirs.write(tmp_path / "long.pt", longer), tmp_path / "model", Wanted(heads=theirs.HEADS)
        )


def changed(tmp_path, change, **wanted):
    state = theirs.make("meanflow", 2).state_dict()
    change(state)
    file = theirs.write(tmp_path / "net.pt", theirs.torch_bytes(state))
    return import_checkpoint(file, tmp_path / "model", Wanted(**{"heads": theirs.HEADS, **wanted}))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.pop("blocks.1.attn.qkv.bias"), r"missing: blocks\.1\.attn\.qkv\.bias$"),
        (lambda s: s.update({"blocks.0.attn.q_norm.weight": torch.ones(8)}), r"too many: blocks\.0\.attn\.q_norm"),
        (lambda s: s["pos_embed"].add_(0.5), "positions are not DiT's"),
        (lambda s: s["final_layer.linear.bias"].fill_(torch.nan), "output is not finite"),
        (lambda s: s.update({"final_layer.linear.weight": torch.ones(20, theirs.WIDTH)}), "20 outputs, not 16"),
        (lambda s: s.pop("r_embedder.mlp.0.weight"), "may be sit or repa"),
        (lambda s: s.update({"ema.x_embedder.proj.weight": torch.ones(1)}), "none of the layouts"),
        (lambda s: s.update({"a.x_embedder.proj.weight": torch.ones(1)}), "several networks"),
        (lambda s: s.pop("x_embedder.proj.weight"), "no diffusion transformer"),
        (lambda s: s.update({"blocks.7.x": torch.ones(1)}), r"numbered \[0, 1, 7\]"),
        (lambda s: s.update({"pos_embed": torch.ones(1, 15, theirs.WIDTH)}), "15 tokens, which is no square"),
    ],
)
def test_what_does_not_fit_is_named(change, message, tmp_path):
    with pytest.raises(UserError, match=message):
        changed(tmp_path, change)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    "wanted, message",
    [
        ({"heads": None}, "no published size.*--heads"),
        ({"heads": 7}, "--heads 7 does not divide the width 24"),
        ({"classes": 3}, "3 classes do not fit a table of 6 rows"),
        ({"side": 16}, "--side 16 does not fit"),
        ({"layout": "sti"}, "unknown layout 'sti': did you mean 'sit'"),
        ({"layout": "sit"}, "not laid out as sit"),
        ({"weights": "ema"}, "no averaged weights"),
    ],
)
def test_what_is_asked_for_must_fit(wanted, message, tmp_path):
    with pytest.raises(UserError, match=message):
        changed(tmp_path, lambda state: None, **wanted)


def test_a_difference_from_the_original_is_not_written(tmp_path, monkeypatch):
    """Were a row of the tables wrong, the second computation would tell."""
    from alphaflow.interop import layouts, network

    rules = dict(layouts.LAYOUTS["meanflow"].rules)
    first, second = "t_embedder.mlp.0.weight", "r_embedder.mlp.0.weight"
    rules[first], rules[second] = rules[second], rules[first]
    wrong = {"meanflow": replace(layouts.LAYOUTS["meanflow"], rules=rules)}
    monkeypatch.setattr(network, "LAYOUTS", wrong)
    with pytest.raises(UserError, match="differs from the original"):
        changed(tmp_path, lambda state: None)
    assert not (tmp_path / "model").exists()


def test_the_command(tmp_path, capsys):
    file, *_ = alphaflow_file(tmp_path / "snapshot.pt")
    vae = save_vae(tmp_path / "vae")
    assert run(["import", str(file), str(tmp_path / "model"), "--vae", str(vae)]) == 0
    said = capsys.readouterr().out
    assert "src.data.TensorGroup" in said and "alphaflow, depth 2, width 24, 3 heads, patch 2, 5 classes" in said
    assert run(["sample", str(tmp_path / "model"), "--out", str(tmp_path / "x.npz"), "--count", "3"]) == 0
    assert np.load(tmp_path / "x.npz")["images"].shape == (3, 32, 32, 3)
    assert json.loads((tmp_path / "model" / "alphaflow.json").read_text())["origin"]["layout"] == "alphaflow"
    assert run(["import", str(tmp_path / "none.pt"), str(tmp_path / "b")]) == 1
