"""Captioned pictures that the project draws itself: one or two plain shapes, and what they are in words.

A picture has four quarters, and a shape lies in one of them: in the one that its caption tells, or the first shape
at the top left. Some pairs of colour and shape never appear in
training; they are for judging whether words are understood one by one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alphaflow.data.dataset import fingerprint
from alphaflow.data.vocabulary import Vocabulary
from alphaflow.pixels import mirror, scale_pixels

SIDE = 32
SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = ("red", "green", "blue", "yellow", "purple", "white")
SIZES = ("small", "large")
PLACES = ("top left", "top right", "bottom left", "bottom right")
"""The quarters, by their numbers."""
ATTRIBUTES = ("colour", "shape", "size", "place")
"""What is judged, each by itself."""
UNSEEN = ((0, 2), (2, 0), (1, 1), (3, 3))
"""Pairs of colour and shape that are kept out of training: red triangles, blue circles, green squares, yellow
crosses."""
EXAMPLES = (
    "a red circle",
    "a small blue square at the top left",
    "at the bottom right a large yellow triangle",
    "a white cross",
    "a small red square above a large green circle",
    "a purple triangle left of a white square",
    "a large red triangle",
    "a small blue circle below a large yellow cross",
)
"""The last two are of pairs that training never sees."""
COUNT = {"train": 16_384, "unseen": 2048}
LENGTH = 16
"""Places of a prompt; the longest caption takes 12."""
NO_OBJECT = -1

_LEVELS = np.array(
    [(230, 40, 40), (40, 190, 70), (50, 90, 240), (245, 215, 50), (170, 60, 210), (240, 240, 240)], np.float32
)
_GROUND = 25
_HALF = SIDE // 2
_RADII = (4.0, 6.5)
_JITTER = 1.0  # pixels, either way


@dataclass(frozen=True)
class Scenes:
    """What is in N pictures, and what their captions tell of it.

    objects: int64 (N, 2, 4), of each of two objects colour, shape, size and quarter; those of an object that is
        not there are `NO_OBJECT`. The first of two lies above the second, or left of it.
    told: bool (N, 4), which of `ATTRIBUTES` the caption tells; colour and shape always, of two objects the place.
    """

    objects: NDArray[np.int64]
    told: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.objects)

    def rows(self, index: NDArray[np.int64]) -> "Scenes":
        """Return some of them."""
        return Scenes(self.objects[index], self.told[index])

    @property
    def unseen(self) -> NDArray[np.bool_]:
        """Which objects are of a pair that is kept out of training, bool (N, 2)."""
        return _among(self.objects, UNSEEN)


class CaptionedShapes:
    """Colour pictures of 32 × 32 pixels in [-1, 1] with captions, drawn from a seed.

    part: "train", 16,384 pictures without the pairs of `UNSEEN`, or "unseen", 2,048 each of whose objects is of
        such a pair.
    count: how many pictures there are in place of these numbers; other numbers draw others.

    Conditions y are captions in numbers, int64 (B, 16); see `Vocabulary`.
    """

    shape: tuple[int, ...] = (3, SIDE, SIDE)
    num_classes: int = 0
    class_names: tuple[str, ...] = ()
    kind: Literal["image", "video", "points"] = "image"
    manifest: None = None

    def __init__(self, part: Literal["train", "unseen"] = "train", count: int | None = None) -> None:
        random = np.random.default_rng([2026, list(COUNT).index(part)])
        self.scenes = draw_scenes(count or COUNT[part], random, unseen=part == "unseen")
        pixels = draw_pictures(self.scenes, random)
        self.captions = word_scenes(self.scenes, random)
        words = " ".join((*SHAPES, *COLOURS, *SIZES, *PLACES, "a the at above below left right of"))
        self.vocabulary = replace(Vocabulary.of(words.split(), LENGTH), examples=EXAMPLES)
        self._pixels = torch.from_numpy(pixels)
        self._y = self.vocabulary.encode(self.captions)
        self.fingerprint: str = fingerprint(f"shapes {part}", pixels, self._y.numpy())

    def __len__(self) -> int:
        return len(self._pixels)

    def batch(self, indices: Tensor, flip: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return x, float32 (B, 3, 32, 32) in [-1, 1], and captions, int64 (B, 16); see `Dataset.batch`."""
        return mirror(scale_pixels(self._pixels[indices]), flip), self._y[indices]


