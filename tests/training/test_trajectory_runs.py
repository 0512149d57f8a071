"""The stage of trajectories by the command line: teacher, stage, and a member that goes on from it."""

import json
from pathlib import Path

import pytest
import torch
import yaml

import alphaflow as af
from alphaflow.cli import run
from alphaflow.cli.settings import parse_settings
from alphaflow.costs.estimate import evaluations
from alphaflow.errors import UserError
from alphaflow.method.trajectories import Trajectories
from alphaflow.runs.folder import RunFolder
from alphaflow.training.trainer import Trainer
from tiny_runs import lines, same, weights

SHORT = (
    "--steps 6 --batch-size 8 --log-every 1 --checkpoint-every 3 --sample-every 100 --monitor.every 0 "
    "--model.width 16 --model.depth 1 --model.heads 2 --optimizer.lr 0.01 --ema.half-life 2"
).split()
PAIRS = "--trajectories.steps 4 --trajectories.pairs 3".split()


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """`fm`: a flow that knows samples without a class; `paths`: its paths learned, guided."""
    folder = tmp_path_factory.mktemp("home")
    drop = "--objective.name fm --objective.label-drop 0.2".split()
    assert run(["train", "digits", "--out", str(folder / "fm"), *SHORT, *drop]) == 0
    assert run(["train", "digits", "--out", str(folder / "paths"), *SHORT, *staged(folder)]) == 0
    return folder


def staged(home: Path) -> list[str]:
    fm = str(home / "fm")
    return ["--stage", "trajectories", "--init", fm, "--distill.teacher", fm, "--distill.guidance", "2", *PAIRS]


def test_a_run_of_the_stage_resumes_to_the_bit_and_in_parts(home, tmp_path):
    words = ["train", "digits", *SHORT, *staged(home)]
    assert run([*words, "--out", str(tmp_path / "parts"), "--stop-after", "2"]) == 0
    assert run(["train", "--resume", str(tmp_path / "parts")]) == 0
    assert same(weights(home / "paths"), weights(tmp_path / "parts"))
    assert lines(home / "paths") == lines(tmp_path / "parts")
    assert run([*words, "--out", str(tmp_path / "four"), "--accumulate", "4"]) == 0
    for whole, parts in zip(lines(home / "paths"), lines(tmp_path / "four")):
        names = ("residual", "loss", "grad_norm", "residual_class_worst")
        assert [parts[name] for name in names] == pytest.approx([whole[name] for name in names], rel=1e-3)


def test_it_is_an_ordinary_run_that_samples_are_drawn_of_and_members_go_on_from(home, tmp_path):
    record = yaml.safe_load((home / "paths" / "config.yaml").read_text())
    assert record["objective"] == (
        "trajectories: 4 steps of euler; 3 pairs a path; weight uniform; velocities of a teacher"
    )
    assert record["settings"]["objective"]["label_drop"] == 0 and record["teacher"]["step"] == 6
    assert af.load(home / "paths")([1, 2], nfe=2, seed=0).shape == (2, 8, 8, 1)
    last = json.loads((home / "paths" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["alpha"] == 1 and last["residual_class_median"] > 0
    for name in ("tvm", "meanflow"):
        words = ["--init", str(home / "paths"), "--objective.name", name, "--model.predicts", "data"]
        assert run(["train", "digits", "--out", str(tmp_path / name), *SHORT, *words]) == 0


def test_what_is_learned_are_the_guided_teachers_paths_and_no_samples(home):
    trainer = Trainer.resume(RunFolder(home / "paths"), steps=7)
    ours, net = trainer.objective, trainer.net
    assert isinstance(ours, Trajectories) and (ours.path_steps, ours.pairs, ours.solver) == (4, 3, "euler")
    x, y, ids = trainer.batches(0)
    points = ours.draw(net, x, y, generator=af.KeyedRandom(1, ids))
    blind = ours.draw(net, torch.full_like(x, torch.nan), y, generator=af.KeyedRandom(1, ids))
    assert torch.equal(points.z, blind.z) and torch.equal(points.v, blind.v)
    teacher = af.load(home / "fm").guided(2.0)
    one = (points.t - points.r - 0.25).abs() < 1e-6
    with torch.no_grad():
        velocity = teacher(points.z, points.t, points.t, points.y)
    torch.testing.assert_close(points.v[one], velocity[one], rtol=1e-3, atol=1e-4)


def test_the_stage_comes_nearer_to_its_teachers_jumps(home, tmp_path):
    """From weights that know nothing, in 60 steps, measured on paths of other noise."""
    words = ["train", "digits", *SHORT, "--distill.teacher", str(home / "fm"), "--stage", "trajectories", *PAIRS]
    assert run([*words, "--steps", "60", "--log-every", "10", "--out", str(tmp_path / "run")]) == 0
    residuals = [row["residual"] for row in lines(tmp_path / "run")]
    assert residuals[-1] < 0.5 * residuals[0]


def test_its_cost_is_counted(home):
    """Three pairs forward and backward, and the teacher in four steps, doubled by guidance; 2 are told apart."""
    words = ["--stage", "trajectories", "--distill.teacher", "x", "--distill.guidance", "2", *PAIRS]
    assert evaluations(parse_settings("digits", words), 10) == 3 * 3 - 2 + 2 * 4
    heun = [*words, "--trajectories.solver", "heun"]
    assert evaluations(parse_settings("digits", heun), 10) == 3 * 3 - 2 + 2 * 7


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--stage trajectories", "name it by --distill.teacher RUN"),
        ("--trajectories.pairs 4", "it goes with stage trajectories"),
        ("--stage trajectories --distill.teacher x --objective.name meanflow", "has no objective of its own"),
        ("--stage trajectories --distill.teacher x --objective.label-drop 0.1", "has no objective of its own"),
        ("--stage trajectories --distill.teacher x --diagnosis.every 2", "has no TFM and TC to diagnose"),
        (
            "--stage trajectories --distill.teacher x --model.guided --objective.scales 1 4",
            "has no objective of its own",
        ),
        ("--stage trajectory", "trajectories"),
    ],
)
def test_words_that_do_not_go_with_the_stage_are_refused(words, said):
    with pytest.raises(UserError, match=said):
        parse_settings("digits", words.split())


def test_time_shift_and_weight_go_with_it():
    words = "--stage trajectories --distill.teacher x --objective.time-shift 3 --objective.weight adaptive".split()
    config = parse_settings("digits", words)
    assert config.objective.time_shift == 3 and config.objective.weight == "adaptive"


def test_diagnosing_it_is_refused(home, capsys):
    assert run(["diagnose", str(home / "paths"), "--batches", "2"]) == 1
    assert "its loss has no parts to diagnose" in capsys.readouterr().err
