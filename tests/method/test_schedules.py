"""Curricula: values at known steps, the fall from 1 to 0, and how they are written as words."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alphaflow import schedules
from alphaflow.errors import UserError

FALLING = {
    "linear": schedules.linear,
    "sigmoid": schedules.sigmoid,
    "exponential": schedules.exponential,
    "logarithmic": schedules.logarithmic,
}
curves = st.sampled_from(sorted(FALLING)).map(FALLING.__getitem__)
steps = st.integers(-10_000, 1_000_000)


@given(curves, steps, st.integers(0, 500_000), steps, steps)
def test_every_curve_falls_and_stays_between_1_and_0(curve, start, length, a, b):
    schedule = curve(start, start + length)
    early, late = schedule(min(a, b)), schedule(max(a, b))
    assert 1 >= early >= late >= 0


@given(curves, st.integers(0, 100_000), st.integers(1, 500_000), st.integers(0, 100_000))
def test_every_curve_is_1_until_start_and_0_from_end(curve, start, length, beyond):
    schedule = curve(start, start + length)
    assert schedule(start - beyond) == 1
    assert schedule(start + length + beyond) == 0


@given(curves, st.integers(0, 10_000), steps)
def test_equal_start_and_end_make_a_step(curve, at, k):
    assert curve(at, at)(k) == schedules.step(at)(k) == (1.0 if k < at else 0.0)


@given(curves, steps, st.floats(-2, 2), st.floats(-2, 2))
def test_first_and_last_scale_the_fall(curve, k, first, last):
    plain = curve(0, 1000)(k)
    scaled = curve(0, 1000, first=first, last=last)(k)
    assert scaled == pytest.approx(last + (first - last) * plain, abs=1e-12)


def test_the_sigmoid_is_the_papers_formula_between_its_clamps():
    schedule = schedules.sigmoid(100, 300)
    for k in range(160, 241):
        expected = 1 - 1 / (1 + math.exp(-25 * (k - 200) / 200))
        assert schedule(k) == pytest.approx(expected, rel=1e-12)
    assert schedule(200) == 0.5


def test_the_default_sigmoid_moves_only_from_28_8_to_71_2_percent():
    schedule = schedules.sigmoid(0, 400_000)
    edge = math.log(199) / 25  # η = sigmoid(-γ edge)
    first = min(k for k in range(110_000, 120_000) if schedule(k) < 1)
    last = max(k for k in range(280_000, 290_000) if schedule(k) > 0)
    assert first == math.ceil(400_000 * (0.5 - edge))
    assert last == math.floor(400_000 * (0.5 + edge))
    assert (round(first, -3), round(last, -3)) == (115_000, 285_000)
    assert round(100 * first / 400_000, 1) == 28.8
    assert round(100 * last / 400_000, 1) == 71.2
    assert schedule(first) == pytest.approx(0.995, abs=1e-4)


@pytest.mark.parametrize(("name", "middle"), [("linear", 0.5), ("sigmoid", 0.5)])
def test_symmetric_curves_are_at_half_in_the_middle(name, middle):
    assert FALLING[name](0, 1000)(500) == middle


def test_the_exponential_falls_first_and_the_logarithmic_last():
    exponential, logarithmic = schedules.exponential(0, 1000), schedules.logarithmic(0, 1000)
    half = math.exp(-2.5)
    assert exponential(500) == pytest.approx((half - half**2) / (1 - half**2))
    assert logarithmic(500) == pytest.approx(math.log(3.5) / math.log(6))
    for k in range(1, 1000, 37):
        assert exponential(k) < 1 - k / 1000 < logarithmic(k)


def test_clamp_cuts_a_curve_to_its_ends():
    schedule = schedules.linear(0, 100, clamp=0.1)
    assert [schedule(k) for k in (9, 11, 89, 91)] == pytest.approx([1, 0.89, 0.11, 0])


def test_a_constant_is_the_same_at_every_step():
    assert {schedules.constant(0.3)(k) for k in (-1, 0, 10**9)} == {0.3}


def test_warmup_rises_to_1_and_stays():
    rise = schedules.warmup(4)
    assert [rise(k) for k in (0, 1, 2, 3, 4, 1000)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert schedules.warmup(0)(0) == 1


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        ("sigmoid(0%, 80%)", schedules.sigmoid(0, 800)),
        ("sigmoid(10, 500, temperature=10, clamp=0)", schedules.sigmoid(10, 500, 10, 0)),
        (" linear( 25% , 75%, first=0.5 , last=.25) ", schedules.linear(250, 750, first=0.5, last=0.25)),
        ("step(50%)", schedules.step(500)),
        ("exponential(0, 100%)", schedules.exponential(0, 1000)),
        ("logarithmic(0, 1e3, 2)", schedules.logarithmic(0, 1000, 2)),
        ("constant(0.5)", schedules.constant(0.5)),
        ("0.25", schedules.constant(0.25)),
        ("25%", schedules.constant(0.25)),
        ("constant(25%)", schedules.constant(0.25)),
        ("linear(0%, 50%, first=75%, last=25%)", schedules.linear(0, 500, first=0.75, last=0.25)),
        ("sigmoid(0%, 50%, 25, 1%)", schedules.sigmoid(0, 500, 25, 0.01)),
        ("step(at=50%)", schedules.step(500)),
        ("5e-3", schedules.constant(5e-3)),
        (1, schedules.constant(1.0)),
    ],
)
def test_words_name_the_same_schedule_as_python(text, schedule):
    assert schedules.parse(text, 1000) == schedule


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sigmiod(0, 1)", "did you mean 'sigmoid'"),
        ("polynomial", "choose one of constant, step, linear"),
        ("sigmoid(0, a%)", "'a%' is not a number"),
        ("sigmoid(0)", "missing 1 required positional argument: 'end'"),
        ("sigmoid(0, 1, gamma=2)", "gamma"),
        ("sigmoid(100%, 0%)", "end 0 lies before start 1000"),
        ("linear(0, 1, clamp=0.6)", "clamp 0.6 must lie in"),
        ("exponential(0, 1, -2)", "temperature -2 must be positive"),
        ("a%", "'a%' is not a number"),
        ("", "not a number"),
        ("sigmoid(0, 1", "not a number"),
    ],
)
def test_wrong_words_are_refused_with_what_is_wrong(text, words):
    with pytest.raises(UserError, match=words) as caught:
        schedules.parse(text, 1000, "alpha schedule")
    assert caught.value.status == 2
    assert "\n" not in str(caught.value)
