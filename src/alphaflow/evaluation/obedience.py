"""Whether pictures are what captions ask for, by the classifier of attributes that comes with the package."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from .. import metrics
from ..data import CaptionedShapes, Dataset
from ..data.shapes import ATTRIBUTES, Scenes
from ..metrics import Estimate
from ..metrics.detectors.shapes import attributes_right

UNSEEN_AT_MOST = 1024
"""Pictures of pairs that training kept out, beside those that the data ask for."""


class Judge:
    """It knows the scenes that samples 0, 1, … are asked for by their captions, and judges logits of pictures.

    scenes: gone round in, where there are more samples.
    """

    def __init__(self, scenes: Scenes) -> None:
        self._scenes = scenes

    def __call__(self, first: int, logits: Tensor) -> Tensor:
        """Return (B, 10) float64 of samples first, first + 1, …: the eight values of `attributes_right`, then of
        each object whether its colour and shape are both right where that pair is none of training's; NaN
        elsewhere."""
        numbers = (first + np.arange(len(logits))) % len(self._scenes)
        scenes = self._scenes.rows(numbers)
        right = attributes_right(logits, scenes)
        pairs = torch.where(torch.from_numpy(scenes.unseen), right[..., :2].prod(2), torch.nan)
        return torch.cat([right.flatten(1), pairs], dim=1)


class Unseen:
    """Captions of pairs that training kept out, at most so many: y int64 (M, L), and their samples' judge."""

    def __init__(self, count: int, detector: metrics.Detector | None) -> None:
        dataset = CaptionedShapes("unseen")
        rows = torch.arange(min(count, len(dataset), UNSEEN_AT_MOST))
        self.y, self.judge = dataset.batch(rows)[1], judge_of(dataset, detector, rows)


def judge_of(dataset: Dataset, detector: metrics.Detector | None, rows: Tensor | None = None) -> Judge | None:
    """Return the judge of samples with the captions of these rows of the data, in turn; None where nobody can
    judge."""
    if not isinstance(dataset, CaptionedShapes) or detector is None or detector.classes != "attributes":
        return None
    return Judge(dataset.scenes if rows is None else dataset.scenes.rows(rows.numpy()))


def obeyed(judged: Tensor, unseen: Tensor | None) -> dict[str, Estimate]:
    """Return the share of attributes that are right, and of each kind; of unseen pairs, of both colour and shape.

    Args:
        judged: (N, 10), as `Judge` returns it, of captions of the data.
        unseen: (M, 10) of captions with pairs that training kept out; None: there are none.
    """
    mean = partial(_mean, judged)
    found = {"words": mean(range(8))}
    found |= {name: mean((k, 4 + k)) for k, name in enumerate(ATTRIBUTES)}
    if unseen is not None:
        found |= {"unseen_words": _mean(unseen, range(8)), "unseen_pairs": _mean(unseen, (8, 9))}
    return found


def _mean(judged: Tensor, columns: Sequence[int]) -> Estimate:
    """Return the mean over samples of each one's share; those with nothing to judge are left out."""
    shares = judged[:, list(columns)].nanmean(1)
    return metrics.mean_estimate(shares[~shares.isnan()])
