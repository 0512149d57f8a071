"""A budget of time in words, and the steps that it holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alphaflow.costs.budget import Overhead, budget_word, read_budget, seconds_for, steps_within
from alphaflow.errors import UserError


@pytest.mark.parametrize(
    ("word", "minutes"),
    [("30m", 30), ("1h", 60), ("2h30m", 150), ("90", 90), ("1h30", 90), ("1.5h", 90), (" 2H ", 120), ("1m", 1)],
)
def test_a_budget_is_read(word, minutes):
    assert read_budget(word) == 60 * minutes


@pytest.mark.parametrize("word", ["", "soon", "1d", "30s", "-5", "m", "1h-5m", "30m1h", "nan", "inf", "1e3"])
def test_what_is_no_length_of_time_is_refused_with_the_form_that_is(word):
    with pytest.raises(
        UserError, match="is no length of time: give 30m, 1h, 2h30m, or minutes alone, 90"
    ) as error:
        read_budget(word)
    assert error.value.status == 2


@pytest.mark.parametrize("word", ["0", "0.5m", "10001h"])
def test_a_budget_has_bounds(word):
    with pytest.raises(UserError, match="must be from 1m to 10000h"):
        read_budget(word)


@given(st.floats(60, 35_999))
def test_a_budget_in_words_is_read_as_the_same_or_up_to_a_minute_more(seconds):
    assert 0 <= read_budget(budget_word(seconds)) - seconds < 60


def test_long_budgets_are_told_in_hours():
    assert [budget_word(hours * 3600) for hours in (1, 9.5, 10.2)] == ["1h", "9h30m", "11h"]


@given(st.integers(1, 10**6), st.floats(1e-3, 100), st.floats(0, 1e4), st.floats(0, 50), st.floats(0, 2))
def test_steps_fill_what_the_rest_of_a_run_leaves(steps, step, seconds, others, each):
    overhead = Overhead(seconds=seconds, steps=others, seconds_each=each, steps_each=each)
    whole = seconds_for(steps, step, overhead)
    one = step + each * step + each
    assert whole == pytest.approx(seconds + others * step + steps * one)
    assert steps_within(whole + one / 2, step, overhead) == steps
    assert steps_within(whole - one / 2, step, overhead) == steps - 1


def test_a_budget_that_the_rest_takes_holds_no_step():
    assert steps_within(60, 1, Overhead(seconds=59, steps=2)) == 0
