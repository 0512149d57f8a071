"""What a run keeps of itself: checkpoints, to go on from, and averages, for others to be made of."""

import contextlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..errors import UserError
from ..parallel.parallel import Parallel
from ..runs import checkpoint, latest_link
from ..runs.averages import forget_after
from ..runs.best_effort import BestEffort
from ..runs.checkpoint import Checkpoint
from ..runs.config import Config, to_dict
from ..runs.data_paths import overlap
from ..runs.data_record import check_same
from ..runs.folder import RunFolder
from ..runs.run_lock import on_first_process
from .optimizer_state import State
from .saver import Saver

log = logging.getLogger("alphaflow")

_FREE = (
    "recipe steps device wandb peak_tflops accumulate parallel compile compile_blocks recompute log_every "
    "checkpoint_every keep_checkpoints sample_every max_bad_steps spike_factor monitor "
    "diagnosis init data.path data.labels data.tolerance distill.teacher ema.store_every"
).split()
"""Settings that may change while a run goes on: what it computes stays as it is, or others look at them."""


class Checkpointer:
    """Writes a run's settings, checkpoints and averages, and finds them again; all processes must call each.

    Args:
        config: the run's settings, of which those that decide what it computes go into each checkpoint.
        notes: reports, once, what cannot be written. objective, data, teacher: what config.yaml says of them.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: Config,
        parallel: Parallel,
        notes: BestEffort,
        objective: str,
        data: dict[str, Any],
        teacher: dict[str, Any] | None,
    ) -> None:
        self.folder, self.parallel, self._notes = folder, parallel, notes
        self._config, self._records = config, (objective, data, teacher)
        self._unwritten = False
        self._saver = Saver(folder.checkpoints, keep=config.keep_checkpoints, processes=parallel.writers())
        self._store = Saver(folder.averages, processes=parallel.writers())

    def create(self, skipped: Sequence[tuple[str, str]]) -> None:
        """Make the folder of a new run, and hold it. skipped: samples that cannot be read, and why."""
        on_first_process(self.parallel, lambda: self._create(skipped))

    def write_config(self) -> None:
        """Write down the settings, which have changed; if that cannot be, with the next checkpoint."""
        if self.parallel.main:
            self._unwritten = not self._notes.attempt(
                str(self.folder.config_file), lambda: self.folder.write_config(self._config, *self._records)
            )

    def save(self, step: int, state: State) -> None:
        """Begin to write a checkpoint."""
        if self._unwritten:
            self.write_config()
        record = {**state.record(), "settings": settings_of(self._config)}
        self._saver.save(step, self._pieces(state.tensors()), record)

    def store(self, step: int, state: State) -> None:
        """Begin to write the averages that others are made of."""
        self._store.save(
            step, self._pieces(state.averages()), {"profiles": [profile.std for profile in state.profiles]}
        )

    def has_averages(self, step: int) -> bool:
        """Return whether the averages of this step are stored."""
        return bool(self.parallel.exchange(step in checkpoint.steps_in(self.folder.averages))[0])

    def wait(self) -> None:
        """Wait until nothing is being written."""
        self._saver.wait()
        self._store.wait()

    def finish(self) -> None:
        """Wait, and raise a `UserError` if the last of either could not be written."""
        self._saver.finish()
        self._store.finish()

    def not_finite(self, state: State) -> str | None:
        """Say which tensor holds a number that is not finite, on any process; None: none does."""
        shards = {
            part: {name: piece.tensor for name, piece in pieces.items()}
            for part, pieces in self._pieces(state.tensors()).items()
        }
        return next(filter(None, self.parallel.exchange(checkpoint.not_finite(shards))), None)

    def newest(self, before: float = math.inf) -> Checkpoint:
        """Return the newest checkpoint that is whole and finite, of those before a step."""
        sound: list[Checkpoint] = []  # on the first process one, on the others none
        on_first_process(self.parallel, lambda: sound.append(_newest_sound(self.folder, before)))
        name = str(self.parallel.exchange(sound[0].path.name if sound else None)[0])
        return sound[0] if sound else Checkpoint(self.folder.checkpoints / name)

    def place_to_go_back(self, before: float | None) -> Checkpoint | None:
        """Return the newest sound checkpoint of those before a step, if there is one; with None there is none."""
        try:
            return None if before is None else self.newest(before)
        except UserError:
            return None

    def load(self, stored: Checkpoint, state: State) -> None:
        """Let `state` be as it was in a checkpoint; what was kept after that is forgotten.

        Raises:
            UserError: it was trained with other settings or other data, or lacks something.
        """
        check_settings(stored, self._config, str(self.folder.config_file))
        inside = overlap(self._config, self.folder.path)
        check_same(state.dataset, stored.state.get("data", ""), self.folder.read_record()["data"], inside=inside)
        state.load(stored)
        if self.parallel.main:
            forget_after(self.folder, stored.step)

    def tidy(self) -> None:
        """Remove what dead processes left half-written; let `latest` lead to the newest checkpoint again."""
        if not self.parallel.main:
            return
        for parent in (self.folder.checkpoints, self.folder.averages):
            checkpoint.clear(parent)
        path = self.folder.path
        earlier = [path / "config.tmp", path / "metrics.tmp"]  # of earlier versions
        for file in (*earlier, *path.glob(".*.tmp"), *self.folder.samples.glob(".*.tmp")):
            with contextlib.suppress(OSError):
                file.unlink()
        folder = self.folder.checkpoints
        if not checkpoint.steps_in(folder) and latest_link.place_of_copy(folder) is None:
            return  # the run ended before its first
        try:
            newest = checkpoint.newest(folder)
            latest_link.repair(folder, newest.path, checkpoint.step_of)
        except (UserError, OSError) as error:
            log.warning("checkpoints/latest stays as it is: %s", error)

    def kept(self) -> str:
        """Say what a run that ends now can go on from."""
        try:
            step = checkpoint.last_step(self.folder.checkpoints)
        except OSError:
            step = None
        if step is None:
            return "there is no checkpoint yet"
        return f"the checkpoint of step {step} is intact, to go on from with --resume {self.folder.path}"

    def _create(self, skipped: Sequence[tuple[str, str]]) -> None:
        self.folder.create(self._config, *self._records)
        self.folder.list_skipped(skipped, self._notes)

    def _pieces(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> checkpoint.Parts:
        return {part: self.parallel.pieces(content) for part, content in tensors.items()}


def _newest_sound(folder: RunFolder, before: float) -> Checkpoint:
    """Return the newest checkpoint from which a run can go on."""
    while True:
        stored = checkpoint.newest(folder.checkpoints, before=before, finite=True)
        missing = [part for part in ("model", "ema", "optimizer") if not stored.names(part)]
        if not missing:
            return stored
        log.warning(
            "checkpoint %s holds no %s, without which the run would not go on as it was: using the one before it",
            stored.path,
            {"optimizer": "moments of the optimizer"}.get(missing[0], f"weights of the {missing[0]}"),
        )
        before = stored.step


def settings_of(config: Config) -> dict[str, Any]:
    """Return the settings that decide what a run computes, by dotted names, as JSON has them."""
    flat: dict[str, Any] = {}
    for key, value in json.loads(json.dumps(to_dict(config))).items():
        flat |= (
            {f"{key}.{name}": setting for name, setting in value.items()}
            if isinstance(value, dict)
            else {key: value}
        )
    return {name: value for name, value in flat.items() if name not in _FREE and name.split(".")[0] not in _FREE}


def check_settings(stored: Checkpoint, config: Config, where: str) -> None:
    """Refuse to go on with other settings than those with which a checkpoint was trained.

    Args:
        where: what names the settings of now, for people.

    Raises:
        UserError: names them with both values.
    """
    then, now = stored.state.get("settings"), settings_of(config)
    if not isinstance(then, dict):  # of an earlier version
        return
    other = [name for name in now if name in then and then[name] != now[name]]
    if other:
        said = "; ".join(f"{name} is {now[name]!r}, was {then[name]!r}" for name in other[:3])
        raise UserError(
            f"{where} has other settings than step {stored.step} was trained with ({said}): put them back, or "
            "begin a new run from it, with --init"
        )
