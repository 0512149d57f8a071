#!/usr/bin/env bash
# OpenVINO's CPU plugin gives the thread that first compiles a model in a Core an alternate stack for signals
# (sigaltstack), and takes it away with the Core. With two Cores that go in the order in which they came, the first
# one's stack is put back after it was freed: the thread is left with an alternate stack in memory that is not mapped
# any more. So it is where one Core goes in another thread than it came in. Python's handlers run on the alternate
# stack, so that such a process ended with a segmentation fault at its next signal, instead of KeyboardInterrupt
# (openvino 2026.4.1, CPython 3.11, Linux on x86-64). One Core for the whole process, never freed, avoids it.
# This script sends no signal: it looks where the stack lies.
set -eu
here="$(mktemp -d)"
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q "openvino==2026.4.1" "numpy==2.4.6"
"$here/venv/bin/python" - <<'PY'
import ctypes
import gc

import numpy
import openvino
from openvino import opset13 as ops


class Stack(ctypes.Structure):
    _fields_ = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


def state() -> str:
    """What the kernel holds as this thread's alternate stack."""
    stack = Stack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack))
    if not stack.start:
        return "none"
    ranges = [line.split()[0].split("-") for line in open("/proc/self/maps")]
    mapped = any(int(low, 16) <= stack.start < int(high, 16) for low, high in ranges)
    return "mapped" if mapped else "not mapped"


def opened() -> list:
    x = ops.parameter([8, 64], numpy.float32)
    model = openvino.Model([ops.relu(x)], [x], "m")
    core = openvino.Core()
    return [core, core.compile_model(model, "CPU")]


print("openvino", openvino.__version__)
seen = [state()]
held = [opened(), opened()]
seen.append(state())
for _ in range(2):  # first in, first out
    held.pop(0)
    gc.collect()
    seen.append(state())
print("before, with two, with the second, with neither:", seen)
assert seen == ["none", "mapped", "mapped", "not mapped"], "the behaviour has changed"
PY
