"""α that steers itself: what it measures, when it falls, and that a run with it resumes to the bit."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alphaflow import AlphaFlow, SelfSteering, schedules
from alphaflow.costs.estimate import evaluations
from alphaflow.diagnostics import open_subject
from alphaflow.errors import UserError
from alphaflow.observers.base import RunView
from alphaflow.observers.steering import Steering
from alphaflow.path import Points
from alphaflow.reports.report import write_report
from alphaflow.runs.folder import RunFolder
from alphaflow.training.trainer import Trainer
from tiny_runs import TINY, lines, same, weights


def fed(curvatures: list[float], **settings: float) -> SelfSteering:
    """After these values of κ, with a residual of 1."""
    alpha = SelfSteering(**settings)
    for k, value in enumerate(curvatures, 1):
        alpha.follow(k * alpha.every, value, 1.0)
    return alpha


def test_the_curvature_of_a_linear_field_is_its_closed_form(batch):
    z, v, r, t, y = batch
    field = torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.5], [0.2, 0.0, 0.3]], dtype=z.dtype)
    curvature, residual = SelfSteering().measure(lambda z, r, t, y: z @ field, Points(z, v, r, t, y, 1.0, 0))
    change = ((t - r) / 2)[:, None] * (v @ field)  # u(z_s) - u(z_t) = -(t - s) v A, s half-way
    torch.testing.assert_close(curvature, change.square().mean())
    torch.testing.assert_close(residual, (z @ field - v).square().mean())


def test_straight_trajectories_leave_alpha_at_one(batch):
    z, v, r, t, y = batch
    alpha = SelfSteering(every=1)
    for step in range(1, 50):
        alpha.follow(step, *alpha.measure(lambda z, r, t, y: torch.ones_like(z), Points(z, v, r, t, y, 1.0, 0)))
    assert alpha.begun is None and alpha(10**6) == 1


def test_alpha_falls_along_the_papers_sigmoid_once_the_curvature_has_settled():
    growing = [0.01 * 1.5**k for k in range(8)]
    assert fed(growing).begun is None
    alpha = fed(growing + [growing[-1]] * 40)
    assert alpha.begun is not None and 9 * 20 <= alpha.begun <= 24 * 20
    paper = schedules.sigmoid(alpha.begun, 1.5 * alpha.begun)
    assert [alpha(step) for step in range(900)] == [paper(step) for step in range(900)]
    assert alpha(alpha.begun) == 1 and alpha(int(1.5 * alpha.begun)) == 0


def test_a_network_that_has_learnt_no_curvature_yet_does_not_count_as_settled():
    assert fed([1e-4] * 100).begun is None
    assert fed([1e-4] * 100, least=0.0).begun == 80


@given(st.lists(st.floats(0.02, 10), min_size=4, max_size=30), st.floats(1e-3, 1e3))
def test_units_of_the_data_do_not_matter(curvatures, unit):
    scaled = SelfSteering()
    for k, value in enumerate(curvatures, 1):
        scaled.follow(20 * k, value * unit, unit)
    assert scaled.begun == fed(curvatures).begun


def test_only_ratios_of_steps_matter():
    begun = fed([0.02 * min(k, 12) for k in range(1, 60)]).begun
    later = fed([0.02 * min(k / 5, 12) for k in range(1, 300)]).begun
    assert begun is not None and later == pytest.approx(5 * begun, abs=5 * 20)


def test_state_is_all_that_it_goes_on_from():
    curvatures = [0.02 * min(k, 12) for k in range(1, 60)]
    for cut in range(0, 60, 7):
        first, then = fed(curvatures[:cut]), SelfSteering()
        then.load(first.state())
        for k, value in enumerate(curvatures[cut:], cut + 1):
            then.follow(20 * k, value, 1.0)
        assert then == fed(curvatures)


@pytest.mark.parametrize(
    "settings", [{"every": 0}, {"every": 1.5}, {"growth": 0.9}, {"stretch": 1}, {"least": -1}]
)
def test_settings_out_of_their_range_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        SelfSteering(**settings)


STEERED = dataclasses.replace(
    TINY,
    steps=90,
    log_every=10,
    checkpoint_every=1000,
    sample_every=1000,
    objective=dataclasses.replace(TINY.objective, alpha="self(every=5)"),
)


@pytest.fixture(scope="module")
def steered(tmp_path_factory) -> Trainer:
    trainer = Trainer.start(STEERED, RunFolder(tmp_path_factory.mktemp("steered") / "run"))
    trainer.train()
    return trainer


def test_a_run_steers_itself_and_resumes_to_the_bit(steered, tmp_path):
    alpha = steered.objective.alpha
    assert isinstance(alpha, SelfSteering) and alpha.begun is not None
    rows = lines(steered.folder.path)
    seen = [row["step"] for row in rows if "steering_curvature" in row]
    assert seen == list(range(5, alpha.begun + 1, 5))
    assert all(row["alpha"] == alpha(row["step"] - 1) for row in rows if "alpha" in row)
    assert rows[-1]["alpha"] < 1  # it has begun to fall within the run

    for stop in (alpha.begun - 3, alpha.begun + 2):
        folder = RunFolder(tmp_path / f"cut{stop}")
        Trainer.start(STEERED, folder).train(stop_after=stop)
        Trainer.resume(folder).train()
        assert same(weights(steered.folder.path), weights(folder.path))


def test_what_looks_at_a_run_later_finds_where_its_alpha_was(steered):
    subject = open_subject(steered.folder.path)
    assert subject.objective.alpha == steered.objective.alpha
    assert subject.objective.alpha_at(STEERED.steps) == steered.objective.alpha_at(STEERED.steps) < 1
    page = write_report(steered.folder.path).read_text()
    assert "How u changes within a jump" in page and "schedule of α could not" not in page


def test_a_plan_counts_alpha_as_fallen():
    fallen = dataclasses.replace(STEERED, objective=dataclasses.replace(STEERED.objective, alpha="0"))
    assert evaluations(STEERED, 10) == evaluations(fallen, 10) > 1


def test_a_step_that_left_no_residual_is_no_error(steered):
    class Exact(SelfSteering):
        def measure(self, net, draw):
            return torch.zeros(()), torch.zeros(())

    observer = Steering(Exact(every=1))
    view = RunView(
        STEERED.steps,
        steered.net,
        steered.ema.module,
        steered.objective,
        steered.dataset,
        STEERED,
        steered.parallel,
        steered.device,
        steered.folder,
    )
    assert math.isnan(observer.observe(view)["steering_curvature"])


def test_words_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="every 0 must be a whole number"):
        dataclasses.replace(TINY, objective=dataclasses.replace(TINY.objective, alpha="self(every=0)"))
    assert isinstance(AlphaFlow(alpha=SelfSteering()).alpha, SelfSteering)
