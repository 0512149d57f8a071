"""The cost of a training step: every way of the family beside flow matching, interleaved, in one run.

Machines drift; so every round runs each variant once, in turn, and what is reported is the median over rounds of
the ratio to flow matching in the same round. Rates stand beside that of plain matrix products in the same rounds.
"""

import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import __version__, models
from ..data import Batches, Digits
from ..derivatives.total import Method
from ..devices import prepare
from ..method import family
from ..method.compiled import Compiled
from ..method.objective import AlphaFlow
from ..method.sampling import sample
from ..progress import ProgressBar

WAYS: tuple[Method, ...] = ("fused", "forward", "reverse", "difference")


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """The settings of a measurement: a DiT preset on square inputs."""

    model: str = "B/2"
    size: int = 32
    channels: int = 4
    num_classes: int = 1000
    batch: int = 8
    precision: str = "float32"
    device: str = "cpu"
    rounds: int = 7
    shares: tuple[int, ...] = (25, 50, 100)
    ways: tuple[Method, ...] = WAYS
    compile: bool = False


def variants(settings: BenchSettings) -> dict[str, AlphaFlow | Compiled]:
    """Return the steps to time, by name; a share is the percentage of rows with r < t."""
    objectives: dict[str, AlphaFlow | Compiled] = {"flow matching": family.FlowMatching()}
    for share in settings.shares:
        ratio = 1 - share / 100
        objectives[f"alpha {share}%"] = AlphaFlow(alpha=0.5, flow_ratio=ratio)
        for way in settings.ways:
            objectives[f"meanflow {share}% {way}"] = family.MeanFlow(flow_ratio=ratio, derivative=way)
    if settings.compile:  # beside the eager ones; double VJP cannot be, and two of the others gain nobody anything
        for name, objective in list(objectives.items()):
            if not name.endswith(("forward", "reverse", "difference")):
                objectives[f"{name} compiled"] = Compiled(objective)  # type: ignore[arg-type]
    return objectives


