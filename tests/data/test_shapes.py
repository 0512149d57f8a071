"""Drawn shapes: what is in a picture is what its caption says, and pairs kept out stay out."""

import numpy as np
import pytest
import torch

from alphaflow.data import Batches, CaptionedShapes, Vocabulary
from alphaflow.data.shapes import (
    _LEVELS,
    COLOURS,
    LENGTH,
    NO_OBJECT,
    PLACES,
    SHAPES,
    SIZES,
    UNSEEN,
    Scenes,
    draw_pictures,
    draw_scenes,
    word_scenes,
)
from alphaflow.errors import UserError


@pytest.fixture(scope="module")
def data() -> CaptionedShapes:
    return CaptionedShapes("unseen", count=200)


def few(unseen: bool) -> tuple[Scenes, np.ndarray, tuple[str, ...]]:
    random = np.random.default_rng(7)
    scenes = draw_scenes(300, random, unseen=unseen)
    return scenes, draw_pictures(scenes, random), word_scenes(scenes, random)


def test_the_same_seed_draws_the_same_pictures_and_captions():
    one, again = few(True), few(True)
    assert np.array_equal(one[1], again[1])
    assert one[2] == again[2]


def test_pairs_that_are_kept_out_are_in_no_training_picture_and_in_every_other():
    assert not few(False)[0].unseen.any()
    scenes = few(True)[0]
    assert np.array_equal(scenes.unseen, scenes.objects[..., 0] != NO_OBJECT)
    kept_out = [f"{COLOURS[colour]} {SHAPES[shape]}" for colour, shape in UNSEEN]
    assert not any(pair in caption for caption in few(False)[2] for pair in kept_out)
    for part in (0, 1):  # each colour and each shape is still seen in several pairs
        assert max(sum(pair[part] == k for pair in UNSEEN) for k in range(6)) == 1


def test_a_picture_shows_each_object_in_its_quarter_in_its_colour_and_size():
    scenes, pixels, _ = few(False)
    areas: dict[tuple[int, int], list[int]] = {}
    for objects, picture in zip(scenes.objects, pixels.astype(float)):
        quarters = picture.reshape(3, 2, 16, 2, 16).transpose(1, 3, 0, 2, 4).reshape(4, 3, 16, 16)
        empty = set(range(4)) - {int(one[3]) for one in objects}
        assert all(np.ptp(quarters[k]) == 0 for k in empty)
        for colour, shape, size, place in objects[objects[:, 0] != NO_OBJECT]:
            near = np.abs(quarters[place] - _LEVELS[colour][:, None, None]).max(0) < 1
            areas.setdefault((shape, size), []).append(int(near.sum()))
    assert len(areas) == len(SHAPES) * len(SIZES)
    for shape in range(len(SHAPES)):
        assert max(areas[shape, 0]) < min(areas[shape, 1])


def test_captions_say_what_is_told_and_no_more():
    scenes, _, captions = few(False)
    for objects, told, caption in zip(scenes.objects, scenes.told, captions):
        words = caption.split()
        there = objects[objects[:, 0] != NO_OBJECT]
        for colour, shape, size, _ in there:
            assert f"{COLOURS[colour]} {SHAPES[shape]}" in caption
            assert (SIZES[size] in words) == told[2]
        if len(there) == 1:
            assert (PLACES[there[0, 3]] in caption) == told[3]
            continue
        first, second = (f"{COLOURS[one[0]]} {SHAPES[one[1]]}" for one in there)
        upright = there[1, 3] - there[0, 3] == 2
        way = next(word for word in ("above", "below", "left of", "right of") if word in caption)
        assert (way in ("above", "below")) == upright
        before, after = caption.split(way)
        earlier, later = (first, second) if way in ("above", "left of") else (second, first)
        assert earlier in before
        assert later in after


def test_words_tell_where_everything_is():
    """What they leave open begins at the top left."""
    scenes = few(False)[0]
    single = scenes.objects[:, 1, 0] == NO_OBJECT
    assert not scenes.objects[single & ~scenes.told[:, 3], 0, 3].any()
    assert {(int(a), int(b)) for a, b in scenes.objects[~single][:, :, 3]} == {(0, 1), (0, 2)}
    assert set(scenes.objects[single & scenes.told[:, 3], 0, 3].tolist()) == {0, 1, 2, 3}
    anywhere = draw_scenes(300, np.random.default_rng(7), unseen=False, anywhere=True)
    both = anywhere.objects[anywhere.objects[:, 1, 0] != NO_OBJECT]
    assert {(int(a), int(b)) for a, b in both[:, :, 3]} == {(0, 1), (2, 3), (0, 2), (1, 3)}


def test_batches_give_pictures_with_captions_in_numbers(data):
    x, y = data.batch(torch.tensor([5, 9]))
    assert x.shape == (2, 3, 32, 32)
    assert -1 <= float(x.min()) < float(x.max()) <= 1
    assert torch.equal(y, data.vocabulary.encode([data.captions[5], data.captions[9]]))
    batch = Batches(data, 4, seed=0)(3)
    assert batch.y.shape == (4, LENGTH)
    with pytest.raises(UserError, match="left and right"):
        Batches(data, 4, seed=0, flip=True)


def test_no_caption_needs_bytes_or_more_places_than_there_are(data):
    assert all(0 < len(data.vocabulary.numbers(one)) <= LENGTH for one in data.captions)
    y = data.vocabulary.encode(data.captions)
    assert not bool(((y > 0) & (y < 257)).any())
    assert data.vocabulary.encode(data.vocabulary.examples).shape == (8, LENGTH)


def test_words_outside_a_vocabulary_are_spelt_in_bytes():
    words = Vocabulary(("a", "red"), 8)
    assert words.encode(["A red"]).tolist() == [[257, 258, 0, 0, 0, 0, 0, 0]]
    assert words.numbers("é") == [1 + byte for byte in "é".encode()]
    assert words.encode([""]).tolist() == [[0] * 8]
    assert words.size == 259


def test_a_prompt_that_is_too_long_is_told_how_long_it_is():
    words = Vocabulary(("a", "red"), 8)
    said = "takes 10 places, of which crimson are spelt letter by letter, and this model reads 8"
    with pytest.raises(UserError, match=said):
        words.encode(["a crimson red red"])


def test_the_vocabulary_of_captions_has_their_most_frequent_words_and_the_longest_fits():
    made = Vocabulary.of(["a red cat", "a red dog, too", "a bird"], most=3)
    assert made == Vocabulary((",", "a", "red"), 5)
    assert Vocabulary.from_record(made.record()) == made
    assert Vocabulary.from_record(None) is None
