"""How long a folder of a million files takes to open: the first time, and from the kept listing.

python benchmarks/listing.py                 # writes benchmarks/results/listing.json; makes the files, and
removes them
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import RESULTS, machine

OPEN = """
import sys, time
start = time.perf_counter()
from alphaflow.data.sources import open_source
loaded = time.perf_counter()
source = open_source(sys.argv[1])
print(len(source), loaded - start, time.perf_counter() - loaded)
"""


def opened(folder: Path, count: int) -> dict[str, float]:
    """Seconds that a fresh process takes to load the package, and to open the folder."""
    run = subprocess.run([sys.executable, "-c", OPEN, str(folder)], check=True, capture_output=True, text=True)
    found, loading, opening = run.stdout.split()
    assert int(found) == count, (found, count)
    return {"import": float(loading), "open": float(opening)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--files", type=int, default=1000, help="for each class")
    words = parser.parse_args()
    count = words.classes * words.files
    with tempfile.TemporaryDirectory() as place:
        os.environ["ALPHAFLOW_CACHE"] = f"{place}/cache"
        root = Path(place) / "set"
        for k in range(words.classes):
            folder = root / f"n{k:08}"
            folder.mkdir(parents=True)
            for i in range(words.files):
                os.close(os.open(f"{folder}/n{k:08}_{i:05}.JPEG", os.O_CREAT | os.O_WRONLY))
        time.sleep(3)  # or the folders would count as having just changed
        record: dict[str, object] = {"machine": machine(), "files": count, "folders": words.classes}
        record["first time, seconds"] = opened(root, count)
        record["second time, seconds"] = opened(root, count)
        (root / "n00000007" / "new.png").touch()
        record["one folder changed, seconds"] = opened(root, count + 1)
        kept = sum(file.stat().st_size for file in Path(place, "cache").rglob("*.npz"))
        record["kept listing, MB"] = kept / 1e6
    for name, value in record.items():
        print(f"{name:28} {value}")
    (RESULTS / "listing.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
