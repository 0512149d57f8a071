"""Runs that distil: flow matching first, then one step of it. Real runs of a tiny DiT on the digits."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from alphaflow.cli import run
from alphaflow.data import Digits
from alphaflow.errors import UserError
from alphaflow.method.guidance import Guided
from alphaflow.runs.build import build_model
from alphaflow.runs.config import Config, DistillConfig
from alphaflow.runs.data_record import describe
from alphaflow.runs.folder import RunFolder
from alphaflow.runs.loading import load
from alphaflow.runs.model_folder import ModelRecord, describe_network, write_model
from alphaflow.runs.teacher import Teacher, load_teacher
from alphaflow.training.trainer import Trainer
from tiny_runs import TINY, lines, same, weights

CPU = torch.device("cpu")
SHORT = (
    "--steps 6 --batch-size 16 --log-every 1 --checkpoint-every 3 --sample-every 100 --monitor.every 0 "
    "--model.width 16 --model.depth 1 --model.heads 2 --optimizer.lr 0.01 --ema.half-life 2"
).split()


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """`fm`: flow matching with dropped labels in 0.1 < t < 0.9."""
    folder = tmp_path_factory.mktemp("home")
    drop = "--objective.name fm --objective.label-drop 0.2 --objective.guide-from 0.1 --objective.guide-to 0.9"
    assert run(["train", "digits", "--out", str(folder / "fm"), *SHORT, *drop.split()]) == 0
    return folder


def distilling(home: Path, out: Path, *words: str) -> list[str]:
    teacher = str(home / "fm")
    taught = ["--init", teacher, "--distill.teacher", teacher, "--distill.guidance", "2"]
    return ["train", "digits", "--out", str(out), *SHORT, *taught, *words]


def test_a_guided_teacher_is_distilled_and_the_run_resumes_to_the_bit(home, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(distilling(home, whole)) == 0
    assert run(distilling(home, parts, "--stop-after", "2")) == 0
    trainer = Trainer.resume(RunFolder(parts))
    trainer.train()
    assert same(weights(whole), weights(parts)) and lines(whole) == lines(parts)

    teacher, expected = trainer.objective.teacher, load(home / "fm")
    assert isinstance(teacher, Teacher) and isinstance(teacher.net, Guided)
    assert (teacher.net.scale, teacher.net.t_min, teacher.net.t_max) == (2, 0.1, 0.9)
    net = teacher.net.net
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), expected.net.parameters()))  # the averages
    assert not any(part.training for part in net.modules()) and trainer.wrapped.training
    assert not any(weight.requires_grad for weight in net.parameters())
    record = yaml.safe_load((whole / "config.yaml").read_text())
    assert record["settings"]["distill"]["teacher"] == str(home / "fm")
    assert record["teacher"] == teacher.record and record["teacher"]["step"] == 6
    assert run(["diagnose", str(whole), "--batches", "2", "--alphas"]) == 0


def test_the_step_learns_from_the_teacher_and_not_from_the_samples(home, tmp_path):
    """Of two runs that differ in the teacher's scale alone, the residual's target differs; the data do not."""
    for name, words in (("plain", []), ("guided", ["--distill.guidance", "3"])):
        out = str(tmp_path / name)
        taught = ["--distill.teacher", str(home / "fm"), "--objective.name", "fm"]
        assert run(["train", "digits", "--out", out, *SHORT, "--stop-after", "1", *taught, *words]) == 0
    assert (
        run(["train", "digits", "--out", str(tmp_path / "alone"), *SHORT, *taught[2:], "--stop-after", "1"]) == 0
    )
    plain, guided, alone = (lines(tmp_path / name)[0] for name in ("plain", "guided", "alone"))
    assert plain["residual"] != guided["residual"]
    assert plain["residual"] < alone["residual"]  # the samples' own noise is gone


def test_a_model_of_another_network_may_teach_and_moves_with_resume(home, tmp_path, capsys):
    model, moved, out = tmp_path / "model", tmp_path / "moved", tmp_path / "run"
    assert run(["export", str(home / "fm"), str(model), "--format", "safetensors"]) == 0
    taught = ["--distill.teacher", str(model), "--distill.guidance", "2", "--distill.guide-to", "0.5"]
    wider = [*SHORT[:-8], "--model.width", "24", "--model.depth", "1", "--model.heads", "2"]
    assert run(["train", "digits", "--out", str(out), *wider, *taught, "--stop-after", "1"]) == 0
    model.rename(moved)
    assert run(["train", "--resume", str(out), "--stop-after", "1"]) == 1
    assert "where it has moved, add --distill.teacher PLACE to --resume" in capsys.readouterr().err
    assert run(["train", "--resume", str(out), "--stop-after", "1", "--distill.teacher", str(moved)]) == 0
    trainer = Trainer.resume(RunFolder(out))  # found where it is now
    assert trainer.step == 2 and trainer.objective.teacher.net.t_max == 0.5
    assert run(["train", "digits", "--out", str(home / "other"), *SHORT, "--objective.label-drop", "0.2"]) == 0
    assert run(["train", "--resume", str(out), "--distill.teacher", str(home / "other")]) == 1
    assert "are not those that this run began with (ema of step 6" in capsys.readouterr().err
    assert run(["train", "--resume", str(home / "other"), "--distill.teacher", str(moved)]) == 1
    assert "has learnt from its data so far: begin a new run from it, with --init" in capsys.readouterr().err


def test_a_teacher_of_other_samples_is_refused_by_name(home, tmp_path):
    data, settings = describe(Digits()), DistillConfig(teacher=str(home / "fm"))
    for changes, words in (
        ({"shape": [1, 16, 16]}, r"its network has shape \[1, 8, 8\] and this run's has \[1, 16, 16\]"),
        ({"num_classes": 4}, "its network has num_classes 10 and this run's has 4"),
        ({"latents": {"vae": "a", "scale": "std"}}, "it was trained on latents with vae None, and these have a"),
    ):
        with pytest.raises(UserError, match=f"--distill.teacher .*fm: {words}.*choose another teacher"):
            load_teacher(settings, data | changes, CPU)


def test_classes_of_other_names_are_told(home, caplog):
    names = [f"numeral {k}" for k in range(10)]
    load_teacher(DistillConfig(teacher=str(home / "fm")), describe(Digits()) | {"class_names": names}, CPU)
    assert "its classes are named otherwise than the data's (0, 1, 2 … and numeral 0" in caplog.text


def test_a_teacher_that_never_saw_samples_without_a_class_cannot_be_guided(tmp_path):
    net, data = build_model(TINY.model, (1, 8, 8), 10), describe(Digits())
    write_model(tmp_path, ModelRecord(network=describe_network(net), data=data), net.state_dict())
    plain = load_teacher(DistillConfig(teacher=str(tmp_path)), data, CPU)
    assert not isinstance(plain.net, Guided)
    with pytest.raises(UserError, match=r"--distill.guidance: guidance 2 needs a network that knows"):
        load_teacher(DistillConfig(teacher=str(tmp_path), guidance=2.0), data, CPU)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda fm: DistillConfig(guidance=2.0), "distill.guidance is a teacher's: name it"),
        (lambda fm: DistillConfig(guide_to=0.5), "distill.guidance is a teacher's: name it"),
        (lambda fm: DistillConfig(teacher=fm, guidance=-1.0), "distill.guidance -1 must be at least 0"),
        (lambda fm: DistillConfig(teacher=fm, guidance=2.0, guide_to=1.5), "distill.guide_to 1.5 must be at most"),
        (lambda fm: DistillConfig(teacher=fm, guide_to=0.5), "at scale 1 there is nothing to confine"),
    ],
)
def test_settings_that_say_nothing_are_refused(home, make: Callable[[str], DistillConfig], words):
    with pytest.raises(UserError, match=words):
        Config(distill=make(str(home / "fm")))


def test_an_interval_outside_the_teachers_and_a_place_without_a_model_are_refused(home, tmp_path):
    settings = DistillConfig(teacher=str(home / "fm"), guidance=2.0, guide_from=0.95)
    with pytest.raises(UserError, match=r"lie outside the times in which .* were dropped, 0.1 … 0.9"):
        load_teacher(settings, describe(Digits()), CPU)
    config: Config = dataclasses.replace(TINY, distill=DistillConfig(teacher=str(tmp_path / "none")))
    with pytest.raises(UserError, match=r"--distill.teacher .*none: .* is not a run"):
        Trainer.start(config, RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_plan_counts_the_teachers_passes_and_its_weights():
    from alphaflow.costs.estimate import Machine, plan

    def cost(**distill):
        settings = dataclasses.replace(TINY, distill=DistillConfig(**distill), batch_size=16)
        return plan(settings, (1, 8, 8), 10, Machine(gpus=2))

    alone, taught, guided = cost(), cost(teacher="x"), cost(teacher="x", guidance=2.0)
    assert taught.evaluations == pytest.approx(alone.evaluations + 1)
    assert guided.evaluations == pytest.approx(alone.evaluations + 2)
    assert taught.states == alone.states + 4 * alone.parameters == guided.states
