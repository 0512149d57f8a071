"""What a run writes down while it goes on: metrics.jsonl, TensorBoard, Weights & Biases where asked for, and a
progress bar on a terminal."""

import json
import logging
import math
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import UserError
from ..rng import hash_key

log = logging.getLogger("alphaflow")


class MetricsLog:
    """Appends one JSON object a logged step, and the same scalars to TensorBoard and other boards.

    On resuming after `step`, later lines of an interrupted run are cut off: they will be written again. A disk
    that takes no more is told once, and training goes on without these lines.

    Args:
        out: the run's folder. project: on Weights & Biases, empty for none. settings: to show there.
    """

    def __init__(self, out: Path, step: int, *, project: str = "", settings: dict[str, Any] | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path, self._told = out / "metrics.jsonl", False
        if self.path.exists():
            kept = [line for line in self.path.read_text().splitlines() if _step_of(line) <= step]
            whole = "".join(line + "\n" for line in kept)
            temporary = self.path.with_suffix(".tmp")
            try:
                temporary.write_text(whole)
                temporary.replace(self.path)
            except OSError as error:
                self._tell(error)
        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)
        self._wandb = _weights_and_biases(out, project, settings or {}) if project else None

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Record numbers; those that are not finite become null."""
        clean = {key: value if math.isfinite(value) else None for key, value in values.items()}
        shown = {key: value for key, value in clean.items() if value is not None}
        try:
            with self.path.open("a") as file:  # anew each time: a network's folder may go and come back
                file.write(json.dumps({"step": step, **clean}) + "\n")
            for key, value in shown.items():
                self._board.add_scalar(key, value, step)
        except OSError as error:
            self._tell(error)
        if self._wandb:
            self._wandb.log(shown, step=step, commit=True)

    def close(self) -> None:
        try:
            self._board.close()
        except OSError as error:
            self._tell(error)
        if self._wandb:
            self._wandb.finish()

    def _tell(self, error: OSError) -> None:
        if not self._told:
            log.warning("cannot write metrics to %s (%s): training goes on without", self.path, error)
        self._told = True


def _weights_and_biases(out: Path, project: str, settings: dict[str, Any]) -> Any:
    """A run of the same name on every resumption. WANDB_MODE=offline keeps it on this machine."""
    try:
        import wandb
    except ImportError:
        raise UserError("--wandb needs its package: pip install 'alphaflow[wandb]'") from None
    name = out.resolve().name
    identity = f"{name}-{hash_key(str(out.resolve())):x}"[-64:]
    return wandb.init(project=project, name=name, id=identity, resume="allow", dir=str(out), config=settings)


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):  # a line cut short by a kill
        return math.inf


class ProgressBar:
    """Steps, rate, time left and the residual, on stderr if that is a terminal; nothing otherwise."""

    def __init__(self, label: str, done: int, total: int, unit: str = "steps", *, shown: bool = True) -> None:
        self._bar: Any = None
        self.done, self._total = done, total
        if shown and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(unit),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(label, total=total, completed=done, rate="", note="")
        self._start, self._first = time.monotonic(), done

    def __enter__(self) -> "ProgressBar":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def less(self, count: int) -> None:
        """So many need not be done after all."""
        self._total -= count
        if self._bar:
            self._bar.update(self._task, total=self._total)

    def update(self, done: int, note: str = "") -> None:
        self.done = done
        if self._bar:
            rate = (done - self._first) / max(time.monotonic() - self._start, 1e-9)
            fields = {"rate": f"{rate:.1f}/s", **({"note": note} if note else {})}
            self._bar.update(self._task, completed=done, **fields)
