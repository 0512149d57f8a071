#!/usr/bin/env bash
# A data set of .npy files read by numpy.load from several threads now and then loses a whole, valid file under
# CPython 3.11: the header is parsed as a Python literal, and the parser's depth counter is shared by all threads, so
# that "SystemError: AST constructor recursion depth mismatch" is raised where a finalizer lets another thread in
# (numpy 2.4.6; seen on Python 3.11.7; the interpreter's issue is github.com/python/cpython/issues/106905).
# A loader that skips what it cannot read then skips other samples in every epoch. With one thread it never happens.
set -eu
here="$(mktemp -d)"
trap 'rm -rf "$here"' EXIT
python3.11 -m venv "$here/venv"
"$here/venv/bin/pip" install -q "numpy==2.4.6"
cat > "$here/read.py" <<'PY'
import io, sys, threading
import numpy as np

sys.setswitchinterval(1e-6)  # so that seconds show what otherwise takes hours
buffer = io.BytesIO()
np.save(buffer, np.zeros((4, 32, 32), np.float32))


class Circle:
    """Garbage with a finalizer, as objects of many libraries are."""

    def __init__(self):
        self.me = self

    def __del__(self):
        sum(range(100))


def failures(threads):
    said = []

    def work():
        for _ in range(40_000 // threads):
            Circle()
            try:
                np.load(io.BytesIO(buffer.getvalue()))
            except SystemError as error:
                said.append(str(error).split("(")[0].strip())

    crew = [threading.Thread(target=work) for _ in range(threads)]
    [one.start() for one in crew], [one.join() for one in crew]
    return said


print("Python", sys.version.split()[0], "numpy", np.__version__)
alone, together = failures(1), failures(8)
print("40,000 reads of one file: failed in one thread", len(alone), "in eight", len(together), set(together))
assert not alone and set(together) == {"AST constructor recursion depth mismatch"}, "the behaviour has changed"
PY
"$here/venv/bin/python" "$here/read.py"
