"""Checkpoints that hold programs, are damaged or do not fit: what is wrong is named, nothing run or written."""

import os
import pickle
import subprocess
from collections import Counter

import numpy as np
import pytest
import torch

import foreign_transformers as theirs
from alphaflow import UserError
from alphaflow.data.safe_pickles import KNOWN, load_plain
from alphaflow.importing.import_checkpoint import ImportOptions, import_checkpoint
from alphaflow.importing.inert_pickles import read_pickle


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
    theirs.same(tmp_path / "model", net, "meanflow")
    with pytest.raises(UserError, match="no diffusion transformer in it"):
        import_checkpoint(theirs.write(tmp_path / "b.pkl", pickle.dumps(programs)), tmp_path / "b")
    inner = Evil(torch.storage._load_from_bytes, theirs.torch_bytes(programs[0], zipped=False))
    with pytest.raises(UserError, match="a storage that is none"):
        import_checkpoint(theirs.write(tmp_path / "c.pkl", pickle.dumps(inner)), tmp_path / "c")
    assert not mark.exists()


@pytest.mark.parametrize("read", [load_plain, lambda data: read_pickle(memoryview(data), Counter())])
def test_a_pickle_cannot_change_how_later_ones_are_read(read):
    """BUILD with a pair sets attributes of whatever it is given, functions and their defaults included."""
    name = b"cnumpy.core.multiarray\n_reconstruct\n"
    set_defaults = name + b"(N}X\x0c\x00\x00\x00__defaults__(K\x01K\x02ts" + b"tb."
    read(set_defaults)
    assert KNOWN["numpy.core.multiarray", "_reconstruct"].__defaults__ is None


def test_a_small_pickle_of_endless_content_is_given_up(tmp_path):
    laughs = "ha"
    for _ in range(30):
        laughs = [laughs] * 10
    with pytest.raises(UserError, match="more than 1000000 things"):
        import_checkpoint(theirs.write(tmp_path / "a.pkl", pickle.dumps(laughs)), tmp_path / "model")


def test_damaged_files_are_refused(tmp_path):
    file, *_ = theirs.alphaflow_file(tmp_path / "snapshot.pt", "old")
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
            theirs.write(tmp_path / "long.pt", longer), tmp_path / "model", ImportOptions(heads=theirs.HEADS)
        )


def changed(tmp_path, change, **wanted):
    state = theirs.make("meanflow", 2).state_dict()
    change(state)
    file = theirs.write(tmp_path / "net.pt", theirs.torch_bytes(state))
    return import_checkpoint(file, tmp_path / "model", ImportOptions(**{"heads": theirs.HEADS, **wanted}))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.pop("blocks.1.attn.qkv.bias"), r"missing: blocks\.1\.attn\.qkv\.bias$"),
        (lambda s: s.update({"blocks.0.attn.gate.weight": torch.ones(8)}), r"too many: blocks\.0\.attn\.gate"),
        (lambda s: s.pop("blocks.0.mlp.fc1.bias"), r"missing: blocks\.0\.mlp\.fc1\.bias$"),
        (lambda s: s.update({"x_embedder.proj.weight": torch.ones(24, 16)}), "tensors have unexpected shapes"),
        (lambda s: s.update({"blocks.0.attn.qkv.bias": torch.ones(9)}), "no DiT can be made of it .*qkv.bias"),
        (lambda s: s["pos_embed"].add_(0.5), "positions are not DiT's"),
        (lambda s: s["pos_embed"].add_(5e-4), "positions are not DiT's"),
        (lambda s: s["pos_embed"][0, 3].fill_(torch.nan), "positions are not DiT's"),
        (lambda s: s["final_layer.linear.bias"].fill_(torch.nan), r"final_layer\.linear\.bias .* not finite"),
        (lambda s: s["y_embedder.embedding_table.weight"][1].fill_(torch.inf), "table.weight .* not finite"),
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


def test_soflows_network_and_its_average(tmp_path):
    """As its train.py saves them: the network within a module, times t and t - s."""
    own, ema = theirs.make("soflow", 1), theirs.make("soflow", 2)
    content = {
        name: {f"network.{key}": value for key, value in net.state_dict().items()}
        for name, net in (("model", own), ("ema_model", ema))
    }
    file = theirs.write(tmp_path / "x.pt", theirs.torch_bytes({**content, "optimizer": {"state": {}}}))
    report = import_checkpoint(file, tmp_path / "model", ImportOptions(heads=theirs.HEADS))
    assert report.layout == "soflow" and report.record.data["latents"]["vae_name"] == "sd-vae-ft-mse"
    theirs.same(tmp_path / "model", ema, "soflow")


STRANGE = [
    ({"blocks.0.mlp.w12.weight": 1, "feat_rope.freqs_cos": 1}, {}, "LightningDiT's network or its kin"),
    ({"blocks.0.attn.q_norm.weight": 1}, {}, "LightningDiT's network or its kin"),
    ({"logvar_linear.weight": 1, "logvar_linear.bias": 1}, {}, "DMF's network, whose later blocks see r"),
    ({}, {"dmf_depth": 20}, "DMF's network, whose later blocks see r"),
    ({}, {"model": "DMFT-XL/2"}, "DMF's network"),
    ({"s_embedder.mlp.0.weight": 1, "guidance_embedder.mlp.0.weight": 1}, {}, "TVM's network"),
    ({"s_projector.weight": 1}, {}, "RAE's DiTDH"),
]


@pytest.mark.parametrize("names, settings, said", STRANGE)
def test_look_alikes_are_named_and_not_taken_in(names, settings, said, tmp_path):
    """Even where --layout insists: nothing but the names beside SiT's tells them apart."""
    state = theirs.make("repa", 2).state_dict() | {name: torch.ones(2, 2) for name in names}
    file = theirs.write(tmp_path / "x.pt", theirs.torch_bytes({"ema": state, "args": settings}))
    for layout in (None, "repa"):
        with pytest.raises(UserError, match=f"it holds {said}.*wrap it in a module net"):
            import_checkpoint(file, tmp_path / "model", ImportOptions(heads=theirs.HEADS, layout=layout))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    "name, said",
    [
        ("ema.model.enc.32x32_conv.weight", "a U-Net of EDM's kind"),
        ("model.diffusion_model.input_blocks.0.0.weight", "a U-Net of ADM's kind"),
        ("transformer_blocks.0.attn1.to_q.weight", "a transformer of diffusers"),
        ("ema_params/net/x_embedder/proj1/kernel", "pMF's network"),
    ],
)
def test_other_networks_are_named(name, said, tmp_path):
    file = theirs.write(tmp_path / "x.pt", theirs.torch_bytes({name: torch.ones(2, 2)}))
    with pytest.raises(UserError, match=f"it holds {said}"):
        import_checkpoint(file, tmp_path / "model")
