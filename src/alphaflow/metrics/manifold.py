"""Metrics of fidelity and diversity that compare neighbourhoods of real and generated samples."""

from typing import NamedTuple

import torch
from torch import Tensor

from alphaflow.metrics._checks import ArrayLike, sample_pair
from alphaflow.metrics._pairwise import distance_blocks
from alphaflow.metrics.estimates import Estimate, group_counts, jackknife, one_hot_groups
from alphaflow.metrics.statistics import GROUPS, groups_of


class PrecisionRecall(NamedTuple):
    """Precision and recall, both in [0, 1]; more is better."""

    precision: float
    """Share of the fakes that lie among the real samples."""
    recall: float
    """Share of the real samples that lie among the fakes."""


class DensityCoverage(NamedTuple):
    """Density and coverage; more is better. `coverage` lies in [0, 1], `density` can exceed 1 and is about 1 for a
    perfect model.
    """

    density: float
    """Number of real neighbourhoods that hold a fake, averaged over the fakes and divided by k."""
    coverage: float
    """Share of the real neighbourhoods that hold a fake."""


class Neighbours(NamedTuple):
    """The nearest reference of each query."""

    distances: Tensor
    """Euclidean distances, float64 (N,)."""
    indices: Tensor
    """Rows of the references, int64 (N,)."""


def precision_recall(real: ArrayLike, fake: ArrayLike, k: int = 3) -> PrecisionRecall:
    """Return the improved precision and recall of T. Kynkäänniemi et al. 2019, arXiv:1904.06991, eqs. 1-3.

    A sample lies among a set when it is within a member's distance to that member's k-th nearest other
    member, borders included.

    Args:
        real: (N, D), D features of each real sample.
        fake: (M, D), the same of generated ones.
        k: neighbours that make a neighbourhood; 1 <= k < min(N, M).

    Raises:
        ValueError: shapes that do not fit, values that are not finite, a `k` out of range.
    """
    x, y = sample_pair("real", real, "fake", fake)
    x_radii, y_radii = _radii("real", x, k), _radii("fake", y, k)
    recalled = torch.zeros(len(x), dtype=torch.bool)
    precise = torch.zeros(len(y), dtype=torch.bool)
    for rows, distances in distance_blocks(x, y):
        precise |= (distances <= x_radii[rows, None]).any(0)
        recalled[rows] = (distances <= y_radii).any(1)
    return PrecisionRecall(precise.double().mean().item(), recalled.double().mean().item())


def density_coverage(real: ArrayLike, fake: ArrayLike, k: int = 5) -> DensityCoverage:
    """Return density and coverage of M. F. Naeem et al. 2020, arXiv:2002.09797, eqs. 3 and 6.

    Args:
        real: (N, D), D features of each real sample.
        fake: (M, D), the same of generated ones.
        k: neighbours that make a neighbourhood; 1 <= k < N.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, a `k` out of range.
    """
    x, y = sample_pair("real", real, "fake", fake)
    radii = _radii("real", x, k)
    covered = torch.zeros(len(x), dtype=torch.bool)
    memberships = 0
    for rows, distances in distance_blocks(x, y):
        inside = distances <= radii[rows, None]
        memberships += int(inside.sum())
        covered[rows] = inside.any(1)
    return DensityCoverage(memberships / (k * len(y)), covered.double().mean().item())


