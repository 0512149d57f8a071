"""The run that suits pictures: by arithmetic, with speeds that are given."""

import dataclasses
import math

import pytest
import torch

from alphaflow.cli.settings import parse_settings, settings_said
from alphaflow.costs.asked import HOUR, Asked
from alphaflow.costs.budget import budget_word, read_budget
from alphaflow.costs.ladder import LADDER, USUAL, work
from alphaflow.costs.own_pictures import ALWAYS, ENOUGH, LEAST, VIEWS, Fitted, fit
from alphaflow.costs.picture_size import TOKENS, time_shift_of
from alphaflow.data.looked import Look
from alphaflow.data.vocabulary import Vocabulary
from alphaflow.errors import UserError
from alphaflow.method.times import LogitNormal
from alphaflow.runs.build import build_model

PHOTOS = Look(count=50_000, side=500, alike=False, grey=False, seconds=1e-3)
SAME = "--model.width 192 --batch-size 64"
"""One network, whatever time there is."""


def asked(words: str = "", look: Look = PHOTOS, **changes) -> Asked:
    given = words.split()
    base = Asked(
        config=parse_settings("pictures", given),
        said=frozenset(settings_said(given)),
        look=look,
        told=0,
        device="cpu",
        device_words="2 CPU threads",
        threads=2,
    )
    return dataclasses.replace(base, **changes)


def never(*_) -> float:
    raise AssertionError("nothing is measured where the steps are said")


def by_work(rate: float):
    """A machine on which a step takes so many seconds for each unit of work; 1e-10: two cores of 2020."""
    return lambda config, shape, told: rate * work(config)


def chosen(words: str = "", rate: float = 1e-10, **changes) -> Fitted:
    one = asked(words, **changes)
    return fit(one, by_work(rate), left=lambda: one.budget)


def of_steps(words: str = "", **changes) -> Fitted:
    return fit(asked(f"--steps 100 {words}", **changes), never, left=lambda: HOUR)


# ---------------------------------------------------------------------- size and patches


