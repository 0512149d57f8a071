"""The average is found wherever the common libraries put it, and never passed over in silence."""

import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.optim.swa_utils import AveragedModel

import foreign_transformers as theirs
from alphaflow import UserError
from alphaflow.cli import run
from alphaflow.importing.import_checkpoint import ImportOptions, import_checkpoint

NET, EMA = theirs.make("meanflow", 1), theirs.make("meanflow", 2)


def under(prefix, net=EMA):
    return {prefix + name: value for name, value in net.state_dict().items()}


def averaged():
    made = AveragedModel(NET)
    made.update_parameters(EMA)  # the first update copies
    return made.state_dict()


def undotted(net):
    """As LitEma of Latent Diffusion keeps an average: of what is trained, in buffers, whose names have no dots."""
    trained = {name: one.detach() for name, one in net.named_parameters() if one.requires_grad}
    state = {f"model_ema.diffusion_model{name.replace('.', '')}": one for name, one in trained.items()}
    return state | {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(3)}


def shadow(net, **more):
    return {"decay": 0.99, "shadow_params": [one.detach() for one in net.parameters()], **more}


def only_trained(net):
    return {"num_updates": 3, "shadow_params": [one.detach() for one in net.parameters() if one.requires_grad]}


def both():
    """As ema-pytorch's EMA keeps what it averages beside the average."""
    counters = {"initted": torch.tensor(True), "step": torch.tensor(9)}
    return under("online_model.", NET) | under("ema_model.") | counters


FORMS = {
    "torch's AveragedModel beside": lambda: {"model": NET.state_dict(), "ema": averaged()},
    "torch's AveragedModel alone": averaged,
    "ema-pytorch": lambda: {"model": NET.state_dict(), "ema": both()},
    "ema-pytorch alone": lambda: both(),
    "Lightning's callbacks": lambda: {
        "state_dict": under("net."),
        "current_model_state": under("net.", NET),
        "averaging_state": {"n_averaged": torch.tensor(3)},
    },
    "Lightning's older callbacks": lambda: {
        "state_dict": under("net.", NET),
        "callbacks": {"EMACallback": {"ema_state_dict": under("net.")}},
    },
    "net_ema": lambda: {"state_dict": under("net.", NET) | under("net_ema.")},
    "ema_net": lambda: {"net": NET.state_dict(), "ema_net": EMA.state_dict()},
    "params_ema": lambda: {"params": NET.state_dict(), "params_ema": EMA.state_dict()},
    "ema_weights": lambda: {"weights": NET.state_dict(), "ema_weights": EMA.state_dict()},
    "state_dict_ema": lambda: {"state_dict": NET.state_dict(), "state_dict_ema": EMA.state_dict()},
    "model_ema_state_dict": lambda: {
        "model": NET.state_dict(),
        "model_ema_state_dict": EMA.state_dict(),
    },
    "ema_0.9999": lambda: {"model": NET.state_dict(), "ema_0.9999": EMA.state_dict()},
    "EMA": lambda: {"model": NET.state_dict(), "EMA": EMA.state_dict()},
    "modelEMA": lambda: {"model": NET.state_dict(), "modelEMA": EMA.state_dict()},
    "averaged_model": lambda: {"model": NET.state_dict(), "averaged_model": EMA.state_dict()},
    "FastGen": lambda: {"model": under("net.", NET) | under("ema_9999.")},
    "shadow": lambda: {"model": NET.state_dict(), "ema": {"decay": 0.9, "shadow": EMA.state_dict()}},
    "torch-ema": lambda: {"model": NET.state_dict(), "ema": shadow(EMA, num_updates=7, collected_params=None)},
    "torch-ema within its context": lambda: {
        "model": NET.state_dict(),
        "ema": shadow(EMA, collected_params=list(NET.parameters())),
    },
    "torch-ema of what is trained": lambda: {"model": NET.state_dict(), "ema": only_trained(EMA)},
    "torch-ema of a whole module": lambda: {
        "state_dict": under("net.", NET) | {"head.weight": torch.zeros(3)},
        "ema": {"shadow_params": [*EMA.parameters(), torch.ones(3)]},
    },
    "Latent Diffusion": lambda: {"state_dict": under("model.diffusion_model.", NET) | undotted(EMA)},
}


