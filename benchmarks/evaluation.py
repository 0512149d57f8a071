"""The bars of the evaluation: how long a distance takes, what scoring costs beside the networks, memory against N.

    alphaflow train digits --out runs/digits
    python benchmarks/evaluation.py runs/digits           # writes benchmarks/results/evaluation.json

Run it on an otherwise idle machine.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from machine import RESULTS, machine
from torch import Tensor, nn

from alphaflow import load, metrics, models
from alphaflow.data import Digits
from alphaflow.evaluation.evaluate import evaluate, settings
from alphaflow.generation.generator import draw_chunks
from alphaflow.generation.sampler import Sampler
from alphaflow.pixels import to_uint8
from alphaflow.training.throughput import forward_flops

MEMORY = "--memory-of"
T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the folder of a run on the digits")
    parser.add_argument(
        "--dimensions", type=int, default=2048, help="of the features in `distance` and `overhead`"
    )
    parser.add_argument("--samples", type=int, default=128, help="drawn and scored in `overhead`")
    parser.add_argument("--count", type=int, default=2000, help="samples of the digits in each setting")
    parser.add_argument("--ladder", type=int, nargs="+", default=[2000, 8000, 32_000], help="numbers in `memory`")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, default=RESULTS / "evaluation.json")
    parser.add_argument("--tiny", action="store_true", help="tiny networks in `overhead`, to try the script")
    parser.add_argument(MEMORY, type=int, help=argparse.SUPPRESS)
    known = parser.parse_args()
    if known.memory_of:
        print(peak_of(known.run, known.memory_of))
        return
    record: dict[str, object] = {"machine": machine(), "threads": torch.get_num_threads()}
    for name in known.only:
        record[name] = PARTS[name](known)
        print(name, json.dumps(record[name], indent=1), flush=True)
    known.out.write_text(json.dumps(record, indent=1) + "\n")


def distance(known: argparse.Namespace) -> dict[str, object]:
    """Seconds of one Fréchet distance: of full rank (more samples than dimensions) and rank-deficient."""
    D = known.dimensions
    found: dict[str, object] = {"dimensions": D}
    for name, count in {"full rank": 2 * D, "rank-deficient": D // 2}.items():
        a, b = (metrics.statistics_of(features(count, D, seed)) for seed in (0, 1))
        value, seconds = timed(lambda a=a, b=b: metrics.frechet_distance(a.mean, a.cov, b.mean, b.cov))
        found[name] = {"samples": count, "distance": value, "seconds": seconds}
    return found


def overhead(known: argparse.Namespace) -> dict[str, object]:
    """What scoring adds to the forward passes of a generator and a detector as large as the field's.

    The generator is a DiT-B/4 on 32 × 32 pixels; the detector a stack of convolutions with about as many
    operations as Inception (5.4 · 10⁹ multiplications a picture) and as many features. `streaming` grows with the
    samples: rounding, float64 sums. `figure` comes once, however many there are: the distance with its interval,
    nine distances in all.
    """
    net = models.dit("S/8" if known.tiny else "B/4", input_size=32, channels=3, num_classes=10).eval()
    detector = stand_in(known.dimensions, width=16 if known.tiny else 256)
    count = known.samples
    y = torch.arange(count) % 10
    real = metrics.statistics_of(features(2 * known.dimensions, known.dimensions, 0))
    seconds = dict.fromkeys(("generator", "detector", "streaming"), 0.0)
    accumulator = metrics.Accumulator()
    start = time.perf_counter()
    for chunk in draw_chunks(net, (3, 32, 32), y, Sampler(), count=count):
        seconds["generator"] += time.perf_counter() - start
        images, rounding = timed(lambda chunk=chunk: to_uint8(chunk))
        seen, seconds_seen = timed(lambda images=images: detector(images))
        _, summing = timed(lambda seen=seen: accumulator.update(seen.features))
        seconds["detector"] += seconds_seen
        seconds["streaming"] += rounding + summing
        start = time.perf_counter()
    many = metrics.Accumulator()
    many.update(features(2 * known.dimensions, known.dimensions, 1))  # of full rank, as 50,000 samples are
    _, figure = timed(lambda: metrics.frechet_estimate(real, many.groups()))
    forwards = seconds["generator"] + seconds["detector"]
    share = seconds["streaming"] / forwards
    return {
        "samples": count,
        "generator_gflop": forward_flops(net, (3, 32, 32), 10) / 1e9,
        "seconds": seconds | {"figure": figure},
        "streaming_share": share,
        "share_at_50000": share + figure / (forwards / count * 50_000),
    }


def digits(known: argparse.Namespace) -> dict[str, object]:
    """The whole evaluation of the digits at 1, 2 and 4 evaluations with both samplers, and its parts."""
    generator, data, detector = load(known.run), Digits(), metrics.load_digits_detector()
    sweep = settings((1, 2, 4), ("ode", "consistency"))
    found, whole = timed(lambda: evaluate(generator, data, run=str(known.run), sweep=sweep, count=known.count))
    y = torch.arange(known.count) % 10

    def drawn() -> list[Tensor]:
        return [generator.samples(y, one.nfe, 0, one.method, one.times) for one in sweep]

    samples, drawing = timed(drawn)
    _, seeing = timed(lambda: [detector(to_uint8(some)) for some in samples])
    parts = {"whole": whole, "generator": drawing, "detector": seeing, "rest": whole - drawing - seeing}
    return {"samples": known.count, "settings": len(found.results), "seconds": parts}


def memory(known: argparse.Namespace) -> dict[str, object]:
    """Most memory that a process held while it scored so many digits, each number in one of its own; on Linux."""
    found = {}
    for count in known.ladder:
        words = [sys.executable, __file__, str(known.run), MEMORY, str(count)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        found[str(count)] = float(done.stdout.split()[-1])
    return {"peak_mb": found}


def peak_of(run: Path, count: int) -> float:
    """MB, with the figures that see all samples and those of pairs, which look at the first 10,000."""
    names = ["frechet", "accuracy", "inception", "manifold"]
    evaluate(load(run), Digits(), run=str(run), sweep=settings((1,)), names=names, count=count)
    # not getrusage: what the process that started this one held counts there
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM"))


def features(count: int, dimensions: int, seed: int) -> Tensor:
    """(count, dimensions) float64 with the decaying spectrum that networks' features have."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.arange(1, dimensions + 1, dtype=torch.float64).rsqrt()
    return torch.randn(count, dimensions, generator=generator, dtype=torch.float64) * scale


def stand_in(dimensions: int, width: int) -> metrics.Detector:
    """Random weights; at a width of 256, 5.4 · 10⁹ multiplications a picture of 32 × 32 pixels."""

    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers = 9  # 32² places × 9 taps × width² × 9 layers
            body = [layer for _ in range(layers) for layer in (nn.Conv2d(width, width, 3, padding=1), nn.ReLU())]
            self.body = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1), *body)
            self.head = nn.Linear(width, dimensions)

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            found = self.head(self.body(images).mean((2, 3)))
            return found, found[:, :0]

    torch.manual_seed(0)
    network = Stack().eval().requires_grad_(False)
    return metrics.Detector(name="stand-in", sha256="0", image_shape=(None, None, 3), network=network, at_once=64)


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What it gives, and its seconds."""
    start = time.perf_counter()
    found = work()
    return found, time.perf_counter() - start


PARTS = {"distance": distance, "overhead": overhead, "digits": digits, "memory": memory}

if __name__ == "__main__":
    main()
