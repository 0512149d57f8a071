"""What torchrun starts in the tests: `alphaflow` commands one after the other in the same processes.

    torchrun --nproc-per-node 2 crew.py TASKS.json

A task is {"words": [...]} for a command, {"gradient": FILE, "words": [...]} for the gradient of a run's first
step, or {"skipped": FILE, "words": [...]} for what a step leaves that is not finite. With "machine": N it is as if
each machine had so many of the processes.
"""

import json
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from alphaflow.cli import run
from alphaflow.cli.train import parse_settings
from alphaflow.data import Batch
from alphaflow.parallel.channels import end_process
from alphaflow.parallel.sharded import whole
from alphaflow.runs.folder import RunFolder
from alphaflow.training.trainer import Trainer


def main(tasks: list[dict]) -> None:
    torch.set_num_threads(1)
    for task in tasks:
        os.environ["LOCAL_WORLD_SIZE"] = str(task.get("machine", os.environ["WORLD_SIZE"]))
        if "gradient" in task:
            write_gradient(Path(task["gradient"]), task["words"])
        elif "skipped" in task:
            write_skipped(Path(task["skipped"]), task["words"])
        elif (status := run(task["words"])) != task.get("status", 0):
            sys.exit(f"{task['words']}: status {status}")


def write_gradient(file: Path, words: list[str]) -> None:
    """Of the mean loss over the whole first batch, before it is clipped: the bound must be out of reach."""
    trainer = Trainer.start(parse_settings("digits", words), RunFolder(file.with_suffix("")))
    trainer.train_step()
    gradients = {
        name: whole(weight.grad).contiguous()
        for name, weight in trainer.net.named_parameters()
        if weight.grad is not None
    }
    if trainer.parallel.main:
        save_file(gradients, file)


def write_skipped(file: Path, words: list[str]) -> None:
    """Whether weights and moments are as they were after a step with a broken row, which one process has."""
    trainer = Trainer.start(parse_settings("digits", words), RunFolder(file.with_suffix("")))
    trainer.train_step()
    fetch = trainer.batches

    def broken(step: int, part: slice = slice(None)) -> Batch:
        x, y, ids = fetch(step, part)
        return Batch(torch.full_like(x, torch.nan) if trainer.parallel.main else x, y, ids)

    def everything() -> list[torch.Tensor]:
        moments = [value for state in trainer.optimizer.state.values() for value in state.values()]
        return [whole(value).clone() for value in (*trainer.net.state_dict().values(), *moments)]

    trainer.batches, before = broken, everything()
    trainer.train_step()
    left = all(torch.equal(a, b) for a, b in zip(before, everything()))
    if trainer.parallel.main:
        file.write_text(json.dumps({"left": left, "bad": trainer.guard.bad, "where": trainer._where}))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
    end_process(0)