def manifold_estimates(real: ArrayLike, fake: ArrayLike, k: int = 3, k_density: int = 5) -> dict[str, Estimate]:
    """Return `precision`, `recall`, `density` and `coverage` with their errors, in two passes over the distances.

    Args:
        real: (N, D).
        fake: (M, D).
        k: the neighbours for precision and recall, at least 1 and below N and M.
        k_density: the neighbours for density and coverage, within the same bounds.

    Raises:
        ValueError: as `precision_recall`.
    """
    x, y = sample_pair("real", real, "fake", fake)
    near, wide = _radii("real", x, k), _radii("real", x, k_density)
    reach = _radii_without("fake", y, k)  # (M, 9)
    member, columns = one_hot_groups(len(y)), groups_of(torch.arange(len(y)))
    precise = torch.zeros(len(y), dtype=torch.bool)
    memberships = y.new_zeros(GROUPS)
    covered = torch.zeros(len(x), GROUPS, dtype=torch.bool)
    recalled = torch.zeros(len(x), GROUPS + 1, dtype=torch.bool)
    for rows, distances in distance_blocks(x, y):
        precise |= (distances <= near[rows, None]).any(0)
        inside = (distances <= wide[rows, None]).double() @ member
        memberships += inside.sum(0)
        covered[rows] = inside > 0
        for g in range(GROUPS + 1):
            recalled[rows, g] = ((distances <= reach[:, g]) & (columns != g)).any(1)
    counts = torch.tensor(group_counts(len(y)))
    hits = precise.double() @ member
    others = [[j for j in range(GROUPS) if j != g] for g in range(GROUPS)]
    left = (len(y) - counts).clamp(min=1)

    def estimate(value: Tensor, without: Tensor) -> Estimate:
        return jackknife(float(value), without.tolist(), counts.tolist())

    return {
        "precision": estimate(hits.sum() / len(y), (hits.sum() - hits) / left),
        "recall": estimate(recalled[:, GROUPS].double().mean(), recalled[:, :GROUPS].double().mean(0)),
        "density": estimate(
            memberships.sum() / (k_density * len(y)), (memberships.sum() - memberships) / (k_density * left)
        ),
        "coverage": estimate(
            covered.any(1).double().mean(),
            torch.stack([covered[:, other].any(1).double().mean() for other in others]),
        ),
    }


def nearest_neighbours(queries: ArrayLike, references: ArrayLike, *, exclude_self: bool = False) -> Neighbours:
    """Find the nearest reference of each query.

    Args:
        queries: (N, D).
        references: (M, D).
        exclude_self: row i of the queries is row i of the references, and is not its own neighbour. Needs
            N = M >= 2.

    Raises:
        ValueError: shapes that do not fit, or values that are not finite.
    """
    x, y = sample_pair("queries", queries, "references", references)
    if exclude_self and (len(x) != len(y) or len(x) < 2):
        raise ValueError(f"exclude_self needs the same rows twice, at least 2, not {len(x)} and {len(y)}")
    blocks = []
    for rows, distances in distance_blocks(x, y):
        if exclude_self:
            distances.diagonal(offset=rows.start).fill_(torch.inf)
        blocks.append(distances.min(1))
    return Neighbours(torch.cat([f.values for f in blocks]), torch.cat([f.indices for f in blocks]))


def _radii(name: str, samples: Tensor, k: int) -> Tensor:
    """Return each sample's distance to its k-th nearest other sample, (N,)."""
    if not 1 <= k < len(samples):
        raise ValueError(f"k = {k} does not fit {len(samples)} {name} samples: it must be at least 1 and fewer")
    radii = []
    for rows, distances in distance_blocks(samples, samples):
        distances.diagonal(offset=rows.start).fill_(torch.inf)
        radii.append(distances.kthvalue(k, dim=1).values)
    return torch.cat(radii)


def _radii_without(name: str, samples: Tensor, k: int) -> Tensor:
    """Return `_radii` with each of the groups left out, and last with all: (N, 9)."""
    if not 1 <= k < len(samples):
        raise ValueError(f"k = {k} does not fit {len(samples)} {name} samples: it must be at least 1 and fewer")
    members = groups_of(torch.arange(len(samples)))
    columns = [(members == g).nonzero()[:, 0] for g in range(GROUPS)]
    radii = []
    for rows, distances in distance_blocks(samples, samples):
        distances.diagonal(offset=rows.start).fill_(torch.inf)
        nearest = distances.new_full((len(distances), GROUPS, k), torch.inf)  # k of each group are enough
        for g, chosen in enumerate(columns):
            some = min(k, len(chosen))
            nearest[:, g, :some] = distances[:, chosen].topk(some, largest=False).values
        left = [nearest[:, [j for j in range(GROUPS) if j != g]] for g in range(GROUPS)]
        radii.append(torch.stack([part.flatten(1).kthvalue(k).values for part in [*left, nearest]], dim=1))
    return torch.cat(radii)
