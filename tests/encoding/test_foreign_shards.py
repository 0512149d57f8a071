"""Latents as LightningDiT, VA-VAE, MeanFlow, DiT and RAE leave them: read, and scaled as their own code scales."""

import logging

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from alphaflow.cli import run
from alphaflow.data import Latents
from alphaflow.data.latents import read_manifest
from foreign_samples import encode, refused

MEAN, STD = torch.tensor([1.0, -2.0, 0.5])[None, :, None, None], torch.tensor([2.0, 0.5, 3.0])[None, :, None, None]


def lightning(root, counts=(5, 3), **replaced):
    """Shards by `extract_features.py`; returns latents, mirrored ones, and labels."""
    root.mkdir()
    source = torch.Generator().manual_seed(0)
    parts = []
    for k, count in enumerate(counts):
        latents = torch.randn(count, 3, 4, 4, generator=source) * STD + MEAN
        part = {"latents": latents, "latents_flip": latents.flip(-1), "labels": (torch.arange(count) * 3 + k) % 5}
        save_file({**part, **replaced}, root / f"latents_rank{k:02d}_shard000.safetensors")
        parts.append(part)
    torch.save({"mean": MEAN, "std": STD}, root / "latents_stats.pt")
    return [torch.cat([part[key] for part in parts]) for key in ("latents", "latents_flip", "labels")]


def seen(root):
    """What training sees of each sample, and of its mirrored version, (N, V, C, h, w)."""
    data = Latents(root)
    rows = torch.arange(len(data))
    flips = [torch.full((len(data),), bool(k)) for k in range(data.manifest.versions)]
    return torch.stack([data.batch(rows, flip if k else None)[0] for k, flip in enumerate(flips)], 1)


def test_lightningdits_shards_with_their_own_scale(tmp_path, caplog):
    """Their loader gives (latent - mean) / std of either version, and the label."""
    caplog.set_level(logging.INFO, logger="alphaflow")
    latents, flipped, labels = lightning(tmp_path / "in")
    assert run(encode(tmp_path / "in", tmp_path / "out")) == 0
    assert "8 latents of 3 × 4 × 4, labels from the shards; scaled by latents_stats.pt" in caplog.text
    data = Latents(tmp_path / "out")
    assert data.labels().tolist() == labels.tolist() and not data.manifest.variance
    theirs = torch.stack([(latents - MEAN) / STD, (flipped - MEAN) / STD], 1)
    torch.testing.assert_close(seen(tmp_path / "out"), theirs, rtol=0, atol=4e-3)  # kept as float16
    record = data.manifest.record()
    assert record["offset"] == MEAN.flatten().tolist() and record["divisor"] == STD.flatten().tolist()


def test_shards_in_a_folder_of_their_own_and_beside_another_split(tmp_path, caplog, capsys):
    caplog.set_level(logging.INFO, logger="alphaflow")
    (tmp_path / "in").mkdir()
    lightning(tmp_path / "in" / "imagenet_train_256")
    assert run(encode(tmp_path / "in", tmp_path / "out")) == 0
    assert "scaled by latents_stats.pt" in caplog.text
    lightning(tmp_path / "mixed")
    lightning(tmp_path / "mixed" / "val")
    said = refused(encode(tmp_path / "mixed", tmp_path / "out2"), capsys)
    assert (
        f"holds splits of a data set (val), which are no classes: give one of them, {tmp_path}/mixed/val" in said
    )


