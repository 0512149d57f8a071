"""Processes of Python that start in a moment: forks of an interpreter that has imported torch and the package.

`Popen` and `run` are those of `subprocess` for commands that begin with `sys.executable`; see `zygote.py`. Where
the start itself is tested (what is imported, in which environment, without which streams), use `subprocess`.
"""

import atexit
import json
import os
import select
import socket
import subprocess
import sys
import types
from functools import cache
from pathlib import Path
from typing import Any

from children import restore
from zygote import Given

AT_START = ("PYTHON", "OMP_", "MKL_", "OPENBLAS_", "TORCH", "LC_", "LANG")
"""Variables that an interpreter, or what it imports, reads when it starts: these must be the zygote's."""
LATER = {"TORCHINDUCTOR_CACHE_DIR", "TORCHELASTIC_ERROR_FILE", "OMP_NUM_THREADS"}
"""Of these, those that are heeded in a fork, too."""


@cache
def _zygote() -> tuple[socket.socket, dict[str, str]]:
    """The socket to ask on, and the environment that it began with. It ends when this process does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    env = {**os.environ, "OMP_NUM_THREADS": "1"}  # a process of several threads is not to be forked
    server = Path(__file__).with_name("zygote.py")
    with theirs:
        process = subprocess.Popen([sys.executable, str(server)], stdin=theirs, stdout=subprocess.DEVNULL, env=env)

    @atexit.register
    def end() -> None:
        ours.close()
        process.wait()

    return ours, env


class Popen(subprocess.Popen):
    """A process that is a fork of the zygote, which is its parent and says how it ended."""

    def _execute_child(self, *values: Any) -> None:
        given = Given(values)
        args, env, cwd = given["args"], given["env"], given["cwd"]
        assert args[0] == sys.executable and given["preexec_fn"] in (None, restore), args
        given.refuse("executable", "pass_fds", "shell")
        requests, began = _zygote()
        env = dict(os.environ if env is None else env)
        names = {name for name in {**env, **began} if name.startswith(AT_START)} - LATER
        other = {name for name in names if env.get(name) != began.get(name)}
        assert not other, f"{other} are read at the start of an interpreter: start this one by subprocess"
        said = {
            "words": [os.fspath(word) for word in args[1:]],
            "env": env,
            "cwd": os.fspath(cwd if cwd is not None else Path.cwd()),
            "session": given["start_new_session"],
            "hears": given["preexec_fn"] is restore,
        }
        self._report, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(requests, [json.dumps(said).encode()], [*given.streams(), theirs.fileno()])
        self.pid, self._child_created = int(self._report.recv(64)), True
        given.close(self)

    def _internal_poll(self, *ignored: Any, **also: Any) -> int | None:
        if self.returncode is None and select.select([self._report], [], [], 0)[0]:
            self._wait(None)
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        if self.returncode is None:
            if not select.select([self._report], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = int(self._report.recv(64))
            self._report.close()
        return self.returncode


run = types.FunctionType(subprocess.run.__code__, {**vars(subprocess), "Popen": Popen})
run.__kwdefaults__ = subprocess.run.__kwdefaults__  # type: ignore[attr-defined]
