"""The trainer: one process, the CPU or one GPU."""

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
from ..derivative import check_derivative
from ..ema import EMA
from ..errors import UserError
from ..objectives import Output
from ..path import interpolate
from ..rng import KeyedRandom, hash_key
from . import checkpoint
from .build import build_dataset, build_model, build_objective
from .config import Config
from .devices import choose_device, prepare
from .log import MetricsLog, ProgressBar
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
        self.device = choose_device(config.device)
        prepare(self.device, tf32=config.tf32)
        self.dataset = build_dataset(config.data)
        classes = self.dataset.num_classes
        self.net: nn.Module = build_model(config.model, self.dataset.shape, classes, config.seed).to(self.device)
        self.objective = build_objective(config, classes)
        self.compiled = Compiled(self.objective) if config.compile else self.objective
        self.batches = Batches(self.dataset, config.batch_size, config.seed, flip=config.data.flip)
        self.optimizer = torch.optim.AdamW(
            self.net.parameters(),
            lr=config.optimizer.lr,
            betas=(config.optimizer.beta1, config.optimizer.beta2),
            weight_decay=config.optimizer.weight_decay,
            fused=True,
        )
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
        folder.create(config, describe(trainer.dataset))
        return trainer

    @classmethod
    def resume(cls, folder: RunFolder, steps: int | None = None, device: str | None = None) -> "Trainer":
        """Go on with a run, to `steps` and on `device` if given. Schedules keep the length that they had."""
        changes = {key: value for key, value in (("steps", steps), ("device", device)) if value is not None}
        config = dataclasses.replace(folder.read_config(), **changes)  # type: ignore[arg-type]
        trainer = cls(config, folder)
        if checkpoint.steps_in(folder.checkpoints):
            trainer.restore()
        if changes:
            folder.write_config(config, describe(trainer.dataset))
        return trainer

    # ------------------------------------------------------------------ the loop

    def train(self, stop_after: int | None = None) -> bool:
        """Train to the last step, or for `stop_after` steps from here, and write a checkpoint.

        Returns:
            True; False when SIGTERM ended it early, with a checkpoint written.
        """
        config, first = self.config, self.step
        last = config.steps if stop_after is None else min(config.steps, first + stop_after)
        metrics = MetricsLog(self.folder.path, self.step)
        clock, logged = time.monotonic(), self.step
        with _on_sigterm(self._stop), ProgressBar("training", first, config.steps) as bar:
            while self.step < last and not self._stop.is_set():
                out, grad_norm, rate = self.train_step()
                if self.step % config.log_every == 0 or self.step == last:
                    now = time.monotonic()
                    speed = (self.step - logged) * config.batch_size / (now - clock)
                    clock, logged = now, self.step
                    values = {key: float(value) for key, value in out.metrics.items()}
                    metrics.write(
                        self.step, {**values, "lr": rate, "grad_norm": grad_norm, "samples_per_second": speed}
                    )
                    bar.update(self.step, f"residual {values['residual']:.4f}  α {values['alpha']:.3f}")
                if self.step % config.sample_every == 0 or self.step == config.steps:
                    save_snapshot(self.ema.module, self.dataset, self.folder.samples, self.step, config.seed)
                if self.step % config.checkpoint_every == 0 and self.step != last:
                    self.save()
        metrics.close()
        if self.step > first or first == 0:
            self.save()
        return not self._stop.is_set()

    def train_step(self) -> tuple[Output, float, float]:
        """One step: batch → objective → backward → guard → clip → optimizer → EMA.

        Returns:
            the objective's output on the last part of the batch, the gradient's norm, the learning rate.
        """
        config = self.config
        rate = config.optimizer.lr * self.warmup(self.step) * self.decay(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        x, y, ids = self.batches(self.step)
        outs = []
        for part in self._parts(x, y, ids):
            outs.append(self.evaluate_objective(*part))
            (outs[-1].loss / config.accumulate).backward()
        grad_norm = nn.utils.clip_grad_norm_(self.net.parameters(), config.optimizer.clip).item()
        if self._is_sound(outs, grad_norm):
            self.optimizer.step()
            self.ema.update(self.net, self.step + 1)
        self.step += 1
        return outs[-1], grad_norm, rate

    def evaluate_objective(self, x: Tensor, y: Tensor | None, ids: Tensor) -> Output:
        """The objective on rows with the sample numbers `ids`, from which its random numbers derive."""
        x = x.to(self.device, non_blocking=True)
        y = None if y is None else y.to(self.device, non_blocking=True)
        random = KeyedRandom(hash_key(self.config.seed, "train"), ids, self.step)
        with self._autocast():
            return self.compiled(self.net, x, y, step=self.step, generator=random)

    # ------------------------------------------------------------------ guards

    def check_first_batch(self) -> None:
        """Compare du/dt with central differences on the first batch, if any step will need du/dt.

        Peers trained for days on silently wrong tangents. Raises `DerivativeError` with the figures.
        """
        horizon = self.config.steps
        needs = {self.objective.alpha_at(k) for k in (0, horizon // 2, horizon)} | {1.0}
        if 0.0 not in needs:
            return
        x, y, ids = self.batches(0)
        x, y = x.to(self.device), None if y is None else y.to(self.device)
        random = KeyedRandom(hash_key(self.config.seed, "check"), ids)
        r, t = (time.to(x) for time in self.objective.times.draw(random))
        z, v = interpolate(x, random.normal("noise", x.shape[1:], self.device), t)
        with self._autocast():
            error = check_derivative(self.net, z, v, r, t, y, method=self.objective.derivative)
        log.info("du/dt agrees with central differences to %.1e", error)

    def _is_sound(self, outs: list[Output], grad_norm: float) -> bool:
        """Whether to take the step. A non-finite one is skipped and reported; too many in a row end training."""
        if math.isfinite(grad_norm):  # a non-finite loss has a non-finite gradient
            self.bad_steps = 0
            return True
        self.bad_steps += 1
        out = next((out for out in outs if not bool(torch.isfinite(out.loss))), outs[-1])
        bad = torch.nonzero(~torch.isfinite(out.residual))[:, 0]
        rows = bad[:4] if len(bad) else out.residual.argsort(descending=True)[:4]
        where = "; ".join(f"row {i}: r={out.r[i]:.4f} t={out.t[i]:.4f}" for i in rows.tolist())
        what = f"{len(bad)} rows not finite" if len(bad) else "gradient not finite, largest residuals"
        log.warning("step %d skipped, %s (α=%.3g): %s", self.step + 1, what, float(out.metrics["alpha"]), where)
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
        """Write a checkpoint of everything that the next step depends on."""
        tensors = {
            "model": dict(self.net.state_dict()),
            "ema": dict(self.ema.module.state_dict()),
            "optimizer": checkpoint.optimizer_tensors(self.net, self.optimizer),
        }
        state = {"bad_steps": self.bad_steps, "data": self.dataset.fingerprint}
        checkpoint.save(self.folder.checkpoints, self.step, tensors, state, self.config.keep_checkpoints)

    def restore(self) -> None:
        """Go on from the newest whole checkpoint. Random numbers and data order follow from the step alone."""
        tensors, state = checkpoint.load(self.folder.checkpoints)
        if state["data"] != self.dataset.fingerprint:
            raise UserError(
                f"the data has changed since this run began (fingerprint {self.dataset.fingerprint}, was "
                f"{state['data']}): restore it, or start a new run"
            )
        self.net.load_state_dict(tensors["model"])
        self.ema.module.load_state_dict(tensors["ema"])
        checkpoint.restore_optimizer(self.net, self.optimizer, tensors["optimizer"])
        self.step, self.bad_steps = state["step"], state["bad_steps"]

    # ------------------------------------------------------------------ small parts

    def _parts(self, x: Tensor, y: Tensor | None, ids: Tensor) -> Iterator[tuple[Any, ...]]:
        """Cut a batch into `accumulate` parts, interleaved so that each has its share of every kind of row."""
        count = self.config.accumulate
        for k in range(count):
            yield x[k::count], None if y is None else y[k::count], ids[k::count]

    def _autocast(self) -> torch.autocast:
        half = self.config.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=half)


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
