"""Improved MeanFlow's weights: another network, with guidance among its inputs."""

import pytest
import torch

import alphaflow as af
import foreign_improved as theirs
from alphaflow import UserError
from alphaflow.cli import run
from alphaflow.importing.import_checkpoint import ImportOptions, import_checkpoint
from alphaflow.models import ImprovedDiT
from foreign_transformers import CLASSES, SIDE, inputs, pack, pickled, torch_bytes, write


def make(seed=0):
    torch.manual_seed(seed)
    return theirs.Improved().eval()


def same(folder, net, guidance, start, stop):
    """In float64."""
    z, r, t, y = inputs()
    ours = af.load(folder).net.double()
    with torch.no_grad():
        expected = net.double()(z, r, t, y, guidance, start, stop)
        torch.testing.assert_close(ours(z, r, t, y), expected, rtol=0, atol=1e-6)
        assert not torch.allclose(expected, net(z, r, t, y, 1.0, 0.0, 1.0), atol=1e-3)  # guidance is heard
    net.float()
    assert expected.std() > 0.1


def test_its_pytorch_branch(tmp_path):
    net = make()
    state = {f"net.{name}": value for name, value in net.state_dict().items()}
    file = write(tmp_path / "MiT_B_2.pth", torch_bytes(state))
    report = import_checkpoint(
        file, tmp_path / "model", ImportOptions(side=SIDE, guidance=7.5, interval=(0.4, 0.65))
    )
    same(tmp_path / "model", net, 7.5, 0.4, 0.65)
    assert report.layout == "imf" and report.record.data["latents"]["scale"] == "0.18215"
    assert not any("v_heads" in name for name, _ in af.load(tmp_path / "model").net.named_parameters())


@pytest.mark.parametrize("form", ["pickle", "flax"])
@pytest.mark.parametrize("old", [False, True])
def test_its_jax_code(form, old, tmp_path):
    net, tree = make(1), theirs.flax_tree(make(1), old)
    state = {"step": 9, "ema_params": {"net": tree}}
    file = write(tmp_path / "checkpoint_9", pickled(state) if form == "pickle" else pack(state))
    words = ["--side", str(SIDE), "--guidance", "3", "--interval", "0.2", "0.7"]
    assert run(["import", str(file), str(tmp_path / "model"), *words]) == 0
    same(tmp_path / "model", net, 3.0, 0.2, 0.7)
    assert af.load(tmp_path / "model").step == 9


def test_the_evaluations_own_guidance_is_the_default(tmp_path, monkeypatch):
    from alphaflow.importing import build_network

    net = make()
    file = write(
        tmp_path / "net.pth", torch_bytes({f"net.{name}": value for name, value in net.state_dict().items()})
    )
    monkeypatch.setitem(build_network.GUIDANCE, theirs.SHARED + theirs.OWN, (8.0, (0.4, 0.65)))
    import_checkpoint(file, tmp_path / "model", ImportOptions(side=SIDE))
    same(tmp_path / "model", net, 8.0, 0.4, 0.65)


def test_no_class_is_the_last_row(tmp_path):
    net = make()
    file = write(tmp_path / "net.pth", torch_bytes(net.state_dict()))
    import_checkpoint(file, tmp_path / "model", ImportOptions(side=SIDE))
    ours, (z, r, t, _) = af.load(tmp_path / "model").net, (part.float() for part in inputs())
    torch.testing.assert_close(ours(z, r, t), ours(z, r, t, torch.full((6,), CLASSES)))
    later = torch.rand(6) * (1 - t)
    torch.testing.assert_close(ours(z, r, t), ours(z, r + later, t + later))  # it knows t - r alone


@pytest.mark.parametrize(
    "change, wanted, message",
    [
        (lambda s: s.pop("u_heads.1.mlp.w3._flax_linear.weight"), {}, r"missing: u_heads\.1\.mlp\.w3\.weight$"),
        (lambda s: s.update({"more": torch.ones(1)}), {}, "too many: more"),
        (lambda s: s.pop("u_heads.0.attn.q_norm.weight"), {}, r"missing: u_heads\.0\.attn\.q_norm"),
        (lambda s: None, {"heads": 3}, "leave --layout, --heads and --classes away"),
        (lambda s: None, {"layout": "sit"}, "leave --layout"),
        (lambda s: None, {"guidance": 0.5}, "guidance=0.5 must be at least 1"),
        (lambda s: None, {"interval": (0.7, 0.2)}, r"interval=\(0.7, 0.2\) rise"),
        (lambda s: s["u_final_layer.linear._flax_linear.bias"].fill_(torch.inf), {}, "not finite"),
    ],
)
def test_what_does_not_fit_is_named(change, wanted, message, tmp_path):
    state = make().state_dict()
    change(state)
    file = write(tmp_path / "net.pth", torch_bytes(state))
    with pytest.raises(UserError, match=message):
        import_checkpoint(file, tmp_path / "model", ImportOptions(**{"side": SIDE, **wanted}))
    assert not (tmp_path / "model").exists()


def test_sizes_that_do_not_fit_each_other_are_refused():
    sizes = {"input_size": 8, "patch": 2, "channels": 4, "width": 24, "depth": 3, "head_depth": 2, "heads": 3}
    with pytest.raises(ValueError, match="width=24 is no even number of features for each of 5 heads"):
        ImprovedDiT(**{**sizes, "heads": 5}, num_classes=5, hidden=40)
    with pytest.raises(ValueError, match="head_depth=4 of 3"):
        ImprovedDiT(**{**sizes, "head_depth": 4}, num_classes=5, hidden=40)
    net = ImprovedDiT(**sizes, num_classes=5, hidden=40)
    with pytest.raises(ValueError, match=r"this network takes \(B, 4, 8, 8\)"):
        net(torch.zeros(1, 4, 8, 6), torch.zeros(1), torch.ones(1))


def test_it_can_be_trained():
    """Forward mode goes through it, so that fine-tuning by MeanFlow's derivative works."""
    torch.manual_seed(0)
    sizes = {"input_size": 8, "patch": 2, "channels": 4, "width": 24, "depth": 3, "head_depth": 2, "heads": 3}
    net = ImprovedDiT(**sizes, num_classes=5, hidden=40)
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    x, y = torch.randn(4, 4, 8, 8), torch.arange(4)
    out = af.MeanFlow(flow_ratio=0.25)(net, x, y, step=0)
    out.loss.backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in net.parameters())
