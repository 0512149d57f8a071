"""`fused` over torch's own list of operators: the right tangent and graph, or NoRule; never wrong in silence."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest

from operators import WAYS, Tally, seen_with_faults, went_through


def went(parts: int, part: int) -> Tally:
    """Every so-manieth operator, in a process of its own: some that fail leave torch's forward mode broken."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(went_through, parts, part).result()


def test_of_every_tenth_operator_none_is_wrong():
    tally = went(10, 3)
    assert not tally.wrong, "\n".join(tally.wrong)
    assert len({name for name, _ in tally.right}) > 40


@pytest.mark.slow
def test_of_all_operators_none_is_wrong_and_most_are_right():
    tally = went(1, 0)
    assert not tally.wrong, "\n".join(tally.wrong)
    right = {way: {name for name, one in tally.right if one == way} for way in WAYS}
    names = {name for name, _ in (*tally.right, *tally.refused)}
    assert len(names) > 600
    assert len(right[WAYS[0]]) > 550 and len(right[WAYS[1]]) > 370 and len(right[WAYS[2]]) > 100
    assert len(right[WAYS[3]]) > 100


def test_the_examination_sees_a_lost_tangent_a_mix_of_rows_and_a_write_that_views_miss():
    """So that the tests above cannot pass by blindness."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        tally = pool.submit(seen_with_faults).result()
    assert {line.split(",")[0] for line in tally.wrong} >= {"erf", "flip"}
    assert ("expm1", WAYS[3]) in tally.refused and ("expm1", WAYS[3]) not in tally.right
