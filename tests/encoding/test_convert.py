"""Latents that others made: each form gives the same set, and what a pickle might do, it does not."""

import collections
import io
import json
import os
import pickle
import shutil
import zipfile

import numpy as np
import pytest
import torch

from alphaflow.cli import run
from alphaflow.data import Latents
from alphaflow.data.latents import read_manifest
from alphaflow.data.safe_pickles import UnsafePickle, load_plain
from alphaflow.encoding import EncodingSettings, convert, open_foreign
from alphaflow.encoding.foreign import moments_of
from alphaflow.encoding.vae import load_vae
from alphaflow.errors import UserError
from autoencoders import save_vae

N = 11
RNG = np.random.default_rng(0)
MEAN = RNG.standard_normal((N, 2, 4, 3, 3)).astype(np.float16).astype(np.float32)
LOGVAR = RNG.uniform(-8, 1, (N, 2, 4, 3, 3)).astype(np.float16).astype(np.float32)
LABELS = np.arange(N) % 3
SETTINGS = EncodingSettings(shard_images=4, flips="none")


def both(k, version=0):
    return np.concatenate([MEAN[k, version], LOGVAR[k, version]])


def as_std(k):
    return np.concatenate([MEAN[k, 0], np.exp(LOGVAR[k, 0] / 2)])


def numpy_bytes(**arrays):
    memory = io.BytesIO()
    if list(arrays) == ["array"]:
        np.save(memory, arrays["array"])
    else:
        np.savez(memory, **arrays)
    return memory.getvalue()


def torch_bytes(value):
    memory = io.BytesIO()
    torch.save(value, memory)
    return memory.getvalue()


def entry(k):
    return {"moments": both(k), "moments_flip": both(k, 1), "label": int(LABELS[k])}


FORMS = {
    "npy": lambda k: numpy_bytes(array=both(k)),
    "npz": lambda k: numpy_bytes(moments=both(k), moments_flip=both(k, 1)),
    "pt": lambda k: torch_bytes({"mean": torch.tensor(MEAN[k, 0]), "logvar": torch.tensor(LOGVAR[k, 0])}),
    "pth": lambda k: torch_bytes(torch.tensor(both(k))[None]),
    "pkl": lambda k: pickle.dumps(entry(k)),
    "pickle": lambda k: pickle.dumps({"moments": torch.tensor(both(k))}, protocol=2),
}


def write_tree(root, form):
    for k in range(N):
        path = root / f"class{LABELS[k]}" / f"{k:03d}.{form}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(FORMS[form](k))
    return root


