"""The paper's claims at a scale that anybody can run: trains what `settings.py` lists, and writes the page.

python benchmarks/claims run --seeds 5 --workers 2      # resumable; a line a run in results/claims.jsonl
python benchmarks/claims confirm --seeds 10 --workers 2 # α-Flow's best against MeanFlow's, on so many other seeds
python benchmarks/claims tables                         # prints what there is so far
python benchmarks/claims page                           # the same into docs/claims.md
"""

import argparse
import itertools
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).parents[1]))

import sets
from figure import draw
from machine import RESULTS
from page import FIRST, SEEDS, show, tables, write
from settings import CONFIRMED, SETTINGS
from training import run

RUNS = RESULTS / "claims.jsonl"


def records(path: Path) -> list[dict[str, Any]]:
    """What has been run so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def one(name: str, setting: str, seed: int, steps: int | None) -> dict[str, Any]:
    """The line of one run; a setting that diverges is a result too."""
    line: dict[str, Any] = {"set": name, "setting": setting, "seed": seed}
    chosen = sets.load(name)
    return line | run(chosen if steps is None else replace(chosen, steps=steps), SETTINGS[setting], seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["run", "confirm", "tables", "page"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sets", nargs="+", choices=FIRST, default=list(FIRST), metavar="NAME")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="NAME")
    parser.add_argument("--steps", type=int, help="of MeanFlow, instead of each set's own, to try it out")
    parser.add_argument("--out", type=Path, default=RUNS, help="where lines are added, or read from")
    known = parser.parse_args()
    lines = records(known.out)
    if known.what == "tables":
        show(tables(lines))
        return
    if known.what == "page":
        write(tables(lines))
        draw(lines)
        return
    done = {(line["set"], line["setting"], line["seed"]) for line in lines}
    if known.what == "confirm":
        pairs = dict.fromkeys((d.chosen, s) for d in CONFIRMED for s in (d.alpha_flow, d.meanflow))
        wanted = [(*pair, SEEDS + seed) for seed in range(known.seeds) for pair in pairs]
    else:
        every = itertools.product(range(known.seeds), known.settings, known.sets)
        wanted = [(n, s, seed) for seed, s, n in every if n in (SETTINGS[s].only or sets.NAMES)]
    chosen = set(itertools.product(known.sets, known.settings))
    jobs = [job for job in wanted if job[:2] in chosen and job not in done]
    with (
        ProcessPoolExecutor(known.workers, initializer=torch.set_num_threads, initargs=(1,)) as pool,
        known.out.open("a") as file,
    ):
        for number, future in enumerate(as_completed([pool.submit(one, *job, known.steps) for job in jobs]), 1):
            line = future.result()
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
            first = next(iter(line["figures"].values()))
            words = (line[key] for key in ("set", "setting", "seed", "seconds"))
            print(f"{number}/{len(jobs)}", *words, first, flush=True)


if __name__ == "__main__":
    main()
