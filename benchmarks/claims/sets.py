"""The three sets of the experiments: data, a network and a budget for each, and what counts as good."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial

import glyphs
import torch
from torch import Tensor, nn

from alphaflow import metrics, models
from alphaflow.data import Digits, from_uint8, to_uint8
from alphaflow.data.toys import toy_points


@dataclass(frozen=True, kw_only=True)
class Set:
    """x (N, *shape); y (N,) or None. network(guided=…) is new at each call. score(samples, labels): figures by
    name; the first is the one that claims are judged by, and less of it is better."""

    name: str
    x: Tensor
    y: Tensor | None
    classes: int
    network: Callable[..., nn.Module]
    steps: int
    batch: int
    lr: float
    weight: str
    """of the loss, where a setting has none of its own"""
    score: Callable[[Tensor, Tensor | None], dict[str, float]]

    labels: Tensor | None = None
    """of the samples that are scored; None: the first 4000 of y"""

    @property
    def scored(self) -> Tensor | None:
        """Labels of the samples that are scored, (N,) or None."""
        return self.labels if self.labels is not None or self.y is None else self.y[:4000]


def _by_features(see: Callable[[Tensor], tuple[Tensor, Tensor]], x: Tensor):
    real = metrics.statistics_of(see(x)[0])

    def score(samples: Tensor, labels: Tensor | None) -> dict[str, float]:
        features, logits = see(samples)
        fake = metrics.statistics_of(features)
        distance = metrics.frechet_distance(real.mean, real.cov, fake.mean, fake.cov)
        assert labels is not None
        return {"frechet": distance, "accuracy": float((logits.argmax(1) == labels).double().mean())}

    return score


def _toy() -> Set:
    x, _ = toy_points("checkerboard", 50_000, 0)
    real, _ = toy_points("checkerboard", 4000, 1)

    def score(samples: Tensor, labels: Tensor | None) -> dict[str, float]:
        return {"energy": metrics.energy_distance(real, samples)}

    return Set(
        name="toy",
        x=x,
        y=None,
        classes=0,
        network=partial(models.MLP, 2, width=128, depth=3),
        steps=1000,
        batch=512,
        lr=2e-3,
        weight="definition",
        score=score,
    )


_DIT = partial(models.DiT, channels=1, width=128, depth=4, heads=4, activation="silu")


def _digits() -> Set:
    data = Digits()
    x, y = data.batch(torch.arange(len(data)))
    detector = metrics.load_digits_detector()
    return Set(
        name="digits",
        x=x,
        y=y,
        classes=10,
        network=partial(_DIT, input_size=8, patch=4, num_classes=10),
        steps=600,
        batch=128,
        lr=2e-3,
        weight="adaptive",
        score=_by_features(lambda images: tuple(detector(to_uint8(images))), x),
    )


def _glyphs() -> Set:
    images, labels = glyphs.draw()
    x, y = from_uint8(images), torch.from_numpy(labels)
    classifier = glyphs.train_classifier(x, y)

    @torch.no_grad()
    def see(samples: Tensor) -> tuple[Tensor, Tensor]:
        parts = [classifier(from_uint8(to_uint8(part))) for part in samples.split(512)]
        return tuple(torch.cat(part) for part in zip(*parts))

    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return Set(
        name="glyphs",
        x=x,
        y=y,
        classes=26,
        network=partial(_DIT, input_size=16, patch=8, num_classes=26),
        steps=800,
        batch=96,
        lr=2e-3,
        weight="adaptive",
        score=_by_features(see, x),
    )


def _uneven() -> Set:
    """The digits, of each class 0.6 times as many as of the one before: 178 zeros, 2 nines. Scored against all."""
    whole = _digits()
    assert whole.y is not None
    of_class = [torch.nonzero(whole.y == k)[: round(178 * 0.6**k), 0] for k in range(10)]
    kept = torch.cat(of_class)
    return replace(whole, name="digits, uneven", x=whole.x[kept], y=whole.y[kept], labels=whole.y)


_MAKERS = {"toy": _toy, "digits": _digits, "glyphs": _glyphs, "digits, uneven": _uneven}
NAMES = tuple(_MAKERS)[:3]
"""The sets that every claim is tested on."""


@cache
def load(name: str) -> Set:
    """One of `NAMES`; glyphs take ten seconds, for the classifier that judges them is trained."""
    return _MAKERS[name]()
