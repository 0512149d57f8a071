"""A fingerprint covers the numbers and what made them: other numbers are another set, whatever they are called."""

import json
import logging
import shutil
import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

import forked
from alphaflow.cli import run
from alphaflow.data import Latents
from alphaflow.data.latents import read_manifest
from alphaflow.data.latents.manifest import MANIFEST
from alphaflow.data.sources import open_source
from alphaflow.encoding import EncodingSettings, convert, encode, open_foreign
from alphaflow.encoding.vae import load_vae
from alphaflow.errors import UserError
from alphaflow.processes import Processes
from alphaflow.runs.data_record import check_fits, describe
from autoencoders import save_vae

N = 12
SETTINGS = EncodingSettings(flips="none", shard_images=5)
TINY = "--steps 2 --batch-size 4 --data.flip False --model.width 16 --model.depth 1 --model.heads 2".split()
TINY += "--model.patch 2 --device cpu".split()


def arrays(seed: int) -> np.ndarray:
    """Positive, so that they can be means and log-variances, or means and deviations, or latents alone."""
    return np.random.default_rng(seed).uniform(0.1, 2, (N, 8, 4, 4)).astype(np.float32)


def folder(root, seed):
    root.mkdir(parents=True)
    for k, array in enumerate(arrays(seed)):
        np.savez(root / f"{k:02d}.npz", moments=array, label=k % 3)
    return root


def packed(path, seed):
    with zipfile.ZipFile(path, "w") as archive:
        for k, array in enumerate(arrays(seed)):
            with archive.open(f"{k:02d}.npy", "w") as file:
                np.save(file, array)
    return path


def database(root, seed):
    lmdb = pytest.importorskip("lmdb")
    import pickle

    with lmdb.open(str(root), map_size=2**24) as env, env.begin(write=True) as transaction:
        transaction.put(b"num_samples", str(N).encode())
        for k, array in enumerate(arrays(seed)):
            transaction.put(str(k).encode(), pickle.dumps({"moments": array}))
    return root


def made(source, out, settings=SETTINGS, **words) -> str:
    manifest = convert(open_foreign(str(source)), out, settings, **words)
    assert manifest is not None
    return manifest.fingerprint.digest


def words(source, out, *more):
    return ["encode", str(source), str(out), "--from", "latents", *more]


def train(data, out):
    return run(["train", "latents", "--data.path", str(data), "--out", str(out), *TINY])


# ---------------------------------------------------------------------------------- options and contents


def test_what_changes_the_numbers_changes_the_fingerprint_and_is_refused_with_both_values(
    tmp_path, capsys
) -> None:
    source = packed(tmp_path / "edm.zip", 0)
    ways = {"std": ["--second", "std"], "logvar": ["--second", "logvar"], "none": ["--second", "none"]}
    ways["multiplied"] = ["--second", "std", "--multiplied", "0.18215"]
    for name, way in ways.items():
        assert run(words(source, tmp_path / name, *way)) == 0
    assert len({read_manifest(tmp_path / name).fingerprint.digest for name in ways}) == 4
    before = (tmp_path / "std" / MANIFEST).read_bytes()
    for name, said in (
        ("logvar", "second logvar here, std there"),
        ("none", "second none here, std there; shape (8, 4, 4) here, (4, 4, 4) there"),
        ("multiplied", "multiplied 0.18215 here, 1.0 there"),
    ):
        capsys.readouterr()
        assert run(words(source, tmp_path / "std", *ways[name])) == 1
        assert said in capsys.readouterr().err
    assert run(words(source, tmp_path / "std", *ways["std"])) == 0, "the same again is nothing to do"
    assert (tmp_path / "std" / MANIFEST).read_bytes() == before


@pytest.mark.parametrize("form", [folder, packed, database])
def test_equal_names_and_sizes_are_not_equal_latents(tmp_path, form) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    one, other = form(tmp_path / "1" / "a.zip", 0), form(tmp_path / "2" / "a.zip", 1)
    second = {"second": "logvar"} if form is packed else {}
    digest = made(one, tmp_path / "one", **second)
    assert digest != made(other, tmp_path / "other", **second)
    with pytest.raises(UserError, match="the same names and sizes and other contents"):
        made(other, tmp_path / "one", **second)
    shutil.copytree(tmp_path / "1", tmp_path / "copy")
    assert made(tmp_path / "copy" / "a.zip", tmp_path / "again", **second) == digest


def test_labels_are_part_of_the_contents(tmp_path) -> None:
    for name, classes in (("a", 3), ("b", 2)):
        (tmp_path / name).mkdir()
        for k, array in enumerate(arrays(0)):
            np.savez(
                tmp_path / name / f"{k:02d}.npz", moments=array, label=min(2, k) if classes == 3 else 2 - min(2, k)
            )
    assert made(tmp_path / "a", tmp_path / "A") != made(tmp_path / "b", tmp_path / "B")


