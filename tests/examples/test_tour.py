"""What docs/tour.md says of its pictures, on shorter runs."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOUR = ROOT / "examples" / "tour"


@pytest.fixture
def step(monkeypatch, tmp_path):
    """Run a step of the tour into a temporary picture, and give its figures."""
    monkeypatch.syspath_prepend(str(TOUR))

    def run(name, **settings):
        picture = tmp_path / f"{name}.png"
        found = importlib.import_module(name).main(picture, **settings)
        assert picture.stat().st_size > 5000
        return found

    return run


def test_the_flow_is_longer_than_straight_lines(step):
    (ratio,) = step("paths").values()
    assert 1.1 < ratio < 3


def test_flow_matching_needs_many_evaluations(step):
    found = step("flow_matching", steps=250)
    distances = [found[f"energy distance at {count}"] for count in (1, 2, 4, 32)]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 0.5 and distances[-1] < 0.05


def test_the_average_velocity_needs_one(step):
    found = step("average_velocity")
    assert found["energy distance, one step of v"] > 0.5
    assert found["energy distance, one step of u"] < 0.01


def test_the_losses_add_up_and_conflict(step):
    found = step("two_losses", steps=300)
    assert found["TFM + TC differs from the whole by"] < 1e-4
    assert found["mean cosine of TFM and TC"] < -0.1
    assert found["mean cosine of TFM and TC"] < found["mean cosine of FM at r = t and TC"]


def test_the_gradient_nears_that_of_meanflow_at_first_order(step):
    found = step("alpha", steps=100)
    assert 0.9 < found["order in α"] < 1.1
    assert found["distance at α = 1"] > 0.3


def test_one_evaluation_suffices_in_the_end(step):
    found = step("one_step", steps=200)
    blurred = found["energy distance, trajectory flow matching"]
    for name in ("MeanFlow", "α-Flow"):
        assert found[f"energy distance, {name}"] < 0.2 * blurred


def test_every_step_is_in_the_text_and_has_its_picture():
    text = (ROOT / "docs" / "tour.md").read_text()
    steps = {path.stem for path in TOUR.glob("*.py")} - {"common"}
    assert set(re.findall(r"python examples/tour/(\w+)\.py", text)) == steps
    assert {path.stem for path in (ROOT / "docs" / "images" / "tour").glob("*.png")} == steps
    assert all(f"(images/tour/{name}.png)" in text for name in steps)
