"""Figures against torchmetrics and scipy, and their intervals against many draws of known distributions."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor, nn

from alphaflow.metrics import (
    Accumulator,
    density_coverage,
    frechet_distance,
    frechet_estimate,
    inception_score,
    jackknife,
    kernel_distance,
    manifold_estimates,
    mean_estimate,
    precision_recall,
    statistics_of,
)
from alphaflow.metrics.estimates import group_counts


def drawn(seed: int, count: int, dim: int) -> Tensor:
    """Correlated features with falling variances, as a detector's are."""
    source = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, generator=torch.Generator().manual_seed(99), dtype=torch.float64) / dim**0.5
    return torch.randn(count, dim, generator=source, dtype=torch.float64) @ (mix + torch.eye(dim)) + 0.3


def groups(features: Tensor):
    accumulator = Accumulator()
    accumulator.update(features)
    return accumulator.groups()


@pytest.mark.parametrize("dim", [64, 512, pytest.param(2048, marks=pytest.mark.slow)])
def test_the_frechet_distance_agrees_with_scipy_and_torchmetrics(dim: int) -> None:
    from torchmetrics.image.fid import _compute_fid

    a, b = statistics_of(drawn(0, 2 * dim, dim)), statistics_of(drawn(1, 2 * dim, dim) * 1.1 + 0.1)
    found = frechet_distance(a.mean, a.cov, b.mean, b.cov)
    assert found == pytest.approx(float(_compute_fid(a.mean, a.cov, b.mean, b.cov)), rel=1e-6)
    if dim <= 512:  # the square root of a 2,048-d product alone takes a minute
        cross = np.trace(sqrtm((a.cov @ b.cov).numpy()).real)
        expected = (a.mean - b.mean).square().sum() + a.cov.trace() + b.cov.trace() - 2 * cross
        assert found == pytest.approx(float(expected), rel=1e-6)


def test_the_kernel_distance_agrees_with_torchmetrics() -> None:
    from torchmetrics.image.kid import poly_mmd

    real, fake = drawn(0, 600, 64), drawn(1, 600, 64) * 1.1
    expected = float(poly_mmd(real, fake))
    assert kernel_distance(real, fake).value == pytest.approx(expected, rel=1e-6)


class _Logits(nn.Module):
    """Stands where torchmetrics has its Inception network: the `images` are the logits."""

    num_features = 10

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, 0, 0]


def test_the_inception_score_agrees_with_torchmetrics() -> None:
    from torchmetrics.image.inception import InceptionScore

    logits = drawn(0, 500, 10) * 3
    reference = InceptionScore(_Logits(), splits=1)
    reference.set_dtype(torch.float64)
    reference.update(logits[:, :, None, None])
    assert inception_score(logits).value == pytest.approx(float(reference.compute()[0]), rel=1e-6)


def test_the_inception_score_of_perfect_and_of_useless_guesses() -> None:
    assert inception_score(torch.eye(10)[torch.arange(1000) % 10] * 1e3).value == pytest.approx(10)
    assert inception_score(torch.zeros(1000, 10)).value == pytest.approx(1)


def test_manifold_figures_are_those_of_the_plain_functions() -> None:
    real, fake = drawn(0, 500, 8), drawn(1, 700, 8) * 1.3
    found = manifold_estimates(real, fake)
    plain, dense = precision_recall(real, fake, 3), density_coverage(real, fake, 5)
    assert [found[name].value for name in ("precision", "recall", "density", "coverage")] == pytest.approx(
        [*plain, *dense], abs=1e-12
    )


def test_leaving_a_group_out_is_having_drawn_the_others_only() -> None:
    """The errors of recall and coverage, which are no means over samples, against the figures computed anew."""
    real, fake = drawn(0, 300, 6), drawn(1, 512, 6) * 1.2
    member = torch.arange(512) // 64
    found = manifold_estimates(real, fake)
    others = [fake[member != g] for g in range(8)]
    left = [(precision_recall(real, other), density_coverage(real, other)) for other in others]
    figures = [{**a._asdict(), **b._asdict()} for a, b in left]
    kernel = [kernel_distance(real, other).value for other in others]
    for name, estimate in found.items():
        again = jackknife(estimate.value, [one[name] for one in figures], [64] * 8)
        assert estimate.error == pytest.approx(again.error, rel=1e-9), name
        assert estimate.error is not None and estimate.error > 0
    value = kernel_distance(real, fake)
    assert value.error == pytest.approx(jackknife(value.value, kernel, [64] * 8).error, rel=1e-6)


@pytest.mark.parametrize("count", [512, 700])
def test_the_error_of_a_mean_is_that_of_its_groups(count: int) -> None:
    """For a mean, with groups of one size or of several, the jackknife knows the spread s/√N."""
    errors = [mean_estimate(drawn(seed, count, 1)[:, 0]).error for seed in range(60)]
    spread = float(drawn(0, 20_000, 1).std()) / count**0.5
    assert np.sqrt(np.mean(np.square(np.array(errors, float)))) == pytest.approx(spread, rel=0.1)


def test_intervals_hold_what_they_promise() -> None:
    """95 % intervals of the Fréchet and kernel distances against the spread over independent draws."""
    reference, real = statistics_of(drawn(0, 4000, 4)), drawn(0, 400, 4)
    fakes = [drawn(seed, 600, 4) * 1.2 for seed in range(1, 61)]
    for score in (
        lambda fake: frechet_estimate(reference, groups(fake)).distance,
        lambda f: kernel_distance(real, f),
    ):
        found = [score(fake) for fake in fakes]
        middle = np.mean([one.value for one in found])
        assert sum(one.low <= middle <= one.high for one in found) >= 52  # 57 expected, below 52 once in 100


def test_the_limit_takes_the_bias_away() -> None:
    """The true distance is known; the plain estimate is above it by about D²/N of the variances."""
    dim, true = 12, 0.01 * 12
    source = torch.Generator().manual_seed(3)
    reference = statistics_of(torch.zeros(2, dim))
    reference = type(reference)(mean=torch.zeros(dim).double(), cov=torch.eye(dim).double(), count=10**9)
    found = [
        frechet_estimate(reference, groups(torch.randn(768, dim, generator=source) + 0.1), limit=True)
        for _ in range(20)
    ]
    plain = np.mean([one.distance.value for one in found]) - true
    limit = np.mean([one.limit for one in found]) - true
    assert plain > 0.03 and abs(limit) < plain / 4


def test_small_sets_have_no_interval() -> None:
    assert mean_estimate(torch.ones(192)).error is None
    assert mean_estimate(torch.ones(193)).error == 0
    assert mean_estimate(torch.ones(3)).error is None
    assert kernel_distance(drawn(0, 50, 3), drawn(1, 50, 3)).error is None
    assert inception_score(drawn(0, 50, 3)).error is None
    reference = statistics_of(drawn(0, 50, 3))
    assert frechet_estimate(reference, groups(drawn(1, 50, 3))).distance.error is None
    with pytest.raises(ValueError, match="50 samples are too few to extrapolate"):
        frechet_estimate(reference, groups(drawn(1, 50, 3)), limit=True)
    with pytest.raises(ValueError, match="needs 2 samples of each"):
        kernel_distance(drawn(0, 1, 3), drawn(1, 50, 3))
    assert group_counts(600) == [128, 88, 64, 64, 64, 64, 64, 64]
