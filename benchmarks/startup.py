"""How long a person waits: `alphaflow --help`, and `import alphaflow` beside torch's own import.

python benchmarks/startup.py                 # writes benchmarks/results/startup.json
"""

import json
import statistics
import subprocess
import sys
import time

from machine import RESULTS, machine

EVERYTHING = "import alphaflow as af; [getattr(af, name) for name in af.__all__]"
COMMANDS = {
    "alphaflow --help": [sys.executable, "-m", "alphaflow", "--help"],
    "alphaflow recipes": [sys.executable, "-m", "alphaflow", "recipes"],
    "import torch": [sys.executable, "-c", "import torch"],
    "import alphaflow": [sys.executable, "-c", "import alphaflow"],
    "import torch, alphaflow, every public name": [sys.executable, "-c", "import torch; " + EVERYTHING],
}


def main(rounds: int = 7) -> None:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):  # in turn, so that a slow moment of the machine hits all alike
        for name, words in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run(words, check=True, capture_output=True)
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, value in medians.items():
        print(f"{value:7.3f} s  {name}")
    added = medians["import torch, alphaflow, every public name"] - medians["import torch"]
    print(f"{added:7.3f} s  added to torch's own import by all of alphaflow's public names")
    record = {"machine": machine(), "median_seconds": medians, "added_seconds": added}
    (RESULTS / "startup.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
