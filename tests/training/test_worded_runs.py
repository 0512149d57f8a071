"""A run that is told in words, whole: trained, resumed, sampled by prompt, scored, reported, exported."""

import dataclasses

import numpy as np
import pytest
import torch

import alphaflow as af
from alphaflow.cli import run as command
from alphaflow.data import CaptionedShapes
from alphaflow.data.shapes import EXAMPLES
from alphaflow.errors import UserError
from alphaflow.evaluation.evaluate import evaluate, settings
from alphaflow.recipes import RECIPES
from alphaflow.reports.material import gather
from alphaflow.runs import model_folder
from alphaflow.runs.build import build_model, build_objective
from alphaflow.runs.config import DataConfig, ModelConfig, MonitorConfig, with_changes
from alphaflow.runs.folder import RunFolder
from alphaflow.training.trainer import Trainer
from tiny_runs import TINY, lines, same, weights

PROMPT = "a small red circle"
WORDED = dataclasses.replace(
    TINY,
    recipe="shapes",
    steps=4,
    checkpoint_every=2,
    sample_every=4,
    data=DataConfig(name="shapes"),
    model=ModelConfig(width=16, depth=1, heads=2, patch=8, text_width=32, text_depth=1),
    monitor=MonitorConfig(),
    objective=dataclasses.replace(TINY.objective, alpha="0", omega=1.5, label_drop=0.3),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words") / "run"
    Trainer.start(WORDED, RunFolder(folder)).train()
    return folder


def test_accumulation_and_an_interruption_leave_no_trace(run, tmp_path):
    """Captions go with their rows: in parts of a batch, and after a resume."""
    other = tmp_path / "run"
    Trainer.start(dataclasses.replace(WORDED, accumulate=1), RunFolder(other)).train(2)
    Trainer.resume(RunFolder(other)).train()
    assert same(weights(run), weights(other))
    parts = tmp_path / "parts"
    Trainer.start(dataclasses.replace(WORDED, accumulate=2), RunFolder(parts)).train()
    for one, two in zip(lines(run), lines(parts)):
        assert one["residual"] == pytest.approx(two["residual"], rel=2e-3)


def test_captions_reach_the_network(run):
    config = RunFolder(run).read_config()
    generator = af.load(run)
    one, other = (generator.samples(prompts=[text], seed=1) for text in (PROMPT, "a large blue square"))
    assert (one - other).abs().max() > 1e-6
    assert torch.equal(one, generator.samples(generator.encode([PROMPT]), seed=1))
    assert generator(prompts=[PROMPT] * 2).shape == (2, 32, 32, 3)
    guided = generator.samples(prompts=[PROMPT], seed=1, guidance=2.0)
    none = generator.samples(1, seed=1)
    assert torch.allclose(guided, none + 2 * (one - none), atol=1e-4)
    assert config.model.text_width == 32


def test_the_objective_drops_captions_to_blanks(run):
    data = CaptionedShapes(count=64)
    net = build_model(WORDED.model, data.shape, data.vocabulary)
    x, y = data.batch(torch.arange(64))
    points = build_objective(WORDED, data.vocabulary).draw(net, x, y, generator=torch.Generator().manual_seed(0))
    blank = (points.y == 0).all(1)
    assert 5 < int(blank.sum()) < 40
    assert torch.equal(points.y[~blank], y[~blank])


def test_samples_by_prompt_on_the_command_line(run, tmp_path):
    out = tmp_path / "out.npz"
    assert not command(
        ["sample", str(run), "--out", str(out), "--count", "3", "--prompt", PROMPT, "--prompt", "a cross"]
    )
    with np.load(out) as file:
        assert file["prompts"].tolist() == [PROMPT, "a cross", PROMPT]
        assert file["images"].shape == (3, 32, 32, 3)
        drawn = file["images"]
    assert np.array_equal(drawn, af.load(run)(prompts=[PROMPT, "a cross", PROMPT]))
    assert not command(["sample", str(run), "--out", f"{tmp_path}/folder/", "--count", "2", "--prompt", PROMPT])
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == [
        "000000-a-small-red-circle.png",
        "000001-a-small-red-circle.png",
    ]
    assert not command(
        ["sample", str(run), "--out", str(out), "--count", "9"]
    )  # the captions that the run keeps, in turn
    with np.load(out) as file:
        assert file["prompts"].tolist() == [*EXAMPLES, EXAMPLES[0]]


def test_an_export_is_told_in_the_same_words(run, tmp_path):
    af_folder = tmp_path / "model"
    assert not command(["export", str(run), str(af_folder)])
    record = model_folder.read_record(af_folder)
    assert record.network["name"] == "worded-dit"
    drawn = af.load(af_folder).samples(prompts=[PROMPT], seed=3)
    assert torch.equal(drawn, af.load(run).samples(prompts=[PROMPT], seed=3))
    assert f'prompts=["{EXAMPLES[0]}"]' in (af_folder / "README.md").read_text()
    record.data["vocabulary"]["length"] = 4
    model_folder.write_model(af_folder, record, af.load(run).net.state_dict())
    with pytest.raises(UserError, match="vocabulary is not the network's"):
        af.load(af_folder)


def test_an_evaluation_judges_words_and_unseen_pairs_and_a_report_has_them_by_prompt(run):
    data, names = CaptionedShapes(count=128), ["words", "frechet"]
    scored = evaluate(af.load(run), data, run="run", sweep=settings((1,)), names=names, count=64)
    scored.write(RunFolder(run).evaluation_file)
    (result,) = scored.results
    assert scored.table().count("–") == 2  # no real picture is of an unseen pair
    assert scored.halves["words"] == 1
    judged = {"words", "colour", "shape", "size", "place", "unseen_words", "unseen_pairs"}
    assert result.figures.keys() == {*judged, "frechet"}
    assert all(0 <= result.figures[name] < 0.6 for name in judged)  # it has learnt nothing
    material = gather(RunFolder(run), 0, "cpu")
    assert material.names == list(EXAMPLES)
    assert material.columns == len(EXAMPLES)
    again = af.load(run)(prompts=EXAMPLES, nfe=2)
    assert np.array_equal(material.samples.value[2][: len(EXAMPLES)], again)
    assert material.scores.value["results"][0]["figures"].keys() == {*judged, "frechet"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sample", "RUN", "--out", "x.png", "--labels", "0"], 'told in words: give --prompt "a red circle"'),
        (["sample", "RUN", "--out", "x.png", "--prompt", "a " * 20], "takes 20 places, and this model reads 16"),
        (["evaluate", "RUN", "--labels", "random"], "is given the data's captions"),
        (["export", "RUN", "OUT", "--format", "diffusers"], "which the pipeline is not: choose safetensors, onnx"),
        (["train", "shapes", "--out", "OUT", "--model.name", "unet"], "reads no captions"),
        (["train", "shapes", "--out", "OUT", "--model.text-width", "40"], "no multiple of 32"),
        (["train", "digits", "--out", "OUT", "--model.text-width", "64"], "data with captions"),
        (["train", "shapes", "--out", "OUT", "--model.guided"], "guided"),
        (["train", "shapes", "--out", "OUT", "--data.flip"], "left and right"),
    ],
)
def test_wrong_words_are_one_line(run, tmp_path, capsys, words, said):
    places = {"RUN": str(run), "OUT": str(tmp_path / "out")}
    assert command([places.get(word, word) for word in words]) in (1, 2)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line


def test_prompts_for_a_model_of_classes_are_refused(tmp_path, capsys):
    folder = tmp_path / "digits"
    Trainer.start(with_changes(TINY, {"steps": 1}), RunFolder(folder)).train()
    assert command(["sample", str(folder), "--out", "x.png", "--prompt", PROMPT]) == 2
    assert "reads no words, it is told one of 10 classes, by --labels" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"reads no prompts: it is told classes, 0 … 9: give labels"):
        af.load(folder)(prompts=[PROMPT])
    with pytest.raises(UserError, match="give labels or prompts"):
        af.load(folder)(labels=[1], prompts=[PROMPT])


def test_the_recipe_is_of_this_data():
    config = RECIPES["shapes"].config
    assert (config.data.name, config.model.name) == ("shapes", "dit")
