"""Runs of a toy during which the disk takes no more for a moment, one run for each moment at which they write.

    python disk_walk.py FOLDER [PART]

The disk is made full by the limit that the system sets on the size of files: every write beyond it fails in the
kernel, as on a full disk, and needs no rights. PART: only moments at which a path with this in it is written.
Prints a line of JSON for each moment.
"""

import dataclasses
import json
import logging
import os
import resource
import sys
from pathlib import Path

import torch

from alphaflow.errors import UserError
from alphaflow.recipes import RECIPES
from alphaflow.runs import checkpoint
from alphaflow.runs.config import DiagnosisConfig, EMAConfig, MonitorConfig
from alphaflow.runs.folder import RunFolder
from alphaflow.training.trainer import Trainer

_TOY = RECIPES["toy"].config
CONFIG = dataclasses.replace(
    _TOY,
    steps=6,
    batch_size=8,
    log_every=1,
    checkpoint_every=2,
    sample_every=2,
    model=dataclasses.replace(_TOY.model, width=8, depth=1),
    ema=EMAConfig(half_life=5, profiles=(0.1,), store_every=3),
    monitor=MonitorConfig(every=2, count=8),
)


class Disk:
    """Full from the `first` write on, for `span` writes; `room` bytes of each file can still be written."""

    def __init__(self, folder: str, part: str) -> None:
        self.folder, self.part = folder, part
        self.seen, self.first, self.span, self.room = 0, -1, 0, 0
        self.last = ""
        sys.addaudithook(self._note)

    def begin(self, first: int, span: int = 0, room: int = 0) -> None:
        self.seen, self.first, self.span, self.room = 0, first, span, room

    def _note(self, event: str, args: tuple) -> None:
        if event != "open" or not isinstance(args[0], str | bytes | os.PathLike):
            return
        path, writes = os.fsdecode(args[0]), os.O_WRONLY | os.O_RDWR | os.O_CREAT
        if not path.startswith(self.folder) or self.part not in path or not args[2] & writes:
            return
        if self.seen == self.first:
            self.last = path
            self.limit(self.room)
        elif self.seen == self.first + self.span:
            self.limit(resource.RLIM_INFINITY)
        self.seen += 1

    def limit(self, size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def weights(out: Path) -> dict[str, torch.Tensor]:
    stored = checkpoint.newest(out / "checkpoints")
    assert stored.step == CONFIG.steps
    return {f"{part}/{name}": one for part in stored.parts() for name, one in stored.whole(part).items()}


def attempt(work) -> str:
    try:
        work()
    except UserError as error:
        return str(error)
    except Exception as error:
        return f"raw {type(error).__name__}: {error}"
    return ""


def main(folder: Path, part: str) -> None:
    torch.set_num_threads(1)
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("alphaflow").addHandler(handler)
    logging.getLogger("alphaflow").propagate = False
    config = dataclasses.replace(CONFIG, diagnosis=DiagnosisConfig(every=3, batches=2)) if part else CONFIG
    disk = Disk(str(folder), part)
    disk.begin(-1)
    Trainer.start(config, RunFolder(folder / "whole")).train()
    whole, moments = weights(folder / "whole"), disk.seen
    for moment in range(moments):
        out = folder / f"run-{moment}"
        said.clear()
        disk.begin(moment, span=1 + moment % 3, room=100 * (moment % 2))
        ended = attempt(lambda out=out: Trainer.start(config, RunFolder(out)).train())
        disk.limit(resource.RLIM_INFINITY)
        found = {
            "moment": moment,
            "path": disk.last,
            "ended": ended,
            "told": len(said),
            "words": sorted(set(said)),
        }
        found["begun"] = (out / "config.yaml").exists()
        if found["begun"]:
            disk.begin(-1)
            if ended:
                kept = checkpoint.newest(out / "checkpoints")
                found["from"] = kept.step if kept else 0
                found["again"] = attempt(lambda out=out: Trainer.resume(RunFolder(out)).train())
            found["averages"] = checkpoint.steps_in(out / "averages")
            mine = weights(out)
            found["same"] = mine.keys() == whole.keys() and all(torch.equal(mine[k], whole[k]) for k in whole)
            lines = (out / "metrics.jsonl").read_text().splitlines()
            found["lines"] = [json.loads(line)["step"] for line in lines]
        found["left"] = [str(path) for path in out.rglob("*") if path.name.endswith((".tmp", ".old"))]
        found["there"] = out.exists()
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2] if len(sys.argv) > 2 else "")
