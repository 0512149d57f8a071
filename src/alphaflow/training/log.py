"""What a run writes down while it goes on: metrics.jsonl, TensorBoard, and a progress bar on a terminal."""

import json
import math
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any


class MetricsLog:
    """Appends one JSON object a logged step, and the same scalars to TensorBoard.

    On resuming after `step`, later lines of an interrupted run are cut off: they will be written again.
    """

    def __init__(self, out: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path = out / "metrics.jsonl"
        if self.path.exists():
            kept = [line for line in self.path.read_text().splitlines() if _step_of(line) <= step]
            self.path.write_text("".join(line + "\n" for line in kept))
        self._file = self.path.open("a")
        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Record numbers; those that are not finite become null."""
        clean = {key: value if math.isfinite(value) else None for key, value in values.items()}
        self._file.write(json.dumps({"step": step, **clean}) + "\n")
        self._file.flush()
        for key, value in clean.items():
            if value is not None:
                self._board.add_scalar(key, value, step)

    def close(self) -> None:
        self._file.close()
        self._board.close()


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):  # a line cut short by a kill
        return math.inf


class ProgressBar:
    """Steps, rate, time left and the residual, on stderr if that is a terminal; nothing otherwise."""

    def __init__(self, label: str, done: int, total: int, unit: str = "steps", *, shown: bool = True) -> None:
        self._bar: Any = None
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

    def update(self, done: int, note: str = "") -> None:
        if self._bar:
            rate = (done - self._first) / max(time.monotonic() - self._start, 1e-9)
            fields = {"rate": f"{rate:.1f}/s", **({"note": note} if note else {})}
            self._bar.update(self._task, completed=done, **fields)