def test_the_fingerprint_is_that_of_the_rows_however_they_are_shared_out(tmp_path) -> None:
    source = folder(tmp_path / "src", 0)
    digests = {made(source, tmp_path / str(n), EncodingSettings(shard_images=n)) for n in (1, 5, 100)}
    crew = [
        convert(open_foreign(str(source)), tmp_path / "crew", SETTINGS, processes=Processes(k, 2))
        for k in range(2)
    ]
    assert crew[1] is not None and {crew[1].fingerprint.digest} == digests and len(digests) == 1


def test_images_of_equal_names_and_sizes_are_another_set(tmp_path) -> None:
    vae = load_vae(str(save_vae(tmp_path / "vae")))
    for name, seed in (("a", 0), ("b", 1)):
        rng = np.random.default_rng(seed)
        (tmp_path / name / "cat").mkdir(parents=True)
        for k in range(3):
            pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / "cat" / f"{k}.png", compress_level=0)
    sources = [open_source(str(tmp_path / name)) for name in "ab"]
    settings = EncodingSettings(size=16, flips="none")
    found = [encode(source, tmp_path / f"out{k}", vae, settings) for k, source in enumerate(sources)]
    assert sources[0].digest == sources[1].digest
    assert found[0].fingerprint.digest != found[1].fingerprint.digest
    with pytest.raises(UserError, match="the same names and sizes and other contents"):
        encode(sources[1], tmp_path / "out0", vae, settings)