@pytest.mark.parametrize(
    "names", [("non_ema_model", "model"), ("pre_ema", "state_dict"), ("model_without_ema", "model")]
)
def test_words_that_negate_make_no_average(names, tmp_path, capsys):
    content = dict(zip(names, (NET.state_dict(), EMA.state_dict())))
    file = theirs.write(tmp_path / "net.pt", theirs.torch_bytes(content))
    line = ["import", str(file), str(tmp_path / "model")]
    assert run(line) == 2
    said = capsys.readouterr().err
    assert "several networks" in said and "--weights" in said and all(repr(name) in said for name in names)
    import_checkpoint(file, tmp_path / "model", ImportOptions(heads=theirs.HEADS, weights=names[1]))
    theirs.same(tmp_path / "model", EMA, "meanflow")


def test_a_negating_word_beside_an_average(tmp_path):
    content = {"non_ema": NET.state_dict(), "ema": EMA.state_dict(), "ema_grad": NET.state_dict()}
    file = theirs.write(tmp_path / "net.pt", theirs.torch_bytes(content))
    report = import_checkpoint(file, tmp_path / "model", ImportOptions(heads=theirs.HEADS))
    theirs.same(tmp_path / "model", EMA, "meanflow")
    assert report.record.weights == "ema"


@pytest.mark.parametrize("name", FORMS)
def test_where_libraries_put_it(name, tmp_path):
    file = theirs.write(tmp_path / "net.pt", theirs.torch_bytes(FORMS[name]()))
    report = import_checkpoint(file, tmp_path / "model", ImportOptions(heads=theirs.HEADS))
    theirs.same(tmp_path / "model", EMA, "meanflow")
    assert report.record.weights == "ema"
    if "alone" not in name or "pytorch" in name:
        import_checkpoint(file, tmp_path / "own", ImportOptions(heads=theirs.HEADS, weights="net"))
        theirs.same(tmp_path / "own", NET, "meanflow")


def test_the_average_of_diffusers(tmp_path):
    from diffusers.training_utils import EMAModel

    average = EMAModel(EMA.parameters())
    content = {"model": NET.state_dict(), "ema": average.state_dict()}
    file = theirs.write(tmp_path / "net.pt", theirs.torch_bytes(content))
    import_checkpoint(file, tmp_path / "model", ImportOptions(heads=theirs.HEADS))
    theirs.same(tmp_path / "model", EMA, "meanflow")


@pytest.mark.parametrize("prefix", ["emas.ema_models.1", "ema_models.1.ema_model", "emas/ema_models/1"])
def test_one_of_several_is_chosen_by_its_name(prefix, tmp_path, capsys):
    """As of PostHocEMA, which keeps several lengths."""
    content = {"model": NET.state_dict()}
    content |= {"emas": under("ema_models.0.ema_model.", NET) | under("ema_models.1.ema_model.")}
    file = theirs.write(tmp_path / "net.pt", theirs.torch_bytes(content))
    words = ["import", str(file), str(tmp_path / "model"), "--heads", str(theirs.HEADS)]
    assert run(words) == 2
    two = "several networks ('emas.ema_models.0.ema_model', 'emas.ema_models.1.ema_model')"
    assert two in capsys.readouterr().err
    assert run([*words, "--weights", "emas.ema_models.7"]) == 2
    assert "names none of its networks ('model', 'emas." in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
    assert run([*words, "--weights", prefix]) == 0
    theirs.same(tmp_path / "model", EMA, "meanflow")
    assert "taken: 'emas.ema_models.1.ema_model'; the file also holds 'model'" in capsys.readouterr().out


