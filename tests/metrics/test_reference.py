"""Reference statistics: made from images, written, read back, and refused where they do not fit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from alphaflow.data import Digits
from alphaflow.errors import UserError
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
