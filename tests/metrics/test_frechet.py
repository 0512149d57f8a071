"""The Fréchet distance against its closed forms and two independent implementations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from alphaflow.metrics import frechet_distance, frechet_from_features

seeds = st.integers(0, 2**32 - 1)


def covariance(rng: np.random.Generator, dim: int, rank: int | None = None) -> np.ndarray:
    root = rng.standard_normal((dim, rank or dim))
    return root @ root.T


@given(seeds)
@settings(max_examples=25, deadline=None)
def test_shifted_gaussians_differ_by_the_squared_shift(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cov, shift = covariance(rng, 6), rng.standard_normal(6)
    assert frechet_distance(np.zeros(6), cov, shift, cov) == pytest.approx((shift**2).sum(), rel=1e-9)


@given(seeds)
@settings(max_examples=25, deadline=None)
def test_commuting_covariances_differ_by_their_roots(seed: int) -> None:
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.standard_normal((5, 5)))
    a, b = rng.random(5), rng.random(5)
    a[0] = 0.0  # rank-deficient
    expected = ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    mean = rng.standard_normal(5)
    found = frechet_distance(mean, turn * a @ turn.T, mean, turn * b @ turn.T)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)


@given(seeds)
@settings(max_examples=25, deadline=None)
def test_it_agrees_with_the_matrix_square_root(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = covariance(rng, 7), covariance(rng, 7)
    m, n = rng.standard_normal((2, 7))
    expected = ((m - n) ** 2).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert frechet_distance(m, a, n, b) == pytest.approx(expected, rel=1e-6)


@given(seeds, st.integers(1, 8))
@settings(max_examples=25, deadline=None)
def test_it_is_symmetric_and_zero_on_itself_at_any_rank(seed: int, rank: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = covariance(rng, 8, rank), covariance(rng, 8)
    m, n = rng.standard_normal((2, 8))
    assert frechet_distance(m, a, n, b) == pytest.approx(frechet_distance(n, b, m, a), rel=1e-6)
    assert 0 <= frechet_distance(m, a, m, a) < 1e-10 * np.trace(a)


def test_subspaces_at_right_angles_share_nothing() -> None:
    a, b = np.diag([4.0, 0.0, 0.0]), np.diag([0.0, 9.0, 1.0])
    assert frechet_distance(np.zeros(3), a, np.zeros(3), b) == pytest.approx(14.0)


def test_fewer_samples_than_dimensions() -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((10, 200)) + 100
    assert frechet_from_features(features, features) < 1e-9
    assert frechet_from_features(features, features + 2) == pytest.approx(4 * 200, rel=1e-9)


def test_refusals() -> None:
    eye, zero = np.eye(3), np.zeros(3)
    with pytest.raises(ValueError, match=r"cov_b has shape \(2, 2\)"):
        frechet_distance(zero, eye, zero, np.eye(2))
    with pytest.raises(ValueError, match="mean_a has 3 dimensions and mean_b 2"):
        frechet_distance(zero, eye, np.zeros(2), np.eye(2))
    with pytest.raises(ValueError, match="mean_a holds NaN"):
        frechet_distance(np.full(3, np.nan), eye, zero, eye)
    with pytest.raises(ValueError, match="cov_b is not symmetric"):
        frechet_distance(zero, eye, zero, np.triu(np.ones((3, 3))))
    with pytest.raises(ValueError, match="must have 2 dimensions"):
        frechet_from_features(np.ones(3), np.ones((2, 3)))


@given(seeds, st.floats(-12, -2))
@settings(max_examples=15, deadline=None)
def test_spectra_that_fall_far_cost_no_accuracy(seed: int, smallest: float) -> None:
    """Diagonal covariances in turned axes, whose distance is known however small some variances are."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.standard_normal((96, 96)))[0]
    a = np.logspace(0, smallest, 96)
    b = a * rng.uniform(0.5, 2, 96)
    expected = ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    turned = [axes * spectrum @ axes.T for spectrum in (a, b)]
    assert frechet_distance(np.zeros(96), turned[0], np.zeros(96), turned[1]) == pytest.approx(expected, rel=1e-6)
