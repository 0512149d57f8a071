"""One-step samples a second by what computes the network, against `alphaflow sample` as it is without --runtime.

    python benchmarks/sampling_runtimes.py runs/digits       # writes benchmarks/results/sampling_runtimes.json

Each way draws the same samples once in each round, in turn; what counts is the median over rounds of the ratio to
torch in the same round, and beside it the ratio of the least times. On one thread, unless more are asked for: on a
machine that others share, threads wait for each other, torch's the longest. Of the digits also the Fréchet
distance in each way with its interval, which says whether reduced precision costs anything. Networks of DiT sizes
have random weights, and their error is the relative one of u (root mean square).
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from machine import RESULTS, machine
from torch import nn

import alphaflow as af
from alphaflow import UserError
from alphaflow.evaluation.evaluate import evaluate, settings
from alphaflow.export.network_to_program import example_inputs
from alphaflow.generation.generator import Generator
from alphaflow.runs.data_record import data_of
from alphaflow.runs.folder import RunFolder
from alphaflow.runtimes import PRECISIONS
from alphaflow.runtimes.running import in_runtime


def random_dit(name: str) -> Generator:
    """A DiT on latents of 32 × 32, whose last layers are not zero."""
    torch.manual_seed(0)
    net = af.models.dit(name, input_size=32, channels=4, num_classes=1000).eval().requires_grad_(False)
    for weight in net.parameters():
        if not weight.any():
            nn.init.normal_(weight, std=0.02)
    return Generator(net, (4, 32, 32), 1000, (), "latent", 0, torch.device("cpu"))


def ways(generator: Generator) -> dict[str, Generator]:
    """All that this machine has; the first is how `alphaflow sample` draws without a word."""
    found = {"torch float32": generator}
    for runtime, precisions in PRECISIONS.items():
        for precision in precisions:
            try:
                found.setdefault(f"{runtime} {precision}", in_runtime(generator, runtime, precision))
            except UserError as error:
                print(f"{runtime} {precision}: {error}")
    return found


def measure(generator: Generator, rows: int, rounds: int) -> dict[str, dict[str, float]]:
    """Ratio, samples a second and error of each way."""
    inputs = example_inputs(generator.shape, generator.num_classes, rows)
    found, times = ways(generator), {}
    with torch.no_grad():
        outputs = {name: one.net(*inputs) for name, one in found.items()}  # warms up
        for _ in range(rounds):
            for name, one in found.items():
                start = time.perf_counter()
                one.net(*inputs)
                times.setdefault(name, []).append(time.perf_counter() - start)
    first, *_ = found
    return {
        name: {
            "ratio": statistics.median(a / b for a, b in zip(times[first], times[name])),
            "ratio_of_least": min(times[first]) / min(times[name]),
            "samples_per_second": rows / statistics.median(times[name]),
            "error": ((outputs[name] - outputs[first]).norm() / outputs[first].norm()).item(),
        }
        for name in found
    }


def distances(run: Path, generator: Generator) -> dict[str, Any]:
    """The figures of one step in each way, with their intervals, as `alphaflow evaluate` has them."""
    dataset = data_of(RunFolder(run))
    names = ["frechet", "accuracy"]
    scored = {
        name: evaluate(one, dataset, run=str(run), sweep=settings((1,)), names=names).results[0]
        for name, one in ways(generator).items()
    }
    return {name: {"figures": one.figures, "intervals": one.intervals} for name, one in scored.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run of the digits recipe")
    parser.add_argument("--networks", nargs="*", default=["S/4", "B/4"], help="DiTs beside it")
    parser.add_argument("--rows", type=int, default=16, help="of each evaluation of those; of the digits 64")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "sampling_runtimes.json")
    known = parser.parse_args()
    torch.set_num_threads(known.threads)
    record: dict[str, Any] = {"machine": machine(), "threads": known.threads, "networks": {}}
    digits = af.load(known.run)
    record["distances"] = distances(known.run, digits)
    for name in ["digits", *known.networks]:
        generator, rows = (digits, 64) if name == "digits" else (random_dit(name), known.rows)
        found = measure(generator, rows, known.rounds)
        record["networks"][name] = {"rows": rows, "rounds": known.rounds, "ways": found}
        for way, one in found.items():
            ratios = f"{one['ratio']:6.2f} × (least {one['ratio_of_least']:5.2f} ×)"
            print(
                f"{name:8}{way:20}{ratios}{one['samples_per_second']:9.1f}/s  error {one['error']:.2g}", flush=True
            )
        known.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
