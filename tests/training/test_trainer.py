"""The trainer: exact resumption, the guards, what a step does. Real runs of a tiny DiT on the digits."""

import contextlib
import dataclasses
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import forked
from alphaflow.derivatives.total import DerivativeError
from alphaflow.errors import UserError
from alphaflow.runs import checkpoint
from alphaflow.runs.config import Config, EMAConfig, ModelConfig, ObjectiveConfig
from alphaflow.runs.folder import RunFolder
from alphaflow.training.trainer import Trainer
from children import child
from tiny_runs import TINY, lines, same, weights


@pytest.mark.parametrize("member", ["alphaflow", "meanflow", "shortcut", "splitmeanflow", "tvm"])
def test_a_resumed_run_equals_an_undisturbed_one_to_the_bit(tmp_path, member):
    config = dataclasses.replace(TINY, objective=ObjectiveConfig(name=member, label_drop=0.2, omega=1.5))
    Trainer.start(config, RunFolder(tmp_path / "whole")).train()
    Trainer.start(config, RunFolder(tmp_path / "parts")).train(stop_after=3)
    Trainer.resume(RunFolder(tmp_path / "parts")).train(stop_after=2)
    Trainer.resume(RunFolder(tmp_path / "parts")).train()
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert lines(tmp_path / "whole") == lines(tmp_path / "parts")
    assert [row["step"] for row in lines(tmp_path / "parts")] == list(range(1, 9))


def test_lengthening_a_run_keeps_its_schedule(tmp_path):
    short = dataclasses.replace(TINY, steps=4)
    Trainer.start(short, RunFolder(tmp_path)).train()
    alphas = [row["alpha"] for row in lines(tmp_path)]
    trainer = Trainer.resume(RunFolder(tmp_path), steps=6)
    trainer.train()
    assert [row["alpha"] for row in lines(tmp_path)] == [*alphas, 0.0, 0.0]
    assert RunFolder(tmp_path).read_config().steps == 6


def test_a_run_may_begin_where_another_ended(tmp_path):
    """The network, its averages and Adam's moments go on; steps, schedules and the log begin anew."""
    first, second = tmp_path / "first", tmp_path / "second"
    Trainer.start(TINY, RunFolder(first)).train()
    config = dataclasses.replace(TINY, init=str(first), batch_size=32, steps=4)
    trainer = Trainer.start(config, RunFolder(second))
    ours, theirs = trainer.net.state_dict(), load_file(first / "checkpoints" / "latest" / "model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    averages = load_file(first / "checkpoints" / "latest" / "ema.safetensors")
    assert all(torch.equal(trainer.ema.module.state_dict()[name], averages[name]) for name in averages)
    moments = {moment["step"].item() for moment in trainer.optimizer.state.values()}
    assert moments == {TINY.steps} and trainer.step == 0
    trainer.train(stop_after=1)
    assert [row["step"] for row in lines(second)] == [1]
    assert Trainer.resume(RunFolder(second)).step == 1  # its own checkpoint, not the other run's end


def test_a_run_cannot_begin_from_another_network(tmp_path):
    first = tmp_path / "first"
    Trainer.start(dataclasses.replace(TINY, steps=1), RunFolder(first)).train()
    wider = dataclasses.replace(TINY, init=str(first), model=dataclasses.replace(TINY.model, width=32))
    with pytest.raises(UserError, match="its network has width 16 and this run's has 32"):
        Trainer.start(wider, RunFolder(tmp_path / "second"))
    assert not (tmp_path / "second").exists()
    with pytest.raises(UserError, match="is not a run"):
        Trainer.start(dataclasses.replace(TINY, init=str(tmp_path)), RunFolder(tmp_path / "third"))


def test_a_kill_between_checkpoints_loses_only_the_steps_since(tmp_path):
    whole = tmp_path / "whole"
    Trainer.start(TINY, RunFolder(whole)).train()
    killed = Trainer.start(TINY, RunFolder(tmp_path / "killed"))
    with pytest.raises(KeyboardInterrupt):
        interrupt_at(killed, 5)
    assert checkpoint.steps_in(tmp_path / "killed" / "checkpoints") == [3]
    Trainer.resume(RunFolder(tmp_path / "killed")).train()
    assert same(weights(whole), weights(tmp_path / "killed"))
    assert lines(whole) == lines(tmp_path / "killed")


def interrupt_at(trainer: Trainer, step: int) -> None:
    take = trainer.train_step

    def stop_there():
        if trainer.step == step:
            raise KeyboardInterrupt
        return take()

    trainer.train_step = stop_there
    trainer.train()


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_used(tmp_path, caplog):
    Trainer.start(TINY, RunFolder(tmp_path)).train()
    before = weights(tmp_path)
    newest = tmp_path / "checkpoints" / "latest" / "ema.safetensors"
    newest.write_bytes(newest.read_bytes()[:100])
    trainer = Trainer.resume(RunFolder(tmp_path))
    assert trainer.step == 6
    assert "step-00000008 is damaged (ema.safetensors" in caplog.text
    trainer.train()
    assert same(before, weights(tmp_path))


def test_checkpoints_are_rotated_and_latest_is_relative(tmp_path):
    config = dataclasses.replace(TINY, checkpoint_every=1, keep_checkpoints=3)
    Trainer.start(config, RunFolder(tmp_path)).train()
    folder = tmp_path / "checkpoints"
    assert checkpoint.steps_in(folder) == [6, 7, 8]
    assert str((folder / "latest").readlink()) == "step-00000008"
    assert sorted(p.name for p in folder.iterdir()) == [
        "latest",
        "step-00000006",
        "step-00000007",
        "step-00000008",
    ]


def test_sampling_while_training_does_not_change_the_run(tmp_path):
    Trainer.start(TINY, RunFolder(tmp_path / "seldom")).train()
    Trainer.start(dataclasses.replace(TINY, sample_every=1), RunFolder(tmp_path / "often")).train()
    assert same(weights(tmp_path / "seldom"), weights(tmp_path / "often"))
    assert len(list((tmp_path / "often" / "samples").glob("*.png"))) == 8


def test_accumulated_parts_give_the_gradient_of_the_whole_batch(tmp_path):
    """The parts draw by sample number, so they see the same noise and times; flow rows differ in place only."""
    config = dataclasses.replace(TINY, objective=ObjectiveConfig(name="tfm", flow_ratio="0", weight="uniform"))
    grads = []
    for accumulate in (1, 4):
        trainer = Trainer.start(
            dataclasses.replace(config, accumulate=accumulate), RunFolder(tmp_path / str(accumulate))
        )
        trainer.train_step()
        grads.append(torch.cat([p.grad.flatten() for p in trainer.net.parameters()]))
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-7)
    assert grads[0].norm() > 0