def test_the_scale_can_be_another_and_labels_left_out(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="alphaflow")
    latents, *_ = lightning(tmp_path / "in")
    words = ["--scale", "statistics", "--labels", "none"]
    assert run(encode(tmp_path / "in", tmp_path / "out", *words)) == 0
    assert "no labels; passed over: latents_stats.pt (statistics)" in caplog.text
    ours = seen(tmp_path / "out")
    assert Latents(tmp_path / "out").num_classes == 0
    both = torch.cat([latents, latents.flip(-1)])
    expected = (latents - both.mean((0, 2, 3), keepdim=True)) / both.std((0, 2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(ours[:, 0], expected, rtol=0, atol=4e-3)


def test_shards_without_flips_statistics_or_labels_in_bfloat16(tmp_path):
    (tmp_path / "in").mkdir()
    latents = torch.randn(6, 3, 4, 4).bfloat16()
    save_file({"latents": latents}, tmp_path / "in" / "a.safetensors")
    assert run(encode(tmp_path / "in", tmp_path / "out")) == 0
    data = Latents(tmp_path / "out")
    assert len(data) == 6 and data.num_classes == 0 and data.manifest.fingerprint.scale == "statistics"
    stored = data.batch(torch.arange(6))[0] * torch.tensor(data.manifest.std)[:, None, None]
    torch.testing.assert_close(
        stored + torch.tensor(data.manifest.mean)[:, None, None], latents.float(), rtol=0, atol=1e-5
    )


def test_a_broken_shard_and_strange_ones_are_named(tmp_path, capsys):
    lightning(tmp_path / "in")
    first = tmp_path / "in" / "latents_rank00_shard000.safetensors"
    whole = first.read_bytes()
    first.write_bytes(whole[: len(whole) // 2])
    said = refused(encode(tmp_path / "in", tmp_path / "out"), capsys)
    assert "latents_rank00_shard000.safetensors" in said and "fetch it again, or remove it" in said
    save_file({"x": torch.zeros(3, 3)}, first)
    said = refused(encode(tmp_path / "in", tmp_path / "out"), capsys)
    assert "holds x [3, 3]: of safetensors, latents or moments (N, C, h, w) are read" in said
    save_file({"latents": torch.zeros(3, 3, 4, 4), "labels": torch.arange(2)}, first)
    said = refused(encode(tmp_path / "in", tmp_path / "out"), capsys)
    assert "holds 3 latents and labels [2]: it is damaged" in said
    first.unlink()
    torch.save({"mean": MEAN, "std": 0 * STD}, tmp_path / "in" / "latents_stats.pt")
    assert "finite and above 0" in refused(encode(tmp_path / "in", tmp_path / "out"), capsys)
    torch.save({"mean": MEAN[:, :2], "std": STD[:, :2]}, tmp_path / "in" / "latents_stats.pt")
    said = refused(encode(tmp_path / "in", tmp_path / "out"), capsys)
    assert "latents_stats.pt is of 2, and the latents are 3 × 4 × 4: say --scale statistics" in said
    assert run(encode(tmp_path / "in", tmp_path / "out", "--scale", "statistics")) == 0


def test_other_numbers_in_shards_of_the_same_names_are_not_gone_on_with(tmp_path, capsys):
    lightning(tmp_path / "in")
    assert run(encode(tmp_path / "in", tmp_path / "out")) == 0
    file = tmp_path / "in" / "latents_rank01_shard000.safetensors"
    labels = {"labels": torch.arange(3)}
    save_file({"latents": torch.ones(3, 3, 4, 4), "latents_flip": torch.ones(3, 3, 4, 4), **labels}, file)
    assert "was begun with other settings or images" in refused(encode(tmp_path / "in", tmp_path / "out"), capsys)


def test_meanflows_preparation_needs_no_word(tmp_path):
    """{'image': mean and std, 'label'}: its loader draws mean + std · noise."""
    source, rows = torch.Generator().manual_seed(1), []
    (tmp_path / "in" / "train").mkdir(parents=True)
    for k in range(6):
        mean, std = torch.randn(4, 4, 4, generator=source), torch.rand(4, 4, 4, generator=source) + 0.1
        rows.append((mean, std))
        content = {"image": torch.cat([mean, std]), "label": torch.tensor(k % 3)}
        torch.save(content, tmp_path / "in" / "train" / f"{k:08d}.pt")
    assert run(encode(tmp_path / "in", tmp_path / "out", "--second", "std")) == 0
    assert run(encode(tmp_path / "in", tmp_path / "bare")) == 0
    data = Latents(tmp_path / "bare")
    assert data.labels().tolist() == [0, 1, 2, 0, 1, 2] and data.manifest.variance
    assert data.manifest.fingerprint.digest == read_manifest(tmp_path / "out").fingerprint.digest
    means = torch.stack([mean for mean, _ in rows])
    spread = torch.stack([std for _, std in rows])
    var = (spread**2).mean((0, 2, 3)) + means.var((0, 2, 3), correction=0)
    torch.testing.assert_close(torch.tensor(data.manifest.std), var.sqrt(), rtol=1e-3, atol=0)


def test_an_image_that_is_no_mean_and_std_is_asked_about(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for k in range(3):
        torch.save({"image": torch.randn(8, 4, 4), "label": k}, tmp_path / "in" / f"{k}.pt")
    assert "image is not mean and std, as MeanFlow's own" in refused(
        encode(tmp_path / "in", tmp_path / "o"), capsys
    )


def test_dits_features_and_labels(tmp_path, caplog):
    """imagenet256_features, (1, 4, h, w) times 0.18215, and imagenet256_labels, in files of the same names."""
    caplog.set_level(logging.INFO, logger="alphaflow")
    rows = [np.random.default_rng(k).normal(size=(1, 4, 4, 4)).astype(np.float32) for k in range(6)]
    for name, arrays in (("features", [0.18215 * row for row in rows]), ("labels", [[k % 3] for k in range(6)])):
        (tmp_path / "in" / f"imagenet256_{name}").mkdir(parents=True)
        for k, array in enumerate(arrays):
            np.save(tmp_path / "in" / f"imagenet256_{name}" / f"{k}.npy", np.asarray(array))
    assert run(encode(tmp_path / "in", tmp_path / "out")) == 0
    assert "6 latents of 4 × 4 × 4, labels from label files; multiplied by 0.18215, which is undone" in caplog.text
    data = Latents(tmp_path / "out")
    assert data.labels().tolist() == [0, 1, 2, 0, 1, 2]
    offset, divisor = (torch.from_numpy(part)[:, None, None] for part in data.manifest.scaling)
    latents = data.batch(torch.arange(6))[0] * divisor + offset
    torch.testing.assert_close(latents, torch.from_numpy(np.concatenate(rows)), rtol=0, atol=4e-3)
    assert run(encode(tmp_path / "in", tmp_path / "as", "--multiplied", "1")) == 0
    assert read_manifest(tmp_path / "as").fingerprint.multiplied == 1


@pytest.mark.parametrize("places", [False, True])
def test_raes_latents_with_the_statistics_of_its_stage_one(places, tmp_path):
    """normalization_stats.pt holds mean and variance of each place: (latent - mean) / sqrt(variance + 1e-5)."""
    source = torch.Generator().manual_seed(2)
    shape = (6, 2, 2) if places else (6, 1, 1)
    mean, var = torch.randn(shape, generator=source), torch.rand(shape, generator=source) + 0.1
    latents = torch.randn(5, 6, 2, 2, generator=source)
    (tmp_path / "in").mkdir()
    torch.save({"mean": mean, "var": var}, tmp_path / "in" / "normalization_stats.pt")
    for k, latent in enumerate(latents):
        torch.save({"latent": latent, "label": k % 2}, tmp_path / "in" / f"{k}.pt")
    assert run(encode(tmp_path / "in", tmp_path / "out", "--scale", "own")) == 0
    expected = (latents - mean) / (var + 1e-5).sqrt()
    torch.testing.assert_close(seen(tmp_path / "out")[:, 0], expected, rtol=0, atol=4e-3)
