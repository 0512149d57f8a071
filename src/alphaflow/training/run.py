"""The folder of a run: where its parts lie, and its settings."""

import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError
from .config import Config, from_dict, to_dict


@dataclass(frozen=True)
class RunFolder:
    """config.yaml, metrics.jsonl, report.html, checkpoints/, averages/, samples/, diagnosis/, tensorboard/."""

    path: Path

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def averages(self) -> Path:
        return self.path / "averages"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def diagnosis(self) -> Path:
        return self.path / "diagnosis"

    @property
    def evaluation_file(self) -> Path:
        return self.path / "evaluation.json"

    @property
    def report_file(self) -> Path:
        return self.path / "report.html"

    def refuse_existing(self) -> None:
        """An error if the folder already holds a run."""
        if self.config_file.exists():
            raise UserError(
                f"{self.path} already holds a run: go on with --resume {self.path}, or choose another --out"
            )

    def refuse_other(self, config: Config) -> None:
        """An error if the run here has other settings, apart from those that do not change what it computes."""
        free = {"steps", "schedule_steps", "device", "parallel", "accumulate", "wandb", "peak_tflops"}
        ours, theirs = to_dict(config), to_dict(self.read_config())
        other = sorted(key for key in ours.keys() - free if ours[key] != theirs[key])
        if other:
            raise UserError(
                f"{self.path} holds a run with other settings ({', '.join(other)}): choose another --out, "
                f"or go on with it as it is by --resume {self.path}"
            )

    def create(self, config: Config, data: dict[str, Any], teacher: dict[str, Any] | None = None) -> None:
        """Make the folder and write the settings; see `write_config`."""
        try:
            for folder in (self.path, self.checkpoints, self.samples):
                folder.mkdir(parents=True, exist_ok=True)
            self.write_config(config, data, teacher)
        except OSError as error:
            raise UserError(f"cannot write to {self.path} ({error.strerror}): choose another --out") from None

    def list_skipped(self, skipped: Sequence[tuple[str, str]]) -> None:
        """Write skipped.txt: the samples that could not be read, one a line with the reason; no file without
        any."""
        if skipped:
            lines = "".join(f"{name}: {reason}\n" for name, reason in skipped)
            (self.path / "skipped.txt").write_text(lines, errors="surrogateescape")

    def write_config(self, config: Config, data: dict[str, Any], teacher: dict[str, Any] | None = None) -> None:
        """(Re)write config.yaml, atomically. `data` describes the data set, `teacher` the one there may be."""
        record = {"settings": to_dict(config), "data": data, "versions": versions(), "git": git_revision()}
        record |= {"teacher": teacher} if teacher else {}
        temporary = self.config_file.with_suffix(".tmp")
        temporary.write_text(yaml.safe_dump(record, sort_keys=False, allow_unicode=True))
        temporary.replace(self.config_file)

    def read_config(self) -> Config:
        """The run's settings; a clear error where this is no run."""
        return from_dict(self.read_record()["settings"], str(self.config_file))

    def read_record(self) -> dict[str, Any]:
        """All of config.yaml."""
        if not self.config_file.exists():
            raise UserError(
                f"{self.path} is not a run: it has no config.yaml; give the --out of `alphaflow train`"
            )
        try:
            record = yaml.safe_load(self.config_file.read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"cannot read {self.config_file}: {' '.join(str(error).split())}") from None
        if not isinstance(record, dict) or not isinstance(record.get("settings"), dict):
            raise UserError(f"{self.config_file} holds no settings: it is not a config of alphaflow")
        return record


def versions() -> dict[str, str]:
    """What this run was computed with."""
    import torch

    from .. import __version__

    return {"alphaflow": __version__, "torch": str(torch.__version__), "python": platform.python_version()}


def git_revision() -> str | None:
    """The checkout's revision, with `-dirty` when it has changes; None outside one."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