def test_the_step_is_adam_on_the_clipped_gradient(tmp_path):
    trainer = Trainer.start(TINY, RunFolder(tmp_path))
    before = [p.detach().clone() for p in trainer.net.parameters()]
    _, norm, rate = trainer.train_step()
    assert rate == pytest.approx(TINY.optimizer.lr / 2)  # the first of two warm-up steps
    for old, new in zip(before, trainer.net.parameters()):
        grad = new.grad  # after clipping; Adam's first step is lr * sign where the gradient is not tiny
        big = grad.abs() > 1e-5
        torch.testing.assert_close((old - new.detach())[big], (rate * grad.sign())[big], rtol=1e-2, atol=0)
    assert norm > 0


def poison(trainer: Trainer, rows: list[int], at: range) -> None:
    """Put NaN into the data of some steps, as broken latents would."""
    fetch = trainer.batches

    def broken(step: int, part: slice = slice(None)):
        x, y, ids = fetch(step, part)
        if step in at:
            x = x.clone()
            x[rows] = float("nan")
        return x, y, ids

    trainer.batches = broken


def test_a_non_finite_step_is_skipped_and_names_its_rows(tmp_path, caplog):
    trainer = Trainer.start(TINY, RunFolder(tmp_path))
    poison(trainer, [5], range(1, 2))
    trainer.train_step()
    before = [p.detach().clone() for p in trainer.net.parameters()]
    (out,), *_ = trainer.train_step()
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.net.parameters()))
    assert "step 2 skipped, 1 rows not finite" in caplog.text
    assert f"row 5: r={out.r[5]:.4f} t={out.t[5]:.4f}" in caplog.text
    trainer.train_step()
    assert trainer.guard.bad == 0


def poison_forever(trainer: Trainer, rows: list[int], at: range) -> None:
    """The same, also after the run has gone back to a checkpoint and takes other data."""
    draw_again = trainer._set_order

    def again() -> None:
        draw_again()
        poison(trainer, rows, at)

    poison(trainer, rows, at)
    trainer._set_order = again


