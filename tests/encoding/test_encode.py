"""Encoding: the numbers are the autoencoder's, and neither kills nor company change a byte of the set."""

import json
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alphaflow.cli import run
from alphaflow.data import Latents
from alphaflow.data.latents import read_manifest
from alphaflow.data.latents.manifest import MANIFEST
from alphaflow.data.sources import decode, open_source
from alphaflow.encoding import EncodingSettings, encode, preview
from alphaflow.encoding.vae import load_vae
from alphaflow.errors import UserError
from alphaflow.pixels import scale_pixels
from alphaflow.processes import Processes
from autoencoders import save_vae

SMALL = EncodingSettings(size=16, shard_images=5, flips="none")


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return load_vae(str(save_vae(tmp_path_factory.mktemp("vae"))))


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Twenty-three pictures of three classes, of many sizes and two formats."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for k in range(23):
        folder = root / ("cat", "dog", "emu")[k % 3]
        folder.mkdir(exist_ok=True)
        rough = rng.integers(0, 256, (3 + k % 4, 4, 3), np.uint8)
        picture = Image.fromarray(rough).resize((16 + 3 * k, 20 + k), Image.Resampling.BICUBIC)
        picture.save(folder / f"{k:02d}.{'png' if k % 2 else 'jpg'}")
    return root


def whole(root: Path) -> dict[str, bytes]:
    """All files of a set by name; hidden ones but the lock are left-overs."""
    return {path.name: path.read_bytes() for path in sorted(root.iterdir()) if path.name != ".lock"}


def moments_by_hand(vae, source, index, crop="lanczos", mirrored=False):
    """Straight through diffusers, one picture at a time."""
    pixels = torch.from_numpy(decode(source.read(index), 16, crop).copy())[None]
    pixels = pixels.flip(-1) if mirrored else pixels
    with torch.no_grad():
        posterior = vae.net.encode(scale_pixels(pixels)).latent_dist
    return torch.cat([posterior.mean, posterior.logvar], dim=1)[0]


def stored(root, row, version=0):
    data = Latents(root)
    return torch.from_numpy(data._read(np.array([row]), np.array([version]), np.zeros(1, np.int64))[0]).float()


@pytest.mark.parametrize("crop", ["lanczos", "box"])
def test_the_stored_moments_are_those_of_diffusers(tmp_path, photos, vae, crop):
    source = open_source(str(photos))
    settings = EncodingSettings(size=16, shard_images=5, flips="stored", crop=crop)
    manifest = encode(source, tmp_path / "set", vae, settings, batch_size=3)
    assert manifest is not None and manifest.fingerprint.count == 23 and len(manifest.shards) == 5
    for row in (0, 4, 5, 13, 22):
        for version in range(2):
            expected = moments_by_hand(vae, source, row, crop, mirrored=bool(version))
            assert torch.allclose(stored(tmp_path / "set", row, version), expected, rtol=1e-3, atol=1e-4)
    data = Latents(tmp_path / "set")
    assert data.class_names == ("cat", "dog", "emu")
    assert torch.equal(data.batch(torch.arange(23))[1], torch.from_numpy(source.labels))


def test_drawn_flips_mirror_about_half_of_the_images_for_good(tmp_path, photos, vae):
    source = open_source(str(photos))
    settings = EncodingSettings(size=16, flips="drawn")
    encode(source, tmp_path / "a", vae, settings, batch_size=4)
    encode(source, tmp_path / "b", vae, settings, batch_size=23)
    mirrored = 0
    for row in range(23):
        kept, plain = stored(tmp_path / "a", row), moments_by_hand(vae, source, row)
        flipped = moments_by_hand(vae, source, row, mirrored=True)
        mirrored += int((kept - flipped).abs().max() < (kept - plain).abs().max())
        assert min((kept - flipped).abs().max(), (kept - plain).abs().max()) < 0.01
        assert torch.allclose(kept, stored(tmp_path / "b", row), atol=2e-3), "whatever the batches"
    assert 4 <= mirrored <= 19