def bench(settings: BenchSettings) -> dict[str, Any]:
    """Measure everything; a record for JSON, which `table` turns into words."""
    device = torch.device(settings.device)
    prepare(device)  # as in training
    net = models.dit(
        settings.model, input_size=settings.size, channels=settings.channels, num_classes=settings.num_classes
    ).to(device)
    enliven(net)
    x = torch.randn(settings.batch, settings.channels, settings.size, settings.size, device=device)
    y = torch.arange(settings.batch, device=device) % settings.num_classes
    half = settings.precision == "bfloat16"

    def step(objective: AlphaFlow | Compiled) -> Callable[[], object]:
        def run() -> None:
            net.zero_grad(set_to_none=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                loss = objective(net, x, y).loss
            loss.backward()

        return run

    steps, failed = {}, []
    for name, objective in variants(settings).items():
        try:
            step(objective)()  # warms up, and compiles
            steps[name] = step(objective)
        except torch.OutOfMemoryError:
            failed.append(name)
    gemm, gemm_flops = _gemm(net, settings, device)
    times = _interleaved({**steps, "gemm": gemm, **_sampling(net, x, y, half)}, settings.rounds, device)
    rate = gemm_flops / statistics.median(times["gemm"])
    flops = 3 * 2 * models.forward_macs(net) * settings.batch
    base = times["flow matching"]
    peaks = {name: _peak(run, net, device) for name, run in steps.items()}
    rows = []
    for name in steps:
        ratio = statistics.median(a / b for a, b in zip(times[name], base))
        seconds, peak = statistics.median(times[name]), peaks[name] / peaks["flow matching"]
        row = {"name": name, "seconds": seconds, "ratio": ratio, "peak_ratio": peak}
        if name.startswith("flow matching"):
            row["share_of_gemm"] = statistics.median(
                flops / t / (gemm_flops / g) for t, g in zip(times[name], times["gemm"])
            )
        rows.append(row)
    forward = statistics.median(times["forward"])
    return {
        "machine": machine(),
        "settings": vars(settings),
        "threads": torch.get_num_threads(),
        "steps": rows,
        "out_of_memory": failed,
        "peak_bytes_flow_matching": peaks["flow matching"],
        "gemm_flops_per_second": rate,
        "flow_matching_flops_per_second": flops / statistics.median(base),
        "forward_images_per_second": settings.batch / forward,
        "sampling_images_per_second": {
            nfe: settings.batch / statistics.median(times[f"sample {nfe}"]) for nfe in (1, 2)
        },
        "loader_rows_per_second": _loader_rate(),
    }


def table(record: dict[str, Any]) -> str:
    """Return the record as text for people."""
    lines = [f"{'step':30} {'seconds':>9} {'ratio':>6} {'memory':>7}"]
    for row in record["steps"]:
        lines.append(f"{row['name']:30} {row['seconds']:9.4f} {row['ratio']:6.2f} {row['peak_ratio']:7.2f}")
    sampling = record["sampling_images_per_second"]
    lines += [
        *(
            f"{row['name']}: {100 * row['share_of_gemm']:.0f} % of the rate of plain matrix products "
            f"({record['gemm_flops_per_second'] / 1e9:.0f} GFLOP/s) in the same rounds"
            for row in record["steps"]
            if "share_of_gemm" in row
        ),
        *(f"{name}: out of memory" for name in record["out_of_memory"]),
        f"sampling: {sampling[1]:.1f} images/s at 1 NFE, {sampling[2]:.1f} at 2; forward only: "
        f"{record['forward_images_per_second']:.1f}",
        f"loader (digits): {record['loader_rows_per_second']:.0f} rows/s",
    ]
    return "\n".join(lines)


def machine() -> dict[str, object]:
    """Return processor, cores, versions and date, as a file of results records them."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "alphaflow": __version__,
        "date": date.today().isoformat(),
    }


def enliven(net: nn.Module) -> None:
    """Move zero-initialised weights off zero: zeros can be quicker to multiply than numbers."""
    for weight in net.parameters():
        weight.data.add_(0.02 * torch.randn_like(weight))


def _gemm(net: models.DiT, settings: BenchSettings, device: torch.device) -> tuple[Callable[[], object], float]:
    """Return products of one MLP layer of the network at this batch, as the rate to compare with, and their FLOPs.

    They are repeated until they take a tenth of a second, whatever the machine's rate.
    """
    tokens, width = settings.batch * net.grid[0] * net.grid[1], net.config["width"]
    kind = torch.bfloat16 if settings.precision == "bfloat16" else torch.float32
    a = torch.randn(tokens, width, device=device, dtype=kind)
    b = torch.randn(width, 4 * width, device=device, dtype=kind)

    def products(repeats: int) -> None:
        for _ in range(repeats):
            torch.mm(a, b)

    products(1)  # warms up
    repeats, seconds = 1, 0.0
    while seconds < 0.1:
        repeats *= 2
        _wait(device)
        start = time.perf_counter()
        products(repeats)
        _wait(device)
        seconds = time.perf_counter() - start
    return partial(products, repeats), repeats * 2.0 * tokens * width * 4 * width


def _sampling(net: nn.Module, x: Tensor, y: Tensor, half: bool) -> dict[str, Callable[[], object]]:
    noise, zero, one = torch.randn_like(x), x.new_zeros(len(x)), x.new_ones(len(x))

    def forward() -> None:
        with torch.no_grad(), torch.autocast(x.device.type, torch.bfloat16, enabled=half):
            net(noise, zero, one, y)

    def draw(times: tuple[float, ...]) -> Callable[[], object]:
        def run() -> None:
            with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
                sample(net, noise, y, times=times)

        return run

    return {"forward": forward, "sample 1": draw((1.0, 0.0)), "sample 2": draw((1.0, 0.5, 0.0))}


def _interleaved(
    runs: dict[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    with ProgressBar("timing", 0, (rounds + 1) * len(runs), unit="runs") as bar:
        for k in range(rounds + 1):  # the first round warms up
            for j, (name, run) in enumerate(runs.items()):
                _wait(device)
                start = time.perf_counter()
                run()
                _wait(device)
                if k:
                    times[name].append(time.perf_counter() - start)
                bar.update(k * len(runs) + j + 1)
    return times


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak(run: Callable[[], object], net: nn.Module, device: torch.device) -> int:
    """Return the most bytes that one step holds beyond the weights: activations, gradients, temporaries."""
    net.zero_grad(set_to_none=True)
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # or the profiler reports its own start and stop
    with torch.profiler.profile(profile_memory=True) as profile:
        run()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    events = sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"])
    level = peak = 0
    for event in events:
        level += event["args"]["Bytes"]
        peak = max(peak, level)
    return peak


def _loader_rate() -> float:
    batches, size = Batches(Digits(), 1024, 0), 1024
    start = time.perf_counter()
    for k in range(50):
        batches(k)
    return 50 * size / (time.perf_counter() - start)
