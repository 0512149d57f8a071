"""The laws of t and r, and the couplings between them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from alphaflow import times
from alphaflow.errors import UserError
from alphaflow.method.family import MEMBERS, AlphaFlow, ImprovedMeanFlow, MeanFlow
from alphaflow.method.times import Arctan, Beta, Constant, Larger, LogitNormal, Times, Uniform
from alphaflow.method.weighting import Weight
from alphaflow.rng import KeyedRandom
from alphaflow.runs.build import build_objective
from alphaflow.runs.config import Config, ObjectiveConfig

SMOOTH = [
    Uniform(),
    Uniform(0.2, 0.7),
    LogitNormal(),
    LogitNormal(1.0, 0.5),
    Arctan(),
    Arctan(-1.2, 1.2),
    Beta(),
    Beta(2, 5),
    Beta(0.5, 0.5),
    Beta(5, 1),
    Larger(LogitNormal()),
    Larger(Uniform(0.2, 0.7)),
]
COUPLINGS = ["sorted", "minimum", "scaled", "truncated", "gap", "dyadic"]
laws = st.sampled_from([*SMOOTH, Constant(0.0), Constant(0.4), Constant(1.0)])
ROWS = 20_000


def random(rows: int = ROWS, seed: int = 0, step: int = 0) -> KeyedRandom:
    return KeyedRandom(seed, torch.arange(rows), step)


def scipy_cdf(law):
    """The same law built from scipy's, by its definition rather than by our formulae."""
    match law:
        case Uniform(low, high):
            return stats.uniform(low, high - low).cdf
        case Beta(a, b):
            return stats.beta(a, b).cdf
        case LogitNormal(mean, std):
            return lambda t: stats.norm(mean, std).cdf(np.log(t) - np.log1p(-t))
        case Larger(law):
            return lambda t: scipy_cdf(law)(t) ** 2  # both draws lie below t
        case Arctan(mean, std):
            return lambda t: stats.lognorm(std, scale=math.exp(mean)).cdf(np.tan(np.pi * t / 2))
    raise AssertionError(law)