def test_a_run_of_non_finite_steps_goes_back_once_and_then_stops(tmp_path, caplog):
    config = dataclasses.replace(TINY, steps=20, max_bad_steps=3)
    trainer = Trainer.start(config, RunFolder(tmp_path))
    poison_forever(trainer, [0, 1], range(4, 100))
    with pytest.raises(UserError, match=r"after going back once: 3 steps in a row .*row 0: r=.* step 3 is intact"):
        trainer.train()
    assert "3 steps in a row had a non-finite loss or gradient: going back from step 7 to 3, once" in caplog.text
    stored = checkpoint.newest(tmp_path / "checkpoints")
    assert stored.step == 3  # that of step 6 would have held what led to steps that were not finite
    assert all(torch.isfinite(value).all() for value in stored.whole("model").values())


def test_after_going_back_a_run_takes_other_data_and_ends_as_if_nothing_had_been(tmp_path):
    """What is broken is met once. Lines and averages of the way given up are gone, and resuming stays exact."""
    config = dataclasses.replace(
        TINY, steps=12, max_bad_steps=2, ema=EMAConfig(profiles=(0.1,), store_every=1), sample_every=100
    )
    trainer = Trainer.start(config, RunFolder(tmp_path / "whole"))
    order = [trainer.batches.indices(step) for step in range(6)]
    poison(trainer, [3], range(4, 7))  # a roll-back makes `batches` anew, whole
    trainer.train()
    assert trainer.step == 12 and trainer.guard.rolled_back == 1
    assert not any(torch.equal(trainer.batches.indices(step), order[step]) for step in range(3, 6))
    assert [row["step"] for row in lines(tmp_path / "whole")] == list(range(1, 13))
    assert all(row["grad_norm"] is not None for row in lines(tmp_path / "whole"))

    first = Trainer.start(config, RunFolder(tmp_path / "parts"))
    poison(first, [3], range(4, 7))
    first.train(stop_after=8)
    assert first.guard.rolled_back == 1
    Trainer.resume(RunFolder(tmp_path / "parts")).train()
    assert lines(tmp_path / "whole") == lines(tmp_path / "parts")
    for run in ("whole", "parts"):
        assert checkpoint.newest(tmp_path / run / "checkpoints").state["rolled_back"] == 1
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_a_step_judged_when_the_next_is_under_way_is_judged_the_same(tmp_path, caplog):
    """As on a GPU, which is not waited for: a step that is not finite changes nothing all the same."""
    config = dataclasses.replace(TINY, steps=14, log_every=7, checkpoint_every=4, max_bad_steps=2)
    told = []
    for lag in (0, 1):
        trainer = Trainer.start(config, RunFolder(tmp_path / str(lag)))
        trainer.lag = lag
        poison(trainer, [3], range(2, 3))
        trainer.train(stop_after=5)
        poison(trainer, [2], range(8, 11))  # from the ninth on, until the run goes back to the eighth
        trainer.train()
        assert trainer.step == 14 and trainer.guard.rolled_back == 1 and not trainer.pending
        told.append([line for line in caplog.messages if "skipped" in line])
        caplog.clear()
    assert told[0] == told[1] and [line.split(" skip")[0] for line in told[0]] == ["step 3", "step 9", "step 10"]
    assert lines(tmp_path / "0") == lines(tmp_path / "1")
    assert same(weights(tmp_path / "0"), weights(tmp_path / "1"))


def test_a_leap_of_the_residual_is_told_and_the_run_goes_on(tmp_path, caplog):
    config = dataclasses.replace(TINY, steps=30, checkpoint_every=10, sample_every=100, spike_factor=5)
    trainer = Trainer.start(
        dataclasses.replace(config, objective=ObjectiveConfig(name="fm")), RunFolder(tmp_path / "run")
    )
    fetch = trainer.batches
    trainer.batches = lambda step, rows=slice(None): (lambda b: b._replace(x=b.x * 30 if step == 24 else b.x))(
        fetch(step, rows)
    )
    trainer.train()
    assert "the residual leapt to" in caplog.text
    assert trainer.guard.rolled_back == 0 and trainer.step == 30


def test_changed_data_is_noticed_on_resume(tmp_path):
    Trainer.start(TINY, RunFolder(tmp_path)).train(stop_after=3)
    state = tmp_path / "checkpoints" / "latest" / "state.json"
    state.write_text(state.read_text().replace(Trainer.resume(RunFolder(tmp_path)).dataset.fingerprint, "0" * 16))
    with pytest.raises(UserError, match="the data has changed"):
        Trainer.resume(RunFolder(tmp_path))


