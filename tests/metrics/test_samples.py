"""Metrics between two sets of samples: closed forms, identities and naive loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance

from alphaflow.metrics import _pairwise as pairwise
from alphaflow.metrics import (
    density_coverage,
    energy_distance,
    nearest_neighbours,
    precision_recall,
    sliced_wasserstein,
)

seeds = st.integers(0, 2**32 - 1)
dims = st.sampled_from([1, 2, 5, 16, 17, 40])  # below and above the switch to the matrix product
Array = np.ndarray


def gaussian(seed: int, count: int, dim: int, shift: float = 0.0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, dim)) + shift


def naive_radii(x: Array, k: int) -> list[float]:
    return [
        sorted(float(np.linalg.norm(p - q)) for j, q in enumerate(x) if j != i)[k - 1] for i, p in enumerate(x)
    ]


def among(point: Array, members: Array, radii: list[float]) -> int:
    return sum(float(np.linalg.norm(point - m)) <= r for m, r in zip(members, radii))


@given(seeds, dims, st.integers(1, 5), st.floats(0, 3))
@settings(max_examples=20, deadline=None)
def test_manifold_metrics_agree_with_a_naive_loop(seed: int, dim: int, k: int, shift: float) -> None:
    real, fake = gaussian(seed, 17, dim), gaussian(seed + 1, 13, dim, shift / math.sqrt(dim))
    real_radii, fake_radii = naive_radii(real, k), naive_radii(fake, k)
    found = precision_recall(real, torch.from_numpy(fake), k)
    assert found.precision == pytest.approx(np.mean([among(p, real, real_radii) > 0 for p in fake]))
    assert found.recall == pytest.approx(np.mean([among(p, fake, fake_radii) > 0 for p in real]))
    both = density_coverage(real, fake, k)
    assert both.density == pytest.approx(sum(among(p, real, real_radii) for p in fake) / (k * len(fake)))
    nearest = cdist(real, fake).min(1)
    assert both.coverage == pytest.approx(np.mean(nearest <= real_radii))


@pytest.mark.parametrize("dim", [2, 64])
def test_a_set_covers_itself_also_with_duplicates(dim: int) -> None:
    x = gaussian(0, 50, dim, shift=1000.0)
    x = np.concatenate([x] * 6)  # every k-th neighbour is at distance 0
    assert precision_recall(x, x) == (1.0, 1.0)
    assert density_coverage(x, x).coverage == 1.0


@pytest.mark.parametrize("dim", [2, 64])
def test_far_apart_sets_share_nothing(dim: int) -> None:
    real, fake = gaussian(0, 100, dim), gaussian(1, 100, dim, shift=1e3)
    assert precision_recall(real, fake) == (0.0, 0.0)
    assert density_coverage(real, fake) == (0.0, 0.0)


def test_a_dropped_mode_costs_recall_and_coverage_but_not_precision_and_density() -> None:
    real = np.concatenate([gaussian(0, 200, 2), gaussian(1, 200, 2, shift=100.0)])
    fake = gaussian(2, 200, 2)
    found, both = precision_recall(real, fake), density_coverage(real, fake)
    assert found.precision > 0.9 and found.recall == pytest.approx(0.5, abs=0.05)
    assert both.density == pytest.approx(1.0, abs=0.2) and both.coverage == pytest.approx(0.5, abs=0.06)


@given(seeds, dims)
@settings(max_examples=20, deadline=None)
def test_nearest_neighbours_agree_with_scipy(seed: int, dim: int) -> None:
    queries, references = gaussian(seed, 12, dim), gaussian(seed + 1, 9, dim)
    found = nearest_neighbours(queries, references)
    expected = cdist(queries, references)
    np.testing.assert_allclose(found.distances, expected.min(1), rtol=1e-9)
    assert found.indices.tolist() == expected.argmin(1).tolist()
    alone = nearest_neighbours(queries, queries, exclude_self=True)
    np.fill_diagonal(expected := cdist(queries, queries), np.inf)
    assert alone.indices.tolist() == expected.argmin(1).tolist()
    assert torch.equal(nearest_neighbours(queries, queries).distances, torch.zeros(12, dtype=torch.float64))


@pytest.mark.parametrize("dim", [3, 30])
def test_the_blocks_do_not_show(dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = gaussian(0, 40, dim), gaussian(1, 30, dim, shift=0.2)

    def everything() -> list[float]:
        return [
            *precision_recall(real, fake),
            *density_coverage(real, fake),
            *nearest_neighbours(real, real, exclude_self=True).distances.tolist(),
            energy_distance(real, fake),
        ]

    whole = everything()
    monkeypatch.setattr(pairwise, "_BLOCK", 100)
    assert everything() == pytest.approx(whole, rel=1e-12)


@given(seeds, dims)
@settings(max_examples=20, deadline=None)
def test_energy_distance_agrees_with_a_naive_sum(seed: int, dim: int) -> None:
    a, b = gaussian(seed, 11, dim), gaussian(seed + 1, 7, dim)
    expected = 2 * cdist(a, b).mean() - cdist(a, a).mean() - cdist(b, b).mean()
    assert energy_distance(a, torch.from_numpy(b)) == pytest.approx(expected, rel=1e-9)
    assert energy_distance(a, a) == pytest.approx(0, abs=1e-12)


def test_energy_distance_of_two_points_is_twice_their_distance() -> None:
    assert energy_distance(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0]])) == pytest.approx(10.0)


def test_energy_distance_of_gaussians_has_its_closed_form() -> None:
    # X - Y ~ N(δ, 2): E|X - Y| = 2 exp(-δ²/4)/√π + δ erf(δ/2), and E|X - X'| = 2/√π.
    shift = 1.5
    apart = 2 / math.sqrt(math.pi) * math.exp(-(shift**2) / 4) + shift * math.erf(shift / 2)
    expected = 2 * apart - 4 / math.sqrt(math.pi)
    assert energy_distance(gaussian(0, 4000, 1), gaussian(1, 4000, 1, shift)) == pytest.approx(expected, rel=0.05)


@given(seeds, st.integers(1, 6))
@settings(max_examples=20, deadline=None)
def test_sliced_wasserstein_of_a_shift(seed: int, dim: int) -> None:
    a = gaussian(seed, 30, dim)
    shift = np.random.default_rng(seed).standard_normal(dim)
    found = sliced_wasserstein(a, a[::-1] + shift, projections=4000)
    assert found == pytest.approx(np.linalg.norm(shift) / math.sqrt(dim), rel=0.1)
    assert sliced_wasserstein(a, a) == 0.0


def test_sliced_wasserstein_of_scaled_gaussians() -> None:
    a = gaussian(0, 20_000, 3)
    assert sliced_wasserstein(a, 3 * gaussian(1, 20_000, 3)) == pytest.approx(2.0, rel=0.03)


def test_unequal_sizes_are_exact() -> None:
    a, b = gaussian(0, 12, 1), gaussian(1, 8, 1, 20.0)
    # The sets do not overlap, so W₁ is the difference of the means; W₂ by repeating both to 24 points.
    repeated = np.sort(np.repeat(b, 3, 0), 0) - np.sort(np.repeat(a, 2, 0), 0)
    assert repeated.mean() == pytest.approx(wasserstein_distance(a.ravel(), b.ravel()))
    assert sliced_wasserstein(a, b) == pytest.approx(math.sqrt((repeated**2).mean()), rel=1e-12)
    x, y = gaussian(2, 35, 4), gaussian(3, 50, 4)
    same = sliced_wasserstein(np.repeat(x, 10, 0), np.repeat(y, 7, 0))
    assert sliced_wasserstein(x, y) == pytest.approx(same, rel=1e-12)


def test_directions_follow_the_seed_and_the_number() -> None:
    a, b = gaussian(0, 20, 3), gaussian(1, 20, 3, 1.0)
    assert sliced_wasserstein(a, b, seed=1) == sliced_wasserstein(a, b, seed=1)
    assert sliced_wasserstein(a, b, seed=1) != sliced_wasserstein(a, b, seed=2)
    spread = [np.std([sliced_wasserstein(a, b, n, seed=s) for s in range(20)]) for n in (4, 400)]
    assert spread[1] < spread[0] / 4


def test_refusals() -> None:
    a = gaussian(0, 5, 2)
    for metric in (precision_recall, density_coverage):
        with pytest.raises(ValueError, match="k = 5 does not fit 5 real samples"):
            metric(a, a, 5)
        with pytest.raises(ValueError, match="k = 0"):
            metric(a, a, 0)
        with pytest.raises(ValueError, match="real have 2 dimensions and fake 3"):
            metric(a, gaussian(0, 5, 3))
    with pytest.raises(ValueError, match="exclude_self needs the same rows twice"):
        nearest_neighbours(a, a[:3], exclude_self=True)
    with pytest.raises(ValueError, match="b holds NaN"):
        energy_distance(a, a * np.nan)
    with pytest.raises(ValueError, match="a must have 2 dimensions"):
        energy_distance(a[0], a)
    with pytest.raises(ValueError, match="projections = 0"):
        sliced_wasserstein(a, a, projections=0)
