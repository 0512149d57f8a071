"""Runs of networks that take guidance as an input, from training to samples and exports."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import alphaflow as af
from alphaflow.cli import run
from alphaflow.data import Digits
from alphaflow.demo.service import Service, open_model
from alphaflow.export import export
from alphaflow.method.guidance import with_guidance
from alphaflow.method.sampling import sample
from alphaflow.runs.config import DistillConfig, ModelConfig, ObjectiveConfig
from alphaflow.runs.data_record import describe
from alphaflow.runs.folder import RunFolder
from alphaflow.runs.teacher import load_teacher
from alphaflow.training.trainer import Trainer
from tiny_runs import TINY, lines, same, weights

TOLD = dataclasses.replace(
    TINY,
    model=dataclasses.replace(TINY.model, guided=True),
    objective=ObjectiveConfig(name="meanflow", scales=(1.0, 4.0), intervals=True, kappa=0.3, label_drop=0.2),
)
POINTS = (
    "--data.toy moons --model.guided --objective.scales 1 3 --objective.label-drop 0.1 --batch-size 256 "
    "--model.width 64 --model.depth 2 --steps 400 --optimizer.lr 0.004 --objective.name fm --ema.half-life 10"
).split()


def train(folder: Path, config=TOLD, **changes) -> Path:
    Trainer.start(dataclasses.replace(config, **changes), RunFolder(folder)).train()
    return folder


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> Path:
    return train(tmp_path_factory.mktemp("runs") / "told")


@pytest.fixture(scope="module")
def points(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "points"
    assert run(["train", "toy", "--out", str(folder), *POINTS]) == 0
    return folder


def labels_seen(net: torch.nn.Module) -> list[Tensor]:
    """The labels of each call of a network from now on."""
    seen: list[Tensor] = []
    net.register_forward_hook(lambda module, inputs, output: seen.append(inputs[3]))
    return seen


def test_one_run_serves_all_scales_in_one_evaluation_each(points, tmp_path):
    """From the command line to samples: the same noise, told more guidance, moves away from the other class."""
    generator, found, words = af.load(points), {}, ["--count", "64", "--labels", "0", "--method", "euler"]
    for scale in (1.0, 2.0, 3.0):
        out = tmp_path / f"{scale}.npz"
        said = ["sample", str(points), "--out", str(out), "--nfe", "4", "--guidance", str(scale)]
        assert run([*said, *words]) == 0
        seen = labels_seen(generator.net)
        found[scale] = generator.samples(torch.zeros(64), 4, method="euler", guidance=scale)
        assert np.array_equal(np.load(out)["points"], found[scale].numpy())
        assert [len(y) for y in seen] == [64] * 4
        if scale > 1:
            assert seen[0].unique(dim=0).tolist() == [[0, scale, 0, 1]]
    other = generator.samples(torch.ones(64), 4, method="euler")
    away = (found[1.0] - other)[:, 1].mean()
    moved = [float((found[scale] - found[1.0])[:, 1].mean() * away.sign()) for scale in (2.0, 3.0)]
    assert 0.01 < moved[0] < moved[1]


def test_no_class_is_told_nothing_whatever_is_asked(points):
    generator = af.load(points)
    torch.nn.init.normal_(generator.net.guide_embedder.mlp[2].weight)
    seen = labels_seen(generator.net)
    mixed = generator.samples([0, 2], guidance=3.0)
    assert seen[0][:2].tolist() == [[0, 3, 0, 1], [2, 1, 0, 1]]
    torch.testing.assert_close(mixed[1:], generator.samples([0, 2])[1:])


def test_the_interval_is_told_too_and_what_was_not_trained_for_is_refused(told, points, tmp_path, capsys):
    seen = labels_seen((generator := af.load(told)).net)
    generator.samples([3], guidance=2.0, interval=(0.25, 0.75))
    assert seen[0][0].tolist() == [3, 2, 0.25, 0.75]
    sampled = ["sample", "--out", str(tmp_path / "s.npz"), "--count", "8"]
    for folder, words, said in (
        (told, "--guidance 5", "guidance 5 lies outside 1 … 4, the scales that this network was trained for"),
        (told, "--guidance 0.5", "guidance 0.5 lies outside"),
        (told, "--guidance nan", "--guidance nan must be finite"),
        (told, "--guidance 2 --guide-from 0.6", "guidance between 0.6 and 1 is none"),
        (told, "--guide-to 0.8", "guidance between 0 and 0.8 needs a scale: 1 guides nothing"),
        (points, "--guidance 2 --guide-to 0.8", "needs a network trained with --model.guided"),
    ):
        assert run([*sampled, str(folder), *words.split()]) == 2
        assert said in capsys.readouterr().err
    assert run([*sampled, str(told), *"--guidance 4 --guide-from 0.5 --guide-to 0.5".split()]) == 0
    words = "--guidance 1 1.5 5 --nfe 1 --count 16 --metrics accuracy".split()
    assert run(["evaluate", str(told), *words]) == 2


def test_an_evaluation_sweeps_the_scales_it_is_told(told, tmp_path):
    words = "--guidance 1 3 --nfe 1 --count 64 --metrics frechet --json".split()
    assert run(["evaluate", str(told), *words, str(tmp_path / "e.json")]) == 0
    results = json.loads((tmp_path / "e.json").read_text())["results"]
    assert [one["guidance"] for one in results] == [1, 3]


def test_the_demo_offers_the_scales_that_all_models_know(told, tmp_path):
    shown = open_model(told)
    service = Service([shown, dataclasses.replace(shown, generator=af.load(told))])
    assert service.bounds.scales == (1, 4) and service.bounds.guidable
    with pytest.raises(af.UserError, match=r"guidance 5: give a number from 1 to 4"):
        service.bounds.read({"guidance": 5})
    drawn = [service.compute(service.bounds.read({"guidance": scale, "count": 4})).png for scale in (1, 4)]
    assert len(drawn[0]) > 100 and len(drawn[1]) > 100
    service.close()


# --- training ----------------------------------------------------------------------------------------------------


def test_a_run_goes_on_to_the_bit_and_does_not_depend_on_its_parts(told, tmp_path):
    folder = RunFolder(tmp_path / "again")
    Trainer.start(TOLD, folder).train(stop_after=5)
    Trainer.resume(folder).train()
    assert same(weights(told), weights(folder.path)) and lines(told) == lines(folder.path)
    parted = train(tmp_path / "parted", accumulate=4)
    for one, other in zip(lines(told), lines(parted)):
        assert one["residual"] == pytest.approx(other["residual"], rel=1e-3)
    assert any(name.startswith("model/guide_embedder") and w.abs().max() for name, w in weights(told).items())


def test_it_is_scored_and_diagnosed_on_the_way(tmp_path):
    words = "--monitor.every 2 --monitor.count 16 --diagnosis.every 2 --diagnosis.batches 2 --precision bfloat16"
    words += " --model.guided --objective.scales 1 4 --objective.label-drop 0.2 --steps 2 --batch-size 16"
    words += " --model.width 16 --model.depth 1 --model.heads 2"
    assert run(["train", "digits", "--out", str(tmp_path / "run"), *words.split()]) == 0
    assert lines(tmp_path / "run")[-1]["monitor_frechet"] > 0
    assert list((tmp_path / "run" / "diagnosis").glob("*.json"))


@pytest.mark.parametrize("exported", [False, True])
def test_it_begins_from_a_network_that_takes_no_guidance_and_says_the_same(exported, tmp_path):
    plain = train(tmp_path / "plain", TINY)
    source = plain
    if exported:
        source = tmp_path / "model"
        export(plain, source)
    trainer = Trainer.start(dataclasses.replace(TOLD, init=str(source)), RunFolder(tmp_path / "told"))
    before, z, y = af.load(plain).net, torch.randn(4, 1, 8, 8), torch.arange(4)
    r, t = torch.zeros(4), torch.ones(4)
    assert torch.equal(trainer.ema.module(z, r, t, with_guidance(y, 3.0, null=10)), before(z, r, t, y))
    trainer.train()
    again = Trainer.resume(RunFolder(tmp_path / "told"), steps=10)
    again.train()  # with moments for all of its weights
    with pytest.raises(af.UserError, match="guided True and this run's has False"):
        Trainer.start(dataclasses.replace(TINY, init=str(tmp_path / "told")), RunFolder(tmp_path / "back"))


def test_it_teaches_the_scale_and_interval_that_it_is_told(told, tmp_path):
    settings = DistillConfig(teacher=str(told), guidance=2.0, guide_from=0.25, guide_to=0.75)
    teacher = load_teacher(settings, describe(Digits()), torch.device("cpu"))
    z, t, y = torch.randn(4, 1, 8, 8), torch.rand(4), torch.arange(4)
    expected = af.load(told).net(z, t, t, with_guidance(y, 2.0, 0.25, 0.75, null=10))
    torch.testing.assert_close(teacher(z, t, t, y), expected)
    af.AlphaFlow(teacher=af.load(told).guided(2.0))  # which is in evaluation mode
    words = f"--steps 1 --batch-size 8 --distill.teacher {told} --distill.guidance 5"
    assert run(["train", "digits", "--out", str(tmp_path / "none"), *words.split()]) == 2


def test_data_prediction_and_videos_are_told_too(tmp_path):
    model = ModelConfig(name="dit", width=16, depth=1, heads=2, patch=4, guided=True, predicts="data")
    assert af.load(train(tmp_path / "f", model=model))([0, 1], guidance=2.0).shape == (2, 8, 8, 1)
    words = "--steps 1 --batch-size 4 --model.width 16 --model.depth 1 --model.heads 2 --model.guided"
    words += " --objective.scales 1 4 --objective.label-drop 0.5"
    assert run(["train", "moving-digits", "--out", str(tmp_path / "v"), *words.split()]) == 0
    assert len(af.load(tmp_path / "v")([0], guidance=2.0)) == 1


# --- handing on --------------------------------------------------------------------------------------------------


def trained_apart(run: Path, out: Path) -> Path:
    """The run's export with weights under which scales differ clearly."""
    from safetensors.torch import load_file, save_file

    export(run, out)
    weights = load_file(out / "model.safetensors")
    source = torch.Generator().manual_seed(0)
    save_file({k: w + 0.3 * torch.randn(w.shape, generator=source) for k, w in weights.items()}, out / "new")
    shutil.move(out / "new", out / "model.safetensors")
    return out