@pytest.mark.parametrize(
    ("side", "alike", "device", "hours", "size", "patch"),
    [
        (28, True, "cpu", 1, 28, 4),  # their own, for they are small and have a patch
        (28, True, "cuda", 1, 28, 2),
        (30, True, "cpu", 1, 30, 3),  # 100 tokens are nearer to 64 than 36, which are too few
        (31, True, "cpu", 1, 16, 2),  # 31 is a prime
        (28, False, "cpu", 1, 16, 2),  # not all are of that size
        (500, False, "cpu", 1, 32, 4),
        (500, False, "cpu", 2, 64, 8),
        (500, True, "cuda", 1, 64, 4),
        (500, True, "cuda", 3, 128, 8),
        (48, True, "cpu", 2, 48, 6),
        (5, True, "cpu", 1, 8, 1),  # enlarged
    ],
)
def test_the_size_follows_the_pictures_the_device_and_the_budget(side, alike, device, hours, size, patch):
    look = dataclasses.replace(PHOTOS, side=side, alike=alike)
    config = of_steps(look=look, device=device, budget=hours * HOUR).config
    assert (config.data.size, config.model.patch) == (size, patch)
    assert TOKENS[0] <= (size // patch) ** 2 <= TOKENS[1]


def test_what_is_said_stays_and_the_rest_follows():
    config = of_steps("--data.size 60").config
    assert (config.data.size, config.model.patch) == (60, 6)  # 100 tokens
    config = of_steps("--model.patch 5").config
    assert (config.data.size, config.model.patch) == (30, 5)
    config = of_steps("--model.patch 16").config
    assert (config.data.size, config.model.patch) == (32, 16)  # fewer tokens than it would choose
    config = of_steps("--data.size 6").config
    assert config.model.patch == 1
    with pytest.raises(UserError, match=r"data\.size 61: pictures of 61×61 cannot be cut into 49 to 256 patches"):
        of_steps("--data.size 61")


def test_grey_pictures_have_one_channel_unless_another_is_said():
    grey = dataclasses.replace(PHOTOS, grey=True)
    assert of_steps(look=grey).shape == (1, 32, 32) and of_steps(look=grey).config.data.grey
    assert of_steps("--data.grey False", look=grey).shape == (3, 32, 32)
    assert of_steps().shape == (3, 32, 32)
    assert "grey pictures" in of_steps(look=grey).lines[0]


def test_times_are_shifted_with_the_size_unless_their_law_is_said_or_published():
    digits = dataclasses.replace(PHOTOS, side=8, alike=True, grey=True)
    assert of_steps(look=digits).config.objective.time_shift == 1  # where the law was tuned
    assert of_steps().config.objective.time_shift == pytest.approx(math.sqrt(3 * 32 * 32 / 64), rel=1e-4)
    for words in ("--objective.t-law uniform", "--objective.name meanflow"):
        assert of_steps(words).config.objective.time_shift == 1
    assert of_steps("--objective.time-shift 2").config.objective.time_shift == 2


def test_the_shift_undoes_that_many_equal_pixels_show_a_picture_through_more_noise():
    """n numbers that say the same, at a shifted time, are as noisy as one at the time itself."""
    law = LogitNormal(-0.1, 1)
    t = law.quantile(torch.linspace(0.05, 0.95, 7, dtype=torch.float64))
    shift = time_shift_of((1, 32, 32))
    moved = shift * t / (1 + (shift - 1) * t)
    pixels = 32 * 32 // 64
    torch.testing.assert_close(moved / (1 - moved) / math.sqrt(pixels), t / (1 - t))


# ---------------------------------------------------------------------- network and steps


def test_with_steps_said_nothing_is_measured_and_the_run_is_always_the_same():
    one = of_steps()
    assert one == of_steps()
    rung = LADDER[USUAL["cpu"]]
    model = one.config.model
    assert (model.width, model.depth, model.heads) == rung[:3]
    assert one.config.steps == 100 and len(one.lines) == 3


def test_the_steps_fill_the_budget():
    """Of a step's seconds, and of what a run takes besides: that is a few per cent of an hour here."""
    for minutes in (30, 60, 110):
        config = chosen(budget=60.0 * minutes).config
        seconds = by_work(1e-10)(config, None, None) * config.steps
        assert 0.9 * 60 * minutes < seconds < 60 * minutes


def test_time_that_is_spent_before_is_left_out():
    one = asked(SAME)
    steps = [fit(one, by_work(1e-10), left=lambda s=s: one.budget - s).config.steps for s in (0.0, 600.0)]
    assert steps[1] / steps[0] == pytest.approx(5 / 6, abs=0.02)


def test_a_slow_disk_or_many_pictures_leave_fewer_steps():
    slow = dataclasses.replace(PHOTOS, seconds=1200 * 2 / PHOTOS.count)  # twenty minutes on two processors
    assert chosen(SAME, look=slow).config.steps / chosen(SAME).config.steps == pytest.approx(2 / 3, abs=0.02)


def test_a_quicker_machine_gets_a_larger_network_and_each_has_enough_steps():
    widths, everything = [], dataclasses.replace(PHOTOS, count=10**6)
    for rate in (1e-9, 1e-10, 2e-11, 5e-12, 1e-12, 1e-13):
        config = chosen(rate=rate, look=everything).config
        widths.append(config.model.width)
        assert config.steps >= (ENOUGH if config.model.width > LADDER[0].width else LEAST)
    assert widths == sorted(widths) and widths[0] == LADDER[0].width and widths[-1] == LADDER[-1].width


def test_a_network_that_is_slower_than_its_work_tells_is_given_up_for_a_smaller_one():
    measured = []

    def measure(config, shape, told):
        measured.append(config.model.width)
        wide = config.model.width > 256
        return by_work(1e-9 if wide else 1e-12)(config, shape, told)

    one = asked()
    config = fit(one, measure, left=lambda: one.budget).config
    assert config.model.width == 256 and config.steps >= ENOUGH
    assert len(measured) == len(set(measured))  # each is measured once


def test_few_pictures_get_a_small_network_and_are_not_learnt_by_heart():
    few = dataclasses.replace(PHOTOS, count=300)
    fitted = chosen(rate=1e-15, look=few)
    assert fitted.config.model.width == LADDER[1].width
    assert fitted.config.steps == VIEWS * 300 // 64 + 1 > ALWAYS
    assert "would learn 300 pictures by heart" in fitted.lines[-1]
    assert "300 are few" in fitted.lines[0]
    assert chosen(rate=1e-15, look=dataclasses.replace(few, count=9)).config.steps == ALWAYS


def test_too_short_a_budget_says_which_would_do():
    with pytest.raises(UserError) as error:
        chosen(rate=1e-9, budget=300.0)
    said = str(error.value)
    assert error.value.status == 2
    assert said.startswith("--budget 5m holds ") and "fewer than 400 teach nothing: give --budget " in said
    word = said.partition("give --budget ")[2].partition(",")[0]
    assert "or smaller pictures (--data.size 16)" in said
    assert chosen(rate=1e-9, budget=read_budget(word)).config.steps >= LEAST


def test_a_network_that_is_said_is_taken_and_only_its_steps_follow():
    config = chosen("--model.width 300").config
    assert (config.model.width, config.model.depth, config.model.heads) == (300, 6, 4)
    config = chosen("--model.depth 2").config
    assert (config.model.width, config.model.depth) == (192, 2)
    config = chosen("--model.heads 6").config
    assert (config.model.width, config.model.heads) == (192, 6)
    config = chosen("--model.width 100").config
    build_model(config.model, (3, 32, 32), 0)  # its heads divide it


def test_the_learning_rate_falls_with_the_width_unless_it_is_said():
    assert of_steps().config.optimizer.lr == 2e-3
    assert of_steps("--model.width 384").config.optimizer.lr == 1e-3
    assert of_steps("--model.width 384 --optimizer.lr 3e-3").config.optimizer.lr == 3e-3


def test_what_is_a_share_of_the_run_follows_its_steps():
    config = of_steps().config
    assert (config.sample_every, config.checkpoint_every, config.optimizer.warmup) == (5, 5, 3)
    config = of_steps("--sample-every 50 --ema.half-life 7 --optimizer.warmup 0").config
    assert (config.sample_every, config.checkpoint_every) == (50, 5)
    assert (config.ema.half_life, config.optimizer.warmup) == (7, 0)
    assert fit(asked("--steps 1"), never, left=lambda: HOUR).config.sample_every == 1


def test_scores_that_are_asked_for_take_their_time():
    plain, scored = chosen(SAME), chosen(f"{SAME} --monitor.every 100 --monitor.count 2048")
    assert scored.config.steps < plain.config.steps
    more = scored.config.steps // 100 * 2048 / 64 / 5  # a fifth of a step for as many samples
    assert plain.config.steps - scored.config.steps > more


def test_words_for_what_pictures_are_told():
    assert "10 classes" in of_steps(told=10).lines[0]
    assert "no labels" in of_steps().lines[0]
    assert "captions of 2 words" in of_steps(told=Vocabulary(("a", "b"), 4)).lines[0]
    assert "not mirrored (--data.flip)" in of_steps().lines[0]
    assert ", mirrored" in of_steps("--data.flip").lines[0]


def test_the_line_about_time_says_how_it_is_known():
    line = chosen().lines[-1]
    assert line.startswith("time") and "measured on 2 CPU threads" in line and "of 1h" in line
    assert "machine is busy" in chosen(busy="the machine is busy").lines[-1]
    assert budget_word(HOUR) == "1h"
