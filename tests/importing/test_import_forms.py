"""Forms in which checkpoints come: types that no weight has, bfloat16 everywhere, parts, folders, and those that
other libraries put together."""

import json
import pickle
import resource
import struct
import sys
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import alphaflow as af
import foreign_transformers as theirs
import forked
from alphaflow import UserError
from alphaflow.cli import run
from alphaflow.data.safe_pickles import load_plain
from alphaflow.importing.import_checkpoint import ImportOptions, import_checkpoint

EMA = theirs.make("meanflow", 2)
STATE = EMA.state_dict()
JAX = theirs.make("jax-meanflow", 2)


def take(file, folder, **wanted):
    return import_checkpoint(file, folder, ImportOptions(**{"heads": theirs.HEADS, **wanted}))


def jax_tree(dtype):
    return {
        f"ema_params/net/{key}": np.asarray(value, dtype)
        for key, value in theirs.flat(theirs.flax_tree(JAX)).items()
    }


# ---------------------------------------------------------------------- what is no weight


def header_only(path, state, extra):
    """A safetensors file with one tensor of a type that torch does not write. extra: name, type, bytes."""
    save_file(state, path)
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    end = len(data) - 8 - size
    header[extra[0]] = {"dtype": extra[1], "shape": [len(extra[2])], "data_offsets": [end, end + len(extra[2])]}
    words = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(words)) + words + data[8 + size :] + extra[2])


@pytest.mark.parametrize(
    "dtype", [torch.uint16, torch.uint32, torch.uint64, torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2]
)
@pytest.mark.parametrize("name", ["rng", "ema.rng"])
def test_side_tensors_in_safetensors(dtype, name, tmp_path):
    if dtype.is_floating_point and name != "rng":
        pytest.skip("of a type that weights may have, and so one too many")
    save_file(
        {f"ema.{key}": value for key, value in STATE.items()} | {name: torch.ones(2).to(dtype)},
        tmp_path / "x.safetensors",
    )
    take(tmp_path / "x.safetensors", tmp_path / "model")
    theirs.same(tmp_path / "model", EMA, "meanflow")


def test_a_type_of_safetensors_that_torch_has_not(tmp_path):
    header_only(tmp_path / "x.safetensors", STATE, ("scale", "F8_E8M0", b"\x7f\x7f"))
    with pytest.raises(UserError, match="too many: scale"):
        take(tmp_path / "x.safetensors", tmp_path / "model")


@pytest.mark.parametrize("zipped", [True, False])
def test_side_tensors_in_torchs_files(zipped, tmp_path, caplog):
    side = {
        "freqs_cis": torch.ones(2, dtype=torch.complex64),
        "steps": torch.ones(2, dtype=torch.int64),
        "quantised": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        "sparse": torch.eye(2).to_sparse(),
        "random": np.random.default_rng(0).bit_generator.state,
        "names": np.array(["a", "b"]),
        "objects": np.array([1, "a"], dtype=object),
        "when": np.array(["2026-11-27"], dtype="datetime64[D]"),
        "long": np.ones(2, np.longdouble),
    }
    content = {"ema": {**STATE, "freqs_cis": side["freqs_cis"], "n": torch.tensor(3.0)}, **side}
    file = theirs.write(tmp_path / "x.pt", theirs.torch_bytes(content, zipped=zipped))
    take(file, tmp_path / "model")
    theirs.same(tmp_path / "model", EMA, "meanflow")
    assert "left aside, as no weight has such a type: freqs_cis (complex64)" in caplog.text


def test_side_values_in_flaxs_files(tmp_path):
    complex_number = b"\xc7\x03\x02" + theirs.pack((1, 2))[:1] + b"ab"  # extension 2, of 3 bytes
    tree = {"ema_params": theirs.flax_tree(JAX), "names": np.array(["a"]), "c": np.ones(2, np.complex64)}
    data = bytearray(theirs.pack(tree) + theirs.pack("z") + complex_number)
    data[1:5] = struct.pack(">I", 4)
    take(theirs.write(tmp_path / "x", bytes(data)), tmp_path / "model", side=theirs.SIDE)
    theirs.same(tmp_path / "model", JAX, "jax-meanflow")


def test_weights_that_are_quantised_are_named(tmp_path):
    state = {**STATE, "blocks.0.attn.qkv.weight": STATE["blocks.0.attn.qkv.weight"].to(torch.int8)}
    with pytest.raises(UserError, match=r"blocks\.0\.attn\.qkv\.weight is stored as int8"):
        take(theirs.write(tmp_path / "x.pt", theirs.torch_bytes(state)), tmp_path / "model")


