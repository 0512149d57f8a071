"""Reference statistics: made from images, written, read back, and refused where they do not fit."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from alphaflow.data import Digits, Images
from alphaflow.data.sources import open_source
from alphaflow.errors import UserError
from alphaflow.evaluation.setup import open_reference, prepare
from alphaflow.metrics import load_detector
from alphaflow.metrics.reference import read_reference
from alphaflow.pixels import to_uint8


def test_statistics_of_the_digits_are_those_of_their_features(tmp_path: Path) -> None:
    from alphaflow.cli import run

    file = tmp_path / "digits.npz"
    assert run(["stats", "digits", str(file), "--detector", "digits", "--device", "cpu"]) == 0
    found = read_reference(file)
    detector = load_detector("digits")
    features = detector.features(to_uint8(Digits().batch(torch.arange(1797))[0])).double().numpy()
    np.testing.assert_allclose(found.statistics.mean.numpy(), features.mean(0), rtol=0, atol=1e-7)  # float32
    np.testing.assert_allclose(found.statistics.cov.numpy(), np.cov(features.T), rtol=0, atol=1e-7)
    assert found.known and found.statistics.count == 1797 and found.statistics.source == Digits().fingerprint
    found.check(detector, size=8)
    with pytest.raises(UserError, match="resolution 8, and this 16"):
        found.check(detector, size=16)
    with pytest.raises(UserError, match="has detector digits-cnn"):
        found.check(replace(detector, sha256="0" * 64), size=8)
    with pytest.raises(UserError, match="has crop box, and this lanczos"):
        replace(found, crop="box").check(detector, size=8, crop="lanczos")


def test_files_of_others_are_read_and_tell_what_they_can(tmp_path: Path) -> None:
    mean, cov = np.arange(3.0), np.eye(3)
    np.savez(
        tmp_path / "adm.npz", arr_0=np.zeros((2, 4, 4, 3), np.uint8), mu=mean, sigma=cov, mu_s=mean, sigma_s=cov
    )
    np.savez(tmp_path / "jax.npz", mu=mean.astype(np.float32), sigma=cov.astype(np.float32))
    for name in ("adm", "jax"):
        found = read_reference(tmp_path / f"{name}.npz")
        assert not found.known and found.statistics.mean.dtype == torch.float64
        assert found.statistics.mean.tolist() == [0, 1, 2] and found.statistics.cov.trace() == 3


def test_what_is_no_statistics_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "samples.npz", arr_0=np.zeros(3))
    with pytest.raises(UserError, match="holds arr_0, not mu and sigma"):
        read_reference(tmp_path / "samples.npz")
    np.savez(tmp_path / "odd.npz", mu=np.zeros(3), sigma=np.eye(2))
    with pytest.raises(UserError, match=r"mu \(3,\) and sigma \(2, 2\)"):
        read_reference(tmp_path / "odd.npz")
    np.savez(tmp_path / "askew.npz", mu=np.zeros(2), sigma=np.array([[1.0, 0.5], [0.1, 1.0]]))
    with pytest.raises(UserError, match="sigma is not symmetric"):
        read_reference(tmp_path / "askew.npz")
    np.savez(tmp_path / "objects.npz", mu=np.array([{}], dtype=object), sigma=np.eye(1))
    with pytest.raises(UserError, match="cannot read statistics"):
        read_reference(tmp_path / "objects.npz")
    with pytest.raises(UserError, match="cannot read statistics"):
        read_reference(tmp_path / "none.npz")


@pytest.mark.parametrize(
    "held, message",
    [
        ({"mu": np.zeros(64), "sigma": -np.eye(64)}, r"eigenvalue of -1, and a covariance has none below 0"),
        ({"mu": np.zeros(2), "sigma": np.array([[1.0, 2.0], [2.0, 1.0]])}, "eigenvalue of -1"),
        ({"mu": np.zeros(3), "sigma": np.diag([1.0, 1.0, -1e-3])}, r"eigenvalue of -0\.001"),
        ({"mu": np.zeros(2), "sigma": np.diag([1.0, np.inf])}, "not all numbers of its sigma are finite"),
        ({"mu": np.array([np.nan, 0]), "sigma": np.eye(2)}, "not all numbers of its mu are finite"),
        ({"mu": np.zeros(0), "sigma": np.zeros((0, 0))}, "are no mean"),
        ({"mu": np.zeros(2), "sigma": np.eye(2), "count": np.int64(-5)}, "its count is no number of count"),
        ({"mu": np.zeros(2), "sigma": np.eye(2), "count": np.int64(1)}, "count 1 is of no covariance"),
        ({"mu": np.zeros(2), "sigma": np.eye(2), "rate": np.array(["a"])}, "its rate is no number"),
        ({"mu": np.zeros(2), "sigma": np.eye(2), "size": np.zeros(3)}, "its size is no number"),
        ({"mu": np.zeros(2), "sigma": np.eye(2), "count": 7.5}, "its count is no number"),
        ({"mu": np.zeros(2), "sigma": np.zeros((2, 2))}, "sigma is 0 everywhere"),
    ],
)
def test_what_is_no_covariance_is_refused(held, message, tmp_path: Path) -> None:
    np.savez(tmp_path / "n.npz", **held)
    with pytest.raises(UserError, match=message):
        read_reference(tmp_path / "n.npz")


def test_one_array_alone_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "mu.npy", np.zeros(2))
    with pytest.raises(UserError, match=r"\(one array alone\): give an .npz with mu and sigma"):
        read_reference(tmp_path / "mu.npy")


def test_rounding_to_float32_does_not_make_a_covariance_none(tmp_path: Path) -> None:
    """Of fewer samples than features, whose smallest eigenvalues are 0."""
    features = np.random.default_rng(0).normal(size=(40, 64)) * np.logspace(-3, 2, 64)
    cov = np.cov(features.T)
    np.savez(tmp_path / "n.npz", mu=features.mean(0).astype(np.float32), sigma=cov.astype(np.float32))
    assert np.linalg.eigvalsh(cov.astype(np.float32).astype(float))[0] < 0
    assert len(read_reference(tmp_path / "n.npz").statistics.mean) == 64


def test_references_of_several_detectors_in_a_pickle(tmp_path: Path) -> None:
    """As EDM2, TVM and DMF keep them; nothing is run, and nobody is told to open it unsafely."""
    sets = {"fid": {"mu": np.zeros(3), "sigma": np.eye(3)}, "fd_dinov2": {"mu": np.ones(4), "sigma": np.eye(4)}}
    file = tmp_path / "img512.pkl"
    file.write_bytes(pickle.dumps(sets))
    assert open_reference(file, "inception").statistics.mean.tolist() == [0, 0, 0]
    assert open_reference(file, "dinov2").statistics.mean.tolist() == [1, 1, 1, 1]
    with pytest.raises(UserError, match=r"holds statistics for fid, fd_dinov2, not for clip"):
        open_reference(file, "clip")
    file.write_bytes(pickle.dumps(sets["fid"]))
    assert open_reference(file).statistics.cov.trace() == 3
    for content in ({"fid": print}, [1, 2]):
        file.write_bytes(pickle.dumps(content))
        with pytest.raises(UserError, match=r"builtins\.print|holds a list") as told:
            open_reference(file, "inception")
        assert "unsafe" not in str(told.value)
    file.write_bytes(b"neither of them")
    with pytest.raises(UserError, match=r"no \.npz of numbers"):
        open_reference(file)


def test_whose_statistics_of_others_are_is_said_by_their_width(tmp_path: Path) -> None:
    """ADM's are Inception's, and nothing in the file says so but their number."""
    cov = np.eye(2048, dtype=np.float32)
    np.savez(
        tmp_path / "VIRTUAL_imagenet256_labeled.npz", mu=np.zeros(2048), sigma=cov, mu_s=np.zeros(3), arr_0=cov
    )
    found = open_reference(tmp_path / "VIRTUAL_imagenet256_labeled.npz")
    assert found.maker == "2048 features, as inception has"
    with pytest.raises(UserError, match=r"features 2048, and this 64: .*; say --detector inception, whose number"):
        found.check(load_detector("digits"), size=8, width=64)
    pictures = Images(open_source(str(photos(tmp_path))), 16)
    with pytest.raises(UserError, match=r"the one it was made with \(2048 features, as inception has\)"):
        prepare(pictures, reference=found)


def photos(root: Path) -> Path:
    np.savez(root / "photos.npz", images=np.zeros((8, 16, 16, 3), np.uint8))
    return root / "photos.npz"
