"""What works with what: every cell is run, and docs/compatibility.md is written from the results.

python benchmarks/compatibility.py              # runs what benchmarks/results/compatibility.jsonl has not yet
python benchmarks/compatibility.py --quick      # the same, of few rows
python benchmarks/compatibility.py --only networks --again Flux    # rows of that name anew
python benchmarks/compatibility.py --page       # runs nothing, writes the page

A row is one line of JSON, run in a process of its own under a time limit, so that what breaks or hangs takes one
row with it. The page is written at the end, with the versions and the date of each group.
"""

import argparse
import json
import multiprocessing
import queue
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from compatible import groups, page
from machine import RESULTS

LIMIT = 150.0
"""Seconds for one row."""
RECORD = RESULTS / "compatibility.jsonl"
PAGE = Path(__file__).parents[1] / "docs" / "compatibility.md"


def child(measure: Callable[[], dict[str, Any]], results: Any) -> None:
    """Put the row, or why there is none."""
    torch.set_num_threads(1)
    try:
        results.put(measure())
    except Exception as error:
        results.put({"failed": f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"})


def run_apart(measure: Callable[[], dict[str, Any]], limit: float, start: str) -> dict[str, Any]:
    """What `measure` returns, from a process of its own; or why it returned nothing. start: how that begins."""
    context: Any = multiprocessing.get_context(start)
    results = context.Queue()
    process = context.Process(target=child, args=(measure, results), daemon=True)
    process.start()
    begun = time.monotonic()
    while True:
        try:
            found = results.get(timeout=0.5)
            break
        except queue.Empty:
            if not process.is_alive():
                found = {"failed": f"the process ended with status {process.exitcode}"}
                break
            if time.monotonic() - begun > limit:
                found = {"failed": f"took more than {limit:g} s"}
                break
    process.kill()
    process.join()
    return found


def read(record: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The last line of each row."""
    lines = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    return {(line["group"], line["name"]): line for line in lines}


def rewrite(record: Path) -> None:
    """Keep one line a row."""
    kept = read(record).values()
    record.write_text("".join(json.dumps(line) + "\n" for line in kept))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="networks of ours and of images, one for runtimes")
    parser.add_argument("--only", choices=groups.GROUPS, help="one group")
    parser.add_argument("--again", help="run anew the rows whose name holds this, and no others")
    parser.add_argument("--page", action="store_true", help="run nothing, write the page")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for a row")
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--out", type=Path, default=PAGE, help="the page")
    words = parser.parse_args()
    done = read(words.record)
    for group, found in groups.GROUPS.items():
        if words.page or words.only not in (None, group):
            continue
        versions = {name: version(name) for name in found.packages}
        for name, measure in found.rows(words.quick).items():
            if (group, name) in done if words.again is None else words.again not in name:
                continue
            start = time.monotonic()
            row = run_apart(measure, words.limit, found.start)
            line = {"group": group, "name": name, "date": f"{datetime.now(UTC):%Y-%m-%d}", "versions": versions}
            line |= {"seconds": round(time.monotonic() - start, 1), **row}
            with words.record.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(f"{group}: {name}: {line.get('failed', 'done')}, {line['seconds']} s", flush=True)
    rewrite(words.record)
    words.out.write_text(page.write(list(read(words.record).values())))


if __name__ == "__main__":
    sys.exit(main())
