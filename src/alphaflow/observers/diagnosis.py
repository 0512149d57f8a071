"""Diagnoses while training goes on."""

import math
from collections.abc import Mapping

from ..diagnostics.files import write
from ..diagnostics.measure import Subject, diagnose
from .base import Observer, RunView


class Diagnoser(Observer):
    """Writes what `alphaflow diagnose` would say of the step into the run's folder; figures after the last step.

    Says `diagnosis_cos_tfm_tc` and `diagnosis_cos_fm_tc`, the mean cosines of the gradients.

    Args:
        every: steps. batches: of the run's size, for each diagnosis.
    """

    name = "diagnosis"

    def __init__(self, every: int, batches: int) -> None:
        self.every, self.batches = every, batches

    def observe(self, run: RunView) -> Mapping[str, float]:
        parts = (run.net, run.objective, run.dataset, run.config, run.parallel, run.device)
        diagnosis = diagnose(Subject(str(run.folder.path), run.step, *parts), batches=self.batches)
        if run.parallel.main:
            last = run.step == run.config.steps
            run.notes.attempt(
                f"the diagnosis to {run.folder.diagnosis}",
                lambda: write(diagnosis, run.folder.diagnosis, figures=last),
            )
        cosines = {name: diagnosis.cosines[f"{name},tc"].mean for name in ("tfm", "fm")}
        return {f"diagnosis_cos_{name}_tc": math.nan if c is None else c for name, c in cosines.items()}
