"""Keyed random numbers: their laws, their independence, and that they belong to the sample alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from alphaflow.rng import GeneratorRandom, KeyedRandom, as_random, hash_key, seeded, send

ROWS = 20_000


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))],
)
def test_what_is_sent_arrives_as_it_was_and_as_it_is_wanted(device):
    drawn = torch.rand(5000, dtype=torch.float64)
    sent = send(drawn, torch.zeros(1, device=device))
    assert sent.dtype == torch.float32 and sent.device.type == device
    torch.testing.assert_close(sent.cpu(), drawn.float(), rtol=0, atol=0)
    assert send(drawn, torch.device(device)).dtype == torch.float64
    assert send(drawn > 0.5, torch.device(device), torch.int64).sum() == (drawn > 0.5).sum()


def keyed(seed: int = 0, step: int = 0, rows: int = ROWS) -> KeyedRandom:
    return KeyedRandom(seed, torch.arange(rows), step)


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.double().flatten(), b.double().flatten()]))[0, 1])


@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_uniform_draws_are_uniform_and_never_0_or_1(seed):
    p = keyed(seed).uniform("t")
    assert p.dtype == torch.float64
    assert bool(((p > 0) & (p < 1)).all())
    assert stats.kstest(p.numpy(), stats.uniform.cdf).pvalue > 1e-3


@pytest.mark.parametrize("columns", [1, 2, 7])
def test_normal_draws_are_normal_over_rows_and_over_columns(columns):
    noise = keyed(rows=ROWS // columns).normal("noise", (columns,))
    assert noise.dtype == torch.float32
    assert stats.kstest(noise.flatten().numpy(), stats.norm.cdf).pvalue > 1e-3
    for k in range(columns):
        assert stats.kstest(noise[:, k].numpy(), stats.norm.cdf).pvalue > 1e-3
    one_row = KeyedRandom(0, torch.tensor([17])).normal("noise", (ROWS,))[0]
    assert stats.kstest(one_row.numpy(), stats.norm.cdf).pvalue > 1e-3


def test_the_first_four_moments_of_normal_draws_are_0_1_0_3():
    noise = keyed().normal("noise", (10,)).double()
    moments = [(noise**k).mean().item() for k in (1, 2, 3, 4)]
    assert moments == pytest.approx([0, 1, 0, 3], abs=0.05)


def test_columns_of_a_row_are_independent():
    """Both halves of a Box-Muller pair included: correlation of the values and of their squares."""
    noise = keyed().normal("noise", (6,))
    limit = 5 / ROWS**0.5
    for power in (1, 2):
        matrix = torch.corrcoef((noise.double() ** power).T) - torch.eye(6)
        assert matrix.abs().max().item() < limit


@pytest.mark.parametrize(
    "other",
    [
        keyed(seed=1).uniform("t"),
        keyed(step=1).uniform("t"),
        keyed().uniform("r"),
        KeyedRandom(0, torch.arange(1, ROWS + 1)).uniform("t"),
    ],
    ids=["seed", "step", "stream", "next row"],
)
def test_draws_under_another_key_are_independent(other):
    assert abs(correlation(keyed().uniform("t"), other)) < 5 / ROWS**0.5


def test_no_value_repeats_among_streams_steps_seeds_and_rows():
    draws = [keyed(seed, step, 1000).uniform(name) for seed in (0, 1) for step in (0, 1) for name in ("t", "r")]
    assert torch.cat(draws).unique().numel() == 8000


@given(
    st.integers(0, 2**63),
    st.integers(0, 10**7),
    st.lists(st.integers(0, 2**50), min_size=1, max_size=6, unique=True),
)
def test_a_row_is_the_same_in_any_company(seed, step, index):
    together = KeyedRandom(seed, torch.tensor(index), step)
    for row, sample in enumerate(index):
        alone = KeyedRandom(seed, torch.tensor([sample]), step)
        assert torch.equal(alone.normal("noise", (2, 3))[0], together.normal("noise", (2, 3))[row])
        assert torch.equal(alone.uniform("t")[0], together.uniform("t")[row])


def test_the_shape_of_a_row_only_arranges_its_numbers():
    flat = keyed(rows=5).normal("noise", (12,))
    assert torch.equal(keyed(rows=5).normal("noise", (3, 2, 2)), flat.reshape(5, 3, 2, 2))


def test_the_numbers_of_a_key_stay_what_they_are():
    """Golden values: a change here silently changes every run and every published sample."""
    source = KeyedRandom(7, torch.tensor([0, 3]), 11)
    assert source.uniform("t").tolist() == GOLDEN_UNIFORM
    torch.testing.assert_close(source.normal("noise", (3,)), torch.tensor(GOLDEN_NORMAL), rtol=1e-5, atol=1e-6)


GOLDEN_UNIFORM = [0.3465843934477231, 0.6836792047756406]
GOLDEN_NORMAL = [[-0.4245907, 0.8718066, -0.9190662], [0.4533174, -2.43944, 1.205462]]


def test_keys_depend_on_every_part_and_on_order():
    keys = [
        hash_key(*parts) for parts in ((0, "a", 1), (1, "a", 0), (0, "b", 1), (0, "a", 2), (0, "a"), ("a", 0, 1))
    ]
    assert len(set(keys)) == len(keys)
    assert all(0 <= key < 2**63 for key in keys)


def test_generators_give_the_same_numbers_for_the_same_seed():
    one, two = (GeneratorRandom(4, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one.normal("noise", (2,)), two.normal("noise", (2,)))
    first = one.uniform("t")
    assert torch.equal(first, two.uniform("t"))
    assert not torch.equal(first, one.uniform("t"))
    assert first.dtype == torch.float64
    assert torch.equal(torch.rand(3, generator=seeded(1, "a")), torch.rand(3, generator=seeded(1, "a")))
    assert not torch.equal(torch.rand(3, generator=seeded(1, "a")), torch.rand(3, generator=seeded(1, "b")))


def test_without_a_generator_torchs_own_seed_rules():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        ours = as_random(None, 4).normal("noise", (2,))
        torch.manual_seed(9)
        assert torch.equal(ours, torch.randn(4, 2))


def test_a_keyed_source_passes_through_as_it_is():
    source = keyed(rows=2)
    assert as_random(source, 2) is source
