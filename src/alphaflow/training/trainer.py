"""The trainer, on one process or, with torchrun, on many."""

import dataclasses
import logging
import math
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..data import Batch, Batches
from ..devices import choose_device
from ..errors import UserError
from ..method import schedules
from ..method.objective import Output
from ..models.ema import EMA, PowerEMA
from ..observers.base import Observer, RunView
from ..observers.class_residuals import ClassResiduals
from ..observers.configured import observers_of
from ..parallel.parallel import Parallel
from ..parallel.sharded import whole
from ..parallel.watchdog import Watchdog
from ..progress import ProgressBar
from ..rng import hash_key
from ..runs import checkpoint
from ..runs.adapted import adopt
from ..runs.best_effort import BestEffort
from ..runs.config import Config, to_dict
from ..runs.data_paths import at_home, refuse_overlap
from ..runs.data_record import batches_of, describe
from ..runs.folder import RunFolder
from ..runs.run_lock import acquire_lock, on_first_process, release_lock
from ..runs.teacher import record_of
from .assembly import Assembly, assemble
from .checkpointer import Checkpointer
from .guard import Guard, PendingStep, on_signal, status_of, step_if_finite
from .loss import blame, means_of
from .metrics_log import MetricsLog
from .named_files import check_named_files
from .observing import observe
from .optimizer_state import State
from .prefetch import Prefetcher, prefetch_on
from .resuming import changed_config, hold_run
from .throughput import ThroughputMeter
from .warm_start import begin_from

log = logging.getLogger("alphaflow")


