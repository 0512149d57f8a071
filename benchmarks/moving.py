"""Videos from two cores: how long `moving-digits` trains, and what comes out, over seeds.

    python benchmarks/moving.py --seeds 1        # writes benchmarks/results/moving.json and moving.gif beside it

Run it on an otherwise idle machine: it times `alphaflow train` as a user would start it, by wall clock; the
processor's time beside it says how idle the machine was.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import RESULTS, machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    known = parser.parse_args()
    rows = []
    for seed in range(known.seeds):
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "moving-digits"
            start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
            steps = ["--steps", known.steps] if known.steps else []
            _alphaflow("train", "moving-digits", "--out", run, "--seed", seed, *steps)
            seconds = time.perf_counter() - start
            worked = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
            _alphaflow("evaluate", run, "--nfe", 1, 2, 4)
            record = json.loads((run / "evaluation.json").read_text())
            if seed == 0:
                _alphaflow("sample", run, "--out", RESULTS / "moving.gif", "--count", 50)
        figures = {result["nfe"]: result["figures"] for result in record["results"]}
        rows.append(
            {
                "seed": seed,
                "seconds": seconds,
                "cpu_seconds": worked,
                "figures": figures,
                "halves": record["halves"],
            }
        )
        lines = [f"{nfe} NFE: {one}" for nfe, one in figures.items()]
        print(seed, f"{seconds:.1f} s, {worked:.1f} s of processor time", *lines, sep="\n  ", flush=True)
    result = {"machine": machine(), "steps": known.steps, "rows": rows}
    (RESULTS / "moving.json").write_text(json.dumps(result, indent=1) + "\n")
    print("real halves:", rows[0]["halves"])


def _alphaflow(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "alphaflow", *map(str, words)], check=True)


if __name__ == "__main__":
    main()
