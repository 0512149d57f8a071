"""The Inception Score. Source: T. Salimans et al., arXiv:1606.03498, section 4."""

import torch
from torch import Tensor

from alphaflow.metrics._checks import ArrayLike, as_float64
from alphaflow.metrics.estimates import Estimate, group_counts, jackknife
from alphaflow.metrics.statistics import GROUPS, groups_of


def inception_score(logits: ArrayLike) -> Estimate:
    """exp E KL(p(y|x) | p(y)), from 1 to K, more is better: the classes are told apart, and all of them appear.

    Of all samples at once; the customary mean over ten sub-sets is lower, since a class is missed more easily.

    Args:
        logits: (N, K), of a classifier, for each sample.

    Raises:
        ValueError: not two-dimensional, empty, or not finite.
    """
    x = as_float64("logits", logits, 2)
    chances, negentropies = x.new_zeros(GROUPS, x.shape[1]), x.new_zeros(GROUPS)
    for first in range(0, len(x), 4096):
        log = x[first : first + 4096].log_softmax(1)
        member = groups_of(torch.arange(first, first + len(log)))
        chances.index_add_(0, member, log.exp())
        negentropies.index_add_(0, member, (log.exp() * log).sum(1))
    counts = group_counts(len(x))

    def score(chance: Tensor, negentropy: Tensor, count: int) -> float:
        marginal = chance / max(count, 1)
        return float((negentropy / max(count, 1) - torch.xlogy(marginal, marginal).sum()).exp())

    whole, total = chances.sum(0), negentropies.sum()
    without = [score(whole - chances[k], total - negentropies[k], len(x) - counts[k]) for k in range(GROUPS)]
    return jackknife(score(whole, total, len(x)), without, counts)