def test_a_models_folder_still_takes_guidance_and_a_graph_holds_one_scale(told, tmp_path, capsys):
    model = trained_apart(told, tmp_path / "model")
    generator = af.load(model)
    assert generator.scales == (1, 4) and generator.intervals
    images = {scale: generator([0, 1], guidance=scale) for scale in (1.0, 2.0)}
    assert not np.array_equal(images[1.0], images[2.0])
    assert run(["export", str(model), str(tmp_path / "none"), "--format", "program"]) == 2
    assert "say the scale that it holds for good, --guidance 1 … 4" in capsys.readouterr().err
    assert run(["export", str(model), str(tmp_path / "two"), "--format", "program", "--guidance", "2"]) == 0
    program = torch.export.load(tmp_path / "two" / "model.pt2").module()
    z, r, t, y = torch.randn(3, 1, 8, 8), torch.zeros(3), torch.ones(3), torch.tensor([0, 5, 10])
    torch.testing.assert_close(program(z, r, t, y), generator.net(z, r, t, with_guidance(y, 2.0, null=10)))
    record = json.loads((tmp_path / "two" / "model.json").read_text())
    assert record["scales"] is None and "told guidance 2" in record["weights"]
    assert "told guidance 2" in (tmp_path / "two" / "README.md").read_text()


def test_a_pipeline_of_diffusers_is_told_as_load_is(told, tmp_path):
    pytest.importorskip("diffusers")
    from diffusers import DiffusionPipeline

    model = trained_apart(told, tmp_path / "model")
    export(model, tmp_path / "pipe", "diffusers")
    generator, place = af.load(model), str(tmp_path / "pipe")
    pipe = DiffusionPipeline.from_pretrained(place, custom_pipeline=place, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    noise, y = torch.randn(3, 1, 8, 8), torch.tensor([0, 5, 10])
    for scale, interval in ((1.0, (0.0, 1.0)), (3.0, (0.0, 1.0)), (3.0, (0.25, 0.75))):
        ours = sample(generator.guided(scale, interval), noise, y, times=(1, 0.5, 0))
        words = {"guidance_scale": scale, "guidance_interval": interval, "latents": noise, "output_type": "latent"}
        torch.testing.assert_close(pipe(y.tolist(), 2, **words).images, ours)
    with pytest.raises(ValueError, match=r"guidance_scale 5 .*this network knows 1 … 4"):
        pipe([0], guidance_scale=5)
    with pytest.raises(ValueError, match=r"guidance_interval .*leave it out"):
        pipe([0], guidance_interval=(0.2, 1.0))