# ---------------------------------------------------------------------- bfloat16


@pytest.mark.parametrize("form", ["npz", "pickle", "torch's pickle", "old protocol"])
def test_bfloat16_of_jax(form, tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    arrays = jax_tree(ml_dtypes.bfloat16)
    file = tmp_path / "x"
    if form == "npz":
        np.savez(tmp_path / "x.npz", **arrays)
        file = tmp_path / "x.npz"
    elif form == "torch's pickle":
        file.write_bytes(theirs.torch_bytes(arrays))
    else:
        file.write_bytes(pickle.dumps(arrays, 2 if form == "old protocol" else 4))
    take(file, tmp_path / "model", side=theirs.SIDE)
    rounded = theirs.make("jax-meanflow", 2).bfloat16().float()
    rounded.pos_embed.data = JAX.pos_embed.data
    theirs.same(tmp_path / "model", rounded, "jax-meanflow")


def test_arrays_of_other_orders(tmp_path):
    """High byte first, and columns first."""
    arrays = {key: np.asfortranarray(value.astype(">f4")) for key, value in jax_tree(np.float32).items()}
    for name, write in (
        ("a.pkl", lambda f: f.write_bytes(pickle.dumps(arrays))),
        ("b.npz", lambda f: np.savez(f, **arrays)),
    ):
        write(tmp_path / name)
        take(tmp_path / name, tmp_path / name[0], side=theirs.SIDE)
        theirs.same(tmp_path / name[0], JAX, "jax-meanflow")


def test_functions_by_cloudpickle(tmp_path):
    cloudpickle = pytest.importorskip("cloudpickle")
    bound = 3
    content = {"ema": STATE, "schedule": lambda step: step + bound, "kind": type("Mine", (), {"x": 1})}
    report = take(theirs.write(tmp_path / "x.pkl", cloudpickle.dumps(content)), tmp_path / "model")
    theirs.same(tmp_path / "model", EMA, "meanflow")
    assert any("cloudpickle" in name for name in report.foreign)


# ---------------------------------------------------------------------- folders


def parts(folder, state, name="model"):
    names, places = list(state), {}
    for k in range(2):
        file = f"{name}-{k + 1:05d}-of-00002.safetensors"
        some = {key: state[key] for key in names[k::2]}
        save_file(some, folder / file)
        places |= dict.fromkeys(some, file)
    (folder / f"{name}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def test_a_network_in_parts(tmp_path):
    (tmp_path / "in").mkdir()
    parts(tmp_path / "in", STATE)
    given = ["", "model.safetensors.index.json", "model-00002-of-00002.safetensors"]
    for k, name in enumerate(given):
        take(tmp_path / "in" / name, tmp_path / str(k))
        theirs.same(tmp_path / str(k), EMA, "meanflow")
    (tmp_path / "in" / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"model-00001-of-00002\.safetensors"):
        take(tmp_path / "in", tmp_path / "model")


def test_accelerates_folder(tmp_path, capsys):
    """The network, the optimizer, and a second network that is the average."""
    save_file(theirs.make("meanflow", 1).state_dict(), tmp_path / "model.safetensors")
    save_file(STATE, tmp_path / "model_1.safetensors")
    torch.save({"state": {}}, tmp_path / "optimizer.bin")
    (tmp_path / "random_states_0.pkl").write_bytes(pickle.dumps({"step": 3}))
    with pytest.raises(UserError, match=r"several networks \('model', 'model_1'\): say which by --weights"):
        take(tmp_path, tmp_path / "out")
    take(tmp_path, tmp_path / "out", weights="model_1")
    theirs.same(tmp_path / "out", EMA, "meanflow")
    (tmp_path / "model_1.safetensors").unlink()
    take(tmp_path, tmp_path / "own")
    theirs.same(tmp_path / "own", theirs.make("meanflow", 1), "meanflow")


def saved_by_dcp(state, folder):
    import torch.distributed.checkpoint as dcp

    dcp.save(state, checkpoint_id=folder, no_dist=True)
    return folder


def test_distributed_checkpoints(tmp_path, monkeypatch):
    """Read as they are, whatever in them is named, with none of torch's own code for it."""
    own = theirs.make("meanflow", 1)
    home = saved_by_dcp({"model": own.state_dict(), "ema": STATE, "step": 7}, tmp_path / "dcp")
    monkeypatch.setitem(sys.modules, "torch.distributed.checkpoint", None)
    for k, file in enumerate((home, home / ".metadata", *home.glob("*.distcp"), tmp_path)):
        report = take(file, tmp_path / f"model{k}" / "x")
        assert report.record.weights == "ema" and report.record.step == 7
        theirs.same(tmp_path / f"model{k}" / "x", EMA, "meanflow")
    take(home, tmp_path / "own", weights="net")
    theirs.same(tmp_path / "own", own, "meanflow")


def test_damaged_distributed_checkpoints_are_one_line(tmp_path):
    home = saved_by_dcp({"ema": STATE}, tmp_path / "dcp")
    (part,) = home.glob("*.distcp")
    whole = part.read_bytes()
    helps = r": it is a checkpoint by torch\.distributed\.checkpoint.*format_utils dcp_to_torch .*dcp weights\.pt"
    part.write_bytes(whole[:-2000])
    with pytest.raises(UserError, match=r"its __0_0\.distcp is cut short" + helps):
        take(home, tmp_path / "model")
    part.unlink()
    with pytest.raises(UserError, match=r"cannot read its __0_0\.distcp .* is all of it there\?" + helps):
        take(home, tmp_path / "model")
    part.write_bytes(whole)
    for content in (b"", b"junk", pickle.dumps({"a": 1}), (home / ".metadata").read_bytes()[:300]):
        (home / ".metadata").write_bytes(content)
        with pytest.raises(UserError, match=r"its \.metadata cannot be understood|a checkpoint by torch"):
            take(home, tmp_path / "model")
    (home / ".metadata").unlink()
    with pytest.raises(UserError, match=r"is a checkpoint by torch\.distributed"):
        take(home, tmp_path / "model")


DTENSORS = """
import sys, torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

torch.distributed.init_process_group("fake", rank=0, world_size=2)
state, mesh = torch.load(sys.argv[1]), init_device_mesh("cpu", (2,))
for name, kind in (("whole", Replicate()), ("parts", Shard(0))):
    torch.save({key: distribute_tensor(value, mesh, [kind]) for key, value in state.items()}, sys.argv[1] + name)
"""

SHARDED = """
import sys, torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

def save(rank, path):
    dist.init_process_group("gloo", init_method=f"file://{path}.store", rank=rank, world_size=2)
    state, mesh = torch.load(path), init_device_mesh("cpu", (2,))
    dcp.save({"ema": {key: distribute_tensor(value, mesh, [Shard(0)]) for key, value in state.items()}},
             checkpoint_id=path + "dcp")
    dist.destroy_process_group()

if __name__ == "__main__":
    mp.start_processes(save, (sys.argv[1],), 2, start_method="fork")
"""


def test_tensors_that_two_processes_wrote(tmp_path):
    """As FSDP's state lies in a folder: half of the rows in the file of either."""
    torch.save(STATE, tmp_path / "x")
    forked.run([sys.executable, "-c", SHARDED, str(tmp_path / "x")], check=True, capture_output=True)
    assert len(list((tmp_path / "xdcp").glob("*.distcp"))) == 2
    take(tmp_path / "xdcp", tmp_path / "model")
    theirs.same(tmp_path / "model", EMA, "meanflow")


def test_dtensors(tmp_path):
    """As FSDP2's state has them: whole ones are read, the parts of one process are named."""
    torch.save(STATE, tmp_path / "x")
    script = "import torch.testing._internal.distributed.fake_pg" + DTENSORS
    forked.run([sys.executable, "-c", script, str(tmp_path / "x")], check=True, capture_output=True)
    take(tmp_path / "xwhole", tmp_path / "model")
    theirs.same(tmp_path / "model", EMA, "meanflow")
    with pytest.raises(UserError, match=r"the part of one process \(DTensor\): save whole ones"):
        take(tmp_path / "xparts", tmp_path / "parts")


def test_folders_with_several_files_or_none(tmp_path):
    for name in ("0010000.pt", "0020000.pt"):
        theirs.write(tmp_path / name, theirs.torch_bytes(STATE))
    with pytest.raises(UserError, match=r"is a folder with 0010000\.pt, 0020000\.pt: give the file"):
        take(tmp_path, tmp_path / "model")
    (tmp_path / "b" / "transformer").mkdir(parents=True)
    save_file(STATE, tmp_path / "b" / "transformer" / "x.safetensors")
    with pytest.raises(UserError, match=r"without a file of weights, give .*transformer"):
        take(tmp_path / "b", tmp_path / "model")
    take(tmp_path / "0010000.pt", tmp_path / "model")
    with pytest.raises(UserError, match="a model or a run of alphaflow already"):
        take(tmp_path / "model", tmp_path / "again")


def test_parts_that_point_elsewhere_are_not_read(tmp_path):
    (tmp_path / "x.index.json").write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with pytest.raises(UserError, match=r"which is no file beside it"):
        take(tmp_path / "x.index.json", tmp_path / "model")
    for text in ("[]", "{", '{"weight_map": 3}', '{"weight_map": {"a": [1]}}'):
        (tmp_path / "x.index.json").write_text(text)
        with pytest.raises(UserError, match=r"x\.index\.json"):
            take(tmp_path / "x.index.json", tmp_path / "model")


# ---------------------------------------------------------------------- scale and words


def test_the_scale_of_zhu_yus_latents(tmp_path):
    """x = 0.18125 · latent since 28 May 2025; the constants of the days before on request."""
    file = theirs.write(tmp_path / "x.pt", theirs.torch_bytes(STATE))
    latents = take(file, tmp_path / "now").record.data["latents"]
    assert latents["divisor"] == [1 / 0.18125] * 4 and latents["offset"] == [0.0] * 4
    assert latents["scale"] == "0.18125"
    latents = take(file, tmp_path / "early", layout="meanflow-early").record.data["latents"]
    assert latents["divisor"][0] == pytest.approx(9.71007348) and latents["offset"][0] == pytest.approx(0.86488)
    theirs.same(tmp_path / "early", EMA, "meanflow")


def test_words_that_help(tmp_path, capsys, caplog):
    sit = theirs.make("sit", 2)
    file = theirs.write(tmp_path / "sit.pt", theirs.torch_bytes(sit.state_dict()))
    words = ["import", str(file), str(tmp_path / "model"), "--heads", "3", "--layout", "sit"]
    assert run([*words, "--classes", "4"]) == 2
    assert "say --classes 5 where the last row is that of no class, and --classes 6" in capsys.readouterr().err
    assert run(words) == 0 and "guides the first 3 of 4 channels" in caplog.text
    other = {name.replace("r_embedder", "q_embedder"): value for name, value in STATE.items()}
    with pytest.raises(UserError, match=r"a time embedding 'q_embedder', which no layout here knows"):
        take(theirs.write(tmp_path / "so.pt", theirs.torch_bytes(other)), tmp_path / "so")
    short = {name: value for name, value in STATE.items() if name != "blocks.1.attn.qkv.bias"}
    with pytest.raises(UserError, match="the weights do not fit the layout meanflow"):
        take(theirs.write(tmp_path / "short.pt", theirs.torch_bytes(short)), tmp_path / "short")
    tiny = "--steps 1 --batch-size 4 --model.width 8 --model.depth 1".split()
    assert run(["train", "toy", "--init", str(file), "--out", str(tmp_path / "r"), *tiny]) == 2
    assert f"`alphaflow import {file} MODEL`" in capsys.readouterr().err


# ---------------------------------------------------------------------- small files that ask for much


def test_small_pickles_cannot_take_much_memory(tmp_path):
    far = b"\x80\x02K\x01r\xff\xff\xff\x1f."  # a place 500 million further on
    again = (
        pickle.dumps("x" * 1_000_000)[:-1]
        + b"\x940c_codecs\nencode\nq\x01"
        + b"h\x01h\x00X\x06\x00\x00\x00latin1\x86R" * 1000
    )
    bombs = {
        "far": far,
        "again": again + b".",
        "bytearray": b"\x80\x02cbuiltins\nbytearray\nI4000000000\n\x85R.",
        "ndarray": b"\x80\x02cnumpy\nndarray\nI4000000000\n\x85\x85R.",
        "containers": b"\x80\x02" + b"}" * 2_100_000 + b".",
    }
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, data in bombs.items():
        with pytest.raises(UserError):
            take(theirs.write(tmp_path / f"{name}.pkl", data), tmp_path / "model")
        with pytest.raises(UserError):
            load_plain(data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000  # KiB


def test_small_archives_cannot_unpack_to_much(tmp_path):
    with (
        zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.npy", "w") as file,
    ):
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (400 << 18,)})
        for _ in range(400):
            file.write(bytes(1 << 20))
    with pytest.raises(UserError, match="unpacks to"):
        take(tmp_path / "x.npz", tmp_path / "model")
    state = {**STATE, "blocks.0.attn.qkv.weight": torch.zeros(1).expand(1 << 16, 1 << 16)}
    with pytest.raises(UserError, match=r"damaged tensor|unexpected shapes|can be made"):
        take(theirs.write(tmp_path / "x.pt", theirs.torch_bytes(state)), tmp_path / "model")


def test_what_is_written_opens(tmp_path):
    take(theirs.write(tmp_path / "x.pt", theirs.torch_bytes({"ema": STATE})), tmp_path / "model")
    assert (
        load_file(tmp_path / "model" / "model.safetensors").keys()
        == af.load(tmp_path / "model").net.state_dict().keys()
    )
