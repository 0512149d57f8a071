"""An interpreter that has imported what commands need, and that forks when it is asked to start another.

A start of `python -m alphaflow train` costs eight seconds of a core: one of them is the command's own work, the
rest is the import of torch, its compiler and the package. `forked.py` asks for processes; each is a real one,
with streams, signals, a working folder, an environment and arguments of its own, and ends as an interpreter
does. This one never trains, so what it hands on is what importing leaves. It is started afresh, not forked from
pytest.

What only a real start shows, and tests that start one must look at: what importing says and needs, the order of
sets, which differs between real processes and not between forks of one, and the end of the interpreter itself.
"""

import atexit
import contextlib
import importlib
import inspect
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import types
from pathlib import Path
from typing import Any, NoReturn

from children import restore

IMPORTED = (
    "torch.optim torch._dynamo torch._decomp.decompositions_for_jvp torch.distributed.run "
    "torch.distributed.tensor torch.utils.tensorboard scipy.linalg PIL.PngImagePlugin yaml "
    "safetensors.torch tyro tyro.constructors alphaflow.cli.train alphaflow.training.trainer "
    "alphaflow.training.tensorboard alphaflow.evaluation.evaluate alphaflow.diagnostics.plots "
).split()
LAUNCHER = ["-m", "torch.distributed.run"]
_exec = subprocess.Popen._execute_child  # type: ignore[attr-defined]


def serve(requests: socket.socket) -> None:
    """Fork at each request; say the new process's id on the socket that comes with it, and how it ended."""
    children: dict[int, tuple[int, socket.socket]] = {}
    while True:
        for ready in select.select([requests, *children], [], [])[0]:
            if ready is requests:
                said, fds, _, _ = socket.recv_fds(requests, 1 << 20, 4)
                if not said:
                    os._exit(0)  # who asked is gone
                pid = os.fork()
                if pid == 0:
                    become(**json.loads(said), fds=fds[:3])
                report = socket.socket(fileno=fds[3])
                for fd in fds[:3]:
                    os.close(fd)
                report.send(b"%d" % pid)
                children[os.pidfd_open(pid)] = pid, report
            else:
                pid, report = children.pop(ready)
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    report.send(b"%d" % status)
                report.close()
                os.close(ready)


def become(
    words: list[str], env: dict[str, str], cwd: str | None, session: bool, fds: list[int], hears: bool = False
) -> NoReturn:
    """In a fork: be the process that `python WORDS` would be; `hears`: after `children.restore`."""
    for number, fd in enumerate(fds):
        if fd != number:
            os.dup2(fd, number)
    os.closerange(3, 4096)  # as close_fds does; objects of the frames above own some, and live as long as this
    if session:
        os.setsid()
    if cwd is not None:
        os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    tempfile.tempdir = None  # it depends on the environment
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    if hears:
        restore()
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    unbuffered = words[0] == "-u"
    words = words[unbuffered:]
    _open_streams(unbuffered)
    _begin()
    subprocess.Popen._execute_child = _fork_worker if words[:2] == LAUNCHER else _exec  # type: ignore[attr-defined]
    _end(_run, words)


class Given(dict[str, Any]):
    """What `subprocess.Popen` gives to the method of its own that starts a process, by name."""

    def __init__(self, values: tuple) -> None:
        super().__init__(zip(inspect.signature(_exec).parameters, (None, *values)))

    def refuse(self, *names: str) -> None:
        for name in names:
            assert not self[name], f"a process that is forked has no {name}"

    def streams(self) -> list[int]:
        """Of the child: the pipes and files that were asked for, else those of this process."""
        asked = (self[name] for name in ("p2cread", "c2pwrite", "errwrite"))
        return [number if fd == -1 else fd for number, fd in enumerate(asked)]

    def close(self, process: Any) -> None:
        """What is the child's, now that it is there."""
        names = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        process._close_pipe_fds(*(self[name] for name in names))


def _open_streams(unbuffered: bool) -> None:
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        old, by_line = getattr(sys, name), name == "stderr" or os.isatty(number)
        stream: Any = open(  # noqa: SIM115
            number, "w" if number else "r", 1 if by_line else -1, old.encoding, old.errors, closefd=False
        )
        if number and unbuffered:
            stream.reconfigure(write_through=True)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _begin() -> None:
    """With the threads that are asked for, and as differently as two interpreters; `random` does so by itself."""
    import numpy as np
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    np.random.seed(int.from_bytes(os.urandom(4), "little"))  # noqa: NPY002
    torch.seed()


def _run(words: list[str]) -> None:
    sys.modules["__main__"] = types.ModuleType("__main__")
    if words[0] == "-m":
        sys.path[0], sys.argv = str(Path.cwd()), ["-m", *words[2:]]
        if words[1] == LAUNCHER[1]:
            del sys.modules[words[1]]  # else runpy warns that there would be two
        runpy._run_module_as_main(words[1])  # type: ignore[attr-defined]
    elif words[0] == "-c":
        sys.path[0], sys.argv = "", ["-c", *words[2:]]
        exec(compile(words[1], "<string>", "exec"), sys.modules["__main__"].__dict__)
    elif Path(words[0]).is_dir():
        sys.path[0], sys.argv = words[0], words
        runpy._run_module_as_main("__main__", alter_argv=False)  # type: ignore[attr-defined]
    else:
        sys.path[0], sys.argv = str(Path(words[0]).resolve().parent), words
        main = sys.modules["__main__"].__dict__
        main["__file__"] = words[0]
        exec(compile(Path(words[0]).read_bytes(), words[0], "exec"), main)


def _end(run: Any, words: list[str]) -> NoReturn:
    """Run, and end as an interpreter does, without going back to the frames of the one that forked."""
    status, interrupted = 0, False
    try:
        run(words)
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
        status = 0 if end.code is None else end.code if isinstance(end.code, int) else 1
    except KeyboardInterrupt:
        traceback.print_exc()
        interrupted = True
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            status = status or 120
    if interrupted:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(status & 0xFF)


def _fork_worker(self: Any, *values: Any) -> None:
    """In torchrun's launcher, itself a fork: start its workers by a fork, too, in place of an exec."""
    given = Given(values)
    args, env = given["args"], given["env"]
    if isinstance(args, str) or args[0] != sys.executable:
        _exec(self, *values)
        return
    given.refuse("preexec_fn", "executable", "pass_fds", "shell")
    words, env = [str(word) for word in args[1:]], dict(os.environ if env is None else env)
    pid = os.fork()
    if pid == 0:
        become(words, env, given["cwd"], given["start_new_session"], given.streams())
    self.pid, self._child_created = pid, True
    given.close(self)


def main() -> None:
    """Import, be sure to be one thread, and serve what asks on the standard input."""
    requests = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for name in IMPORTED:
        importlib.import_module(name)
    threads = len(list(Path("/proc/self/task").iterdir()))
    assert threads == 1, f"{threads} threads: a fork would have one of them"
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # else it is so in what is forked, too
        signal.signal(signal.SIGINT, lambda *_: None)
    serve(requests)


if __name__ == "__main__":
    main()
