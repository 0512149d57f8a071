"""Children that tests send signals to, whatever this process was told to ignore, and which end with the test.

A shell's script that starts tests in the background has SIGINT ignored, `nohup` SIGHUP, and children inherit that:
without a look at it they would wait for ever, and pass or fail by how the tests were started.
"""

import contextlib
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def restore() -> None:
    """For `preexec_fn`: in a child, what a terminal's process does at each signal."""
    for number in CAUGHT:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, CAUGHT)


@contextlib.contextmanager
def child(
    words: list[str],
    *,
    seconds: float = 180,
    start: type[subprocess.Popen] = subprocess.Popen,
    **settings: Any,
) -> Iterator[subprocess.Popen[str]]:
    """A process that hears signals, and that is killed at the end of the block or after so many seconds."""
    process: subprocess.Popen[str] = start(words, preexec_fn=restore, **settings)
    alarm = threading.Timer(seconds, process.kill)
    alarm.daemon = True
    alarm.start()
    try:
        yield process
    finally:
        alarm.cancel()
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@contextlib.contextmanager
def handled(number: int, handler: Callable[..., object] | int) -> Iterator[None]:
    """This process's handler of a signal, for as long as the block."""
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)
