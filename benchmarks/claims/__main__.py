"""The paper's claims at a scale that anybody can run: trains what `settings.py` lists, and writes the page.

python benchmarks/claims run --seeds 5 --workers 2      # resumable; a line a run in results/claims.jsonl
python benchmarks/claims page                           # docs/claims.md from what there is
"""

import argparse
import itertools
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).parents[1]))

import sets
from machine import RESULTS
from page import FIRST, write
from settings import SETTINGS

from training import run

RUNS = RESULTS / "claims.jsonl"


def records() -> list[dict[str, Any]]:
    """What has been run so far."""
    return [json.loads(line) for line in RUNS.read_text().splitlines()] if RUNS.exists() else []


def one(job: tuple[str, str, int]) -> dict[str, Any]:
    """The line of one run; a setting that diverges is a result too."""
    name, setting, seed = job
    line: dict[str, Any] = {"set": name, "setting": setting, "seed": seed}
    return line | run(sets.load(name), SETTINGS[setting], seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["run", "page"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sets", nargs="+", choices=FIRST, default=list(FIRST), metavar="NAME")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="NAME")
    known = parser.parse_args()
    if known.what == "page":
        write(records())
        return
    done = {(line["set"], line["setting"], line["seed"]) for line in records()}
    wanted = itertools.product(range(known.seeds), known.settings, known.sets)
    jobs = [
        (name, setting, seed)
        for seed, setting, name in wanted
        if name in (SETTINGS[setting].only or sets.NAMES) and (name, setting, seed) not in done
    ]
    with (
        ProcessPoolExecutor(known.workers, initializer=torch.set_num_threads, initargs=(1,)) as pool,
        RUNS.open("a") as file,
    ):
        for number, future in enumerate(as_completed([pool.submit(one, job) for job in jobs]), 1):
            line = future.result()
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
            first = next(iter(line["figures"].values()))
            words = (line[key] for key in ("set", "setting", "seed", "seconds"))
            print(f"{number}/{len(jobs)}", *words, first, flush=True)


if __name__ == "__main__":
    main()
