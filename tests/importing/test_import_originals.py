"""Imported networks compute what a second computation does, from the file's own tensors under their own names.

The files of `foreign_transformers` have one size; here are others, and each layout and kind of numbers.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import foreign_improved
import foreign_transformers as theirs
from alphaflow.importing import layouts, mapping
from alphaflow.importing.import_checkpoint import ImportOptions, import_checkpoint
from alphaflow.models import DiT
from original_networks import difference

ROUNDING = 5e-6
"""The largest difference that float32 explains, relative to the largest value."""
FOR = {"heads": theirs.HEADS}


def imported(path, folder, **wanted):
    """The difference of an import from the original."""
    options = ImportOptions(**wanted)
    import_checkpoint(path, folder, options)
    return difference(path, folder, options)


def saved(path, state):
    save_file({name: value.contiguous().clone() for name, value in state.items()}, path)
    return path


def without(state, *firsts):
    return {name: value for name, value in state.items() if name.split(".")[0] not in firsts}


@pytest.mark.parametrize("layout", ["meanflow", "meanflow-early", "soflow", "sit", "repa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_layouts_of_torch(layout, dtype, tmp_path):
    net = theirs.make(layout.removesuffix("-early"), 3).to(dtype)
    file = saved(tmp_path / "x.safetensors", net.state_dict())
    assert imported(file, tmp_path / "model", layout=layout, **FOR) < ROUNDING


@pytest.mark.parametrize("rows", [theirs.CLASSES, theirs.CLASSES + 1])
@pytest.mark.parametrize("weights", ["ema", "net"])
def test_the_release(rows, weights, tmp_path):
    file, *_ = theirs.alphaflow_file(tmp_path / "snapshot.pt", rows=rows)
    assert imported(file, tmp_path / "model", weights=weights) < ROUNDING


def test_the_code_in_jax(tmp_path):
    tree = theirs.flat(theirs.flax_tree(theirs.make("jax-meanflow", 2)))
    np.savez(tmp_path / "x.npz", **{f"ema_params/net/{key}": value for key, value in tree.items()})
    assert imported(tmp_path / "x.npz", tmp_path / "model", side=theirs.SIDE, **FOR) < ROUNDING


@pytest.mark.parametrize("heads", [1, 3, 12])
def test_a_learnt_variance_is_cut_off(heads, tmp_path):
    file = saved(tmp_path / "x.safetensors", theirs.make("sit", 3, out=8).state_dict())
    assert imported(file, tmp_path / "model", layout="sit", heads=heads) < ROUNDING


@pytest.mark.parametrize("layout, channels", [("meanflow", 1), ("repa", 3)])
@pytest.mark.parametrize("missing", [(), ("pos_embed",), ("y_embedder",), ("y_embedder", "pos_embed")])
def test_without_classes_or_positions(layout, channels, missing, tmp_path):
    state = without(theirs.make(layout, 4, channels=channels, out=channels).state_dict(), *missing)
    file = saved(tmp_path / "x.safetensors", state)
    wanted = {**FOR, "layout": layout, "side": theirs.SIDE}
    assert imported(file, tmp_path / "model", **wanted) < ROUNDING


@pytest.mark.parametrize("patch, side, mlp_ratio", [(1, 4, 4.0), (4, 16, 2.0), (2, 12, 3.5)])
def test_other_sizes(patch, side, mlp_ratio, tmp_path):
    sizes = {"width": 32, "depth": 3, "heads": 4, "num_classes": 7}
    net = DiT(input_size=side, patch=patch, channels=4, mlp_ratio=mlp_ratio, **sizes)
    source = torch.Generator().manual_seed(0)
    state = {
        name.replace("d_embedder", "r_embedder"): torch.randn(value.shape, generator=source) * 0.2
        for name, value in net.state_dict().items()
    }
    name = "x_embedder.proj.weight"
    state[name] = state[name].reshape(32, 4, patch, patch)
    file = saved(tmp_path / "x.safetensors", state)
    assert imported(file, tmp_path / "model", heads=4, side=side) < ROUNDING


@pytest.mark.parametrize("form", ["torch", "today's names", "the release's names"])
@pytest.mark.parametrize("guidance, interval", [(1.0, (0.0, 1.0)), (7.5, (0.4, 0.65))])
def test_improved_meanflow(form, guidance, interval, tmp_path):
    torch.manual_seed(0)
    net = foreign_improved.Improved().eval()
    if form == "torch":
        file = saved(tmp_path / "x.safetensors", net.state_dict())
    else:
        tree = foreign_improved.flax_tree(net, old=form == "the release's names")
        file = theirs.write(tmp_path / "x.pkl", theirs.pickled({"ema_params": {"net": tree}}))
    wanted = {"side": theirs.SIDE, "guidance": guidance, "interval": interval}
    assert imported(file, tmp_path / "model", **wanted) < ROUNDING


def test_a_wrong_row_in_the_tables_would_show(tmp_path, monkeypatch):
    """Names and shapes fit where the two times are exchanged; the numbers do not."""
    file = saved(tmp_path / "x.safetensors", theirs.make("meanflow", 2).state_dict())
    rules = dict(layouts.LAYOUTS["meanflow"].rules)
    first, second = "t_embedder.mlp.0.weight", "r_embedder.mlp.0.weight"
    rules[first], rules[second] = rules[second], rules[first]
    wrong = {"meanflow": replace(layouts.LAYOUTS["meanflow"], rules=rules)}
    monkeypatch.setattr(mapping, "LAYOUTS", wrong)
    assert imported(file, tmp_path / "model", **FOR) > 1e-2
