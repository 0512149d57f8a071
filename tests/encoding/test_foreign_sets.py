"""Latents that others made are what they are: which files are samples, what their labels are, what is left out."""

import logging
import pickle
import warnings

import numpy as np
import pytest
import torch

from alphaflow.cli import run
from alphaflow.data import Latents
from alphaflow.encoding import EncodingSettings, convert, open_foreign
from alphaflow.encoding.forms import BadLabel, class_of, moments_of
from alphaflow.errors import UserError
from foreign_samples import SETTINGS, N, encode, labels_of, moments, refused, write

# ---------------------------------------------------------------------------------- which files are samples


@pytest.mark.parametrize(
    "name", ["latents_stats.pt", "stats.npz", "statistics.pkl", "vae_stats_256.pt", "mean.npy", "latents_std.npy"]
)
def test_statistics_beside_samples_are_no_sample_and_are_told(tmp_path, caplog, name) -> None:
    caplog.set_level(logging.INFO, logger="alphaflow")
    write(tmp_path / "src")
    content = {"mean": torch.zeros(1, 4, 1, 1), "std": torch.ones(1, 4, 1, 1)}
    path = tmp_path / "src" / name
    if name.endswith(".pt"):
        torch.save(content, path)
    elif name.endswith(".npy"):
        np.save(path, np.zeros(4))
    elif name.endswith(".npz"):
        np.savez(path, mean=np.zeros(4), std=np.ones(4))
    else:
        path.write_bytes(pickle.dumps({"mean": np.zeros(4)}))
    (tmp_path / "src" / "notes.txt").write_text("x")
    manifest = convert(open_foreign(str(tmp_path / "src")), tmp_path / "out", SETTINGS)
    assert manifest is not None and (manifest.fingerprint.count, manifest.skipped) == (N, 0)
    assert f"passed over: {name} (statistics), 1 .txt (notes.txt)" in caplog.text


def test_names_with_mean_and_std_and_a_number_are_samples(tmp_path) -> None:
    """EDM2's: img-mean-std-00000000.npy."""
    for k in range(3):
        np.save(tmp_path / f"img-mean-std-{k:08d}.npy", moments(k))
    assert len(open_foreign(str(tmp_path))) == 3


def test_statistics_under_another_name_are_no_latent(tmp_path) -> None:
    for sample in (
        {"mean": torch.zeros(1, 4, 1, 1), "std": torch.ones(1, 4, 1, 1)},
        {"mean": np.zeros(4), "std": np.ones(4)},
    ):
        with pytest.raises(UserError, match="statistics of latents, and no latents"):
            moments_of(sample, None)


def test_shards_that_outweigh_the_samples_are_asked_about(tmp_path, capsys) -> None:
    write(tmp_path / "src", 1)
    (tmp_path / "src" / "part-0.tar").write_bytes(bytes(100_000))
    said = refused(encode(tmp_path / "src", tmp_path / "out"), capsys)
    assert "only 1 .npy" in said and "part-0.tar holds many samples, and such files are not read" in said


# ---------------------------------------------------------------------------------- what is left of a refusal


@pytest.mark.parametrize("wrong", [("--second", "none", "--multiplied", "1e-6"), ("--second", "std"), ()])
def test_a_refused_command_can_be_mended(tmp_path, capsys, wrong) -> None:
    """By other words, or by other files: nothing is left that the next would be measured by."""
    for k in range(N):
        (tmp_path / "src").mkdir(exist_ok=True)
        np.save(tmp_path / "src" / f"{k:02d}.npy", np.abs(moments(k)) if k < 4 else moments(k))
    if not wrong:
        for k in (3, 6):
            (tmp_path / "src" / f"{k:02d}.npy").write_bytes(b"")
    words = encode(tmp_path / "src", tmp_path / "out", "--shard-images", "2")
    refused([*words, *(("--second", "logvar") if "--second" not in wrong else ()), *wrong], capsys)
    left = {path.name for path in (tmp_path / "out").iterdir()} if (tmp_path / "out").exists() else set()
    assert left <= {"skipped.txt"}
    if not wrong:
        for k in (3, 6):
            np.save(tmp_path / "src" / f"{k:02d}.npy", moments(k))
    assert run([*words, "--second", "logvar"]) == 0
    assert len(Latents(tmp_path / "out")) == N and not (tmp_path / "out" / "skipped.txt").exists()


# ---------------------------------------------------------------------------------- forms


def test_a_variance_is_its_logarithm_and_no_array_is_dropped_in_silence() -> None:
    mean, spread = moments()[:4], np.exp(moments(1)[:4])
    wanted = moments_of({"mean": mean, "logvar": np.log(spread)}, None).moments
    for center, key, value in (
        ("mean", "var", spread),
        ("mu", "variance", torch.from_numpy(spread)),
        ("mean", "log_var", np.log(spread)),
        ("mu", "sigma", np.sqrt(spread)),
    ):
        found = moments_of({center: mean, key: value, "label": 3, "path": "a.png", "text": np.zeros((7, 9))}, None)
        assert found.variance and np.allclose(found.moments, wanted, atol=1e-5), key
    for key, other in (("latent", "logsigma"), ("mean", "mean_flip"), ("moments", "moments_2"), ("mean", "cov")):
        with pytest.raises(UserError, match=rf"its {other} \(4, 4, 4\) beside {key} .* is not understood"):
            moments_of({key: mean, other: spread}, None)
    with pytest.raises(UserError, match="below 0, which are no variances"):
        moments_of({"mean": mean, "var": -spread}, None)


