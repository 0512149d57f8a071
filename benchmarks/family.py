"""Every member of the family at equal steps, over seeds: the table of docs/family.md.

    python benchmarks/family.py digits            # writes benchmarks/results/family-digits.json, prints the table
    python benchmarks/family.py toy --seeds 3 --workers 2

Each member is whole, as `alphaflow train RECIPE --objective.name MEMBER` trains it: data, batch and averages are
the recipe's, the objective is as published, and what the recipe states for the member holds (`Recipe.members`).
The row `recipe` is the recipe itself, with what tuning added to its own member.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from machine import RESULTS, machine

from alphaflow.evaluation.evaluate import evaluate
from alphaflow.method.family import MEMBERS
from alphaflow.recipes import RECIPES
from alphaflow.runs.config import ObjectiveConfig
from alphaflow.runs.folder import RunFolder
from alphaflow.runs.loading import load
from alphaflow.training.trainer import Trainer


def train_and_score(recipe: str, member: str, seed: int, steps: int | None) -> dict[str, Any]:
    """One run; its figures by number of evaluations."""
    config = RECIPES[recipe].config
    steps = steps or config.steps
    if member == config.objective.name:  # as published, beside the row that is the recipe's
        config = dataclasses.replace(config, objective=ObjectiveConfig(name=member))
    elif member != "recipe":
        config = RECIPES[recipe].for_member(member)
    config = dataclasses.replace(config, steps=steps, seed=seed, sample_every=steps, checkpoint_every=steps)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        trainer = Trainer.start(config, RunFolder(Path(folder) / "run"))
        try:
            trainer.train()
            seconds = time.perf_counter() - start
            scores = evaluate(load(Path(folder) / "run"), trainer.dataset, run=member)
        except ValueError as error:  # ten steps in a row, or samples, that are not finite
            return {"member": member, "seed": seed, "seconds": None, "figures": None, "diverged": str(error)}
    figures = {str(result.nfe): result.figures for result in scores.results}
    return {"member": member, "seed": seed, "seconds": seconds, "figures": figures, "halves": scores.halves}


def table(rows: list[dict[str, Any]], names: list[str]) -> str:
    """Markdown: mean ± standard deviation over seeds, at 1 and 2 evaluations."""
    head = [f"{name} @{nfe}" for name in names for nfe in (1, 2)]
    lines = ["| member | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    for member in dict.fromkeys(row["member"] for row in rows):
        cells = []
        if any(row["figures"] is None for row in rows if row["member"] == member):
            lines.append(f"| {member} " + "| diverged " * len(head) + "|")
            continue
        for name in names:
            for nfe in ("1", "2"):
                values = [row["figures"][nfe][name] for row in rows if row["member"] == member]
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                digits = 4 if name == "energy" else 3
                cells.append(f"{statistics.mean(values):.{digits}f} ± {spread:.{digits}f}")
        lines.append(f"| {member} | " + " | ".join(cells) + " |")
    halves = next(row["halves"] for row in rows if "halves" in row)
    lines.append("| *real halves* | " + " | ".join(f"{halves[name]:.4g}" for name in names for _ in (1, 2)) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", choices=["digits", "toy"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--members", nargs="+", default=["recipe", *MEMBERS])
    known = parser.parse_args()
    seeds = range(known.seeds)
    jobs = [(known.recipe, member, seed, known.steps) for member in known.members for seed in seeds]
    with ProcessPoolExecutor(known.workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        rows = []
        for row in pool.map(train_and_score, *zip(*jobs)):
            rows.append(row)
            print(row["member"], row["seed"], row["figures"] or row["diverged"], flush=True)
    names = ["frechet", "accuracy"] if known.recipe == "digits" else ["energy", "sliced_wasserstein"]
    steps = known.steps or RECIPES[known.recipe].config.steps
    out = RESULTS / f"family-{known.recipe}.json"
    if out.exists():  # members measured before, for as many steps, keep their rows
        before = json.loads(out.read_text())
        if before["steps"] == steps:
            rows = [row for row in before["rows"] if row["member"] not in known.members] + rows
    out.write_text(json.dumps({"machine": machine(), "steps": steps, "rows": rows}, indent=1) + "\n")
    print(table(rows, names))


if __name__ == "__main__":
    main()
