"""What is to be known of a GPU, in one call: parity first, then speed. Meant for a card lent for minutes.

    python benchmarks/gpu.py                       # DiT-B/2 and XL/2 in bfloat16 on CUDA
    python benchmarks/gpu.py --device cpu --tiny   # the same path, small and mostly uncompiled, for the tests

Parity: du/dt of the fused way against the other three and against float64, eager and compiled. Waiting: which
calls of a training step make the host wait for the card (one is meant to: how the step before went). Speed: the
largest power-of-two batch that a compiled MeanFlow step fits, and at it `alphaflow bench --compile` with the fused
way and the plain one (double VJP, eager). A part that fails is written down as failed, and the others go on.
"""

import argparse
import json
import tempfile
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from machine import RESULTS, machine

from alphaflow import models
from alphaflow.cli.train import parse_settings
from alphaflow.costs.bench import BenchSettings, bench, enliven, table
from alphaflow.derivatives.total import total_derivative
from alphaflow.method import family
from alphaflow.method.compiled import Compiled
from alphaflow.runs.folder import RunFolder
from alphaflow.training.trainer import Trainer


@dataclass(frozen=True)
class Plan:
    """What to run: networks, the batch to begin from and the one to stop at, the size of the input."""

    models: tuple[str, ...] = ("B/2", "XL/2")
    first: int = 32
    last: int = 4096
    size: int = 32
    rounds: int = 5
    precision: str = "bfloat16"
    depth: int = 4
    alphas: tuple[float, ...] = (1.0, 0.5, 0.0)
    compile: bool = True


WATCHED = 4
"""Steps in which waiting is counted."""

TINY = Plan(
    models=("S/8",),
    first=1,
    last=2,
    size=16,
    rounds=1,
    precision="float32",
    depth=1,
    alphas=(0.5,),
    compile=False,
)
"""In float32: processors without products in bfloat16 take seven minutes for it instead of half a one."""


def parity(device: torch.device, size: int, depth: int) -> dict[str, float]:
    """Relative errors of du/dt against float64 by forward mode, by way and precision, on a DiT."""
    torch.manual_seed(0)
    net = models.DiT(size, 2, 4, 192, depth, 3, 10)
    enliven(net)
    z, v = torch.randn(2, 8, 4, size, size, dtype=torch.float64)
    (r, t), y = torch.rand(2, 8, dtype=torch.float64).sort(dim=0).values, torch.arange(8)
    exact = total_derivative(net.double(), z, v, r, t, y, method="forward")[1]
    net, points = net.float().to(device), [part.float().to(device) for part in (z, v, r, t)]
    errors = {}
    for half in (False, True):
        for way in ("fused", "forward", "reverse", "difference"):
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                slope = total_derivative(net, *points, y.to(device), method=way)[1]  # type: ignore[arg-type]
            error = (slope.double().cpu() - exact).norm() / exact.norm()
            errors[f"{way} {'bfloat16' if half else 'float32'}"] = error.item()
    return errors


def compiled_parity(device: torch.device, plan: Plan) -> dict[str, float]:
    """Relative error of the residuals of a compiled step against an eager one, by α."""
    size = plan.size
    net = models.DiT(size, 2, 4, 192, plan.depth, 3, 10)
    enliven(net)
    net.to(device)
    x, y = torch.randn(8, 4, size, size, device=device), torch.arange(8, device=device)
    errors = {}
    for alpha in plan.alphas:
        objective = family.AlphaFlow(alpha=alpha, derivative="fused")
        ours, eager = (
            run(net, x, y, generator=torch.Generator().manual_seed(0)).residual
            for run in (Compiled(objective), objective)
        )
        errors[f"alpha {alpha:g}"] = ((ours - eager).norm() / eager.norm()).item()
    return errors


def largest_batch(name: str, plan: Plan, device: torch.device) -> int:
    """The largest power-of-two batch, up to `plan.last`, that a MeanFlow step with all rows r < t fits."""
    net = models.dit(name, input_size=plan.size, channels=4, num_classes=1000).to(device)
    meanflow = family.MeanFlow(flow_ratio=0.0)
    objective, fits, batch = Compiled(meanflow) if plan.compile else meanflow, 0, plan.first
    while batch <= plan.last:
        x, y = torch.randn(batch, 4, plan.size, plan.size, device=device), torch.zeros(batch, dtype=torch.int64)
        try:
            with torch.autocast(device.type, torch.bfloat16, enabled=plan.precision == "bfloat16"):
                objective(net, x, y.to(device)).loss.backward()
        except torch.OutOfMemoryError:
            break
        net.zero_grad(set_to_none=True)
        fits, batch = batch, 2 * batch
    return fits


def waiting(device: torch.device) -> dict[str, Any]:
    """How often a step of the digits recipe, with guidance, makes the host wait for the card, and where."""
    words = f"--device {device} --objective.omega 2 --log-every 1000 --ema.profiles 0.05".split()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer.start(parse_settings("digits", words), RunFolder(Path(folder) / "run"))
        for _ in range(3):
            trainer.train_step()
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("warn")
            for _ in range(WATCHED):
                trainer.train_step()
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    waits = [one for one in found if "synchronizing" in str(one.message)]
    places = sorted({f"{Path(one.filename).name}:{one.lineno}" for one in waits})
    return {"waits a step": len(waits) / WATCHED, "where": places}


def speed(name: str, plan: Plan, device: torch.device) -> dict[str, Any]:
    """`alphaflow bench --compile` at the largest batch."""
    batch = largest_batch(name, plan, device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    settings = BenchSettings(
        model=name,
        size=plan.size,
        batch=batch,
        precision=plan.precision,
        device=str(device),
        rounds=plan.rounds,
        shares=(100,),
        ways=("fused", "reverse"),
        compile=plan.compile,
    )
    record = bench(settings)
    print(table(record), flush=True)
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small networks, one round")
    parser.add_argument("--out", help="where the JSON goes (benchmarks/results/gpu-<card>-<date>.json)")
    known = parser.parse_args()
    plan, device = TINY if known.tiny else Plan(), torch.device(known.device)
    parts: dict[str, Callable[[], Any]] = {
        "du/dt": lambda: parity(device, plan.size, plan.depth),
        "compiled": lambda: compiled_parity(device, plan),
        "waiting": lambda: waiting(device),
        **{name: lambda name=name: speed(name, plan, device) for name in plan.models},  # type: ignore[misc]
    }
    about = machine()
    card = str(about["gpu"] or about["processor"]).replace(" ", "-").replace("(", "").replace(")", "")
    out = known.out or RESULTS / f"gpu-{card}-{about['date']}.json"
    record: dict[str, Any] = {"machine": about, "plan": vars(plan)}
    for name, part in parts.items():
        try:
            record[name] = part()
            print(name, "done", *([record[name]] if name not in plan.models else []), flush=True)
        except Exception as error:  # whatever it is, the other parts may still run on this card
            traceback.print_exc()
            record[name] = {"failed": f"{type(error).__name__}: {error}"}
        Path(out).write_text(json.dumps(record, indent=1) + "\n")  # each time: the card may be taken away


if __name__ == "__main__":
    main()
