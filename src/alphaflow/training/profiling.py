"""Where the time of a step goes: a trace of a few steps, and a table of it. `alphaflow train … --profile N`."""

import gzip
import json
import logging
import os
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from ..files import write_whole
from ..observers.base import Observer, RunView

log = logging.getLogger("alphaflow")

PHASES = ("forward", "backward", "optimizer", "other")
"""The objective with its targets and tangents; its gradient; the optimizer's step; averages, clipping, data."""
TOP = 12
"""Operations in the table."""


class Profiler(Observer):
    """Records `steps` steps of a run with torch's profiler, then says where their time went, once.

    It writes `profile/trace.json.gz`, which Perfetto (ui.perfetto.dev) and chrome://tracing open, and
    `profile/table.txt`, and prints the table. It slows down the steps that it records, and only them.

    Args:
        loss: the objective as a module: what passes through it is the forward phase.
        after: the number of steps to let pass, at least 1.
        steps: the number of steps to record, at least 1.
    """

    name = "profile"

    def __init__(self, loss: nn.Module, after: int, steps: int) -> None:
        self.every = 1
        self._after, self._steps, self._seen = after, steps, 0
        self._loss = loss
        self._hooks: list[RemovableHandle] = []
        self._range: Any = None
        self._profiler: Any = None

    def observe(self, run: RunView) -> Mapping[str, float]:
        """Start or end recording, if it is time to; nothing is logged."""
        self._seen += 1
        if self._seen == self._after:
            self._begin()
        elif self._seen == self._after + self._steps:
            self._end()
            run.notes.attempt("the profile", lambda: self._write(run.folder.path / "profile"))
            self.every = run.config.steps  # its work is done
        return {}

    def _begin(self) -> None:
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # or torch reports the profiler's own start and stop
        self._hooks = [
            self._loss.register_forward_pre_hook(self._enter),
            self._loss.register_forward_hook(self._leave),
        ]
        self._profiler = torch.profiler.profile()
        self._profiler.start()

    def _enter(self, *_: object) -> None:
        self._range = torch.profiler.record_function("forward")
        self._range.__enter__()

    def _leave(self, *_: object) -> None:
        self._range.__exit__(None, None, None)

    def _end(self) -> None:
        self._profiler.stop()
        for hook in self._hooks:
            hook.remove()

    def _write(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            raw = Path(scratch) / "trace.json"
            self._profiler.export_chrome_trace(str(raw))
            content = raw.read_bytes()
        text = table(json.loads(content)["traceEvents"], self._steps)
        write_whole(folder / "trace.json.gz", gzip.compress(content))
        write_whole(folder / "table.txt", f"{text}\n".encode())
        log.info("%s\n%s: for ui.perfetto.dev or chrome://tracing", text, folder / "trace.json.gz")


def table(events: list[dict[str, Any]], steps: int) -> str:
    """Return where the time of recorded steps went, as text for people.

    Phases are those of the host; where a GPU computes, its kernels are listed too, by their own time.

    Args:
        events: "traceEvents" of the profiler's chrome trace: names, categories, ts and dur in microseconds.
        steps: the number of steps that they cover.
    """
    timed = [event for event in events if event.get("ph") == "X" and event.get("cat") in _HOST]
    phases, operations, counts = _host_times(timed)
    whole = max(e["ts"] + e["dur"] for e in timed) - min(e["ts"] for e in timed)
    phases["other"] = whole - sum(phases[phase] for phase in PHASES[:-1])
    kernels: defaultdict[str, float] = defaultdict(float)
    for event in events:
        if event.get("cat") == "kernel":
            kernels[event["name"]] += event["dur"]
    lines = [f"a step: {whole / steps / 1e3:.3g} ms, mean of {steps}, slowed down by the recording"]
    lines += [f"  {phase:10} {_share(phases[phase], whole, steps)}" for phase in PHASES]
    lines.append("operations by their own time:")
    for (phase, name), spent in sorted(operations.items(), key=lambda item: -item[1])[:TOP]:
        times = counts[phase, name] / steps
        lines.append(f"  {phase:10} {_share(spent, whole, steps)}  {times:6.5g} ×  {name}")
    if kernels:
        lines.append("kernels on the GPU:")
        ranked = sorted(kernels.items(), key=lambda item: -item[1])[:TOP]
        lines += [f"  {_share(spent, whole, steps)}  {name[:100]}" for name, spent in ranked]
    return "\n".join(lines)


_HOST = ("cpu_op", "user_annotation")


def _host_times(
    events: list[dict[str, Any]],
) -> tuple[defaultdict[str, float], defaultdict[tuple[str, str], float], defaultdict[tuple[str, str], int]]:
    """Return the time of each phase, and of each operation in it its own time and count, in microseconds."""
    phases: defaultdict[str, float] = defaultdict(float)
    operations: defaultdict[tuple[str, str], float] = defaultdict(float)
    counts: defaultdict[tuple[str, str], int] = defaultdict(int)
    open_calls: dict[Any, list[tuple[float, str, str]]] = defaultdict(list)  # by thread: end, phase, name
    for event in sorted(events, key=lambda e: (e["ts"], -e["dur"])):
        stack, name, start, spent = open_calls[event["tid"]], event["name"], event["ts"], event["dur"]
        while stack and stack[-1][0] <= start:
            stack.pop()
        around = stack[-1][1] if stack else "other"
        phase = _phase(name) if around == "other" else around
        if phase != around:
            phases[phase] += spent
        if stack:
            operations[stack[-1][1:]] -= spent
        operations[phase, name] += spent
        counts[phase, name] += 1
        stack.append((start + spent, phase, name))
    return phases, operations, counts


def _phase(name: str) -> str:
    if name == "forward":
        return "forward"
    if name.startswith("autograd::engine::evaluate_function"):
        return "backward"
    return "optimizer" if name.startswith("Optimizer.step") else "other"


def _share(spent: float, whole: float, steps: int) -> str:
    return f"{100 * spent / whole:5.1f} %  {spent / steps / 1e3:8.3g} ms"
