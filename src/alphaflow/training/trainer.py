"""The trainer, on one process or, with torchrun, on many."""

import contextlib
import dataclasses
import logging
import math
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from .. import schedules
from ..compiled import Compiled
from ..data import Batches, Dataset
from ..data.loader import Batch
from ..derivative import check_derivative
from ..ema import EMA
from ..errors import UserError
from ..objectives import AlphaFlow, Output, binned
from ..path import interpolate
from ..rng import KeyedRandom, hash_key
from . import checkpoint
from .build import build_dataset, build_model, build_objective
from .config import Config
from .devices import choose_device, prepare
from .log import MetricsLog, ProgressBar
from .parallel import Parallel, whole
from .run import RunFolder
from .snapshots import save_snapshot

log = logging.getLogger("alphaflow")


class Trainer:
    """Trains one network. `train()` is the loop, `train_step()` one step; both are meant to be read.

    Args:
        config: the settings.
        folder: the run's folder. `start` and `resume` make one or find one; use them.
    """

    def __init__(self, config: Config, folder: RunFolder) -> None:
        self.config, self.folder = config, folder
        self.parallel = Parallel(config.parallel.strategy)
        self.parallel.check_batch(config.batch_size, config.accumulate)
        self.device = self.parallel.device(choose_device(config.device))
        prepare(self.device, tf32=config.tf32)
        self.dataset = build_dataset(config.data)
        classes = self.dataset.num_classes
        self.net: nn.Module = build_model(config.model, self.dataset.shape, classes, config.seed).to(self.device)
        self.objective = build_objective(config, classes)
        self.batches = Batches(self.dataset, config.batch_size, config.seed, flip=config.data.flip)
        self.warmup = schedules.warmup(config.optimizer.warmup)
        self.decay = schedules.parse(
            config.optimizer.decay, config.schedule_steps or config.steps, "learning rate schedule"
        )
        self.ema = EMA(self.net, config.ema.half_life, config.ema.ramp)
        self.step = 0
        self.bad_steps = 0
        self._stop = threading.Event()

    @classmethod
    def start(cls, config: Config, folder: RunFolder) -> "Trainer":
        """A new run. Its folder appears only when everything that the settings name could be built."""
        folder.refuse_existing()
        config = dataclasses.replace(config, schedule_steps=config.schedule_steps or config.steps)
        trainer = cls(config, folder)
        trainer.check_first_batch()
        trainer.parallel.wait()  # for all to have seen that there was no run
        if trainer.parallel.main:
            folder.create(config, describe(trainer.dataset))
        trainer.share_out()
        return trainer

    @classmethod
    def resume(cls, folder: RunFolder, steps: int | None = None, device: str | None = None) -> "Trainer":
        """Go on with a run, to `steps` and on `device` if given. Schedules keep the length that they had."""
        changes = {key: value for key, value in (("steps", steps), ("device", device)) if value is not None}
        config = dataclasses.replace(folder.read_config(), **changes)  # type: ignore[arg-type]
        trainer = cls(config, folder)
        found = bool(checkpoint.steps_in(folder.checkpoints))
        moments = trainer.restore() if found else {}
        trainer.check_first_batch()  # before weights are sharded, which the check cannot take
        trainer.share_out(moments)
        if changes and trainer.parallel.main:
            folder.write_config(config, describe(trainer.dataset))
        return trainer

    def share_out(self, moments: dict[str, Tensor] | None = None) -> None:
        """Lay the network out over the processes, and make its optimizer, which goes on from `moments`."""
        config = self.config
        objective = self.parallel.suit(self.objective, compiled=config.compile)
        self.parallel.shard(self.net, self.device)
        self.parallel.shard(self.ema.module, self.device)
        self.optimizer = torch.optim.AdamW(
            self.net.parameters(),
            lr=config.optimizer.lr,
            betas=(config.optimizer.beta1, config.optimizer.beta2),
            weight_decay=config.optimizer.weight_decay,
            fused=True,
        )
        checkpoint.restore_optimizer(self.net, self.optimizer, moments or {})
        self.loss = Loss(self.net, objective, config)
        self.wrapped = self.parallel.wrap(self.loss)

    # ------------------------------------------------------------------ the loop

    def train(self, stop_after: int | None = None) -> bool:
        """Train to the last step, or for `stop_after` steps from here, and write a checkpoint.

        Returns:
            True; False when SIGTERM ended it early, with a checkpoint written.
        """
        config, first = self.config, self.step
        last = config.steps if stop_after is None else min(config.steps, first + stop_after)
        metrics = MetricsLog(self.folder.path, self.step) if self.parallel.main else None
        clock, logged = time.monotonic(), self.step
        with _on_sigterm(self._stop), ProgressBar("training", first, config.steps, shown=bool(metrics)) as bar:
            while self.step < last and not self.parallel.any(self._stop.is_set()):
                outs, grad_norm, rate = self.train_step()
                if self.step % config.log_every == 0 or self.step == last:
                    values, now = self.collect(outs), time.monotonic()
                    speed = (self.step - logged) * config.batch_size / (now - clock)
                    clock, logged = now, self.step
                    if metrics:
                        own = {"lr": rate, "grad_norm": grad_norm, "samples_per_second": speed}
                        metrics.write(self.step, values | own)
                    bar.update(self.step, f"residual {values['residual']:.4f}  α {values['alpha']:.3f}")
                if self.step % config.sample_every == 0 or self.step == config.steps:
                    self.save_samples()
                if self.step % config.checkpoint_every == 0 and self.step != last:
                    self.save()
        if metrics:
            metrics.close()
        if self.step > first or first == 0:
            self.save()
        return not self.parallel.any(self._stop.is_set())

    def train_step(self) -> tuple[list[Output], float, float]:
        """One step: batch → objective → backward → guard → clip → optimizer → EMA.

        Returns:
            the objective's outputs on this process's parts of the batch, the gradient's norm, the learning rate.
        """
        config = self.config
        rate = config.optimizer.lr * self.warmup(self.step) * self.decay(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        flow_rows = self.loss.objective.flow_rows(config.batch_size, self.step)
        parts, outs = self.parallel.parts(config.accumulate), []
        for part in parts:
            x, y, ids = self._to_device(self.batches(self.step, part.rows))
            with self.parallel.syncing(self.wrapped, last=part is parts[-1]):
                outs.append(self.wrapped(x, y, ids, self.step, part.below(flow_rows)))
                (outs[-1].loss / config.accumulate).backward()
        grad_norm = whole(nn.utils.clip_grad_norm_(self.net.parameters(), config.optimizer.clip)).item()
        if self._is_sound(outs, grad_norm):
            self.optimizer.step()
            self.ema.update(self.net, self.step + 1)
        self.step += 1
        return outs, grad_norm, rate

    def collect(self, outs: list[Output]) -> dict[str, float]:
        """The metrics of a step over all parts and processes; all processes must call."""
        names = [name for name in outs[0].metrics if not name.startswith("residual_")]
        table = [
            [torch.as_tensor(out.metrics[name]).to(self.device, torch.float64) for name in names] for out in outs
        ]
        means = self.parallel.mean(torch.stack([torch.stack(row) for row in table]).mean(0))
        rows = torch.cat([torch.stack([out.residual, out.r, out.t], dim=1) for out in outs])
        bins = binned(*self.parallel.gather(rows).unbind(1))
        return dict(zip(names, means.tolist())) | {name: float(value) for name, value in bins.items()}

    # ------------------------------------------------------------------ guards

    def check_first_batch(self) -> None:
        """Compare du/dt with central differences on the first batch, if any step will need du/dt.

        Peers trained for days on silently wrong tangents. Raises `DerivativeError` with the figures.
        """
        horizon = self.config.steps
        needs = {self.objective.alpha_at(k) for k in (0, horizon // 2, horizon)} | {1.0}
        if 0.0 not in needs:
            return
        x, y, ids = self._to_device(self.batches(0))
        random = KeyedRandom(hash_key(self.config.seed, "check"), ids)
        r, t = (time.to(x) for time in self.objective.times.draw(random))
        z, v = interpolate(x, random.normal("noise", x.shape[1:], self.device), t)
        with autocast(self.config, self.device):
            error = check_derivative(self.net, z, v, r, t, y, method=self.objective.derivative)
        log.info("du/dt agrees with central differences to %.1e", error)

    def _is_sound(self, outs: list[Output], grad_norm: float) -> bool:
        """Whether to take the step. A non-finite one is skipped and reported; too many in a row end training."""
        if math.isfinite(grad_norm):  # a non-finite loss has a non-finite gradient
            self.bad_steps = 0
            return True
        self.bad_steps += 1
        bad = self.parallel.gather_words([words for out in outs for words in _offending(out)])
        what = f"{len(bad)} rows not finite" if bad else "gradient not finite, largest residuals"
        where = "; ".join((bad or _largest(outs[-1]))[:4])
        log.warning("step %d skipped, %s (α=%.3g): %s", self.step + 1, what, outs[-1].metrics["alpha"], where)
        if self.bad_steps >= self.config.max_bad_steps:
            newest = checkpoint.steps_in(self.folder.checkpoints)
            kept = f"the checkpoint of step {newest[-1]} is intact" if newest else "there is no checkpoint yet"
            raise UserError(
                f"training stopped at step {self.step + 1}: {self.bad_steps} steps in a row had a non-finite loss "
                f"or gradient, the last at {where}; {kept}; lower optimizer.lr or optimizer.clip"
            )
        return False

    # ------------------------------------------------------------------ checkpoints

    def save(self) -> None:
        """Write a checkpoint of everything that the next step depends on; all processes must call."""
        parts = {
            "model": self.net.state_dict(),
            "ema": self.ema.module.state_dict(),
            "optimizer": checkpoint.optimizer_tensors(self.net, self.optimizer),
        }
        tensors = {
            part: {name: whole(value) for name, value in content.items()} for part, content in parts.items()
        }
        state = {"bad_steps": self.bad_steps, "data": self.dataset.fingerprint}
        if self.parallel.main:
            checkpoint.save(self.folder.checkpoints, self.step, tensors, state, self.config.keep_checkpoints)
        self.parallel.wait()

    def restore(self) -> dict[str, Tensor]:
        """Go on from the newest whole checkpoint. Random numbers and data order follow from the step alone.

        Returns:
            the optimizer's moments.
        """
        tensors, state = checkpoint.load(self.folder.checkpoints)
        if state["data"] != self.dataset.fingerprint:
            raise UserError(
                f"the data has changed since this run began (fingerprint {self.dataset.fingerprint}, was "
                f"{state['data']}): restore it, or start a new run"
            )
        self.net.load_state_dict(tensors["model"])
        self.ema.module.load_state_dict(tensors["ema"])
        self.step, self.bad_steps = state["step"], state["bad_steps"]
        return tensors["optimizer"]

    def save_samples(self) -> None:
        """A picture of one-step samples; with sharded weights all processes must call."""
        folder = self.folder.samples if self.parallel.main else None
        save_snapshot(self.ema.module, self.dataset, folder, self.step, self.config.seed)

    def _to_device(self, batch: Batch) -> Batch:
        x, y, ids = batch
        y = None if y is None else y.to(self.device, non_blocking=True)
        return Batch(x.to(self.device, non_blocking=True), y, ids)


class Loss(nn.Module):
    """The whole objective as one module's forward, which is what distributed wrappers must wrap."""

    def __init__(self, net: nn.Module, objective: AlphaFlow, config: Config) -> None:
        super().__init__()
        self.net, self.config = net, config
        self.objective = Compiled(objective) if config.compile else objective

    def forward(self, x: Tensor, y: Tensor | None, ids: Tensor, step: int, flow_rows: int) -> Output:
        """Rows with the sample numbers `ids`, from which random numbers derive; `flow_rows` of them have r = t."""
        random = KeyedRandom(hash_key(self.config.seed, "train"), ids, step)
        with autocast(self.config, x.device):
            return self.objective(self.net, x, y, step=step, generator=random, flow_rows=flow_rows)


def autocast(config: Config, device: torch.device) -> torch.autocast:
    """bfloat16 arithmetic where the settings ask for it; weights stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16")


def _offending(out: Output) -> list[str]:
    """The rows whose residual is not finite, in words."""
    return [_row(out, i) for i in torch.nonzero(~torch.isfinite(out.residual))[:, 0].tolist()]


def _largest(out: Output) -> list[str]:
    return [_row(out, i) for i in out.residual.argsort(descending=True)[:4].tolist()]


def _row(out: Output, i: int) -> str:
    return f"row {i}: r={out.r[i]:.4f} t={out.t[i]:.4f} residual={out.residual[i]:.3g}"


def describe(dataset: Dataset) -> dict[str, Any]:
    """What config.yaml records of the data, so that sampling needs no data set."""
    return {
        "shape": list(dataset.shape),
        "num_classes": dataset.num_classes,
        "class_names": list(dataset.class_names),
        "kind": dataset.kind,
        "count": len(dataset),
        "fingerprint": dataset.fingerprint,
    }


@contextlib.contextmanager
def _on_sigterm(event: threading.Event) -> Iterator[None]:
    """Within this block SIGTERM sets `event` and lets the step end."""

    def note(number: int, frame: FrameType | None) -> None:
        event.set()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
