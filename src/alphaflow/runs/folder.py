"""The folder of a run: where its parts lie, and its settings."""

import contextlib
import errno
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError
from ..files import write_whole
from .best_effort import BestEffort
from .config import Config, from_dict, to_dict
from .run_lock import NAME, acquire_lock, refuse_locked
from .yaml_settings import load_yaml


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

    def holds_run(self) -> bool:
        """Whether the folder holds a run.

        Raises:
            UserError: that cannot be seen.
        """
        try:
            self.config_file.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise UserError(f"cannot look into {self.path} ({error.strerror}): choose another folder") from None
        return True

    def refuse_existing(self) -> None:
        """Refuse a folder that already holds a run, or in which another process is about to begin one."""
        refuse_locked(self.path)
        if self.holds_run():
            raise UserError(
                f"{self.path} already holds a run: go on with --resume {self.path}, or choose another --out"
            )

    def refuse_others(self) -> None:
        """Refuse what can be no run's folder: a file, or a folder with what no run left there.

        Hidden files, logs that a shell or a scheduler writes, and the empty folders of a start that died are fine.

        Raises:
            UserError: names what lies there. Nothing where the folder holds a run.
        """
        try:
            there = next(one for one in (self.path, *self.path.absolute().parents) if one.exists())
            longest = os.pathconf(there, "PC_NAME_MAX")
            if any(len(os.fsencode(part)) > longest for part in self.path.parts):
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        except OSError as error:  # a name that is too long, or links in a circle
            raise UserError(f"--out {self.path}: {error.strerror}: choose another --out") from None
        if not there.is_dir():
            which = "it" if there == self.path else str(there)
            raise UserError(f"--out {self.path}: {which} is a file, and a run is a folder: choose another --out")
        if self.holds_run() or there != self.path:
            return
        try:
            found = sorted(one for one in self.path.iterdir() if not self._may_lie_there(one))
        except OSError as error:
            raise UserError(f"cannot look into {self.path} ({error.strerror}): choose another --out") from None
        if found:
            more = f" and {len(found) - 1:,} more" if len(found) > 1 else ""
            raise UserError(
                f"{self.path} holds {found[0].name}{more}, which no run left there: empty it, or choose another "
                "--out"
            )

    def _may_lie_there(self, one: Path) -> bool:
        left = one in (self.checkpoints, self.samples) and one.is_dir() and not any(one.iterdir())
        return left or one.name.startswith(".") or one.suffix in (".log", ".out", ".err")

    def refuse_other(self, config: Config) -> None:
        """Refuse a run here that has other settings, apart from those that do not change what it computes."""
        free = {"steps", "schedule_steps", "device", "parallel", "accumulate", "wandb", "peak_tflops"}
        ours, theirs = to_dict(config), to_dict(self.read_config())
        other = sorted(key for key in ours.keys() - free if ours[key] != theirs[key])
        if other:
            raise UserError(
                f"{self.path} holds a run with other settings ({', '.join(other)}): choose another --out, "
                f"or go on with it as it is by --resume {self.path}"
            )

    def create(
        self, config: Config, objective: str, data: dict[str, Any], teacher: dict[str, Any] | None = None
    ) -> None:
        """Make the folder, hold it, and write the settings; see `write_config`.

        Raises:
            UserError: another process was first, or it cannot be written. Nothing is left of it then.
        """
        made = []
        try:
            for folder in (self.path, self.checkpoints, self.samples):
                made += [one for one in (folder, *folder.parents) if not one.exists()]
                folder.mkdir(parents=True, exist_ok=True)
                if folder is self.path:
                    acquire_lock(folder)
                    self.refuse_existing()
            self.write_config(config, objective, data, teacher)
        except OSError as error:
            self._take_back(made)
            raise UserError(f"cannot write to {self.path} ({error.strerror}): choose another --out") from None

    def _take_back(self, made: Sequence[Path]) -> None:
        """Remove folders that this process has made, unless something lies in them by now."""
        with contextlib.suppress(OSError):
            if self.path in made:
                (self.path / NAME).unlink(missing_ok=True)
            for folder in sorted(made, key=lambda one: -len(one.parts)):
                folder.rmdir()

    def list_skipped(self, skipped: Sequence[tuple[str, str]], notes: BestEffort) -> None:
        """Write skipped.txt: the samples that could not be read, one a line with the reason; no file without
        any."""
        if skipped:
            lines = "".join(f"{name}: {reason}\n" for name, reason in skipped)
            file = self.path / "skipped.txt"
            notes.attempt(str(file), lambda: write_whole(file, lines.encode(errors="surrogateescape")))

    def write_config(
        self, config: Config, objective: str, data: dict[str, Any], teacher: dict[str, Any] | None = None
    ) -> None:
        """(Re)write config.yaml, atomically.

        objective: in one line, as it runs. data: describes the data set. teacher: the one there may be.

        Raises:
            OSError: it could not be written, and is as it was.
        """
        record: dict[str, Any] = {"settings": to_dict(config), "objective": objective, "data": data}
        record |= {"versions": versions(), "git": git_revision()}
        record |= {"teacher": teacher} if teacher else {}
        text = yaml.safe_dump(record, sort_keys=False, allow_unicode=True, width=10**6)
        write_whole(self.config_file, text.encode())

    def read_config(self) -> Config:
        """Return the run's settings; a clear error where this is no run."""
        settings = self.read_record()["settings"]
        try:
            config: Config = from_dict(settings, str(self.config_file))
        except UserError as error:
            if str(self.config_file) in str(error):
                raise
            raise UserError(f"{self.config_file}: {error}") from None
        return config

    def read_record(self) -> dict[str, Any]:
        """All of config.yaml."""
        if not self.holds_run():
            raise UserError(
                f"{self.path} is not a run: it has no config.yaml; give the --out of `alphaflow train`"
            )
        record = load_yaml(self.config_file)
        if not isinstance(record, dict) or not isinstance(record.get("settings"), dict):
            raise UserError(f"{self.config_file} holds no settings: it is not a config of alphaflow")
        wrong = _wrong_in(record)
        if wrong:
            raise UserError(f"{self.config_file}: {wrong}: it has been changed by hand; put it back as it was")
        return record


