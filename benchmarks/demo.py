"""The demo's bars: training time of the `digits` recipe and its figures, over seeds.

    python benchmarks/demo.py --seeds 3          # writes benchmarks/results/demo.json

Run it on an otherwise idle machine: it times `alphaflow train` as a user would start it, by wall clock.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import RESULTS, machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    known = parser.parse_args()
    rows = []
    for seed in range(known.seeds):
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "digits"
            start = time.perf_counter()
            _alphaflow("train", "digits", "--out", run, "--seed", seed)
            seconds = time.perf_counter() - start
            _alphaflow("evaluate", run, "--nfe", 1, 2, 4)
            record = json.loads((run / "evaluation.json").read_text())
        figures = {result["nfe"]: result["figures"] for result in record["results"]}
        rows.append({"seed": seed, "seconds": seconds, "figures": figures, "halves": record["halves"]})
        print(
            seed,
            f"{seconds:.1f} s",
            *(f"{nfe} NFE: {one}" for nfe, one in figures.items()),
            sep="\n  ",
            flush=True,
        )
    (RESULTS / "demo.json").write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    print("real halves:", rows[0]["halves"])


def _alphaflow(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "alphaflow", *map(str, words)], check=True)


if __name__ == "__main__":
    main()
