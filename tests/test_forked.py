"""What the tests fork in place of starting Python anew behaves as what they would start."""

import json
import signal
import subprocess
import sys

import pytest

import forked

SHOWN = """
import json, os, random, sys, tempfile
import numpy as np
import torch
mask = open("/proc/self/status").read().split("SigIgn:")[1].split()[0]
print(json.dumps({
    "argv": sys.argv, "path": sys.path[0], "cwd": os.getcwd(), "said": os.environ.get("SAID"), "ignored": mask,
    "threads": torch.get_num_threads(), "temporary": tempfile.gettempdir(), "group": os.getpgid(0) == os.getpid(),
    "files": sorted(os.listdir("/proc/self/fd"))[:3], "open": len(os.listdir("/proc/self/fd")),
    "main": sorted(name for name in vars(sys.modules["__main__"]) if name[0] != "_"),
    "streams": [sys.stdin.encoding, sys.stdout.line_buffering, sys.stderr.errors], "read": sys.stdin.read(),
}))
print(random.random(), np.random.rand(), torch.rand(()).item())
"""


def told(start, folder) -> tuple[dict, set[str]]:
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    settings = {**streams, "start_new_session": True}
    with start([sys.executable, "-c", SHOWN, "a", "b c"], cwd=folder, **settings) as process:
        said, _ = process.communicate("asked")
    facts, numbers = said.splitlines()
    return json.loads(facts), set(numbers.split())


def test_a_fork_is_told_and_sees_what_a_new_interpreter_does(tmp_path, monkeypatch):
    monkeypatch.setenv("SAID", "é")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    (facts, first), (again, second) = (told(forked.Popen, tmp_path) for _ in range(2))
    assert facts == again == told(subprocess.Popen, tmp_path)[0]
    assert facts["read"] == "asked" and facts["cwd"] == facts["temporary"] == str(tmp_path)
    assert len(first | second) == 6  # no two draw the same numbers


def test_a_fork_ends_as_a_new_interpreter_does(tmp_path):
    script, package = tmp_path / "script.py", tmp_path / "package"
    script.write_text("import sys; print(sys.argv[1], file=sys.stderr); sys.exit(5)")
    package.mkdir()
    (package / "__main__.py").write_text("import sibling; print(__name__, sibling.__name__)")
    (package / "sibling.py").touch()
    commands = [
        ["-c", "import atexit; atexit.register(print, 'last'); print('first', end=' ')"],
        ["-c", "raise SystemExit('why')"],
        ["-c", "raise SystemExit"],
        ["-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"],
        ["-c", "import threading, time; threading.Timer(0.1, print, ['later']).start()"],
        [str(script), "word"],
        [str(package)],
        ["-m", "alphaflow", "sample", str(tmp_path / "none"), "--out", "x.npz"],
    ]
    for words in commands:
        ours, theirs = (
            start([sys.executable, *words], capture_output=True, text=True)
            for start in (forked.run, subprocess.run)
        )
        assert vars(ours) == vars(theirs), words
    for code, status in (("1 / 0", 1), ("raise KeyboardInterrupt", -signal.SIGINT)):
        done = forked.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == status and "Traceback" in done.stderr


def test_what_a_forked_launcher_forks_is_its_child_and_starts_others_afresh(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(
        "import os, subprocess, sys\n"
        "afresh = [sys.executable, '-c', 'import sys; print(\"torch\" in sys.modules)']\n"
        "print(os.environ['RANK'], os.getppid(), subprocess.check_output(afresh, text=True), end='')\n"
        "sys.exit(int(sys.argv[1]))"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1", str(script)]
    for status in (0, 3):
        words = [*command, str(status)]
        with forked.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as launcher:
            out, err = launcher.communicate()
        assert out == f"0 {launcher.pid} False\n", err
        assert (launcher.returncode, f"exitcode  : {status}" in err) == ((1, True) if status else (0, False))


def test_what_only_a_start_can_heed_is_refused(monkeypatch):
    monkeypatch.setenv("PYTHONUTF8", "1")
    with pytest.raises(AssertionError, match=r"PYTHONUTF8.*start this one by subprocess"):
        forked.run([sys.executable, "-c", ""])
