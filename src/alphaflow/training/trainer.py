"""The trainer, on one process or, with torchrun, on many."""

import dataclasses
import logging
import threading
from collections import deque
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .. import schedules
from ..data import Batch, Batches
from ..derivative import check_derivative, choose_method
from ..diagnostics.observer import Diagnoser
from ..ema import EMA, PowerEMA
from ..errors import UserError
from ..objectives import Output
from ..path import interpolate
from ..rng import KeyedRandom, hash_key
from . import checkpoint
from .ahead import Ahead, ahead_on
from .averages import forget_after, tensors_of
from .begin import begin_from
from .blocks import prepare_blocks
from .build import build_dataset, build_model
from .classes import ClassResiduals
from .config import Config, to_dict, with_changes
from .data import batches_of, check_same, describe
from .devices import choose_device, prepare
from .guard import Guard, Taken, on_signal, step_if_finite
from .log import MetricsLog, ProgressBar
from .loss import Loss, autocast, blame, means_of
from .meter import Meter, forward_flops
from .monitor import Monitor
from .observers import Observer, RunView, load_states, observe, states_of
from .parallel import Parallel, load_into, whole
from .run import RunFolder
from .saver import Saver
from .snapshots import Snapshots
from .state import restore_optimizer
from .steer import may_differentiate, steering_of
from .teacher import build_taught, record_of
from .watchdog import Watchdog

log = logging.getLogger("alphaflow")


