"""What is exported generates what the run does, and says truthfully what it is."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import alphaflow as af
from alphaflow import UserError
from alphaflow.cli import run as command
from alphaflow.export import FORMATS, export


def card_of(folder: Path) -> str:
    return (folder / "README.md").read_text()


def program_of(folder: Path) -> str:
    """The program that the card shows."""
    found = re.search(r"```python\n(.*?)```", card_of(folder), re.DOTALL)
    assert found
    return found[1]


def test_an_exported_model_generates_the_runs_samples_to_the_bit(digits, tmp_path):
    export(digits, tmp_path / "model")
    ours, theirs = af.load(digits), af.load(tmp_path / "model")
    for words in ({"nfe": 1}, {"nfe": 3, "seed": 5, "method": "consistency"}):
        assert np.array_equal(ours(range(10), **words), theirs(range(10), **words))
    assert (ours.step, ours.class_names, ours.kind) == (theirs.step, theirs.class_names, theirs.kind)


def test_guidance_is_still_there(digits, tmp_path):
    """Where labels were dropped in training, and only there."""
    export(digits, tmp_path / "plain")
    with pytest.raises(UserError, match="guidance"):
        af.load(tmp_path / "plain")([0, 1], guidance=2)
    run = shutil.copytree(digits, tmp_path / "run", symlinks=True)
    record = yaml.safe_load((run / "config.yaml").read_text())
    record["settings"]["objective"] |= {"label_drop": 0.1, "guide_to": 0.75}
    (run / "config.yaml").write_text(yaml.safe_dump(record))
    export(run, tmp_path / "model")
    ours, theirs = (af.load(one)([0, 1], nfe=3, guidance=2) for one in (run, tmp_path / "model"))
    assert np.array_equal(ours, theirs)
    assert not np.array_equal(ours, af.load(run)([0, 1], nfe=3))


def test_a_model_is_exported_from_an_export(digits, tmp_path):
    export(digits, tmp_path / "a", licence="cc-by-4.0")
    export(tmp_path / "a", tmp_path / "b")
    for name in ("alphaflow.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_an_average_made_after_training_is_exported_as_such(digits, tmp_path):
    export(digits, tmp_path / "model", ema=0.2)
    theirs = af.load(tmp_path / "model")
    assert theirs.weights == "ema 0.2"
    assert np.array_equal(af.load(digits, ema=0.2)(range(10)), theirs(range(10)))
    assert not np.array_equal(af.load(digits)(range(10)), theirs(range(10)))


@pytest.mark.parametrize("format", [name for name in FORMATS if name != "web"])  # a page: test_page.py opens it
@pytest.mark.parametrize("source", ["digits", "points"])
def test_the_program_on_the_card_runs(format, source, request, tmp_path, monkeypatch):
    if format == "diffusers":  # test_diffusers.py runs it, away from the user's cache of code
        pytest.skip("tested in test_diffusers.py")
    run = request.getfixturevalue(source)
    said = export(run, tmp_path / "out", format)
    assert "out" in said
    monkeypatch.chdir(tmp_path)
    made: dict = {}
    exec(program_of(tmp_path / "out"), made)
    generator = af.load(run)
    if format in ("onnx", "program"):  # one step from the same noise
        y = torch.as_tensor(made["y"]) if generator.num_classes else None
        wanted = af.sample(generator.net, torch.as_tensor(made["z"]), y)
        torch.testing.assert_close(torch.as_tensor(made["x"]).detach(), wanted, rtol=1e-4, atol=1e-4)


def test_the_card_gives_recipe_data_figures_and_licence_in_the_hubs_form(digits, tmp_path):
    export(digits, tmp_path / "model", licence="apache-2.0")
    card = card_of(tmp_path / "model")
    _, header, body = card.split("---\n", 2)
    assert yaml.safe_load(header)["license"] == "apache-2.0"
    assert yaml.safe_load(header)["library_name"] == "alphaflow"
    assert "| 1 NFE, ode, guidance 2 | ema | balanced | 100 | 0 | 12.35 ± 0.5 | – |" in body
    assert "| real halves | – | – | – | – | 0.25 | 0.875 |" in body
    assert af.load(digits).net.config["width"] == 16 and "  width: 16\n" in body
    assert "| Fingerprint of the training set | 68cfa53ecfba5f6a |" in body
    assert "The weights are under apache-2.0." in body


def test_the_settings_on_the_card_are_the_runs(digits, tmp_path):
    """Those that it leaves out are the usual ones."""
    from alphaflow.runs.config import Config, from_dict, to_dict
    from alphaflow.runs.folder import RunFolder

    export(digits, tmp_path / "model")
    found = re.search(r"```yaml\n(.*?)```", card_of(tmp_path / "model"), re.DOTALL)
    assert found
    settings = to_dict(Config())
    for key, value in yaml.safe_load(found[1]).items():
        settings[key] = settings[key] | value if isinstance(value, dict) else value
    assert from_dict(settings, "card") == RunFolder(digits).read_config()


def test_figures_of_another_step_are_marked_and_none_are_called_none(digits, points, tmp_path):
    export(digits, tmp_path / "model")
    record = json.loads((tmp_path / "model" / "alphaflow.json").read_text())
    record["metrics"]["step"] = 3
    (tmp_path / "model" / "alphaflow.json").write_text(json.dumps(record))
    export(tmp_path / "model", tmp_path / "again")
    assert "**at step 3 and not 6**" in card_of(tmp_path / "again")
    export(points, tmp_path / "points")
    assert "Nothing yet: `alphaflow evaluate RUN`" in card_of(tmp_path / "points")
    assert "Nobody has said under which licence" in card_of(tmp_path / "points")


def test_no_path_of_this_machine_is_published(digits, tmp_path):
    run = shutil.copytree(digits, tmp_path / "run", symlinks=True)
    record = yaml.safe_load((run / "config.yaml").read_text())
    record["settings"]["data"] |= {"path": "/home/me/secret/photos", "labels": "/home/me/secret/labels.csv"}
    record["settings"]["init"] = "hf://me/before"
    (run / "config.yaml").write_text(yaml.safe_dump(record))
    export(run, tmp_path / "model")
    for file in ("README.md", "alphaflow.json"):
        said = (tmp_path / "model" / file).read_text()
        assert "secret" not in said and str(digits.parent) not in said
        assert all(word in said for word in ("photos", "labels.csv", "hf://me/before"))


def test_places_where_an_export_would_do_harm_are_refused(digits, tmp_path):
    export(digits, tmp_path / "model")
    (tmp_path / "file").touch()
    for source, out, message in (
        (digits, digits, "holds a run or the model itself: export to another folder"),
        (tmp_path / "model", tmp_path / "model", "holds a run or the model itself"),
        (digits, tmp_path / "net.onnx", r"give a name without \.onnx"),
        (digits, tmp_path / "file", "is a file: give a folder"),
    ):
        with pytest.raises(UserError, match=message):
            export(source, out)


def test_the_command(digits, tmp_path, capsys):
    assert command(["export", str(digits), str(tmp_path / "model"), "--licence", "mit"]) == 0
    assert "open it with alphaflow.load" in capsys.readouterr().out
    assert "The weights are under mit." in card_of(tmp_path / "model")
    assert command(["export", str(digits), str(tmp_path / "model"), "--format", "onxx"]) == 2
    assert "unknown format 'onxx': did you mean 'onnx'?" in capsys.readouterr().err
    assert command(["export", str(tmp_path), str(tmp_path / "model")]) == 1
    assert "is not a run" in capsys.readouterr().err


def test_every_format_has_its_module():
    for name in FORMATS:
        assert (Path(af.__file__).parent / "export" / f"{name}.py").exists()
