"""What torchrun starts in the tests: `alphaflow` commands one after the other in the same processes.

    torchrun --nproc-per-node 2 crew.py TASKS.json

A task is {"words": [...]} for a command, or {"gradient": FILE, "words": [...]} for the gradient of a run's first
step.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from alphaflow.cli import run
from alphaflow.cli.train import parse_settings
from alphaflow.training.channels import end_process
from alphaflow.training.parallel import whole
from alphaflow.training.run import RunFolder
from alphaflow.training.trainer import Trainer


def main(tasks: list[dict]) -> None:
    torch.set_num_threads(1)
    for task in tasks:
        if "gradient" in task:
            write_gradient(Path(task["gradient"]), task["words"])
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


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
    end_process(0)
