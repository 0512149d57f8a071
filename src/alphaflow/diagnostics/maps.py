"""Means of per-row values over the plane of t and t - r."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..parallel.parallel import Parallel

CELLS = 10
"""Along either side: t and t - r in tenths. Only half of the cells can hold rows, for t - r <= t."""


class Maps:
    """Sums of several values over square cells of (t, t - r).

    names: the values' names. The rows of all processes are counted when `means` is asked for.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.sums = torch.zeros(len(names) + 1, CELLS * CELLS, dtype=torch.float64)

    def add(self, r: Tensor, t: Tensor, values: Mapping[str, Tensor]) -> None:
        """Add rows with the times r, t (B,) and a value (B,) by each name."""
        t, gap = t.double().cpu(), (t - r).double().cpu()
        column, row = ((place * CELLS).long().clamp(0, CELLS - 1) for place in (t, gap))
        cells = row * CELLS + column
        table = torch.stack([torch.ones_like(t), *(values[name].double().cpu() for name in self.names)])
        self.sums.index_add_(1, cells, table)

    def means(self, parallel: Parallel, device: torch.device) -> tuple[dict[str, list], list[list[int]]]:
        """Return means by name, as rows of t - r, rising, of columns of t, and how many rows each cell had.

        A mean is None where there was no row.
        """
        sums = parallel.mean(self.sums.to(device)).cpu() * parallel.world
        counts = sums[0].round().reshape(CELLS, CELLS)
        means = sums[1:].reshape(-1, CELLS, CELLS) / counts
        tables = {
            name: [[None if math.isnan(value) else value for value in row] for row in means[k].tolist()]
            for k, name in enumerate(self.names)
        }
        return tables, counts.long().tolist()