def test_a_run_is_not_gone_on_with_on_exchanged_latents(tmp_path, capsys) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        made(folder(tmp_path / name, seed), tmp_path / name.upper())
    assert train(tmp_path / "A", tmp_path / "run") == 0
    shutil.rmtree(tmp_path / "A")
    (tmp_path / "B").rename(tmp_path / "A")
    capsys.readouterr()
    assert run(["train", "--resume", str(tmp_path / "run"), "--steps", "4"]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "the data has changed since this run began" in said and "contents " in said


# ---------------------------------------------------------------------------------- older sets


def as_older(root):
    """The same set as it was written before second, multiplied and contents were kept."""
    content = json.loads((root / MANIFEST).read_text())
    plan = json.loads((root / "plan.json").read_text())
    for about in (content["fingerprint"], plan["fingerprint"]):
        for name in ("second", "multiplied", "contents"):
            del about[name]
    del plan["probe"]
    older = {
        key: value for key, value in content["fingerprint"].items() if key not in ("vae_name", "address", "code")
    }
    import hashlib

    content["digest"] = hashlib.sha256(json.dumps(older, sort_keys=True).encode()).hexdigest()[:16]
    (root / MANIFEST).write_text(json.dumps(content))
    (root / "plan.json").write_text(json.dumps(plan))
    for path in root.glob("shard-*"):
        with safe_open(path, "np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            about = json.loads(file.metadata()["shard"])
        del about["digest"]
        save_file(tensors, path, metadata={"shard": json.dumps(about)})
    return content["digest"]


def test_older_sets_are_read_and_keep_their_fingerprint(tmp_path) -> None:
    source = folder(tmp_path / "src", 0)
    made(source, tmp_path / "set")
    x, y = Latents(tmp_path / "set").batch(torch.arange(N))
    digest = as_older(tmp_path / "set")
    data = Latents(tmp_path / "set")
    assert data.fingerprint == digest and data.manifest.fingerprint.contents == ""
    assert torch.equal(data.batch(torch.arange(N))[0], x) and torch.equal(data.batch(torch.arange(N))[1], y)
    assert made(source, tmp_path / "set") == digest, "the command again finds it done"
    assert train(tmp_path / "set", tmp_path / "run") == 0
    assert run(["train", "--resume", str(tmp_path / "run"), "--steps", "3"]) == 0


def test_an_older_half_of_a_set_is_finished_with_the_same_fingerprint(tmp_path) -> None:
    source = folder(tmp_path / "src", 0)
    whole = made(source, tmp_path / "whole")
    made(source, tmp_path / "set")
    as_older(tmp_path / "set")
    for name in (MANIFEST, "shard-000001.safetensors"):
        (tmp_path / "set" / name).unlink()
    manifest = convert(open_foreign(str(source)), tmp_path / "set", SETTINGS)
    assert manifest is not None
    assert manifest.fingerprint.contents == read_manifest(tmp_path / "whole").fingerprint.contents
    assert manifest.fingerprint.digest == whole


# ---------------------------------------------------------------------------------- the scale of each place


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Pictures whose left half is darker, an autoencoder, and sets of each scale."""
    home, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for k in range(24):
        (home / "images" / "ab"[k % 2]).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (16, 16, 3))
        pixels[:, :8] //= 4
        Image.fromarray(pixels.astype(np.uint8)).save(home / "images" / "ab"[k % 2] / f"{k}.png")
    vae = str(save_vae(home / "vae"))
    for scale in ("statistics", "places"):
        line = ["encode", str(home / "images"), str(home / scale), "--vae", vae, "--size", "16", "--scale", scale]
        assert run([*line, "--flips", "none"]) == 0
    return home


def test_places_are_brought_to_one_scale_each(photos) -> None:
    """Over the set, draws have mean 0 and variance 1 at each place; by channel they have that on average."""
    rows = torch.arange(24).repeat(400)

    def off(name: str) -> float:
        x, _ = Latents(photos / name).draw(rows, torch.arange(len(rows)), 0)
        return float(x.double().mean(0).abs().max())

    data = Latents(photos / "places")
    x, _ = data.draw(rows, torch.arange(len(rows)), 0)
    assert off("places") < 0.05 < off("statistics")
    assert (x.double().var(0) - 1).abs().max() < 0.1
    offset, divisor = data.manifest.scaling
    assert offset.shape == divisor.shape == data.shape == (4, 4, 4)
    assert read_manifest(photos / "places") == data.manifest and data.manifest.fingerprint.scale == "places"


def test_places_are_undone_by_the_decoder(photos, tmp_path) -> None:
    from alphaflow.encoding.decoder import decoder_of

    data, vae = Latents(photos / "places"), load_vae(str(photos / "vae"))
    latents = torch.randn(3, 4, 4, 4)
    offset, divisor = (torch.from_numpy(part) for part in data.manifest.scaling)
    expected = vae.decode(latents)
    assert torch.allclose(decoder_of(data.manifest)((latents - offset) / divisor), expected, atol=1e-4)
    assert train(photos / "places", tmp_path / "run") == 0
    assert run(["sample", str(tmp_path / "run"), "--out", str(tmp_path / "x.npz"), "--count", "2"]) == 0


def test_a_place_where_all_agree_has_no_scale(tmp_path) -> None:
    (tmp_path / "src").mkdir()
    for k, array in enumerate(arrays(0)):
        array[1, 2, 3] = 0.5
        np.save(tmp_path / "src" / f"{k:02d}.npy", array)
    with pytest.raises(UserError, match=r"all latents agree at the place \(2, 3\) of channel 1"):
        made(tmp_path / "src", tmp_path / "out", EncodingSettings(scale="places"), second="none")


def test_going_on_between_scales_is_told(photos, caplog) -> None:
    ours, theirs = (describe(Latents(photos / name)) for name in ("statistics", "places"))
    for data, record, said in (
        (ours, theirs, "were scaled by place and these by channel (encode with --scale places for the same)"),
        (theirs, ours, "were scaled by channel and these by place"),
    ):
        caplog.clear()
        check_fits("--init x", "begin without", data, record)
        assert said in caplog.text
    imported = json.loads(json.dumps(theirs))
    imported["latents"]["scale"] = "statistics"  # as models of the release were recorded
    caplog.clear()
    check_fits("--init x", "begin without", ours, imported)
    assert "by place and these by channel" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        check_fits("--init x", "begin without", theirs, imported)
        check_fits("--init x", "begin without", ours, ours)
    assert caplog.text == ""
    moved = json.loads(json.dumps(ours))
    moved["latents"]["divisor"] = [1.5 * value for value in moved["latents"]["divisor"]]
    check_fits("--init x", "begin without", ours, moved)
    assert "up to 50 % wider or narrower" in caplog.text
    with pytest.raises(UserError, match=r"scale 0\.18215, and these have statistics"):
        check_fits("x", "y", ours, {**ours, "latents": {**ours["latents"], "scale": "0.18215"}})


def test_a_full_disk_is_one_line_and_what_is_there_is_kept(tmp_path) -> None:
    """Files of this process may not grow beyond 4,000 bytes, which the second shard would."""
    source = folder(tmp_path / "src", 0)
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from alphaflow.cli import run\n"
        "import alphaflow.encoding\n"
        "c = sys.modules['alphaflow.encoding.convert']\n"
        "real = c.write_shard\n"
        "def write(path, *words, **more):\n"
        "    if '000001' in path.name: resource.setrlimit(resource.RLIMIT_FSIZE, (300, resource.RLIM_INFINITY))\n"
        "    real(path, *words, **more)\n"
        "c.write_shard = write\n"
        f"words = ['encode', {str(source)!r}, {str(tmp_path / 'out')!r}, '--from', 'latents']\n"
        "sys.exit(run([*words, '--shard-images', '5']))"
    )
    done = forked.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert (
        done.stderr.strip().splitlines()[-1].startswith(f"alphaflow: cannot write to {tmp_path / 'out'} (File too")
    )
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {".lock", "plan.json", "shard-000000.safetensors"}
    made(source, tmp_path / "whole")
    assert made(source, tmp_path / "out") == read_manifest(tmp_path / "whole").fingerprint.digest
