"""The classifier of drawn shapes: what it reads, what it makes of a caption, and that mistakes count."""

import numpy as np
import pytest
import torch

from alphaflow.data import CaptionedShapes, to_uint8
from alphaflow.data.shapes import NO_OBJECT, Scenes, draw_pictures, draw_scenes
from alphaflow.evaluation.obedience import Judge, judge_of, obeyed
from alphaflow.metrics import load_detector
from alphaflow.metrics.detectors.shapes import KINDS, attributes_right


@pytest.fixture(scope="module")
def detector():
    return load_detector("shapes")


@pytest.fixture(scope="module")
def unseen():
    return CaptionedShapes("unseen", count=512)


def logits_of(scenes: Scenes) -> torch.Tensor:
    """What a perfect classifier says."""
    made = torch.full((len(scenes), 4, sum(KINDS)), -5.0)
    for n, objects in enumerate(scenes.objects.tolist()):
        for colour, shape, size, place in objects:
            if colour != NO_OBJECT:
                made[n, place, [colour, 6 + shape, 10 + size, 12]] = 5.0
    return made.flatten(1)


def drawn(count: int = 200) -> Scenes:
    return draw_scenes(count, np.random.default_rng(3), unseen=False, anywhere=True)


def changed(scenes: Scenes, column: int, value) -> Scenes:
    """The scenes with one attribute of the first object, or of the last one there is, other than it was."""
    objects = scenes.objects.copy()
    objects[:, 0, column] = value(objects[:, 0, column])
    return Scenes(objects, scenes.told)


def test_a_perfect_classifier_finds_everything_right_that_is_told():
    scenes = drawn()
    right = attributes_right(logits_of(scenes), scenes)
    there = torch.from_numpy(scenes.objects[..., 0] != NO_OBJECT)
    told = torch.from_numpy(scenes.told)[:, None] & there[..., None]
    assert torch.equal(right.isnan(), ~told)
    assert bool((right[told] == 1).all())


@pytest.mark.parametrize(("column", "kinds"), [(0, 6), (1, 4), (2, 2)])
def test_another_colour_shape_or_size_of_the_first_object_is_wrong_in_that_alone(column, kinds):
    scenes = drawn()
    right = attributes_right(logits_of(changed(scenes, column, lambda old: (old + 1) % kinds)), scenes)
    assert not right[:, 0, column].nansum()
    others = [k for k in range(4) if k != column]
    assert float(right[:, 0, others].nanmean()) == 1
    assert float(right[:, 1].nanmean()) == 1


def test_a_place_is_wrong_elsewhere_and_in_company():
    scenes = drawn()
    single = scenes.rows(np.nonzero((scenes.objects[:, 1, 0] == NO_OBJECT) & scenes.told[:, 3])[0])
    moved = attributes_right(logits_of(changed(single, 3, lambda old: (old + 1) % 4)), single)
    assert not moved[:, 0, 3].any()
    assert bool((moved[:, 0, :2] == 1).all())
    crowd = logits_of(single).reshape(-1, 4, 13)
    crowd[torch.arange(len(crowd)), torch.from_numpy((single.objects[:, 0, 3] + 1) % 4), 12] = 1.0
    assert not attributes_right(crowd.flatten(1), single)[:, 0, 3].any()


@pytest.mark.parametrize(
    ("asked", "shown"), [((0, 2), (0, 1)), ((0, 1), (1, 3)), ((2, 3), (0, 3)), ((1, 3), (1, 2))]
)
def test_two_that_stand_to_each_other_otherwise_than_asked_have_no_place(asked, shown):
    told = np.ones((1, 4), bool)
    one, other = (Scenes(np.array([[[0, 0, 0, a], [1, 0, 0, b]]]), told) for a, b in (asked, shown))
    assert attributes_right(logits_of(other), one)[0, :, 3].tolist() == [0, 0]
    assert attributes_right(logits_of(one), one)[0, :, 3].tolist() == [1, 1]


def test_it_reads_pairs_that_training_keeps_out(detector, unseen):
    x, _ = unseen.batch(torch.arange(512))
    features, logits = detector(to_uint8(x))
    assert features.shape == (512, 96)
    assert float(features.abs().max()) <= 1
    figures = obeyed(judge_of(unseen, detector)(0, logits), judge_of(unseen, detector)(0, logits))
    assert all(one.value > 0.985 for one in figures.values())


def test_blurred_and_noisy_pictures_are_still_read(detector):
    """Generated ones are never clean."""
    random = np.random.default_rng(8)
    scenes = draw_scenes(300, random, unseen=False)
    pixels = torch.from_numpy(draw_pictures(scenes, random)).float()
    soft = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(pixels, [1] * 4, mode="replicate"), 3, 1)
    noisy = (pixels + soft) / 2 + 10 * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    logits = detector(noisy.clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()).logits
    assert float(attributes_right(logits, scenes).nanmean()) > 0.96


def test_noise_obeys_nothing(detector, unseen):
    pictures = np.random.default_rng(0).integers(256, size=(256, 32, 32, 3), dtype=np.uint8)
    logits = detector(pictures).logits
    assert obeyed(judge_of(unseen, detector)(0, logits), None)["words"].value < 0.5


def test_the_judge_goes_round_and_looks_at_pairs_of_unseen_kinds_only():
    scenes = draw_scenes(5, np.random.default_rng(1), unseen=True)
    judged = Judge(scenes)(8, logits_of(scenes.rows(np.array([3, 4, 0]))))
    there = torch.from_numpy(scenes.objects[[3, 4, 0], :, 0] != NO_OBJECT)
    assert torch.equal(judged[:, 8:].isnan(), ~there)
    assert float(judged.nanmean()) == 1
    others = drawn(6)
    assert bool(Judge(others)(0, logits_of(others))[:, 8:].isnan().all())
