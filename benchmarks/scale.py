"""How a MeanFlow step grows: its seconds and its memory against tokens, weights and rows.

    python benchmarks/scale.py                       # writes benchmarks/results/scale.json, prints the table

Each cell is a process of its own, for the most memory that a process has held cannot be taken back: what is told
is that of a step above what network, optimizer and libraries hold before it. Run it on an otherwise idle machine.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from pathlib import Path

from machine import RESULTS, machine

CELLS = {
    "tokens": [{"tokens": tokens} for tokens in (64, 256, 1024, 4096)],
    "weights": [{"width": width, "depth": depth} for width, depth in ((192, 6), (384, 6), (384, 12), (768, 12))],
    "rows": [{"rows": rows} for rows in (1, 2, 4, 8)],
}
"""What is varied, the rest being as in `USUAL`."""
USUAL = {"tokens": 256, "width": 384, "depth": 6, "rows": 2}
TINY = {
    "tokens": [{"tokens": tokens} for tokens in (16, 64, 256)],
    "weights": [{"width": 64}],
    "rows": [{"rows": 4}],
}
TINY_USUAL = {"tokens": 16, "width": 32, "depth": 2, "rows": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="steps that are timed; the quickest counts")
    parser.add_argument("--tiny", action="store_true", help="cells of a second, to try it")
    parser.add_argument("--threads", type=int, help="CPU threads (torch's own number)")
    parser.add_argument("--out", type=Path, default=RESULTS / "scale.json")
    parser.add_argument("--cell", help=argparse.SUPPRESS)  # what a process of its own is told
    known = parser.parse_args()
    if known.cell:
        print(json.dumps(cell(**json.loads(known.cell))))
        return
    cells, usual = (TINY, TINY_USUAL) if known.tiny else (CELLS, USUAL)
    rows = []
    print("| tokens | weights | rows | a step | memory of it | for a row and token |\n|" + "---|" * 6)
    for varied, settings in cells.items():
        for one in settings:
            told = {**usual, **one, "rounds": known.rounds, "threads": known.threads}
            words = [sys.executable, __file__, "--cell", json.dumps(told)]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{told}: {done.stderr[-2000:]}")
            rows.append({"varied": varied, **json.loads(done.stdout.splitlines()[-1])})
            print(line(rows[-1]), flush=True)
    record = {"machine": machine(), "rows": rows, "exponents": exponents(rows)}
    known.out.write_text(json.dumps(record, indent=1) + "\n")
    print(*(f"{name}: {value:.2f}" for name, value in record["exponents"].items()), sep="\n")


def cell(tokens: int, width: int, depth: int, rows: int, rounds: int, threads: int | None) -> dict:
    """Take steps of one size; return its seconds, its memory in bytes and the weights."""
    import torch

    import alphaflow as af
    from alphaflow.devices import prepare

    if threads:
        torch.set_num_threads(threads)
    prepare(torch.device("cpu"))
    side = math.isqrt(tokens)
    if side**2 != tokens:
        raise SystemExit(f"{tokens} tokens are no square: give 64, 256, 1024, …")
    torch.manual_seed(0)
    net = af.models.DiT(
        input_size=2 * side, patch=2, channels=4, width=width, depth=depth, heads=width // 32, num_classes=10
    )
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True)
    objective = af.MeanFlow(derivative="fused")
    x, y = torch.randn(rows, 4, 2 * side, 2 * side), torch.arange(rows) % 10

    def step() -> float:
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        objective(net, x, y, generator=torch.Generator().manual_seed(0)).loss.backward()
        optimizer.step()
        return time.perf_counter() - start

    for parameter in net.parameters():  # so that gradients and moments are held before, and not counted
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    before = _held("VmRSS")
    seconds = min(step() for _ in range(rounds + 1))
    return {
        "tokens": tokens,
        "width": width,
        "depth": depth,
        "rows": rows,
        "weights": sum(parameter.numel() for parameter in net.parameters()),
        "seconds": seconds,
        "bytes": _held("VmHWM") - before,
        "held": before,
        "threads": torch.get_num_threads(),
    }


def _held(name: str) -> int:
    """Return bytes of this process by their name in Linux' table: VmRSS now, VmHWM at the most since it began.

    `getrusage` would tell the most of the parent as well, from before this program replaced its copy.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return next(1024 * int(one.split()[1]) for one in lines if one.startswith(f"{name}:"))


def exponents(rows: list[dict]) -> dict[str, float]:
    """Return by which power seconds and bytes grow between the last two cells of each that is varied."""
    found = {}
    for varied in ("tokens", "weights", "rows"):
        cells = [row for row in rows if row["varied"] == varied][-2:]
        if len(cells) == 2:
            ratio = math.log(cells[1][varied] / cells[0][varied])
            for what in ("seconds", "bytes"):
                found[f"{what} by {varied}"] = math.log(cells[1][what] / cells[0][what]) / ratio
    return found


def line(row: dict) -> str:
    return (
        f"| {row['tokens']:,} | {row['weights'] / 1e6:.1f} M | {row['rows']} | {row['seconds']:.3g} s | "
        f"{row['bytes'] / 2**20:,.0f} MiB | {row['bytes'] / 2**10 / row['rows'] / row['tokens']:,.0f} KiB |"
    )


if __name__ == "__main__":
    main()
