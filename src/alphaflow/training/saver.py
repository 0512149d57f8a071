"""Writing checkpoints while training goes on."""

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..processes import Processes
from ..runs import checkpoint
from ..runs.checkpoint import Parts, Piece

log = logging.getLogger("alphaflow")


class Saver:
    """Writes into one folder in a thread of its own, one checkpoint at a time.

    `save` copies the tensors to the host and returns; a save that comes while another is being written waits for
    it. A checkpoint that cannot be written (a full disk, a lost network folder) does not stop training: it is
    reported, those before it stay whole, and the next one is tried as usual. Only `finish` raises, so that no run
    ends as if its last steps had been kept.

    Args:
        folder, keep, processes: as for `checkpoint.write`. The processes must have a channel that nobody else
            uses: the thread talks on it while training does on its own.
    """

    def __init__(self, folder: Path, *, keep: int | None = None, processes: Processes | None = None) -> None:
        self.folder, self._keep = folder, keep
        self._processes = processes or Processes()
        self._copies: dict[str, Tensor] = {}
        self._thread: threading.Thread | None = None
        self._failure: str | None = None

    def save(self, step: int, parts: Parts, state: Mapping[str, Any]) -> None:
        """Begin to write a checkpoint; all processes must call. `parts` may change once this returns."""
        self.wait()
        copies = {
            part: {key: piece._replace(tensor=self._copy(f"{part}/{key}", piece)) for key, piece in pieces.items()}
            for part, pieces in parts.items()
        }
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()  # the copies run beside the host until here
        self._thread = threading.Thread(target=self._write, args=(step, copies, dict(state)), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Wait until nothing is being written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def finish(self) -> None:
        """Wait for what is being written.

        Raises:
            UserError: the last checkpoint could not be written; says which one is the newest.
        """
        self.wait()
        if self._failure is not None:
            raise UserError(f"{self._failure}; {self._kept()}: make room, and go on from there with --resume")

    def _copy(self, key: str, piece: Piece) -> Tensor:
        """Copy into memory that is kept from save to save: new pages for a whole model cost more than the copy."""
        source = piece.tensor.detach()
        held = self._copies.get(key)
        if held is None or held.shape != source.shape or held.dtype != source.dtype:
            held = torch.empty(source.shape, dtype=source.dtype, pin_memory=source.is_cuda)
            self._copies[key] = held
        return held.copy_(source, non_blocking=True)

    def _write(self, step: int, parts: Parts, state: Mapping[str, Any]) -> None:
        try:
            checkpoint.write(self.folder, step, parts, state, keep=self._keep, processes=self._processes)
            self._failure = None
        except Exception as error:
            self._failure = f"the checkpoint of step {step} could not be written to {self.folder} ({error})"
            if self._processes.rank == 0:
                log.warning("%s; %s; training goes on", self._failure, self._kept())

    def _kept(self) -> str:
        try:
            steps = checkpoint.steps_in(self.folder)
        except OSError:
            steps = []
        return f"the newest whole one is of step {steps[-1]}" if steps else "there is none before it"