@pytest.mark.parametrize("law", SMOOTH, ids=str)
def test_the_cdf_undoes_the_quantile(law):
    p = torch.linspace(1e-4, 1 - 1e-4, 999, dtype=torch.float64)
    torch.testing.assert_close(law.cdf(law.quantile(p)), p, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("law", SMOOTH, ids=str)
def test_draws_follow_the_law_as_scipy_defines_it(law):
    draws = law.quantile(random().uniform("t")).numpy()
    assert stats.kstest(draws, scipy_cdf(law)).pvalue > 1e-3


def test_the_default_law_is_logit_normal_at_minus_0_4_and_1():
    draws = Times().t.quantile(random().uniform("t")).logit()
    assert draws.mean().item() == pytest.approx(-0.4, abs=0.03)
    assert draws.std().item() == pytest.approx(1, abs=0.03)


def test_moments_of_beta_and_uniform_draws_are_the_closed_forms():
    p = random().uniform("t")
    beta = Beta(2, 5).quantile(p)
    assert beta.mean().item() == pytest.approx(2 / 7, abs=4e-3)
    assert beta.var().item() == pytest.approx(10 / (49 * 8), abs=1e-3)
    uniform = Uniform(0.2, 0.7).quantile(p)
    assert uniform.mean().item() == pytest.approx(0.45, abs=4e-3)
    assert uniform.var().item() == pytest.approx(0.25 / 12, abs=1e-3)


def test_a_constant_law_has_one_value_and_a_step_for_its_cdf():
    law = Constant(0.4)
    assert law.quantile(torch.tensor([0.01, 0.99])).tolist() == pytest.approx([0.4, 0.4])
    assert law.cdf(torch.tensor([0.39, 0.4, 0.41], dtype=torch.float64)).tolist() == [0, 1, 1]


@given(
    st.sampled_from(COUPLINGS),
    laws,
    laws,
    st.one_of(st.none(), laws),
    st.integers(1, 12),
    st.integers(0, 40),
    st.integers(0, 2**32),
    st.sampled_from([{}, {"to_data": 0.3}, {"time_shift": 3.0}, {"to_data": 1.0, "time_shift": 0.2}]),
)
def test_every_coupling_keeps_0_r_t_1_with_flow_rows_first(
    coupling, t_law, r_law, flow, levels, flow_rows, seed, more
):
    drawn = Times(coupling=coupling, t=t_law, r=r_law, flow=flow, levels=levels, **more)
    r, t = drawn.draw(random(32, seed), flow_rows)
    assert r.dtype == t.dtype == torch.float64
    assert bool(((r >= 0) & (r <= t) & (t <= 1)).all())
    assert torch.equal(r[:flow_rows], t[:flow_rows])


def test_sorted_pairs_are_the_order_statistics_of_two_draws():
    """max has the law F², min 1 - (1 - F)²."""
    r, t = Times(coupling="sorted").draw(random())
    cdf = scipy_cdf(LogitNormal())
    assert stats.kstest(t.numpy(), lambda x: cdf(x) ** 2).pvalue > 1e-3
    assert stats.kstest(r.numpy(), lambda x: 1 - (1 - cdf(x)) ** 2).pvalue > 1e-3
    assert bool((r < t).all())


def test_minimum_draws_t_by_its_law_and_cuts_r_at_t():
    r, t = Times(coupling="minimum", t=Uniform(), r=Uniform()).draw(random())
    assert stats.kstest(t.numpy(), stats.uniform.cdf).pvalue > 1e-3
    assert (r == t).double().mean().item() == pytest.approx(0.5, abs=0.02)
    assert r.mean().item() == pytest.approx(1 / 3, abs=0.01)


def test_minimum_with_r_at_0_reaches_the_data_in_every_row():
    r, t = Times(coupling="minimum", r=Constant(0.0)).draw(random(100))
    assert not r.any()
    assert bool((t > 0).all())


def test_scaled_draws_the_share_r_over_t_by_its_own_law():
    r, t = Times(coupling="scaled", t=LogitNormal(), r=Beta(2, 5)).draw(random())
    assert stats.kstest((r / t).numpy(), stats.beta(2, 5).cdf).pvalue > 1e-3
    assert stats.kstest(t.numpy(), scipy_cdf(LogitNormal())).pvalue > 1e-3
    assert abs(stats.pearsonr(t.numpy(), (r / t).numpy()).statistic) < 0.03


@pytest.mark.parametrize("law", [Uniform(), LogitNormal(), Beta(2, 5)], ids=str)
def test_truncated_draws_r_from_its_law_below_t(law):
    """Given t, F(r)/F(t) is uniform."""
    r, t = Times(coupling="truncated", t=LogitNormal(0.5), r=law).draw(random())
    share = (law.cdf(r) / law.cdf(t)).numpy()
    assert stats.kstest(share, stats.uniform.cdf).pvalue > 1e-3
    assert abs(stats.spearmanr(t.numpy(), share).statistic) < 0.03


def test_dyadic_intervals_lie_on_the_grid_of_their_own_length():
    r, t = Times(coupling="dyadic", levels=7).draw(random())
    length = t - r
    level = -length.log2()
    assert torch.equal(level, level.round())  # exact powers of two
    assert torch.equal(t / length, (t / length).round())
    assert set(level.int().tolist()) == set(range(7))
    counts = torch.bincount(level.long())
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3
    for k in range(1, 7):
        places = torch.bincount((r / length)[level == k].long(), minlength=2**k)
        assert stats.chisquare(places.numpy()).pvalue > 1e-3


def test_the_middle_of_a_dyadic_interval_is_on_the_next_finer_grid():
    r, t = Times(coupling="dyadic", levels=7).draw(random(500))
    middle, half = (r + t) / 2, (t - r) / 2
    assert torch.equal(middle / half, (middle / half).round())


def test_flow_rows_follow_their_own_law_and_leave_the_others_alone():
    drawn = Times(flow=Uniform(0.5, 0.6))
    r, t = drawn.draw(random(100), 30)
    plain_r, plain_t = drawn.draw(random(100))
    assert bool(((t[:30] >= 0.5) & (t[:30] <= 0.6)).all())
    assert torch.equal(t[30:], plain_t[30:])
    assert torch.equal(r[30:], plain_r[30:])


def test_flow_rows_take_the_law_of_t_where_they_have_none():
    r, t = Times(t=Beta(2, 5)).draw(random(), ROWS)
    assert torch.equal(r, t)
    assert stats.kstest(t.numpy(), stats.beta(2, 5).cdf).pvalue > 1e-3


def test_gaps_follow_their_own_law_and_r_its_law_where_there_is_room():
    """TVM's pairs: given the gap g, F(r) / F(1 - g) is uniform; flow rows take r's law."""
    drawn = Times(coupling="gap", t=LogitNormal(-0.8), r=LogitNormal(-0.4))
    r, t = drawn.draw(random())
    gap, law = (t - r).numpy(), scipy_cdf(LogitNormal(-0.4))
    assert stats.kstest(gap, scipy_cdf(LogitNormal(-0.8))).pvalue > 1e-3
    share = law(r.numpy()) / law(1 - gap)
    assert stats.kstest(share, stats.uniform.cdf).pvalue > 1e-3
    assert abs(stats.spearmanr(gap, share).statistic) < 0.03
    flow = drawn.draw(random(), ROWS)[1]
    assert stats.kstest(flow.numpy(), law).pvalue > 1e-3
    assert str(drawn) == "t - r logit-normal(-0.8, 1), r logit-normal(-0.4, 1)"


def test_a_share_of_the_rows_with_r_below_t_reaches_the_data():
    drawn = Times(to_data=0.25)
    r, t = drawn.draw(random(), 1000)
    plain_r, plain_t = Times().draw(random(), 1000)
    zero = r == 0
    assert not zero[:1000].any() and torch.equal(r[~zero], plain_r[~zero]) and torch.equal(t, plain_t)
    assert zero[1000:].double().mean().item() == pytest.approx(0.25, abs=0.012)
    assert abs(stats.spearmanr(zero[1000:].double(), t[1000:]).statistic) < 0.03
    assert str(drawn) == "logit-normal(-0.4, 1), sorted, r 0 on 25 %"


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_the_time_shift_moves_both_times_by_one_increasing_map(coupling):
    """On odds t / (1 - t) it is a factor n, so that a logit-normal law has its mean moved by ln n."""
    shifted = Times(coupling=coupling, time_shift=3.0)
    plain = Times(coupling=coupling).draw(random(500), 100)
    for ours, theirs in zip(shifted.draw(random(500), 100), plain):
        torch.testing.assert_close(ours / (1 - ours), 3 * theirs / (1 - theirs), rtol=1e-9, atol=1e-12)
    moved = Times(t=LogitNormal(-0.4 + math.log(3))).draw(random(500), 500)[1]
    torch.testing.assert_close(shifted.draw(random(500), 500)[1], moved)
    assert "shifted by 3" in str(shifted)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"to_data": 1.2}, "to_data 1.2 must lie"), ({"time_shift": 0.0}, "time_shift 0 must be positive")],
    ids=str,
)
def test_impossible_shares_and_shifts_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        Times(**settings)


