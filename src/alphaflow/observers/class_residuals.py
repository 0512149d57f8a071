"""The residual of each class while training goes on: one class among a thousand that goes astray is named."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data import Dataset
from ..parallel.parallel import Parallel
from .base import Observer, RunView

log = logging.getLogger("alphaflow")

ROWS = 32
"""Rows of a class, on average, after which what was seen counts half; at least the steps between two logs."""
LEAST = 8
"""Rows, weighted like that, that a class must have to be judged."""
FAR, HIGHER, SEVERAL = 6.0, 1.1, 3
"""A class is told when it lies `FAR` deviations above the median of all (their spread, by the median distance from
it) and `HIGHER` times as high, for `SEVERAL` logs in a row."""
_UNIT, _LARGEST = 2.0**-32, 1e4


class ClassResiduals(Observer):
    """Running means of the un-weighted residual by class, over all parts and processes.

    Says at each log `residual_class_worst`, the highest of them, `residual_class_worst_id`, whose it is, and
    `residual_class_median`, the median of all classes; NaN while too few rows have been seen. Warns, once a class,
    of one that lies far above the others. Without labels it says nothing.

    Sums are of integers (in units of 2⁻³², each row cut at 10⁴), which may be added in any order: neither the
    number of processes nor an interruption leaves a trace. Rows that are not finite don't count. Labels are the
    samples' own, whichever were dropped. No step waits for it.
    """

    name = "classes"

    def __init__(
        self, dataset: Dataset, device: torch.device, parallel: Parallel, *, every: int, batch_size: int
    ) -> None:
        self.every, self.parallel, self.names = every, parallel, dataset.class_names
        self.count = dataset.num_classes
        self.half_life = max(every, ROWS * self.count / batch_size)
        self._since = torch.zeros(2, self.count, dtype=torch.int64, device=device)  # residuals and rows, here
        self._step = 0
        self._total = self._rows = np.zeros(self.count)  # as of the last log
        self._above = np.zeros(self.count, np.int64)  # logs in a row
        self._told = np.zeros(self.count, bool)

    def add(self, residual: Tensor, y: Tensor | None) -> None:
        """Add some rows of a step: residuals (B,), or as many of each row side by side, and classes (B,)."""
        if y is None or not self.count:
            return
        if len(residual) != len(y):
            y = y.repeat_interleave(len(residual) // len(y))
        finite = residual.isfinite()
        units = torch.where(finite, residual.double().clamp(max=_LARGEST) / _UNIT, 0.0)
        self._since.index_add_(1, y, torch.stack([units.long(), finite.long()]))

    def observe(self, run: RunView) -> Mapping[str, float]:
        if not self.count:
            return {}
        share = 0.5 ** ((run.step - self._step) / self.half_life)
        total, rows = self._everywhere().cpu().double().numpy()
        self._total, self._rows = self._total * share + total * _UNIT, self._rows * share + rows
        self._since.zero_()
        self._step = run.step
        means = self.means
        if np.isnan(means).all():
            return dict.fromkeys(
                ("residual_class_worst", "residual_class_worst_id", "residual_class_median"), np.nan
            )
        worst, median = int(np.nanargmax(means)), float(np.nanmedian(means))
        self._judge(means, median)
        return {
            "residual_class_worst": float(means[worst]),
            "residual_class_worst_id": worst,
            "residual_class_median": median,
        }

    @property
    def means(self) -> NDArray[np.float64]:
        """As of the last log, (classes,); NaN for a class of which too few rows were seen."""
        return _means(self._total, self._rows)

    def state(self) -> dict[str, Any]:
        """All processes must call."""
        if not self.count:
            return {}
        since = self._everywhere().tolist()
        seen = {"step": self._step, "total": self._total.tolist(), "rows": self._rows.tolist(), "since": since}
        return {**seen, "above": self._above.tolist(), "told": self._told.tolist()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what is stored for all processes: the first one takes the rows since the last log."""
        nothing = [0] * self.count
        self._step = state.get("step", 0)
        self._total = np.array(state.get("total", nothing), np.float64)
        self._rows = np.array(state.get("rows", nothing), np.float64)
        self._above = np.array(state.get("above", nothing), np.int64)
        self._told = np.array(state.get("told", nothing), bool)
        self._since.zero_()
        if self.parallel.main:
            self._since += torch.tensor(
                state.get("since", [nothing] * 2), dtype=torch.int64, device=self._since.device
            )

    def _everywhere(self) -> Tensor:
        """Return sums and rows since the last log, of all processes, (2, classes) int64."""
        return self.parallel.gather(self._since[None]).sum(0)

    def _judge(self, means: NDArray[np.float64], median: float) -> None:
        spread = 1.4826 * float(np.nanmedian(abs(means - median)))  # of a normal law: its standard deviation
        above = np.nan_to_num(means) > max(HIGHER * median, median + FAR * spread)
        self._above = np.where(above, self._above + 1, 0)
        for k in np.flatnonzero((self._above >= SEVERAL) & ~self._told):
            self._told[k] = True
            log.warning(
                "class %d (%s) has a residual of %.3g, and half of the classes lie below %.3g: look at its "
                "samples, and at how many there are",
                k,
                self.names[k],
                means[k],
                median,
            )


def class_means(state: Mapping[str, Any]) -> NDArray[np.float64] | None:
    """Return the means by class in a checkpoint's state, (classes,), NaN of too few rows; None without."""
    mine = state.get("observers", {}).get(ClassResiduals.name)
    return _means(np.array(mine["total"]), np.array(mine["rows"])) if mine else None


def _means(total: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(rows >= LEAST, total / np.maximum(rows, 1), np.nan)