@pytest.mark.parametrize("wanted, expected", [("net", NET), ("net_ema", EMA), ("ema", EMA)])
def test_prefixes_that_are_kinds_as_well(wanted, expected, tmp_path):
    content = {"state_dict": under("net.", NET) | under("teacher.", NET) | under("net_ema.")}
    file = theirs.write(tmp_path / "net.pt", theirs.torch_bytes(content["state_dict"]))
    import_checkpoint(file, tmp_path / "model", ImportOptions(heads=theirs.HEADS, weights=wanted))
    theirs.same(tmp_path / "model", expected, "meanflow")


@pytest.mark.parametrize(
    "average",
    [
        {"shadow_params": [one.detach() for one in EMA.parameters()][1:-1]},
        {"shadow_params": [one.detach() for one in reversed(list(EMA.parameters()))]},
        {"shadow": {f"p{k}": one.detach() for k, one in enumerate(EMA.parameters())}},
    ],
)
def test_an_average_that_cannot_be_named_is_told_of(average, tmp_path):
    content = {"model": NET.state_dict(), "ema": average}
    file = theirs.write(tmp_path / "net.pt", theirs.torch_bytes(content))
    for weights in (None, "ema"):
        with pytest.raises(UserError, match=r"an average in 'ema(\.\w+)?' whose .* --weights net takes"):
            import_checkpoint(file, tmp_path / "model", ImportOptions(heads=theirs.HEADS, weights=weights))
    assert not (tmp_path / "model").exists()
    import_checkpoint(file, tmp_path / "model", ImportOptions(heads=theirs.HEADS, weights="net"))
    theirs.same(tmp_path / "model", NET, "meanflow")


def test_words_that_only_look_like_an_average(tmp_path):
    """Its settings are no average, and `schema` has no `ema` in it."""
    content = {"schema": NET.state_dict(), "ema": {"decay": 0.999, "step": torch.tensor(3)}}
    file = theirs.write(tmp_path / "net.pt", theirs.torch_bytes(content))
    report = import_checkpoint(file, tmp_path / "model", ImportOptions(heads=theirs.HEADS))
    assert report.record.weights == "net"
    with pytest.raises(UserError, match="no averaged weights"):
        import_checkpoint(file, tmp_path / "b", ImportOptions(heads=theirs.HEADS, weights="ema"))


def test_a_list_is_not_named_by_names_that_were_sorted(tmp_path):
    """accelerate's folder: safetensors sorts names, so the order of the parameters is lost."""
    save_file(NET.state_dict(), tmp_path / "model.safetensors")
    theirs.write(tmp_path / "custom_checkpoint_0.pkl", theirs.torch_bytes(shadow(EMA)))
    with pytest.raises(UserError, match=r"an average in 'custom_checkpoint_0\.shadow_params'"):
        import_checkpoint(tmp_path, tmp_path / "model", ImportOptions(heads=theirs.HEADS))


def test_names_by_jax(tmp_path):
    """As `jax.tree_util.keystr` spells them, and as tuples of a flattened dictionary."""
    net, ema = theirs.make("jax-meanflow", 1), theirs.make("jax-meanflow", 2)
    own, flat = theirs.flat(theirs.flax_tree(net)), theirs.flat(theirs.flax_tree(ema))
    keystr = {".ema_params['net']" + "".join(f"['{w}']" for w in key.split("/")): v for key, v in flat.items()}
    np.savez(tmp_path / "a.npz", **{key.replace("/", "\\"): value for key, value in keystr.items()})
    tuples = {("params", *key.split("/")): value for key, value in own.items()}
    tuples |= {("ema_params", *key.split("/")): value for key, value in flat.items()}
    theirs.write(tmp_path / "b.pkl", theirs.pickled(tuples))
    texts = {str(key): value for key, value in tuples.items()}
    theirs.write(tmp_path / "c.pkl", theirs.pickled(texts))
    for file in ("a.npz", "b.pkl", "c.pkl"):
        wanted = ImportOptions(heads=theirs.HEADS, side=theirs.SIDE)
        import_checkpoint(tmp_path / file, tmp_path / re.sub(r"\W", "", file), wanted)
        theirs.same(tmp_path / re.sub(r"\W", "", file), ema, "jax-meanflow")
