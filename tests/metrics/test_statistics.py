"""Streamed statistics: right, and the same to the last bit for any batches and any number of processes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alphaflow.metrics.statistics import BLOCK, GROUPS, Accumulator, Moments, groups_of, merged

FEATURES = np.random.default_rng(0).standard_normal((1500, 5)) * [1, 2, 3, 4, 0] + 1e4


def whole() -> Accumulator:
    accumulator = Accumulator()
    accumulator.update(FEATURES)
    return accumulator


@given(st.lists(st.integers(1, 400), min_size=0, max_size=8))
@settings(max_examples=25, deadline=None)
def test_any_batches_give_the_same_bits(sizes: list[int]) -> None:
    accumulator = Accumulator()
    for part in np.split(FEATURES, sorted({sum(sizes[: k + 1]) % 1500 for k in range(len(sizes))} - {0})):
        accumulator.update(part)
        accumulator.groups()  # looking on the way changes nothing
    found, expected = accumulator.statistics(), whole().statistics()
    assert torch.equal(found.mean, expected.mean) and torch.equal(found.cov, expected.cov)
    np.testing.assert_allclose(found.mean, FEATURES.mean(0), rtol=1e-14)
    np.testing.assert_allclose(found.cov, np.cov(FEATURES.T), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("world", [2, 3, 5, 8])
def test_any_number_of_processes_gives_the_same_bits(world: int) -> None:
    ranks = [Accumulator() for _ in range(world)]
    for first in range(0, len(FEATURES), BLOCK):
        ranks[first // BLOCK % GROUPS % world].update(FEATURES[first : first + BLOCK], first)
    sent: list[list[Tensor]] = [[] for _ in ranks]
    for rank, accumulator in enumerate(ranks):  # first what each would send, then the sum of all
        accumulator.groups(lambda x, rank=rank: sent[rank].append(x.clone()))  # type: ignore[misc]
    sums = [torch.stack(parts).sum(0) for parts in zip(*sent)]
    order = iter(sums)
    found = ranks[0].statistics(lambda x: x.copy_(next(order)))
    expected = whole().statistics()
    assert found.count == 1500
    assert torch.equal(found.mean, expected.mean) and torch.equal(found.cov, expected.cov)


def test_a_process_without_samples_sends_zeros() -> None:
    busy, idle = Accumulator(5), Accumulator(5)
    busy.update(FEATURES[:60])
    sent: list[Tensor] = []
    idle.groups(sent.append)
    assert len(sent) == GROUPS and not any(part.any() for part in sent)
    busy.groups(lambda x: x.add_(sent.pop()))
    assert not sent


def test_groups_are_of_their_samples_and_merge_to_the_whole() -> None:
    groups = whole().groups()
    member = groups_of(torch.arange(len(FEATURES))).numpy()
    for k, group in enumerate(groups):
        rows = FEATURES[member == k]
        assert group.count == len(rows)
        np.testing.assert_allclose(group.statistics().cov, np.cov(rows.T), rtol=1e-8, atol=1e-9)
    some = merged(groups[:3]).statistics(detector="d")
    np.testing.assert_allclose(some.cov, np.cov(FEATURES[member < 3].T), rtol=1e-8, atol=1e-9)
    assert some.detector == "d"


def test_nothing_cancels_far_from_zero() -> None:
    x = np.random.default_rng(0).standard_normal((1000, 3))
    accumulator = Accumulator()
    accumulator.update(x + 1e8)
    np.testing.assert_allclose(accumulator.statistics().cov, np.cov(x.T), atol=1e-6)


def test_half_precision_features_are_summed_in_double() -> None:
    x = torch.randn(4096, 3, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    accumulator = Accumulator()
    accumulator.update(x)
    cov = accumulator.statistics().cov
    assert cov.dtype == torch.float64
    np.testing.assert_allclose(cov, np.cov(x.double().numpy().T), rtol=1e-9)


def test_refusals() -> None:
    accumulator = Accumulator()
    with pytest.raises(ValueError, match="no features yet"):
        accumulator.groups()
    accumulator.update(np.ones((1, 3)))
    with pytest.raises(ValueError, match="at least 2"):
        accumulator.statistics()
    with pytest.raises(ValueError, match="features have 2 dimensions, and earlier ones had 3"):
        accumulator.update(np.ones((1, 2)))
    with pytest.raises(ValueError, match="features holds NaN or infinite"):
        accumulator.update(np.full((1, 3), np.inf))
    with pytest.raises(ValueError, match="samples jump from 1 to 64"):
        accumulator.update(np.ones((2, 3)), first=64)
    with pytest.raises(ValueError, match="2 dimensions, and earlier ones 3"):
        Moments(1, torch.zeros(3), torch.zeros(3, 3)) + Moments(1, torch.zeros(2), torch.zeros(2, 2))