def test_a_wrong_derivative_stops_the_run_before_its_first_step(tmp_path, monkeypatch):
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(x):
            return x.clone()

        @staticmethod
        def setup_context(ctx, inputs, output): ...

        @staticmethod
        def backward(ctx, grad):
            return grad

        @staticmethod
        def jvp(ctx, tangent):
            return 2 * tangent

    from alphaflow.runs import build

    honest = build._NETWORKS["dit"]

    def broken(*args):
        net = honest(*args)
        block = net.blocks[0].forward
        net.blocks[0].forward = lambda x, c: Wrong.apply(block(x, c))
        return net

    monkeypatch.setitem(build._NETWORKS, "dit", broken)
    config = dataclasses.replace(TINY, objective=ObjectiveConfig(name="meanflow", derivative="forward"))
    with pytest.raises(DerivativeError, match="relative to central differences"):
        Trainer.start(config, RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("member", ["fm", "consistency", "discrete-consistency", "facm", "imeanflow"])
def test_every_other_member_trains_in_bfloat16(tmp_path, member):
    config = dataclasses.replace(
        TINY, steps=2, sample_every=100, precision="bfloat16", objective=ObjectiveConfig(name=member)
    )
    Trainer.start(config, RunFolder(tmp_path)).train()
    rows = lines(tmp_path)
    assert len(rows) == 2 and all(row["residual"] > 0 for row in rows)


def test_data_prediction_and_unet_train_and_load(tmp_path):
    from alphaflow.runs.loading import load

    config = dataclasses.replace(
        TINY, steps=2, sample_every=100, model=ModelConfig(name="unet", width=8, depth=2, predicts="data")
    )
    Trainer.start(config, RunFolder(tmp_path)).train()
    assert load(tmp_path)([0, 1, 10]).shape == (3, 8, 8, 1)


ENDLESS = (
    "train toy --batch-size 16 --model.width 8 --model.depth 1 --monitor.every 0 --log-every 1 --steps 1000000"
)


def wait_for_lines(process: subprocess.Popen, run: Path) -> None:
    deadline = time.monotonic() + 120
    while not ((run / "metrics.jsonl").exists() and (run / "metrics.jsonl").read_text().count("\n") > 5):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_writes_a_checkpoint_and_says_so(tmp_path, number, status):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "alphaflow", *ENDLESS.split(), "--out", str(run)]
    with child(command, start=forked.Popen, stderr=subprocess.PIPE, text=True) as process:
        wait_for_lines(process, run)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == status, said
    step = checkpoint.newest(run / "checkpoints").step
    assert step == lines(run)[-1]["step"]  # not one step is lost
    assert f"ended after step {step} as it was asked to; the checkpoint of step {step} is intact" in said
    assert Trainer.resume(RunFolder(run)).step == step


@pytest.mark.slow
def test_a_terminal_that_closes_leaves_a_checkpoint(tmp_path):
    """A real one: the kernel sends SIGHUP, and whatever is written to it from then on fails."""
    run = tmp_path / "run"
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "alphaflow", *ENDLESS.split(), "--out", str(run)]
    own = "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    take = f"{own}os.execv(sys.argv[1], sys.argv[1:])"
    ends = {"stdin": slave, "stdout": slave, "stderr": slave}
    with child([sys.executable, "-c", take, *command], **ends) as process:
        os.close(slave)
        threading.Thread(target=drain, args=(master,), daemon=True).start()
        wait_for_lines(process, run)
        os.close(master)
        assert process.wait(60) == 129
    assert checkpoint.newest(run / "checkpoints").step == lines(run)[-1]["step"]


def drain(terminal: int) -> None:
    """Take what is written to a terminal, so that nobody waits for it to be read."""
    with contextlib.suppress(OSError):
        while os.read(terminal, 4096):
            pass


@pytest.mark.slow
def test_a_compiled_run_takes_the_same_steps(tmp_path):
    config = dataclasses.replace(TINY, steps=6, sample_every=100, objective=ObjectiveConfig(alpha="step(3)"))
    Trainer.start(config, RunFolder(tmp_path / "eager")).train()
    Trainer.start(dataclasses.replace(config, compile=True), RunFolder(tmp_path / "compiled")).train()
    for ours, theirs in zip(lines(tmp_path / "compiled"), lines(tmp_path / "eager")):
        assert ours["residual"] == pytest.approx(theirs["residual"], rel=1e-3)


def test_a_config_survives_the_round_trip(tmp_path):
    trainer = Trainer.start(TINY, RunFolder(tmp_path))
    assert RunFolder(tmp_path).read_config() == trainer.config
    assert isinstance(trainer.config, Config)