def draw_scenes(count: int, random: np.random.Generator, *, unseen: bool, anywhere: bool = False) -> Scenes:
    """Draw what is in so many pictures, half of them with two objects.

    unseen: whether of the pairs kept out, or of all others. anywhere: whether objects lie in quarters that words
    do not tell; otherwise the first one then lies at the top left, so that words tell all but sizes left open.
    """
    pairs = [(c, s) for c in range(len(COLOURS)) for s in range(len(SHAPES)) if ((c, s) in UNSEEN) == unseen]
    objects = np.empty((count, 2, 4), np.int64)
    objects[..., :2] = np.array(pairs)[random.integers(len(pairs), size=(count, 2))]
    objects[..., 2] = random.integers(len(SIZES), size=(count, 2))
    first = random.integers(4, size=count)
    beside = random.random(count) < 0.5  # of two, whether they lie side by side
    row, column = first // 2, first % 2
    objects[:, 0, 3] = np.where(beside, 2 * row, column)
    objects[:, 1, 3] = np.where(beside, 2 * row + 1, 2 + column)
    single = random.random(count) < 0.5
    objects[single, 0, 3] = first[single]
    objects[single, 1] = NO_OBJECT
    told = random.random((count, 4)) < 0.7
    told[:, :2] = True
    told[:, 3] |= ~single
    if not anywhere:
        objects[single & ~told[:, 3], 0, 3] = 0
        objects[~single, 0, 3] = 0
        objects[~single, 1, 3] = np.where(beside, 1, 2)[~single]
    return Scenes(objects, told)


def word_scenes(scenes: Scenes, random: np.random.Generator) -> tuple[str, ...]:
    """Word each scene, in one of several ways."""
    ways = random.integers(2, size=len(scenes))
    return tuple(_caption(*one) for one in zip(scenes.objects.tolist(), scenes.told.tolist(), ways.tolist()))


def _caption(objects: list[list[int]], told: list[bool], way: int) -> str:
    def named(one: list[int]) -> str:
        size = f"{SIZES[one[2]]} " * told[2]
        return f"a {size}{COLOURS[one[0]]} {SHAPES[one[1]]}"

    first, second = objects
    if second[0] == NO_OBJECT:
        if not told[3]:
            return named(first)
        where = PLACES[first[3]]
        return f"{named(first)} at the {where}" if way else f"at the {where} {named(first)}"
    upright = second[3] - first[3] == 2
    if way:
        return f"{named(first)} {'above' if upright else 'left of'} {named(second)}"
    return f"{named(second)} {'below' if upright else 'right of'} {named(first)}"


def draw_pictures(scenes: Scenes, random: np.random.Generator, *, at_once: int = 1024) -> NDArray[np.uint8]:
    """Draw the scenes, uint8 (N, 3, 32, 32), each object up to a pixel off the middle of its quarter; edges are
    smooth."""
    shift = random.uniform(-_JITTER, _JITTER, (len(scenes), 2, 2)).astype(np.float32)
    quarters = np.full((len(scenes), 4, 3, _HALF, _HALF), _GROUND, np.uint8)
    for start in range(0, len(scenes), at_once):
        part = slice(start, start + at_once)
        for k in range(2):
            there = start + np.nonzero(scenes.objects[part, k, 0] != NO_OBJECT)[0]
            one = scenes.objects[there, k]
            cover = _cover(one, shift[there, k])[:, None]
            levels = _GROUND + cover * (_LEVELS[one[:, 0]][:, :, None, None] - _GROUND)
            quarters[there, one[:, 3]] = np.rint(levels)
    grid = quarters.reshape(-1, 2, 2, 3, _HALF, _HALF).transpose(0, 3, 1, 4, 2, 5)
    return np.ascontiguousarray(grid).reshape(-1, 3, SIDE, SIDE)


def _cover(one: NDArray[np.int64], shift: NDArray[np.float32]) -> NDArray[np.float32]:
    """How much of each pixel of its quarter an object covers, (N, 16, 16) in [0, 1]."""
    radius = np.array(_RADII, np.float32)[one[:, 2]][:, None, None]
    centre = _HALF / 2 - 0.5 + shift
    place = np.arange(_HALF, dtype=np.float32)
    y = place[None, :, None] - centre[:, 0, None, None]
    x = place[None, None, :] - centre[:, 1, None, None]
    ax, ay = np.abs(x), np.abs(y)
    square, arm = 0.88 * radius, 0.32 * radius
    distances = (
        radius - np.hypot(x, y),
        square - np.maximum(ax, ay),
        np.minimum(0.8 * radius - y, (y + radius - 2 * ax + 0.2 * radius) / np.sqrt(5.0)),
        np.maximum(np.minimum(arm - ax, radius - ay), np.minimum(arm - ay, radius - ax)),
    )
    inside = np.zeros_like(distances[0])
    for number, distance in enumerate(distances):
        inside = np.where((one[:, 1] == number)[:, None, None], distance, inside)
    return np.clip(inside + 0.5, 0.0, 1.0)


def _among(objects: NDArray[np.int64], pairs: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
    found = np.zeros(objects.shape[:-1], np.bool_)
    for colour, shape in pairs:
        found |= (objects[..., 0] == colour) & (objects[..., 1] == shape)
    return found
