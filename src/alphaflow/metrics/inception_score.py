"""The classes that a classifier gives samples: the share of right guesses, and the Inception Score.

Source: T. Salimans et al., arXiv:1606.03498, section 4.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from alphaflow.metrics._checks import ArrayLike, as_float64
from alphaflow.metrics.estimates import Estimate, jackknife, ratio_estimate
from alphaflow.metrics.statistics import BLOCK, GROUPS


class Guesses:
    """Takes logits block by block and keeps sums for each group: memory does not grow with the samples."""

    def __init__(self, classes: int) -> None:
        """Start without samples.

        classes: the number K of the classifier's classes.
        """
        self._sums = torch.zeros(GROUPS, 3 + classes, dtype=torch.float64)  # count, right, Σ p log p, p

    def add(self, logits: ArrayLike, first: int, labels: Tensor | None = None) -> None:
        """Take in logits (B, K), B <= 64, of the block that begins with sample `first`.

        labels: (B,), the classes asked for; without them no guess counts as right.

        Raises:
            ValueError: not two-dimensional, empty, not finite, or no block.
        """
        x = as_float64("logits", logits, 2)
        if first % BLOCK or len(x) > BLOCK:
            raise ValueError(
                f"{len(x)} samples from {first} are no block: it has {BLOCK}, from a multiple of that"
            )
        log = x.log_softmax(1)
        chances = log.exp()
        right = 0 if labels is None else int((x.argmax(1) == labels).sum())
        head = torch.stack([log.new_tensor(len(x)), log.new_tensor(right), (chances * log).sum()])
        self._sums[first // BLOCK % GROUPS] += torch.cat([head, chances.sum(0)])

    def add_all(self, logits: ArrayLike, labels: Tensor | None = None) -> None:
        """Take in logits (N, K) of samples 0 … N - 1."""
        x = as_float64("logits", logits, 2)
        for first in range(0, len(x), BLOCK):
            rows = slice(first, first + BLOCK)
            self.add(x[rows], first, None if labels is None else labels[rows])

    def reduce(self, all_reduce: Callable[[Tensor], object]) -> None:
        """Add up over processes, each group having been computed by one of them; all must call."""
        all_reduce(self._sums)

    @property
    def classes(self) -> int:
        """The number K of the classifier's classes."""
        return self._sums.shape[1] - 3

    @property
    def counts(self) -> list[int]:
        """The number of samples in each group."""
        return self._sums[:, 0].long().tolist()

    def accuracy(self) -> Estimate:
        """Return the share of right guesses."""
        return ratio_estimate(self._sums[:, 1], self.counts)

    def inception_score(self) -> Estimate:
        """Return the Inception Score; see `inception_score`."""
        count, negentropy, chance = self._sums[:, 0], self._sums[:, 2], self._sums[:, 3:]

        def score(n: Tensor, negentropies: Tensor, chances: Tensor) -> float:
            marginal = chances / n.clamp(min=1)
            return float((negentropies / n.clamp(min=1) - torch.xlogy(marginal, marginal).sum()).exp())

        whole = (count.sum(), negentropy.sum(), chance.sum(0))
        parts = zip(count, negentropy, chance)
        without = [score(*(total - part for total, part in zip(whole, group))) for group in parts]
        return jackknife(score(*whole), without, self.counts)


def inception_score(logits: ArrayLike) -> Estimate:
    """Return exp E KL(p(y|x) | p(y)), from 1 to K, more is better: classes are distinct, and all of them appear.

    It is that of all samples at once; the customary mean over ten sub-sets is lower, since a class is missed more
    easily.

    Args:
        logits: a classifier's, (N, K), for each sample.

    Raises:
        ValueError: the logits are not two-dimensional, empty, or not finite.
    """
    x = as_float64("logits", logits, 2)
    guesses = Guesses(x.shape[1])
    guesses.add_all(x)
    return guesses.inception_score()