class Trainer:
    """Trains one network. `train()` is the loop, `train_step()` one step; both are meant to be read.

    Args:
        config: the settings.
        folder: the run's folder. built: what the settings stand for. parallel: this process among the others.
            `start`, `resume` and `go_on` see to all of them; use these.
    """

    def __init__(self, config: Config, folder: RunFolder, built: Assembly, parallel: Parallel) -> None:
        self.config, self.folder, self.parallel = config, folder, parallel
        self.device, self.dataset, self.statement = built.device, built.dataset, built.statement
        self.net, self.objective, self.optimizer = built.net, built.objective, built.optimizer
        self.loss, self.wrapped = built.loss, built.wrapped
        self.ema, self.profiles = built.ema, built.profiles
        self.averages: list[EMA | PowerEMA] = [self.ema, *self.profiles]
        self.parts = parallel.parts(config.accumulate)
        self.batches = self._stream(config.seed)
        self.warmup = schedules.warmup(config.optimizer.warmup)
        horizon = config.schedule_steps or config.steps
        self.decay = schedules.parse(config.optimizer.decay, horizon, "learning rate schedule")
        self.store_every = config.ema.store_every or max(1, horizon // 20)

        peak = config.peak_tflops * 1e12
        self.meter = ThroughputMeter(config.batch_size, built.flops, peak, self.device, config.precision)
        self.guard = Guard(config.max_bad_steps, config.spike_factor)
        self.watchdog = Watchdog(parallel.board(), 60 * config.parallel.timeout)
        self.classes = ClassResiduals(
            self.dataset, self.device, parallel, every=config.log_every, batch_size=config.batch_size
        )
        asked_for = observers_of(config, self.dataset, self.objective, self.device, parallel)
        self.observers: list[Observer] = [self.classes, *asked_for]
        self.notes = BestEffort()
        self.metrics: MetricsLog | None = None  # there is one on the first process, while the loop runs
        records = self.statement, describe(self.dataset), record_of(self.objective)
        self.checkpointer = Checkpointer(folder, config, parallel, self.notes, *records)
        averages = self.ema.module, self.profiles
        self.state = State(self.net, *averages, self.optimizer, self.dataset, self.guard, self.observers)

        self.step = 0
        self.pending: deque[PendingStep] = deque()
        self.lag = int(self.device.type == "cuda")  # a GPU is asked how a step went when it has the next one
        self.caught: Sequence[int] = ()  # signals that asked the run to end
        self._owed = False  # whether a checkpoint was due when the run was in no state to be kept
        self._saved = -1  # the step of the last checkpoint
        self._where = ""  # the rows of the last step that was not finite
        self._stop = threading.Event()

    @classmethod
    def start(cls, config: Config, folder: RunFolder, parallel: Parallel | None = None) -> "Trainer":
        """Begin a run. Its folder appears only when everything that the settings name could be built."""
        folder.refuse_existing()
        refuse_overlap(config, folder.path)
        config = adopt(config)
        check_named_files(config)
        config = dataclasses.replace(at_home(config), schedule_steps=config.schedule_steps or config.steps)
        parallel = parallel or Parallel(config.parallel)
        trainer = cls(config, folder, assemble(config, folder, parallel, resumes=False), parallel)
        trainer.begin()
        parallel.wait()  # for all to have seen that there was no run
        trainer.checkpointer.create(getattr(trainer.dataset, "skipped", ()))
        return trainer

    @classmethod
    def resume(cls, folder: RunFolder, processes: Parallel | None = None, **changes: Any) -> "Trainer":
        """Go on with a run; `changes` are settings by dotted names that may differ from now on, such as `steps`.

        Schedules keep the length that they had, and nothing depends on the number of processes.

        Raises:
            UserError: another process trains it, it is past `steps`, or it is not as it was left.
        """
        config, _ = changed_config(folder, changes)
        check_named_files(config, goes_on=True)
        parallel = processes or Parallel(config.parallel)
        parallel.device(choose_device(config.device))
        hold_run(folder, config, parallel, anew=any(value is not None for value in changes.values()))
        try:
            config, changes = changed_config(folder, changes)  # as they are, now that nobody else can change them
            trainer = cls(config, folder, assemble(config, folder, parallel, resumes=True), parallel)
            if checkpoint.last_step(folder.checkpoints) is None:
                trainer.begin()
            else:
                trainer.restore()
            trainer.checkpointer.tidy()
            trainer.catch_up()
            if changes:
                trainer.checkpointer.write_config()
        except BaseException:
            release_lock(folder.path)
            raise
        return trainer

    @classmethod
    def go_on(cls, config: Config, folder: RunFolder) -> "Trainer":
        """Resume the run in this folder, which must have these settings; start it where there is none yet."""
        parallel = Parallel(config.parallel)
        parallel.device(choose_device(config.device))
        if not parallel.exchange(folder.holds_run())[0]:  # the first process decides: the others may see
            return cls.start(config, folder, parallel)  # a folder that it has made meanwhile
        folder.refuse_other(at_home(adopt(config)))
        changes = {"steps": config.steps, "device": config.device, "parallel": config.parallel}
        return cls.resume(folder, parallel, **changes, accumulate=config.accumulate)

    # ------------------------------------------------------------------ the loop

    def train(self, stop_after: int | None = None) -> bool:
        """Train to the last step, or for `stop_after` steps from here, and write a checkpoint.

        Returns:
            True; False when a signal ended it early, with a checkpoint written.

        Raises:
            UserError: the run is not sound, or its last checkpoint could not be written.
        """
        first = self.step
        last = self.config.steps if stop_after is None else min(self.config.steps, first + stop_after)
        stopped = False
        try:
            if first < last:
                on_first_process(self.parallel, lambda: acquire_lock(self.folder.path))
                stopped = self._train_to(last)
        finally:
            release_lock(self.folder.path)
        return not stopped

    def _train_to(self, last: int) -> bool:
        """Run the loop up to a step. Returns whether a signal ended it."""
        stopped, self.metrics = False, self._open_log()
        log.info("objective %s", self.statement)
        bar = ProgressBar("training", self.step, self.config.steps, shown=self.parallel.main)
        with on_signal(self._stop) as self.caught:
            try:
                with self.watchdog, bar:
                    while self.step < last and not stopped:
                        outs, grad_norm, rate = self.train_step()
                        self.meter.count()
                        seen = self.observe()
                        if self.step % self.config.log_every == 0 or self.step == last:
                            self.record(outs, grad_norm, rate, bar, seen)
                        elif seen and self.metrics:
                            self.metrics.write(self.step, seen)
                        self.keep_or_go_back(ending=self.step == last)
                        stopped = self.parallel.vote(self._stop.is_set())
                    if stopped and self._saved != self.step and self.may_be_kept():
                        self.save()
            finally:
                self.checkpointer.wait()
            self.parallel.count_votes()
            if self.metrics:
                self.metrics.close()
            self.checkpointer.finish()
        if stopped:
            log.info("ended after step %d as it was asked to; %s", self.step, self.checkpointer.kept())
        return stopped

    @property
    def status(self) -> int:
        """The exit status of a run that a signal ended."""
        return status_of(self.caught)

    def train_step(self) -> tuple[list[Output], Tensor, float]:
        """One step: batch → objective → backward → clip → optimizer → EMA → guard.

        Returns:
            the objective's outputs on this process's parts of the batch, the gradient's norm, the learning rate.
        """
        config = self.config
        rate = config.optimizer.lr * self.warmup(self.step) * self.decay(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        flow_rows = self.loss.objective.flow_rows(config.batch_size, self.step)
        outs = []
        for part in self.parts:
            x, y, ids = self._fetch(part.rows)
            with self.parallel.syncing(self.wrapped, last=part is self.parts[-1]):
                outs.append(self.wrapped(x, y, ids, self.step, part.below(flow_rows)))
                (outs[-1].loss / config.accumulate).backward()
            self.classes.add(outs[-1].residual, y)
        grad_norm = whole(nn.utils.clip_grad_norm_(self.net.parameters(), config.optimizer.clip or math.inf))
        step_if_finite(self.optimizer, grad_norm)
        self.step += 1
        for average in self.averages:
            average.update(self.net, self.step)
        self.pending.append(PendingStep(self.step, outs, grad_norm))
        self.check_pending(keep=self.lag)
        return outs, grad_norm, rate

    def observe(self) -> dict[str, float]:
        """Return what the observers whose turn it is say of the run; all processes must call."""
        self._at("observing")
        parts = (self.net, self.ema.module, self.objective, self.dataset)
        view = RunView(self.step, *parts, self.config, self.parallel, self.device, self.folder, self.notes)
        return observe(self.observers, view, self.meter)

    def record(
        self, outs: list[Output], grad_norm: Tensor, rate: float, bar: ProgressBar, seen: dict[str, float]
    ) -> None:
        """Write a line of metrics, over all parts and processes, and look at it; all processes must call."""
        self._at("logging")
        self.check_pending()
        values, speeds = means_of(outs, self.parallel, self.device), self.meter.read()
        self.guard.watch(self.step, values["residual"], values["alpha"])
        if self.metrics:
            self.metrics.write(self.step, values | {"lr": rate, "grad_norm": float(grad_norm)} | speeds | seen)
        bar.update(self.step, f"residual {values['residual']:.4f}  α {values['alpha']:.3f}")

    # ------------------------------------------------------------------ guards

    def check_pending(self, keep: int = 0) -> None:
        """Look at the steps taken so far, but for the last `keep`; all processes must call.

        One that was not finite has changed no weights (`step_if_finite`); its rows are reported here.
        """
        while len(self.pending) > keep:
            taken = self.pending.popleft()
            if not self.guard.accepts(taken.grad_norm.item()):
                what, self._where = blame(taken.outs, self.parts, self.parallel)
                log.warning("step %d skipped, %s: %s", taken.step, what, self._where)

    def keep_or_go_back(self, *, ending: bool) -> None:
        """After a step: write what is due, or go back where the run is in no state to go on; all must call."""
        due = ending or self._owed or self.step % self.config.checkpoint_every == 0
        storing = self._stores_now()
        fit = self.may_be_kept(ending=ending) if due or storing else True
        if self.guard.reason:
            self.roll_back()
            return
        if storing and fit:
            self.store_averages()
        if due and fit:
            self.save()
        self._owed = due and not fit

    def may_be_kept(self, *, ending: bool = False) -> bool:
        """Whether the run is in a state to be gone on from; all processes must call.

        It is not after a step that was not finite, which may come of ruined weights, nor with a weight, an average
        or a moment that is not. The latter, and at the end of the run the former too, call for a roll-back.
        """
        self.check_pending()
        if self.guard.bad:
            if ending:
                self.guard.condemn(f"the last {self.guard.bad} steps had a non-finite loss or gradient")
        elif found := self.checkpointer.not_finite(self.state):
            self.guard.condemn(found)
        return not (self.guard.bad or self.guard.reason)

    def roll_back(self) -> None:
        """Go back to the newest whole checkpoint, once, and on from there with other data and noise.

        Where not one step from that checkpoint was finite, it may hold ruined weights: then the run goes back once
        more, to the one before it.

        Raises:
            UserError: the run cannot go on, and has gone back before or has no checkpoint.
        """
        self.checkpointer.wait()
        reason, step, turns, self.guard.reason = self.guard.reason, self.step, self.guard.rolled_back, ""
        stored = self.checkpointer.place_to_go_back(self.guard.bound(step))
        if stored is None:
            again = " after going back once" if turns else ""
            at = f", the last at {self._where}" if self._where else ""
            raise UserError(
                f"training stopped at step {step}{again}: {reason}{at}; {self.checkpointer.kept()}; "
                "lower optimizer.lr or optimizer.clip"
            )
        self.pending.clear()
        self.restore(stored)
        self.guard.note_rollback(self.step, turns)
        self._set_order()
        how = "once more, with other data" if turns else "once, with other data"
        log.warning("%s: going back from step %d to %d, %s and noise", reason, step, self.step, how)
        if self.metrics:
            self.metrics.close()
            self.metrics = self._open_log()

    # ------------------------------------------------------------------ checkpoints

    def save(self) -> None:
        """Write a checkpoint of everything that the next step depends on; all processes must call."""
        self._at("saving")
        with self.meter.waiting("save"):
            self.checkpointer.save(self.step, self.state)
        self._saved = self.step

    def store_averages(self) -> None:
        """Keep the power-function averages as they are now, for `alphaflow ema`; all processes must call."""
        self._at("saving")
        with self.meter.waiting("save"):
            self.checkpointer.store(self.step, self.state)

    def catch_up(self) -> None:
        """Store the averages of this step where a full disk or a kill came before; all processes must call."""
        if self.step and self._stores_now() and not self.checkpointer.has_averages(self.step):
            self.store_averages()
            self.checkpointer.finish()

    def restore(self, stored: checkpoint.Checkpoint | None = None) -> None:
        """Go on from a checkpoint, by default the newest whole one; all processes must call."""
        stored = stored or self.checkpointer.newest()
        self.checkpointer.load(stored, self.state)
        self.step = self._saved = stored.step
        self._owed = False
        self._set_order()

    def begin(self) -> None:
        """Where another run ended, if the settings say so; all processes must call."""
        if self.config.init:
            data, modules = describe(self.dataset), {"model": self.net, "ema": self.ema.module}
            begin_from(self.config.init, self.config.model, data, modules, self.optimizer, self.parallel)

    # ------------------------------------------------------------------ small parts

    def _stream(self, seed: int) -> Batches | Prefetcher:
        batches = batches_of(self.dataset, self.config.data, self.config.batch_size, seed)
        return prefetch_on(self.device, batches, [part.rows for part in self.parts])

    def _fetch(self, rows: slice) -> Batch:
        """Return these rows of the step's batch, on the device."""
        self._at("fetching data")
        with self.meter.waiting("data"):
            x, y, ids = self.batches(self.step, rows)
            y = None if y is None else y.to(self.device, non_blocking=True)
            batch = Batch(x.to(self.device, non_blocking=True), y, ids)
        self._at("computing")
        return batch

    def _at(self, stage: str) -> None:
        """Tell the watchdog; what follows a step belongs to it, though it is counted by then."""
        within = stage in ("fetching data", "computing")
        self.watchdog.at(stage, self.step if within else self.step - 1, self.guard.rolled_back)

    def _stores_now(self) -> bool:
        return bool(self.profiles) and (self.step % self.store_every == 0 or self.step == self.config.steps)

    def _set_order(self) -> None:
        """Set the order of the data and the noise: another after a roll-back, or it would come again."""
        config, turn = self.config, self.guard.rolled_back
        seed = hash_key(config.seed, "again", turn) if turn else config.seed
        self.batches, self.loss.seed = self._stream(seed), seed

    def _open_log(self) -> MetricsLog | None:
        if not self.parallel.main:
            return None
        path, settings = self.folder.path, to_dict(self.config)
        return MetricsLog(path, self.step, project=self.config.wandb, settings=settings, notes=self.notes)