class Trainer:
    """Trains one network. `train()` is the loop, `train_step()` one step; both are meant to be read.

    Args:
        config: the settings.
        folder: the run's folder. `start`, `resume` and `go_on` make one or find one; use them.
    """

    def __init__(self, config: Config, folder: RunFolder, parallel: Parallel | None = None) -> None:
        self.config, self.folder = config, folder
        self.parallel = parallel or Parallel(config.parallel)
        self.parallel.check_batch(config.batch_size, config.accumulate)
        self.parts = self.parallel.parts(config.accumulate)
        self.device = self.parallel.device(choose_device(config.device))
        prepare(self.device, tf32=config.tf32)
        self.dataset = build_dataset(config.data)
        shape, classes = self.dataset.shape, self.dataset.num_classes
        self.net: nn.Module = build_model(config.model, shape, classes, config.seed).to(self.device)
        self.objective = build_taught(config, self.dataset, self.device, folder)
        self.batches = self._stream(config.seed)
        self.warmup = schedules.warmup(config.optimizer.warmup)
        horizon = config.schedule_steps or config.steps
        self.decay = schedules.parse(config.optimizer.decay, horizon, "learning rate schedule")
        self.store_every = config.ema.store_every or max(1, horizon // 20)
        self.ema = EMA(self.net, config.ema.half_life, config.ema.ramp)
        flops = 3.0 * forward_flops(self.net, shape, classes) / self.parallel.world
        self.meter = Meter(config.batch_size, flops, config.peak_tflops * 1e12, self.device, config.precision)
        self.guard = Guard(config.max_bad_steps, config.spike_factor, config.spike_rollback)
        self.watchdog = Watchdog(self.parallel.board(), 60 * config.parallel.timeout)
        self.saver = Saver(
            folder.checkpoints,
            keep=config.keep_checkpoints,
            keep_every=config.keep_every,
            peers=self.parallel.writers(),
        )
        self.store = Saver(folder.averages, peers=self.parallel.writers())
        self.classes = ClassResiduals(config, self.dataset, self.device, self.parallel)
        self.observers: list[Observer] = [Snapshots(config.sample_every), self.classes]
        self.observers += steering_of(self.objective)
        if config.monitor.every:
            self.observers.append(Monitor(config, self.dataset, self.device, self.parallel))
        if config.diagnosis.every:
            self.observers.append(Diagnoser(config.diagnosis.every, config.diagnosis.batches))
        self.step = 0
        self.taken: deque[Taken] = deque()
        self.behind = int(self.device.type == "cuda")  # a GPU is asked how a step went when it has the next one
        self._where = ""
        self._stop = threading.Event()

    @classmethod
    def start(cls, config: Config, folder: RunFolder, parallel: Parallel | None = None) -> "Trainer":
        """A new run. Its folder appears only when everything that the settings name could be built."""
        folder.refuse_existing()
        config = dataclasses.replace(config, schedule_steps=config.schedule_steps or config.steps)
        trainer = cls(config, folder, parallel)
        trainer.check_first_batch()
        trainer.share_out()
        trainer.begin()
        trainer.parallel.wait()  # for all to have seen that there was no run
        if trainer.parallel.main:
            folder.create(config, describe(trainer.dataset), record_of(trainer.objective))
            folder.list_skipped(getattr(trainer.dataset, "skipped", ()))
        return trainer

    @classmethod
    def resume(cls, folder: RunFolder, processes: Parallel | None = None, **changes: Any) -> "Trainer":
        """Go on with a run; `changes` are settings by dotted names that may differ from now on, such as `steps`.

        Schedules keep the length that they had, and nothing depends on the number of processes.
        """
        changes = {key: value for key, value in changes.items() if value is not None}
        config = with_changes(folder.read_config(), changes)
        trainer = cls(config, folder, processes)
        trainer.share_out()
        if checkpoint.steps_in(folder.checkpoints):
            trainer.restore()
        else:
            trainer.begin()
        if changes and trainer.parallel.main:
            folder.write_config(config, describe(trainer.dataset), record_of(trainer.objective))
        return trainer

    @classmethod
    def go_on(cls, config: Config, folder: RunFolder) -> "Trainer":
        """Resume the run in this folder, which must have these settings; start it where there is none yet."""
        parallel = Parallel(config.parallel)
        parallel.device(choose_device(config.device))
        if not parallel.exchange(folder.config_file.exists())[0]:  # the first process decides: the others may see
            return cls.start(config, folder, parallel)  # a folder that it has made meanwhile
        folder.refuse_other(config)
        changes = {"steps": config.steps, "device": config.device, "parallel": config.parallel}
        return cls.resume(folder, parallel, **changes, accumulate=config.accumulate)

    def share_out(self) -> None:
        """Lay the network out over the processes, and make what follows that layout."""
        config = self.config
        wanted = may_differentiate(self.objective, config) or config.diagnosis.every > 0
        if self.objective.derivative == "auto" and wanted:  # tried while the network is plain
            method = choose_method(self.net, *self._first_points())
            self.objective = dataclasses.replace(self.objective, derivative=method)
        self.objective = self.parallel.suit(self.objective, compiled=config.compile)
        prepare_blocks(self.net, config, self.objective.derivative)
        self.parallel.shard(self.net)
        self.parallel.shard(self.ema.module)
        try:
            self.profiles = [PowerEMA(self.net, std) for std in config.ema.profiles]
            self.averages: list[EMA | PowerEMA] = [self.ema, *self.profiles]
        except ValueError as error:
            raise UserError(str(error), status=2) from None
        self.optimizer = torch.optim.AdamW(
            self.net.parameters(),
            lr=config.optimizer.lr,
            betas=(config.optimizer.beta1, config.optimizer.beta2),
            weight_decay=config.optimizer.weight_decay,
            fused=True,
        )
        self.loss = Loss(self.net, self.objective, config)
        self.wrapped = self.parallel.wrap(self.loss)

    # ------------------------------------------------------------------ the loop

    def train(self, stop_after: int | None = None) -> bool:
        """Train to the last step, or for `stop_after` steps from here, and write a checkpoint.

        Returns:
            True; False when a signal ended it early, with a checkpoint written.

        Raises:
            UserError: the run is not sound, or its last checkpoint could not be written.
        """
        config, first, stopped = self.config, self.step, False
        last = config.steps if stop_after is None else min(config.steps, first + stop_after)
        self.metrics = self._open_log()
        bar = ProgressBar("training", first, config.steps, shown=self.parallel.main)
        try:
            with on_signal(self._stop), self.watchdog, bar:
                while self.step < last and not stopped:
                    outs, grad_norm, rate = self.train_step()
                    self.meter.count()
                    seen = self.observe()
                    if self.step % config.log_every == 0 or self.step == last:
                        self.record(outs, grad_norm, rate, bar, seen)
                    elif seen and self.metrics:
                        self.metrics.write(self.step, seen)
                    due = self.step % config.checkpoint_every == 0 and self.step != last
                    if due:
                        self.judge()
                    if self.guard.reason:
                        self.roll_back()
                        continue
                    if self.profiles and (self.step % self.store_every == 0 or self.step == config.steps):
                        self.store_averages()
                    if due:
                        self.save()
                    stopped = self.parallel.vote(self._stop.is_set())
                if self.step > first or first == 0:
                    self.save()
        finally:
            self.saver.wait()
            self.store.wait()
        self.parallel.count_votes()
        if self.metrics:
            self.metrics.close()
        self.saver.finish()
        self.store.finish()
        return not stopped

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
        grad_norm = whole(nn.utils.clip_grad_norm_(self.net.parameters(), config.optimizer.clip))
        step_if_finite(self.optimizer, grad_norm)
        self.step += 1
        for average in self.averages:
            average.update(self.net, self.step)
        self.taken.append(Taken(self.step, outs, grad_norm))
        self.judge(self.behind)
        return outs, grad_norm, rate

    def observe(self) -> dict[str, float]:
        """What the observers whose turn it is say of the run; all processes must call."""
        self._at("observing")
        parts = (self.net, self.ema.module, self.objective, self.dataset)
        view = RunView(self.step, *parts, self.config, self.parallel, self.device, self.folder)
        return observe(self.observers, view, self.meter)

    def record(
        self, outs: list[Output], grad_norm: Tensor, rate: float, bar: ProgressBar, seen: dict[str, float]
    ) -> None:
        """Write a line of metrics, over all parts and processes, and look at it; all processes must call."""
        self._at("logging")
        self.judge()
        values, speeds = means_of(outs, self.parallel, self.device), self.meter.read()
        self.guard.watch(self.step, values["residual"], values["alpha"])
        if self.metrics:
            self.metrics.write(self.step, values | {"lr": rate, "grad_norm": float(grad_norm)} | speeds | seen)
        bar.update(self.step, f"residual {values['residual']:.4f}  α {values['alpha']:.3f}")

    # ------------------------------------------------------------------ guards

    def check_first_batch(self) -> None:
        """Compare du/dt with central differences on the first batch, if any step will need du/dt.

        Peers trained for days on silently wrong tangents. Raises `DerivativeError` with the figures.
        """
        if not may_differentiate(self.objective, self.config):
            return
        with autocast(self.config, self.device):
            error = check_derivative(self.net, *self._first_points(), method=self.objective.derivative)
        log.info("du/dt agrees with central differences to %.1e", error)

    def _first_points(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """z, v, r, t, y of the first batch, the same on every process."""
        x, y, ids = self.batches(0)
        x, y = x.to(self.device), None if y is None else y.to(self.device)
        random = KeyedRandom(hash_key(self.config.seed, "check"), ids)
        r, t = (time.to(x) for time in self.objective.times.draw(random))
        z, v = interpolate(x, random.normal("noise", x.shape[1:], self.device), t)
        return z, v, r, t, y

    def judge(self, behind: int = 0) -> None:
        """Look at the steps taken so far, but for the last `behind`; all processes must call.

        One that was not finite has changed no weights (`step_if_finite`); its rows are reported here.
        """
        while len(self.taken) > behind:
            taken = self.taken.popleft()
            if not self.guard.accepts(taken.grad_norm.item()):
                what, self._where = blame(taken.outs, self.parts, self.parallel)
                log.warning("step %d skipped, %s: %s", taken.step, what, self._where)

    def roll_back(self) -> None:
        """Go back to the newest whole checkpoint, once, and on from there with other data and noise.

        Where there is none yet, a run that only leapt goes on as it is.

        Raises:
            UserError: the run cannot go on, and has gone back before or has no checkpoint.
        """
        self.saver.wait()
        self.store.wait()
        found = checkpoint.steps_in(self.folder.checkpoints)
        reason, step, self.guard.reason = self.guard.reason, self.step, ""
        if not found and not self.guard.fatal:
            return
        if self.guard.rolled_back or not found:
            kept = f"the checkpoint of step {found[-1]} is intact" if found else "there is no checkpoint yet"
            again = " after going back once" if self.guard.rolled_back else ""
            raise UserError(
                f"training stopped at step {step}{again}: {reason}, the last at {self._where}; {kept}; "
                "lower optimizer.lr or optimizer.clip"
            )
        self.taken.clear()
        self.restore()
        self.guard.note_rollback()
        self._set_order()
        log.warning("%s: going back from step %d to %d, once, with other data and noise", reason, step, self.step)
        if self.metrics:
            self.metrics.close()
            self.metrics = self._open_log()

    # ------------------------------------------------------------------ checkpoints

    def save(self) -> None:
        """Write a checkpoint of everything that the next step depends on; all processes must call."""
        self.judge()
        self._at("saving")
        parts = {
            "model": self.net.state_dict(),
            "ema": self.ema.module.state_dict(),
            "optimizer": checkpoint.optimizer_tensors(self.net, self.optimizer),
            **tensors_of(self.profiles),
        }
        state = {"data": self.dataset.fingerprint, "observers": states_of(self.observers), **self.guard.state()}
        with self.meter.waiting("save"):
            self.saver.save(
                self.step, {part: self.parallel.pieces(content) for part, content in parts.items()}, state
            )

    def store_averages(self) -> None:
        """Keep the power-function averages as they are now, for `alphaflow ema`; all processes must call."""
        self._at("saving")
        parts = {part: self.parallel.pieces(content) for part, content in tensors_of(self.profiles).items()}
        with self.meter.waiting("save"):
            self.store.save(self.step, parts, {"profiles": [one.std for one in self.profiles]})

    def restore(self) -> None:
        """Go on from the newest whole checkpoint. Random numbers and data order follow from the step alone."""
        found = checkpoint.newest(self.folder.checkpoints).step if self.parallel.main else None
        step = self.parallel.exchange(found)[0]
        stored = checkpoint.Checkpoint(self.folder.checkpoints / f"step-{step:08d}")
        check_same(self.dataset, stored.state["data"], self.folder.read_record()["data"])
        parts = {"model": self.net.state_dict(), "ema": self.ema.module.state_dict(), **tensors_of(self.profiles)}
        for part, content in parts.items():
            for name, tensor in content.items():
                load_into(tensor, partial(stored.read, part, name))
        restore_optimizer(self.net, self.optimizer, stored)
        self.step = stored.step
        self.guard.load(stored.state)
        load_states(self.observers, stored.state.get("observers", {}))
        self._set_order()
        if self.parallel.main:
            forget_after(self.folder, self.step)

    def begin(self) -> None:
        """Where another run ended, if the settings say so; all processes must call."""
        if self.config.init:
            data, modules = describe(self.dataset), {"model": self.net, "ema": self.ema.module}
            begin_from(self.config.init, self.config.model, data, modules, self.optimizer, self.parallel)

    # ------------------------------------------------------------------ small parts

    def _stream(self, seed: int) -> Batches | Ahead:
        return ahead_on(
            self.device, batches_of(self.dataset, self.config, seed), [part.rows for part in self.parts]
        )

    def _fetch(self, rows: slice) -> Batch:
        """These rows of the step's batch, on the device."""
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

    def _set_order(self) -> None:
        """The order of the data and the noise: after a roll-back another than before, or it would come again."""
        config, turn = self.config, self.guard.rolled_back
        seed = hash_key(config.seed, "again", turn) if turn else config.seed
        self.batches, self.loss.seed = self._stream(seed), seed

    def _open_log(self) -> MetricsLog | None:
        if not self.parallel.main:
            return None
        settings = to_dict(self.config)
        return MetricsLog(self.folder.path, self.step, project=self.config.wandb, settings=settings)
