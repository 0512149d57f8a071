"""What scaling and surviving cost: saving while training, a second process, averages made afterwards.

python benchmarks/parallel.py   # ten minutes on 2 cores; writes benchmarks/results/parallel.json
python benchmarks/parallel.py --only saving
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from machine import RESULTS, machine

from alphaflow.cli.train import parse_settings
from alphaflow.models.ema import PowerEMA
from alphaflow.runs.averages import make_average
from alphaflow.runs.folder import RunFolder
from alphaflow.training.trainer import Trainer

LARGE = "--model.width 512 --model.depth 6 --model.heads 8 --model.patch 2 --batch-size 128".split()
QUIET = "--sample-every 100000 --checkpoint-every 100000".split()
WORK = {
    "digits, batch 128": (120, "--batch-size", "128"),
    "digits, batch 512": (36, "--batch-size", "512"),
    "digits, patch 1, batch 128": (18, "--batch-size", "128", "--model.patch", "1"),
}
WIDTHS = (0.03, 0.06, 0.08, 0.12)


def saving(folder: Path, interval: int = 20, rounds: int = 2) -> dict[str, float]:
    """Seconds a step with a checkpoint every `interval` steps and with none, in turn, in one run."""
    config = parse_settings("digits", [*LARGE, *QUIET, "--steps", "100000"])
    trainer = Trainer.start(config, RunFolder(folder / "saving"))
    steps: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(2 * rounds + 1):
        with_saving = turn % 2 == 0
        start = time.perf_counter()
        for k in range(interval):
            trainer.train_step()
            if with_saving and k == 0:  # the whole writing falls into this stretch, as it would in a long run
                trainer.save()
        trainer.checkpointer.wait()
        if turn:  # the first one allocates
            steps[with_saving].append((time.perf_counter() - start) / interval)
    plain, saved = statistics.median(steps[False]), statistics.median(steps[True])
    parameters = sum(weight.numel() for weight in trainer.net.parameters())
    return {
        "parameters": parameters,
        "interval": interval,
        "plain": plain,
        "saved": saved,
        "cost": saved / plain - 1,
    }


def processes(folder: Path, rounds: int = 2) -> dict[str, Any]:
    """Samples a second of two processes with a thread each, and of one with two; in turn."""
    found = {}
    for name, (steps, *words) in WORK.items():
        rates: dict[int, list[float]] = {1: [], 2: []}
        words += ["--steps", str(steps), "--log-every", str(steps // 6), *QUIET]
        for turn in range(rounds):
            for count in (1, 2):
                out = folder / f"{name}-{count}-{turn}"
                launch = ["torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "-m", "alphaflow"]
                command = [sys.executable, "-m", *launch, "train", "digits", "--out", str(out), *words]
                threads = {"OMP_NUM_THREADS": str(2 // count)}
                subprocess.run(command, check=True, capture_output=True, env={**os.environ, **threads})
                lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
                rates[count].append(statistics.median(line["samples_per_second"] for line in lines[2:]))
        one, two = (statistics.median(rates[count]) for count in (1, 2))
        found[name] = {"one_process_two_threads": one, "two_processes": two, "ratio": two / one}
    return found


def averages(folder: Path) -> dict[str, Any]:
    """Relative error of averages made from those of widths 0.05 and 0.1, stored twenty times, beside true ones."""
    words = "--steps 600 --ema.profiles 0.05 0.1".split()
    trainer = Trainer.start(parse_settings("digits", [*words, *QUIET]), RunFolder(folder / "averages"))
    true = {std: PowerEMA(trainer.net, std) for std in WIDTHS}
    trainer.averages.extend(true.values())
    trainer.train()
    errors = {}
    for std, direct in true.items():
        made = make_average(trainer.folder, std).weights
        wrong = sum(float((made[name] - one).double().square().sum()) for name, one in direct.weights.items())
        size = sum(float(one.double().square().sum()) for one in direct.weights.values())
        errors[f"{std:g}"] = (wrong / size) ** 0.5
    return {"steps": 600, "stored": 20, "relative_error": errors}


PARTS = {"saving": saving, "processes": processes, "averages": averages}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    file = RESULTS / "parallel.json"
    record = json.loads(file.read_text()) if file.exists() else {}
    torch.set_num_threads(2)
    for name in parser.parse_args().only:
        with tempfile.TemporaryDirectory() as folder:
            record |= {name: PARTS[name](Path(folder)), "machine": machine()}
        print(name, json.dumps(record[name], indent=1))
        file.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