def test_the_command_line_sets_gaps_shares_and_shifts():
    ours = ObjectiveConfig(
        name="meanflow", coupling="gap", t_law="logit-normal(-0.8, 1)", to_data=0.1, time_shift=6.93
    )
    built = build_objective(Config(steps=10, objective=ours), 0).times
    assert (built.coupling, built.to_data, built.time_shift) == ("gap", 0.1, 6.93)
    weighed = ObjectiveConfig(name="meanflow", weight="adaptive", weight_c=1e-5, weight_by_time="tim")
    assert build_objective(Config(steps=10, objective=weighed), 0).weight == Weight(c=1e-5, by_time="tim")


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_a_samples_times_do_not_depend_on_its_batch(coupling):
    drawn = Times(coupling=coupling)
    r, t = drawn.draw(KeyedRandom(1, torch.arange(64), 5))
    chosen = torch.tensor([63, 2, 17])
    r_few, t_few = drawn.draw(KeyedRandom(1, chosen, 5))
    assert torch.equal(r_few, r[chosen])
    assert torch.equal(t_few, t[chosen])


@pytest.mark.parametrize(
    ("text", "law"),
    [
        ("logit-normal(-0.4, 1)", LogitNormal()),
        ("logit-normal", LogitNormal(-0.4, 1.0)),
        ("uniform(0.1, high=0.9)", Uniform(0.1, 0.9)),
        ("beta(2, 5)", Beta(2, 5)),
        ("arctan(-1.2, 1.2)", Arctan(-1.2, 1.2)),
        ("0.5", Constant(0.5)),
    ],
)
def test_words_name_the_same_law_as_python(text, law):
    assert times.parse(text) == law


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("logitnormal(0, 1)", "did you mean 'logit-normal'"),
        ("uniform(0.5, 0.2)", "low < high"),
        ("beta(0, 1)", "positive parameters"),
        ("logit-normal(0, 0)", "std 0 must be positive"),
        ("1.5", "outside"),
        ("uniform(0%, 50%)", "not a number"),
        ("uniform(middle=0.5)", "middle"),
    ],
)
def test_wrong_words_are_refused_with_what_is_wrong(text, words):
    with pytest.raises(UserError, match=words) as caught:
        times.parse(text)
    assert caught.value.status == 2


