"""The digits detector on real digits, and what it refuses."""

import hashlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

import forked
from alphaflow.data import Digits, from_uint8, to_uint8
from alphaflow.errors import UserError
from alphaflow.metrics import Detector, DigitsClassifier, frechet_from_features, load_digits_detector
from alphaflow.metrics.detectors import base as detectors

SCRIPT = Path(__file__).parents[2] / "scripts" / "train_digits_classifier.py"


@pytest.fixture(scope="module")
def detector() -> Detector:
    return load_digits_detector()


@pytest.fixture(scope="module")
def digits() -> NDArray[np.uint8]:
    x, _ = Digits().batch(torch.arange(1797))
    return to_uint8(x)


def test_it_reads_the_digits(detector: Detector, digits: NDArray[np.uint8]) -> None:
    _, labels = Digits().batch(torch.arange(1797))
    found = detector(digits)
    assert found.features.shape == (1797, 64) and found.features.dtype == torch.float64
    assert found.logits.shape == (1797, 10) and found.logits.dtype == torch.float64
    assert (found.logits.argmax(1) == labels).double().mean() > 0.995


def test_features_are_bounded_and_not_saturated(detector: Detector, digits: NDArray[np.uint8]) -> None:
    features = detector(digits).features
    assert features.abs().max() <= 1
    assert (features.abs() > 0.95).double().mean() < 0.2
    assert 0.4 < features.std(0).mean() < 0.8


def test_batching_and_order_do_not_show(detector: Detector, digits: NDArray[np.uint8]) -> None:
    whole = detector(digits).features
    torch.testing.assert_close(detector(digits[::-1]).features.flip(0), whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(detector(digits[1500:1501]).features[0], whole[1500], atol=1e-5, rtol=0)


def test_the_frechet_distance_grows_with_damage(detector: Detector, digits: NDArray[np.uint8]) -> None:
    x, generator = from_uint8(digits), torch.Generator().manual_seed(0)
    real = detector(digits).features
    noise = torch.randn(x.shape, generator=generator)
    damaged = [frechet_from_features(real, detector(to_uint8(x + s * noise)).features) for s in (0, 0.05, 0.2, 1)]
    assert damaged[0] < 1e-9
    assert damaged == sorted(damaged)
    assert damaged[1] < 0.02 < damaged[2] < 0.5 < damaged[3]


def test_the_classifier_takes_apart_into_features_and_logits() -> None:
    model, x = DigitsClassifier(), torch.zeros(3, 1, 8, 8)
    features, logits = model(x)
    assert torch.equal(model.features(x), features) and features.shape == (3, 64)
    assert torch.equal(model.logits(features), logits) and logits.shape == (3, 10)


def test_the_shipped_weights_are_small_and_frozen(detector: Detector) -> None:
    assert isinstance(detector.network, DigitsClassifier)
    assert not detector.network.training
    assert not any(p.requires_grad for p in detector.network.parameters())
    assert detector.sha256 == detectors.DIGITS_SHA256


def test_altered_weights_are_refused_and_both_hashes_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    right, wrong = detectors.DIGITS_SHA256, hashlib.sha256(b"something else").hexdigest()
    monkeypatch.setattr(detectors, "DIGITS_SHA256", wrong)
    with pytest.raises(UserError, match=f"sha256 {right}, expected {wrong}"):
        load_digits_detector()


def test_a_missing_asset_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detectors, "DIGITS_ASSET", "gone.safetensors")
    with pytest.raises(UserError, match=r"gone\.safetensors is missing: reinstall"):
        load_digits_detector()


def test_only_8_bit_images_of_the_right_shape_are_taken(detector: Detector) -> None:
    with pytest.raises(ValueError, match="takes uint8 numpy images, not ndarray of float64: use to_uint8"):
        detector(np.zeros((2, 8, 8, 1)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"not Tensor of torch\.uint8"):
        detector(torch.zeros(2, 8, 8, 1, dtype=torch.uint8))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="was shown nothing"):
        detector(np.zeros((0, 8, 8, 1), dtype=np.uint8))
    for shape in ((2, 1, 8, 8), (2, 32, 32, 3), (8, 8, 1)):
        with pytest.raises(ValueError, match=r"takes images \(N, 8, 8, 1\), not"):
            detector(np.zeros(shape, np.uint8))


@pytest.mark.slow
def test_the_script_trains_a_classifier_as_good_as_the_shipped_one(tmp_path: Path) -> None:
    output = tmp_path / "classifier.safetensors"
    command = [sys.executable, str(SCRIPT), str(output)]
    printed = forked.run(command, check=True, capture_output=True, text=True).stdout
    held_out = re.search(r"held-out accuracy (0\.\d+)", printed)
    assert held_out is not None and float(held_out[1]) >= 0.985
    assert hashlib.sha256(output.read_bytes()).hexdigest() in printed
    DigitsClassifier().load_state_dict(load_file(output))
