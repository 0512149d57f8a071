"""Sets of latents: what is read is what was written, and what is drawn has the distribution that was encoded."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alphaflow.data import Dataset
from alphaflow.data.latents import Latents, differences, read_manifest
from alphaflow.data.latents.manifest import MANIFEST, STATISTICS
from alphaflow.data.latents.shards import LatentStatistics, merge, open_shard
from alphaflow.errors import UserError
from latent_sets import FINGERPRINT, make_set

N, SHAPE = 40, (4, 6, 5)


def moments_of(count=N, versions=1, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    mean = 3 * rng.standard_normal((count, versions, *SHAPE)) + np.arange(4)[:, None, None]
    logvar = rng.uniform(-6, 1, (count, versions, *SHAPE))
    return np.concatenate([mean, logvar], axis=2).astype(dtype)


@pytest.fixture
def root(tmp_path):
    make_set(tmp_path / "set", moments_of(), np.arange(N) % 3)
    return tmp_path / "set"


def drawn(data, visits):
    rows = torch.arange(len(data))
    return torch.stack([data.draw(rows, rows + len(data) * k, 5)[0] for k in range(visits)])


def test_a_visit_is_a_draw_from_the_encoded_gaussian(root):
    """Standardised by the moments that were written, the draws are standard normal."""
    data: Dataset = Latents(root)
    moments, manifest = torch.from_numpy(moments_of())[:, 0], read_manifest(root)
    offset, divisor = (torch.from_numpy(part)[:, None, None] for part in manifest.scaling)
    latents = drawn(data, 200) * divisor + offset
    noise = ((latents - moments[:, :4]) / (moments[:, 4:] / 2).exp()).flatten().double()
    assert abs(noise.mean()) < 5 / len(noise) ** 0.5
    assert abs(noise.var() - 1) < 5 * (2 / len(noise)) ** 0.5
    assert abs((noise**4).mean() - 3) < 5 * (96 / len(noise)) ** 0.5


def test_the_statistics_are_those_of_the_draws(root):
    """Each channel comes out with mean 0 and variance 1 over the set, and each position as recorded."""
    from safetensors.numpy import load_file

    x = drawn(Latents(root), 300).double()
    manifest, position = read_manifest(root), load_file(root / STATISTICS)
    by_channel = x.transpose(0, 2).flatten(1)
    assert by_channel.mean(1).abs().max() < 0.01
    assert (by_channel.var(1) - 1).abs().max() < 0.02
    offset, divisor = manifest.scaling
    latents = x.flatten(0, 1).numpy() * divisor[:, None, None] + offset[:, None, None]
    assert np.abs(latents.mean(0) - position["mean"]).max() < 0.1
    assert np.abs(latents.std(0) / position["std"] - 1).max() < 0.05


def test_a_draw_belongs_to_its_visit_and_not_to_its_company(root):
    data = Latents(root)
    rows, visits = torch.tensor([31, 2, 2, 39]), torch.tensor([7, 8, 9, 10])
    x, y = data.draw(rows, visits, 5)
    assert y.tolist() == [1, 2, 2, 0]
    for k in range(4):
        assert torch.equal(data.draw(rows[k : k + 1], visits[k : k + 1], 5)[0][0], x[k])
    assert not torch.equal(x[1], x[2]), "another visit, other noise"
    assert not torch.equal(data.draw(rows, visits, 6)[0], x), "another seed, other noise"
    assert torch.equal(data.batch(rows)[0], data.draw(rows, rows, 0)[0])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_what_is_read_is_what_was_written(tmp_path, dtype):
    """Without variance nothing is drawn, so that the stored numbers come back, whatever the shards."""
    means = moments_of(dtype=dtype)[:, :, :4]
    for per_shard in (1, 7, 40):
        make_set(tmp_path / str(per_shard), means, per_shard=per_shard, variance=False, scale="1.0")
        data = Latents(tmp_path / str(per_shard))
        order = torch.randperm(N)
        x, y = data.batch(order)
        assert y is None and torch.equal(x, torch.from_numpy(means[:, 0]).float()[order])


def test_a_scale_that_is_a_number_multiplies(tmp_path):
    means = moments_of()[:, :, :4]
    make_set(tmp_path, means, variance=False, scale="0.18215", shift=0.5)
    x, _ = Latents(tmp_path).batch(torch.arange(N))
    assert torch.allclose(x, (torch.from_numpy(means[:, 0]) - 0.5) * 0.18215, rtol=1e-6)


def test_flips_choose_the_mirrored_version(tmp_path):
    means = moments_of(versions=2)[:, :, :4]
    make_set(tmp_path, means, variance=False, scale="1.0", flips="stored")
    data, flip = Latents(tmp_path), torch.arange(N) % 2 == 1
    assert data.mirrored
    x, _ = data.draw(torch.arange(N), torch.arange(N), 0, flip)
    assert torch.equal(x, torch.from_numpy(means)[torch.arange(N), flip.long()])


def test_a_set_without_mirrored_images_cannot_flip(root):
    with pytest.raises(ValueError, match="no mirrored images"):
        Latents(root).batch(torch.arange(2), torch.tensor([True, False]))


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_statistics_of_parts_make_those_of_the_whole(sizes):
    rng = np.random.default_rng(sum(sizes))
    parts = [1e3 + rng.standard_normal((n, 2, 3, 3)) * (k + 1) for k, n in enumerate(sizes)]
    count, mean, var = merge(LatentStatistics(len(p), p.mean(0), p.var(0)) for p in parts)
    whole = np.concatenate(parts)
    assert count == len(whole)
    assert np.allclose(mean, whole.mean(0), rtol=1e-12) and np.allclose(var, whole.var(0), rtol=1e-9)


def test_the_digest_follows_what_decides_the_numbers_and_nothing_else():
    changes = {"vae": "x", "scale": "0.18215", "shift": 1.0, "crop": "box", "size": 3, "flips": "stored"}
    changes |= {"precision": "bf16", "source": "y", "class_names": ("a",), "count": 5}
    for field in dataclasses.fields(FINGERPRINT):
        changed = dataclasses.replace(FINGERPRINT, **{field.name: changes.get(field.name, "other")})
        same = field.name in ("vae_name", "vae_class", "address", "code")
        assert (changed.digest == FINGERPRINT.digest) == same, field.name
        said = differences(dataclasses.asdict(FINGERPRINT), dataclasses.asdict(changed))
        assert len(said) == (0 if same else 1)
    (said,) = differences({**dataclasses.asdict(FINGERPRINT), "scale": "0.18125"}, dataclasses.asdict(FINGERPRINT))
    assert said == "scale 0.18125 here, statistics there"


def test_resident_memory_stays_flat_over_an_epoch(tmp_path):
    """The set is three times what the process may grow by: 16 MB, a few batches that the allocator keeps."""
    rng = np.random.default_rng(0)
    block = rng.standard_normal((250, 1, 8, 32, 32)).astype(np.float16)
    make_set(tmp_path, np.concatenate([block] * 12), per_shard=500)  # 49 MB
    data = Latents(tmp_path)
    for start in range(0, 1024, 256):
        data.batch(torch.arange(start, start + 256))
    before = resident()
    for rows in torch.randperm(len(data)).split(256):
        data.batch(rows)
    assert resident() - before < 16e6


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# ---------------------------------------------------------------------------------- what is refused


def test_no_set(tmp_path, root):
    with pytest.raises(UserError, match="make one with"):
        Latents(tmp_path / "nothing")
    with pytest.raises(UserError, match="holds no latents"):
        Latents(tmp_path)
    (root / MANIFEST).unlink()
    with pytest.raises(UserError, match="not finished"):
        Latents(root)


def test_a_truncated_a_missing_and_an_exchanged_shard(root, tmp_path):
    path = root / "shard-000002.safetensors"
    whole = path.read_bytes()
    for content in (whole[:-1], whole[:1000], whole[:5], b"", b"\xff" * 100):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"shard-000002.safetensors is damaged \(.*: remove it"):
            Latents(root)
    make_set(tmp_path / "other", moments_of()[:, :, :, :3], np.arange(N) % 3)
    path.write_bytes((tmp_path / "other" / path.name).read_bytes())
    with pytest.raises(UserError, match="the manifest says"):
        Latents(root)
    path.unlink()
    with pytest.raises(UserError, match="is missing"):
        Latents(root)


def test_a_manifest_that_was_changed_by_hand(root):
    path = root / MANIFEST
    content = json.loads(path.read_text())
    content["fingerprint"]["scale"] = "0.18215"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="changed by hand"):
        read_manifest(root)
    for wrong in ("{", "[]", "{}", '{"format": "other 7"}'):
        path.write_text(wrong)
        with pytest.raises(UserError, match="cannot understand"):
            read_manifest(root)


def test_a_shard_says_which_images_it_stands_for(tmp_path):
    make_set(tmp_path, moments_of(14), np.arange(14) % 3)
    head = open_shard(tmp_path / "shard-000001.safetensors")
    assert (head.first, head.stop, head.count) == (7, 14, 7)
    assert head.labels().tolist() == [1, 2, 0, 1, 2, 0, 1]
