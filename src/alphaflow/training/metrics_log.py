"""What a run writes down while it goes on: metrics.jsonl, TensorBoard, Weights & Biases where asked for."""

import errno
import json
import logging
import math
import shutil
from pathlib import Path
from typing import Any

from ..errors import missing
from ..files import write_whole
from ..rng import hash_key
from ..runs.best_effort import AppendOnlyFile, BestEffort

log = logging.getLogger("alphaflow")


class MetricsLog:
    """Appends one JSON object a logged step, and the same scalars to TensorBoard and other boards.

    On resuming after `step`, later lines of an interrupted run are cut off: they will be written again. Lines that
    cannot be read are left out, and kept in a file beside it. A disk that takes no more is told once; training
    goes on, and what waits is written when there is room.

    Args:
        out: the run's folder. project: on Weights & Biases, empty for none. settings: to show there. notes:
            reports, once, what cannot be written.
    """

    def __init__(
        self,
        out: Path,
        step: int,
        *,
        project: str = "",
        settings: dict[str, Any] | None = None,
        notes: BestEffort | None = None,
    ) -> None:
        from .tensorboard import TensorBoardWriter

        self.path, self._notes = out / "metrics.jsonl", notes or BestEffort()
        self._notes.attempt(f"metrics to {self.path}", lambda: _cut(self.path, step))
        self._lines, self._board = AppendOnlyFile(self.path), TensorBoardWriter(out / "tensorboard", step)
        self._wandb = _weights_and_biases(out, project, settings or {}) if project else None

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Record numbers; those that are not finite become null."""
        clean = {key: value if math.isfinite(value) else None for key, value in values.items()}
        shown = {key: value for key, value in clean.items() if value is not None}
        line = (json.dumps({"step": step, **clean}) + "\n").encode()
        self._notes.attempt(f"metrics to {self.path}", lambda: self._lines.add(line))
        self._notes.attempt(f"metrics to {self.path}", lambda: self._board.add(step, shown))
        if self._wandb:
            self._wandb.log(shown, step=step, commit=True)

    def close(self) -> None:
        """Write what still waits, and end."""
        self._notes.attempt(f"metrics to {self.path}", self._lines.flush)
        self._notes.attempt(f"metrics to {self.path}", self._board.flush)
        if self._wandb:
            self._wandb.finish()


def _cut(path: Path, step: int) -> None:
    """Leave the lines up to `step`; if others than the last cannot be read, the file is kept as it was as well."""
    if not path.exists():
        return
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    lines = [line for line in path.read_bytes().split(b"\n") if line.strip()]
    steps = [_step_of(line) for line in lines]
    damaged = sum(at is None for at in steps[:-1])
    if damaged:
        aside = path.with_name("metrics.damaged.jsonl")
        shutil.copyfile(path, aside)
        log.warning("%d lines of %s cannot be read: they are left out, and kept in %s", damaged, path, aside)
    kept = [line + b"\n" for line, at in zip(lines, steps) if at is not None and at <= step]
    write_whole(path, b"".join(kept))


def _weights_and_biases(out: Path, project: str, settings: dict[str, Any]) -> Any:
    """Open a run of the same name on every resumption. WANDB_MODE=offline keeps it on this machine."""
    try:
        import wandb
    except ImportError:
        raise missing("--wandb needs its package", "wandb") from None
    name = out.resolve().name
    identity = f"{name}-{hash_key(str(out.resolve())):x}"[-64:]
    return wandb.init(project=project, name=name, id=identity, resume="allow", dir=str(out), config=settings)


def _step_of(line: bytes) -> float | None:
    """Return the step of a line; None if it is no line of a log, such as one cut short by a kill."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return step if isinstance(step, int | float) else None