def check(root, order, versions, scale=1.0):
    """The set holds our moments in this order."""
    data = Latents(root)
    moments = data._read(np.arange(N), np.zeros(N, np.int64), np.zeros(N, np.int64)).astype(np.float32)
    assert np.allclose(moments[:, :4], MEAN[order, 0] / scale, rtol=1e-3, atol=1e-4)
    assert np.allclose(moments[:, 4:], LOGVAR[order, 0] - 2 * np.log(scale), rtol=1e-3, atol=4e-3)
    assert data.batch(torch.arange(N))[1].tolist() == LABELS[order].tolist()
    assert data.manifest.versions == versions
    if versions == 2:
        mirrored = data._read(np.arange(N), np.ones(N, np.int64), np.zeros(N, np.int64)).astype(np.float32)
        assert np.allclose(mirrored[:, :4], MEAN[order, 1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_folders_of_files(tmp_path, form):
    source = open_foreign(str(write_tree(tmp_path / "src", form)))
    assert source.class_names == ("class0", "class1", "class2")
    convert(source, tmp_path / "set", SETTINGS, second="logvar")
    check(tmp_path / "set", np.argsort(LABELS, kind="stable"), 2 if form in ("npz", "pkl") else 1)


def edm_zip(path, scale=1.0):
    with zipfile.ZipFile(path, "w") as archive:
        names = [f"00000/img{k:08d}.npy" for k in range(N)]
        for k, name in enumerate(names):
            archive.writestr(name, numpy_bytes(array=as_std(k) * scale))
        labels = [[name, int(LABELS[k])] for k, name in enumerate(names)]
        archive.writestr("dataset.json", json.dumps({"labels": labels}))
    return path


def test_an_edm_zip(tmp_path):
    """Mean and standard deviation, labels in dataset.json; and the command as it is typed."""
    path, vae = edm_zip(tmp_path / "latents.zip"), save_vae(tmp_path / "vae")
    words = [
        "encode",
        str(path),
        str(tmp_path / "set"),
        "--from",
        "latents",
        "--vae",
        str(vae),
        "--shard-images",
        "3",
    ]
    assert run(words) == 0
    check(tmp_path / "set", np.arange(N), 1)
    about = read_manifest(tmp_path / "set").fingerprint
    assert about.vae == load_vae(str(vae)).hash and about.class_names == ("0", "1", "2") and about.size == 12


def test_what_was_multiplied_is_divided(tmp_path):
    path = edm_zip(tmp_path / "latents.zip", 0.18215)
    convert(open_foreign(str(path)), tmp_path / "set", SETTINGS, multiplied=0.18215)
    check(tmp_path / "set", np.arange(N), 1)


def test_an_lmdb(tmp_path):
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(tmp_path / "src"), map_size=2**24) as env, env.begin(write=True) as transaction:
        transaction.put(b"num_samples", str(N).encode())
        for k in range(N):
            transaction.put(str(k).encode(), pickle.dumps(entry(k)))
    convert(open_foreign(str(tmp_path / "src")), tmp_path / "set", SETTINGS)
    check(tmp_path / "set", np.arange(N), 2)
    assert Latents(tmp_path / "set").class_names == ("0", "1", "2")


def test_latents_alone_have_no_variance_and_are_not_drawn(tmp_path):
    for k in range(N):
        (tmp_path / "src").mkdir(exist_ok=True)
        np.save(tmp_path / "src" / f"{k:03d}.npy", MEAN[k, 0])
    convert(open_foreign(str(tmp_path / "src")), tmp_path / "set", SETTINGS, second="none")
    data, rows = Latents(tmp_path / "set"), torch.arange(N)
    assert not data.manifest.variance and data.shape == (4, 3, 3) and data.num_classes == 0
    assert torch.equal(data.draw(rows, rows, 0)[0], data.draw(rows, rows + N, 1)[0])


def test_it_goes_on_after_a_part_and_damaged_files_are_skipped(tmp_path):
    source = open_foreign(str(write_tree(tmp_path / "src", "npy")))
    convert(source, tmp_path / "calm", SETTINGS, second="logvar")
    convert(source, tmp_path / "set", SETTINGS, second="logvar")
    (tmp_path / "set" / "shard-000001.safetensors").unlink()
    (tmp_path / "set" / "manifest.json").unlink()
    convert(source, tmp_path / "set", SETTINGS, second="logvar")
    for path in (tmp_path / "calm").glob("*.*"):
        assert path.read_bytes() == (tmp_path / "set" / path.name).read_bytes()
    broken = tmp_path / "src" / "class1" / "004.npy"
    broken.write_bytes(broken.read_bytes()[:-4])
    source = open_foreign(str(tmp_path / "src"))
    with pytest.raises(UserError, match="more than the tolerated"):
        convert(source, tmp_path / "other", SETTINGS, second="logvar")
    manifest = convert(source, tmp_path / "other", EncodingSettings(tolerance=0.1), second="logvar")
    assert manifest is not None and (manifest.fingerprint.count, manifest.skipped) == (N - 1, 1)
    assert "004.npy" in (tmp_path / "other" / "skipped.txt").read_text()


def test_a_set_of_an_unknown_autoencoder_asks_for_one_when_it_is_decoded(tmp_path):
    from alphaflow.encoding.decoder import decoder_of

    convert(open_foreign(str(edm_zip(tmp_path / "latents.zip"))), tmp_path / "set", SETTINGS)
    data = Latents(tmp_path / "set")
    with pytest.raises(UserError, match="name it with --vae"):
        decoder_of(data.manifest)(torch.zeros(1, 4, 3, 3))
    decode = decoder_of(data.manifest, vae=str(save_vae(tmp_path / "vae")))
    assert decode(torch.zeros(1, 4, 3, 3)).shape == (1, 3, 12, 12)


# ---------------------------------------------------------------------------------- what is refused


def test_a_form_that_is_not_clear(tmp_path):
    for sample, second, said in (
        (both(0), None, "--second logvar, std, or none"),
        (both(0)[:7], "logvar", r"shape \(7, 3, 3\)"),
        (both(0)[0], "none", r"shape \(3, 3\)"),
        (both(0), "std", "is it --second logvar"),
        (both(0) * np.nan, "logvar", "not all numbers are finite"),
        ({"pixels": both(0)}, None, "keys pixels are not understood"),
        (np.array(["x"]), "none", "not of numbers"),
    ):
        with pytest.raises(UserError, match=said):
            moments_of(sample, second)
    with pytest.raises(UserError, match="no latents at"):
        open_foreign(str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="holds no"):
        open_foreign(str(tmp_path))
    source = open_foreign(str(edm_zip(tmp_path / "x.zip")))
    with pytest.raises(UserError, match="name it with --vae"):
        convert(source, tmp_path / "set", EncodingSettings(scale="scalar"))
    with pytest.raises(UserError, match="--multiplied 0"):
        convert(source, tmp_path / "set", SETTINGS, multiplied=0)
    with pytest.raises(UserError, match="8 channels, and"):
        convert(source, tmp_path / "set", SETTINGS, vae=load_vae(str(save_vae(tmp_path / "vae"))), second="none")
    assert run(["encode", "photos", "set", "--second", "std", "--vae", "x"]) == 2
    assert run(["encode", "photos", "set", "--from", "latents", "--dry-run"]) == 2
    assert run(["encode", "photos", "set"]) == 2


class Evil:
    def __init__(self, function, *words):
        self.call = function, words

    def __reduce__(self):
        return self.call


def test_pickles_execute_nothing(tmp_path):
    """Programs in a pickle, at any depth and by any protocol, are named and not run."""
    mark = tmp_path / "mark"
    programs = [
        Evil(os.system, f"touch {mark}"),
        Evil(eval, f"open({str(mark)!r}, 'w')"),
        Evil(exec, f"open({str(mark)!r}, 'w')"),
        Evil(shutil.copy, __file__, str(mark)),
        Evil(getattr, "x", "upper"),
        Evil(torch.load, "x"),
        Evil(np.load, "x"),
        Evil(collections.deque, [1]),
    ]
    for program in programs:
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            for holder in (program, {"moments": [program]}, [both(0), (program,)]):
                with pytest.raises(UnsafePickle, match="neither an array nor a plain value"):
                    load_plain(pickle.dumps(holder, protocol))
    assert not mark.exists()


def test_tensors_within_pickles_execute_nothing_either(tmp_path):
    """The storage of a tensor is a pickle in a pickle."""
    mark = tmp_path / "mark"
    inner = torch_bytes(Evil(os.system, f"touch {mark}"))
    data = pickle.dumps(Evil(torch.storage._load_from_bytes, inner))
    with pytest.raises(UserError):
        load_plain(data)
    assert not mark.exists()


def test_objects_within_arrays_and_things_outside_are_refused():
    with pytest.raises(UserError):
        load_plain(pickle.dumps(np.array([{}, print], dtype=object)))
    memory = io.BytesIO()
    pickler = pickle.Pickler(memory)
    pickler.persistent_id = lambda thing: "outside" if isinstance(thing, np.ndarray) else None
    pickler.dump([both(0)])
    with pytest.raises(UserError, match="outside of it"):
        load_plain(memory.getvalue())
    for damaged in (b"", b"x", pickle.dumps(both(0))[:-10]):
        with pytest.raises(UserError):
            load_plain(damaged)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
def test_arrays_of_every_protocol_come_back(protocol, dtype):
    array = (100 * RNG.standard_normal((3, 4, 5))).astype(dtype)
    for value in (array, np.asfortranarray(array), array[:, ::2], array[0, 0, 0]):
        back = load_plain(pickle.dumps({"a": [value, 3, "x", None]}, protocol))["a"]
        assert np.array_equal(back[0], value) and back[0].dtype == value.dtype and back[1:] == [3, "x", None]
    tensor = torch.from_numpy(array.copy())
    assert torch.equal(load_plain(pickle.dumps(tensor[:, ::2], protocol)), tensor[:, ::2])