def _wrong_in(record: Mapping[str, Any]) -> str | None:
    """Return what is not as `write_config` leaves it, so far as others rely on it."""
    settings, data = record["settings"], record.get("data")
    for group in (settings, *(one for one in settings.values() if isinstance(one, dict))):
        if name := next((key for key in group if not isinstance(key, str)), None):
            return f"{name!r} is no setting"
    if not isinstance(data, dict):
        return "it says nothing of the data"
    shape, names = data.get("shape"), data.get("class_names")
    if not isinstance(shape, list) or not shape or not all(type(size) is int and size > 0 for size in shape):
        return f"the data's shape is {shape!r}"
    if type(data.get("num_classes")) is not int or data["num_classes"] < 0:
        return f"the data's num_classes is {data.get('num_classes')!r}"
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return "the data's class_names are no list of names"
    if not isinstance(data.get("fingerprint"), str):
        return "the data's fingerprint is missing"
    if data.get("kind") not in ("image", "video", "latent", "points"):
        return f"the data's kind is {data.get('kind')!r}"
    if data.get("vocabulary") is not None and not is_vocabulary(data["vocabulary"]):
        return "the data's vocabulary is no list of words with a length"
    if not isinstance(record.get("teacher", {}), dict):
        return "the teacher's record is no record"
    return None


def is_vocabulary(value: Any) -> bool:
    """Return whether a value is what `Vocabulary.record` gives."""
    if not isinstance(value, dict) or type(value.get("length")) is not int or not 0 < value["length"] <= 4096:
        return False
    lists = (value.get("words"), value.get("examples"))
    return all(isinstance(one, list) and all(isinstance(word, str) for word in one) for one in lists)


def versions() -> dict[str, str]:
    """Return what this run was computed with."""
    import torch

    from .. import __version__

    return {"alphaflow": __version__, "torch": str(torch.__version__), "python": platform.python_version()}


def git_revision() -> str | None:
    """Return the checkout's revision, with `-dirty` when it has changes; None outside one."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
