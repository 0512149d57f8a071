"""TensorBoard's files, written by this process as it goes.

Its own writer has a thread that a full disk ends, with a traceback on the terminal and for good.
"""

import io
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from ..runs.best_effort import AppendOnlyFile


class TensorBoardWriter:
    """Scalars for TensorBoard, in a file of this process's own.

    Args:
        folder: where its files lie. step: those of an earlier process that come after it no longer count.
    """

    def __init__(self, folder: Path, step: int) -> None:
        now = time.time()
        name = f"events.out.tfevents.{now:.6f}.{socket.gethostname()}.{os.getpid()}"
        self._diary = AppendOnlyFile(folder / name, makes_folder=True)
        session = SessionLog(status=SessionLog.START)
        self._first = _record(Event(wall_time=now, file_version="brain.Event:2"))
        self._first += _record(Event(wall_time=now, step=step + 1, session_log=session))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Write scalars.

        Raises:
            OSError: they could not be written, and wait for the next ones.
        """
        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        entry, self._first = self._first, b""
        self._diary.add(entry + _record(Event(wall_time=time.time(), step=step, summary=Summary(value=scalars))))

    def flush(self) -> None:
        """Write what waits; see `add`."""
        self._diary.flush()


def _record(event: Event) -> bytes:
    memory = io.BytesIO()
    RecordWriter(memory).write(event.SerializeToString())
    return memory.getvalue()