def test_bf16_is_near_fp32_and_another_set(tmp_path, photos, vae):
    source, path = open_source(str(photos)), str(vae.name)
    encode(source, tmp_path / "fp32", vae, SMALL)
    encode(
        source, tmp_path / "bf16", load_vae(path, precision="bf16"), EncodingSettings(size=16, precision="bf16")
    )
    one, other = (torch.stack([stored(tmp_path / name, k) for k in range(23)]) for name in ("fp32", "bf16"))
    assert 0 < (one - other).abs().max() < 0.05 * one.abs().max()
    assert torch.equal(other.bfloat16().float(), other), "float16 holds bfloat16's results exactly"
    digests = {read_manifest(tmp_path / name).fingerprint.digest for name in ("fp32", "bf16")}
    assert len(digests) == 2


def test_the_scalar_is_the_autoencoders_own(tmp_path, photos, vae):
    manifest = encode(open_source(str(photos)), tmp_path / "set", vae, EncodingSettings(size=16, scale="scalar"))
    assert manifest is not None and manifest.fingerprint.scale == "0.18215"
    offset, divisor = manifest.scaling
    assert np.allclose(1 / divisor, 0.18215) and not offset.any()


# ---------------------------------------------------------------------------------- kills and company


def in_a_child(work) -> int:
    """Fork, do the work there, and return the child's process id."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    except BaseException:
        os._exit(1)
    os._exit(0)


def test_kills_at_random_moments_lose_nothing_and_change_nothing(tmp_path, photos, vae):
    """SIGKILL twenty times; what was written stays, and the end is byte for byte the undisturbed set."""
    source, settings = open_source(str(photos)), EncodingSettings(size=16, shard_images=1, flips="stored")
    start = time.monotonic()
    encode(source, tmp_path / "calm", vae, settings, batch_size=2)
    undisturbed, chance, kills = time.monotonic() - start, random.Random(0), 0
    for attempt in range(100):
        root = tmp_path / str(attempt)
        kept: dict[str, int] = {}
        while not (root / MANIFEST).exists():
            child = in_a_child(lambda root=root: encode(source, root, vae, settings, batch_size=2))
            time.sleep(chance.uniform(0.02, 0.5) * undisturbed)
            os.kill(child, signal.SIGKILL)
            kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
            for name, written in kept.items():
                assert (root / name).stat().st_mtime_ns == written, "a shard that was there is not redone"
            kept = {path.name: path.stat().st_mtime_ns for path in root.glob("shard-*.safetensors")}
        encode(source, root, vae, settings, batch_size=2)
        assert whole(root) == whole(tmp_path / "calm")
        if kills >= 20:
            break
    assert kills >= 20


def test_a_kill_in_the_middle_of_a_write_leaves_no_trace(tmp_path, photos, vae, monkeypatch):
    """Every system call that puts something into place is once the last one before the process dies."""
    source = open_source(str(photos))
    encode(source, tmp_path / "calm", vae, SMALL)
    root = tmp_path / "set"
    for last in range(1, 40):

        def work(last=last):
            calls, fsync = iter(range(1, 1000)), os.fsync

            def dying(file):
                if next(calls) == last:
                    os.kill(os.getpid(), signal.SIGKILL)
                fsync(file)

            monkeypatch.setattr(os, "fsync", dying)
            encode(source, root, vae, SMALL)

        _, status = os.waitpid(in_a_child(work), 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        if (root / MANIFEST).exists() and not os.WIFSIGNALED(status):
            break
    assert last > 2
    encode(source, root, vae, SMALL)
    assert whole(root) == whole(tmp_path / "calm")


@pytest.mark.parametrize("world", [2, 3, 7])
def test_many_processes_write_the_same_set(tmp_path, photos, vae, world):
    source = open_source(str(photos))
    encode(source, tmp_path / "single", vae, SMALL)
    root = tmp_path / "set"
    crew = [
        in_a_child(lambda rank=rank: encode(source, root, vae, SMALL, processes=Processes(rank, world)))
        for rank in range(world)
    ]
    assert all(os.waitpid(child, 0)[1] == 0 for child in crew)
    assert whole(root) == whole(tmp_path / "single")


def test_a_process_that_is_not_the_last_says_so(tmp_path, photos, vae):
    source, root = open_source(str(photos)), tmp_path / "set"
    assert encode(source, root, vae, SMALL, processes=Processes(1, 2)) is None
    with pytest.raises(UserError, match="not finished"):
        Latents(root)
    assert encode(source, root, vae, SMALL, processes=Processes(0, 2)) is not None
    assert encode(source, root, vae, SMALL) == read_manifest(root), "a finished set is left as it is"


def test_a_shard_that_was_removed_is_made_again(tmp_path, photos, vae):
    source, root = open_source(str(photos)), tmp_path / "set"
    encode(source, root, vae, SMALL)
    before = whole(root)
    (root / "shard-000003.safetensors").unlink()
    encode(source, root, vae, SMALL)
    assert whole(root) == before


# ---------------------------------------------------------------------------------- what is refused or skipped


def test_other_settings_other_images_and_another_autoencoder_are_refused_with_both_values(tmp_path, photos, vae):
    source, root = open_source(str(photos)), tmp_path / "set"
    encode(source, root, vae, SMALL, processes=Processes(0, 2))
    other = load_vae(str(save_vae(tmp_path / "other", seed=1)))
    for settings, net, said in (
        (EncodingSettings(size=32, flips="none"), vae, "size 32 here, 16 there"),
        (EncodingSettings(size=16, flips="stored"), vae, "flips stored here, none there"),
        (EncodingSettings(size=16, flips="none", crop="box"), vae, "crop box here, lanczos at whole pixels there"),
        (EncodingSettings(size=16, flips="none", scale="scalar"), vae, "scale 0.18215 here, statistics there"),
        (SMALL, other, f"vae {other.hash} here, {vae.hash} there"),
    ):
        with pytest.raises(UserError, match=said):
            encode(source, root, net, settings)
    grown = tmp_path / "grown"
    for path in photos.rglob("*.*"):
        (grown / path.parent.name).mkdir(parents=True, exist_ok=True)
        (grown / path.parent.name / path.name).write_bytes(path.read_bytes())
    (grown / "cat" / "new.png").write_bytes((photos / "dog" / "01.png").read_bytes())
    with pytest.raises(UserError, match=r"source \w{16} here, \w{16} there"):
        encode(open_source(str(grown)), root, vae, SMALL)


def test_what_an_earlier_crop_began_is_not_gone_on_with(tmp_path, photos, vae):
    """Where sides differ by an odd number, lanczos began at half a pixel; that was recorded as lanczos alone."""
    source, root = open_source(str(photos)), tmp_path / "set"
    encode(source, root, vae, SMALL, processes=Processes(0, 2))
    plan = (root / "plan.json").read_text()
    assert '"crop": "lanczos at whole pixels"' in plan
    (root / "plan.json").write_text(plan.replace("lanczos at whole pixels", "lanczos"))
    with pytest.raises(UserError, match="crop lanczos at whole pixels here, lanczos there"):
        encode(source, root, vae, SMALL)


def test_a_folder_with_something_else_in_it_is_not_written_to(photos, vae):
    with pytest.raises(UserError, match="is not empty"):
        encode(open_source(str(photos)), photos, vae, SMALL)


def broken_photos(root: Path, good: int, bad: int) -> Path:
    (root / "a").mkdir(parents=True)
    for k in range(good + bad):
        path = root / "a" / f"{k:03d}.png"
        if k % 3 == 1 and bad:
            path.write_bytes(b"not a picture" if bad % 2 else b"")
            bad -= 1
        else:
            Image.new("RGB", (20, 20), (k, 40, 90)).save(path)
    return root


def test_broken_images_are_left_out_listed_and_counted(tmp_path, vae):
    source = open_source(str(broken_photos(tmp_path / "photos", 9, 3)))
    settings = EncodingSettings(size=16, shard_images=4, flips="none", tolerance=0.3)
    manifest = encode(source, tmp_path / "set", vae, settings, batch_size=2)
    assert manifest is not None and (manifest.fingerprint.count, manifest.skipped) == (9, 3)
    lines = (tmp_path / "set" / "skipped.txt").read_text().splitlines()
    assert [line.split("/")[-1].split(":")[0] for line in lines] == ["001.png", "004.png", "007.png"]
    assert "the file is empty" in lines[1] and "not a PNG" in lines[0]
    good = [k for k in range(12) if k not in (1, 4, 7)]
    for row, index in enumerate(good):
        assert torch.allclose(stored(tmp_path / "set", row), moments_by_hand(vae, source, index), atol=2e-3)


def test_too_many_broken_images_stop_and_a_higher_tolerance_goes_on(tmp_path, vae):
    source = open_source(str(broken_photos(tmp_path / "photos", 9, 3)))
    settings = EncodingSettings(size=16, shard_images=4, flips="none", tolerance=0.2)
    for _ in range(2):  # also when it is the shards of the first attempt that hold too many
        with pytest.raises(
            UserError, match=r"of 12 images could not be read, more than the tolerated 20.0%"
        ) as caught:
            encode(source, tmp_path / "set", vae, settings)
        assert "001.png: not a PNG, JPEG or WebP image, all are listed in" in str(caught.value)
        lines = (tmp_path / "set" / "skipped.txt").read_text().splitlines()
        assert len(lines) == 3 and "004.png: the file is empty" in lines[1]
    assert (
        encode(source, tmp_path / "set", vae, EncodingSettings(size=16, flips="none", tolerance=0.25)) is not None
    )


def test_a_size_that_does_not_fit_the_autoencoder(tmp_path, photos, vae):
    with pytest.raises(UserError, match="multiple of 4"):
        encode(open_source(str(photos)), tmp_path, vae, EncodingSettings(size=18))


# ---------------------------------------------------------------------------------- the command


def test_the_command_and_its_look_ahead(tmp_path, photos, vae, capsys):
    words = ["encode", str(photos), str(tmp_path / "set"), "--vae", vae.name, "--size", "16", "--flips", "none"]
    assert run([*words, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "23 images, 3 classes" in said and "4 × 4 × 4" in said and "skipped   0 of 23" in said
    assert not (tmp_path / "set").exists()
    assert run([*words, "--device", "cpu", "--batch-size", "4"]) == 0
    assert "23 latents, fingerprint" in capsys.readouterr().out
    content = json.loads((tmp_path / "set" / MANIFEST).read_text())
    assert content["fingerprint"]["vae"] == vae.hash
    assert run([*words, "--batch-size", "0"]) == 2


def test_the_look_ahead_names_what_it_would_skip_and_is_right_about_the_size(tmp_path, vae):
    source = open_source(str(broken_photos(tmp_path / "photos", 9, 3)))
    seen = preview(source, vae, EncodingSettings(size=16, flips="stored", tolerance=1.0))
    assert [name.split("/")[-1] for name, _ in seen.skipped] == ["001.png", "004.png", "007.png"]
    assert "001.png: not a PNG" in seen.text()
    encode(source, tmp_path / "set", vae, EncodingSettings(size=16, flips="stored", tolerance=1.0))
    (shard,) = (tmp_path / "set").glob("shard-*")
    assert abs(shard.stat().st_size / (9 * seen.plan.image_bytes) - 1) < 0.5
    assert seen.seconds(2, 1) == pytest.approx(seen.seconds(1, 1) / 2)
