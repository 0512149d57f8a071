"""What a run keeps of itself: nothing that is not finite."""

import dataclasses
from pathlib import Path

import pytest
import torch

from alphaflow.errors import UserError
from alphaflow.runs import checkpoint
from alphaflow.runs.folder import RunFolder
from alphaflow.training.trainer import Trainer
from tiny_runs import TINY_TOY as TOY


def finite(folder: Path) -> bool:
    found = [checkpoint.Checkpoint(folder / f"step-{step:08d}") for step in checkpoint.steps_in(folder)]
    return bool(found) and all(one.not_finite() is None for one in found)


def poison(trainer: Trainer, at: int) -> None:
    """Put NaN into the data of one step; a roll-back makes `batches` anew, whole."""
    fetch = trainer.batches

    def broken(step, rows=slice(None)):
        batch = fetch(step, rows)
        return batch._replace(x=batch.x * torch.nan) if step == at else batch

    trainer.batches = broken


def test_ruined_weights_do_not_push_out_sound_checkpoints(tmp_path):
    """The learning rate leaps by 36 orders of magnitude after step 31, as in breaking.md."""
    config = dataclasses.replace(
        TOY,
        steps=60,
        checkpoint_every=5,
        max_bad_steps=10,
        optimizer=dataclasses.replace(TOY.optimizer, decay="step(30, first=1, last=1e36)"),
    )
    with pytest.raises(UserError, match=r"stopped at step .* the checkpoint of step 30 is intact"):
        Trainer.start(config, RunFolder(tmp_path)).train()
    assert checkpoint.steps_in(tmp_path / "checkpoints") == [25, 30]
    assert all(
        one.abs().max() < 100 for one in checkpoint.newest(tmp_path / "checkpoints").whole("model").values()
    )


def test_a_checkpoint_from_which_no_step_is_finite_is_passed_over(tmp_path, caplog):
    """It was written right after the step that ruined the weights, when nothing was known of that yet."""
    config = dataclasses.replace(TOY, steps=20, max_bad_steps=3)
    trainer = Trainer.start(config, RunFolder(tmp_path))
    take, ruined = trainer.train_step, []

    def ruin():
        out = take()
        if trainer.step == 6 and not ruined:
            ruined.append(6)
            with torch.no_grad():
                for weight in trainer.net.parameters():
                    weight.mul_(1e30)
        return out

    trainer.train_step = ruin
    trainer.train()
    assert "going back from step 9 to 6, once, with" in caplog.text
    assert "going back from step 9 to 4, once more, with" in caplog.text
    assert trainer.step == 20 and checkpoint.newest(tmp_path / "checkpoints").step == 20
    assert all(one.abs().max() < 100 for one in trainer.net.state_dict().values())


@pytest.mark.parametrize("what", ["model", "ema", "optimizer"])
def test_a_number_that_is_not_finite_is_never_kept_and_sends_the_run_back(tmp_path, caplog, what):
    trainer = Trainer.start(TOY, RunFolder(tmp_path))
    take, spoilt = trainer.train_step, []

    def spoil():
        out = take()
        if trainer.step == 6 and not spoilt:
            spoilt.append(6)
            with torch.no_grad():
                tensor = next(iter(trainer.state.tensors()[what].values()))
                tensor.view(-1)[0] = torch.inf
        return out

    trainer.train_step = spoil
    trainer.train()
    assert f"of the {what} is not finite: going back from step 6 to 4, once" in caplog.text
    assert trainer.step == 8 and finite(tmp_path / "checkpoints")


def test_a_run_that_ends_in_a_step_that_is_not_finite_goes_back_and_ends_well(tmp_path, caplog):
    trainer = Trainer.start(TOY, RunFolder(tmp_path))
    fetch = trainer.batches
    trainer.batches = lambda step, rows=slice(None): (
        lambda b: b._replace(x=b.x * torch.nan if step == 7 else b.x)
    )(fetch(step, rows))
    trainer.train()
    assert "the last 1 steps had a non-finite loss or gradient: going back from step 8 to 6" in caplog.text
    assert checkpoint.newest(tmp_path / "checkpoints").step == 8 and finite(tmp_path / "checkpoints")


def test_a_checkpoint_that_came_due_after_a_bad_step_is_written_with_the_next_good_one(tmp_path):
    trainer = Trainer.start(dataclasses.replace(TOY, checkpoint_every=5, keep_checkpoints=9), RunFolder(tmp_path))
    fetch = trainer.batches
    trainer.batches = lambda step, rows=slice(None): (
        lambda b: b._replace(x=b.x * torch.nan if step == 4 else b.x)
    )(fetch(step, rows))
    trainer.train()
    assert checkpoint.steps_in(tmp_path / "checkpoints") == [6, 8]


def test_samples_that_are_not_finite_are_no_picture_and_no_end(tmp_path, caplog):
    """The guard is there to go back: the grid comes before it."""
    config = dataclasses.replace(TOY, sample_every=3)
    trainer = Trainer.start(config, RunFolder(tmp_path))
    observe, spoilt = trainer.observe, []

    def spoil():
        if trainer.step == 3 and not spoilt:
            spoilt.append(3)
            with torch.no_grad():
                next(trainer.ema.module.parameters()).fill_(torch.nan)
        return observe()

    trainer.observe = spoil
    trainer.train()
    assert "no picture of step 3: the averaged weights' samples are not finite" in caplog.text
    assert "is not finite: going back from step 4 to 2, once" in caplog.text
    assert sorted(path.name for path in (tmp_path / "samples").iterdir())[-1] == "step-00000008.png"