def test_tensors_of_every_kind_are_read_or_refused():
    """As they come out of a network, packed, conjugated; of what is none, nothing is made."""
    plain = torch.randn(4, 3, 3)
    wanted = moments_of(plain, "none").moments
    negative = torch.complex(plain, -plain).conj().imag  # a view with its sign to be changed
    for latent in (torch.nn.Parameter(plain.clone()), plain.to_sparse(), negative):
        found = moments_of({"latent": latent, "label": torch.tensor(1.0, requires_grad=True)}, "none")
        assert np.array_equal(found.moments, wanted) and found.label == 1
    for other, said in (
        (plain.to(torch.complex64), "of complex64, not of numbers"),
        (plain > 0, "of bool, not of numbers"),
        (plain.to("meta"), "without numbers"),
        ((plain, 3), "a tuple of 2 unlike parts, not an array"),
    ):
        with pytest.raises(UserError, match=said):
            moments_of(other, "none")
    with pytest.raises(BadLabel, match="is no number of a class"):
        class_of(torch.tensor(1j))


@pytest.mark.parametrize("shape", [(8, 8, 4), (32, 32, 4), (1, 16, 16, 8)])
def test_channels_that_come_last_are_refused_with_what_makes_them_first(shape) -> None:
    array = np.zeros(shape, np.float32)
    for sample in (array, {"moments": array}, {"mean": array, "std": array}, {"latent": torch.from_numpy(array)}):
        with pytest.raises(UserError, match=r"looks like \(h, w, channels\).*moveaxis\(array, -1, 0\)"):
            moments_of(sample, "none")


# ---------------------------------------------------------------------------------- what is left out


def test_numbers_beyond_float16_and_those_that_are_none_are_left_out_alike(tmp_path, capsys) -> None:
    (tmp_path / "src").mkdir()
    for k in range(N):
        array = moments(k).astype(np.float64)
        array[0, 0, 0] = {2: 1e5, 3: -7e4, 4: np.nan, 5: 1e60, 6: np.inf}.get(k, 1.0)
        np.save(tmp_path / "src" / f"{k}.npy", array)
    words = encode(tmp_path / "src", tmp_path / "out", "--second", "logvar")
    said = refused(words, capsys)
    assert f"5 of {N} latents could not be read" in said and "2.npy: it holds numbers beyond 65504" in said
    listed = (tmp_path / "out" / "skipped.txt").read_text().splitlines()
    assert len(listed) == 5 and "not all numbers are finite" in listed[2] and str(tmp_path / "out") in said
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run([*words, "--tolerance", "0.7"]) == 0
    assert len(Latents(tmp_path / "out")) == 3
    assert (tmp_path / "out" / "skipped.txt").read_text().splitlines() == listed


def test_the_first_sample_may_be_broken(tmp_path) -> None:
    write(tmp_path / "src")
    (tmp_path / "src" / "00.npz").write_bytes(b"junk")
    manifest = convert(open_foreign(str(tmp_path / "src")), tmp_path / "out", EncodingSettings(tolerance=0.2))
    assert manifest is not None and manifest.skipped == 1
    for path in (tmp_path / "src").iterdir():
        path.write_bytes(b"junk")
    with pytest.raises(UserError, match=r"00.npz: cannot be read .* \(and none of the first 8 could be read\)"):
        convert(open_foreign(str(tmp_path / "src")), tmp_path / "other", SETTINGS)


@pytest.mark.parametrize("value", ["inf", "nan", "0", "-1", "-inf", "1e300", "1e-300"])
def test_a_factor_that_is_none_is_a_wrong_word(tmp_path, capsys, value) -> None:
    write(tmp_path / "src")
    assert run([*encode(tmp_path / "src", tmp_path / "out"), f"--multiplied={value}"]) == 2
    assert "--multiplied" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_meanflows_own_preparation_needs_one_word(tmp_path, capsys) -> None:
    for k in range(N):
        (tmp_path / "src" / "train").mkdir(parents=True, exist_ok=True)
        sample = {"image": torch.from_numpy(moments(k)), "label": k % 3}
        torch.save(sample, tmp_path / "src" / "train" / f"{k:08d}.pt")
    said = refused(encode(tmp_path / "src", tmp_path / "out"), capsys)
    assert "keys image, label" in said and "--second logvar" in said
    assert labels_of(tmp_path / "src", tmp_path / "out", second="logvar") == [k % 3 for k in range(N)]


@pytest.mark.parametrize(
    "line",
    [
        "--from latents --size 256",
        "--from latents --crop box",
        "--from latents --flips none",
        "--from latents --precision bf16",
        "--from latents --batch-size 4",
        "--from latents --frames 4",
        "--from latents --rate 8",
        "--from latents --dry-run",
        "--from latents --labels x.csv",
        "--vae none --rate 8",
        "--vae none --frames 4 --rate 0",
        "--vae none --frames 4 --rate inf",
        "--vae none --frames 4 --crop box",
        "--vae none --batch-size 0",
        "--vae none --labels none --frames 4",
    ],
)
def test_words_without_effect_are_wrong_words(tmp_path, capsys, line) -> None:
    (tmp_path / "src").mkdir()
    assert run(["encode", str(tmp_path / "src"), str(tmp_path / "out"), *line.split()]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1 and not (tmp_path / "out").exists()