def test_an_unknown_coupling_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="did you mean 'sorted'"):
        Times(coupling="sortd")
    with pytest.raises(ValueError, match="levels 0"):
        Times(coupling="dyadic", levels=0)


# --- the law of t where r = t ------------------------------------------------------------------------------------


def flow_times(objective, rows=ROWS):
    draw = objective.draw(lambda z, r, t, y: z, torch.zeros(rows, 1), generator=random(rows))
    return draw.t[draw.r == draw.t].numpy()


@pytest.mark.parametrize("member", [MeanFlow, ImprovedMeanFlow])
def test_meanflow_sorts_two_draws_before_it_sets_r_to_t(member):
    """Its own code: t is the larger of the pair on all rows; α-Flow's draws once."""
    pairs = torch.randn(2, ROWS, generator=torch.Generator().manual_seed(0)).sub(0.4).sigmoid()
    law, once = pairs.max(0).values.numpy(), pairs[0].numpy()
    drawn = flow_times(member(flow_ratio=0.5))
    assert len(drawn) == ROWS // 2
    assert stats.ks_2samp(drawn, law).pvalue > 1e-3 and stats.ks_2samp(drawn, once).statistic > 0.2
    assert drawn.mean() == pytest.approx(0.534, abs=0.01)
    assert stats.ks_2samp(flow_times(AlphaFlow(alpha=0.0, flow_ratio=0.5)), once).pvalue > 1e-3
    pair = member(flow_ratio=0.0).draw(lambda z, r, t, y: z, torch.zeros(ROWS, 1), generator=random())
    assert stats.ks_2samp(pair.t.numpy(), drawn).pvalue > 1e-3  # the same law as where r < t


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("meanflow", {}, Larger(LogitNormal())),
        ("imeanflow", {}, Larger(LogitNormal())),
        ("meanflow", {"flow_law": "logit-normal(-0.4, 1)"}, LogitNormal()),
        ("meanflow", {"t_law": "uniform", "r_law": "uniform"}, Larger(Uniform())),
        ("meanflow", {"t_law": "uniform", "flow_law": "beta(2, 1)"}, Beta(2, 1)),
        ("alphaflow", {}, None),
        ("alphaflow", {"flow_law": " max( logit-normal(-0.4,1) ) "}, Larger(LogitNormal())),
        ("alphaflow", {"flow_law": "max(max(uniform))"}, Larger(Larger(Uniform()))),
        ("splitmeanflow", {"flow_law": "max(logit-normal(0.2, 1.5))"}, Larger(LogitNormal(0.2, 1.5))),
    ],
)
def test_the_command_line_says_the_law_of_t_where_r_is_t(name, settings, expected):
    built = build_objective(Config(steps=10, objective=ObjectiveConfig(name=name, **settings)), 0)
    assert built.times.flow == expected
    if not settings:
        assert built.times == MEMBERS[name]().times


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max", "names no law of the two draws"),
        ("max()", "names no law of the two draws"),
        ("max(logitnormal)", "did you mean 'logit-normal'"),
        ("max(uniform(1, 0))", "uniform needs 0 <= low < high"),
    ],
)
def test_the_larger_of_no_known_law_is_refused(text, message):
    with pytest.raises(UserError, match=message) as refused:
        times.parse(text)
    assert refused.value.status == 2
