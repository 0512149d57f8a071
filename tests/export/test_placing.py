"""An export replaces what an export made, and nothing of anybody's; a card says what it is given, and no more."""

import json
import shutil

import pytest
import yaml

import alphaflow as af
from alphaflow import UserError
from alphaflow.cli import run as command
from alphaflow.export import NAMES, export
from alphaflow.export.card import plain


def contents(folder):
    return {str(one.relative_to(folder)): one.read_bytes() for one in folder.rglob("*") if one.is_file()}


@pytest.mark.parametrize("format", NAMES)
def test_nobodys_files_are_overwritten(format, digits, tmp_path, capsys):
    for k, name in enumerate(NAMES[format]):
        place = tmp_path / str(k)
        place.mkdir()
        (place / name).write_text("# My project")
        before = contents(place)
        assert command(["export", str(digits), str(place), "--format", format]) == 1
        assert f"{place / name} is not of an earlier export" in capsys.readouterr().err
        assert contents(place) == before and len(list(place.iterdir())) == 1


def test_what_lies_deeper_is_seen_as_well(digits, tmp_path):
    """And only found once all is made: nothing of the export is left."""
    (tmp_path / "out" / "transformer").mkdir(parents=True)
    (tmp_path / "out" / "transformer" / "config.json").write_text("{}")
    before = contents(tmp_path / "out")
    with pytest.raises(UserError, match=r"transformer/config\.json is not of an earlier export"):
        export(digits, tmp_path / "out", "diffusers")
    assert contents(tmp_path / "out") == before and len(list((tmp_path / "out").iterdir())) == 1
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "README.md").symlink_to(digits / "config.yaml")
    with pytest.raises(UserError, match=r"README\.md is not of an earlier export"):
        export(digits, tmp_path / "linked")


def test_an_earlier_export_is_replaced_unless_somebody_has_changed_it(digits, tmp_path):
    export(digits, tmp_path / "out", licence="mit")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    export(digits, tmp_path / "out", licence="cc-by-4.0")
    export(digits, tmp_path / "out", "program")  # one beside the other: both are known from now on
    export(digits, tmp_path / "out", licence="apache-2.0")
    card = tmp_path / "out" / "README.md"
    assert "apache-2.0" in card.read_text() and (tmp_path / "out" / "notes.txt").read_text() == "mine"
    shutil.copytree(tmp_path / "out", tmp_path / "clone")
    export(digits, tmp_path / "clone")  # the record goes with the folder
    card.write_text(card.read_text() + "\nWords of my own.\n")
    before = contents(tmp_path / "out")
    with pytest.raises(UserError, match=r"README\.md was changed since it was exported"):
        export(digits, tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_two_models_are_not_left_in_one_folder(digits, points, tmp_path):
    """What the first had and the second has not goes; of one model, the formats lie beside each other."""
    out = tmp_path / "out"
    export(digits, out, "diffusers")
    (out / "notes.txt").write_text("mine")
    shutil.copytree(out, tmp_path / "changed")
    export(points, out)
    export(points, tmp_path / "alone")
    assert contents(out).keys() == contents(tmp_path / "alone").keys() | {"notes.txt"}
    assert not (out / "transformer").exists() and af.load(out).shape == af.load(points).shape
    (tmp_path / "changed" / "model_index.json").write_text("{}")
    before = contents(tmp_path / "changed")
    with pytest.raises(UserError, match=r"model_index\.json was changed since it was exported"):
        export(points, tmp_path / "changed")
    assert contents(tmp_path / "changed") == before
    (tmp_path / "mine").write_text("x")
    record = json.loads((out / "export.json").read_text())
    record["files"] |= {"../mine": record["files"]["README.md"]}
    (out / "export.json").write_text(json.dumps(record))
    export(digits, out)
    assert (tmp_path / "mine").read_text() == "x"


def test_an_export_that_was_killed_between_two_files_goes_on(digits, tmp_path):
    """The record says of each file both what was and what comes; what was half made is removed."""
    export(digits, tmp_path / "a", licence="mit")
    export(digits, tmp_path / "b", licence="cc-by-4.0")
    records = [json.loads((tmp_path / one / "export.json").read_text()) for one in "ab"]
    for name, marks in records[0]["files"].items():
        marks += records[1]["files"][name]
    (tmp_path / "a" / "export.json").write_text(json.dumps(records[0]))
    (tmp_path / "a" / "README.md").write_bytes((tmp_path / "b" / "README.md").read_bytes())
    (tmp_path / "a" / ".alphaflow-export.tmp").mkdir()
    export(digits, tmp_path / "a")
    assert not (tmp_path / "a" / ".alphaflow-export.tmp").exists()
    assert af.load(tmp_path / "a").step == 6


def test_somebodys_export_json(digits, tmp_path):
    for text in ("[]", "{", '{"files": {"README.md": []}}'):
        (tmp_path / "export.json").write_text(text)
        with pytest.raises(UserError, match=r"export\.json is not of an earlier export"):
            export(digits, tmp_path)
        assert contents(tmp_path) == {"export.json": text.encode()}


def test_an_export_that_fails_leaves_nothing(points, tmp_path):
    with pytest.raises(UserError, match="makes points"):
        export(points, tmp_path / "new" / "out", "diffusers")
    assert not (tmp_path / "new").exists()


NASTY = "cat | dog](http://x.y) <script>alert(1)</script> `x`\n# Title ```yaml\n![a](b) _b_ *c* \udce9 \u202e"


def test_a_card_does_not_take_words_for_markup(digits, tmp_path):
    export(digits, tmp_path / "model")
    record = json.loads((tmp_path / "model" / "alphaflow.json").read_text())
    record["data"]["class_names"] = [NASTY] * 10
    record["data"]["fingerprint"] = NASTY
    record["weights"] = record["licence"] = NASTY
    record["origin"] = {"imported": NASTY, NASTY: 1}
    record["metrics"]["detector"] = NASTY
    record["metrics"]["results"][0]["labels"] = NASTY
    place = tmp_path / 'a"b | <b> `c'
    shutil.move(tmp_path / "model", place)
    (place / "alphaflow.json").write_text(json.dumps(record))
    export(place, tmp_path / 'out"; import os #')
    card = (tmp_path / 'out"; import os #' / "README.md").read_text()
    _, header, body = card.split("---\n", 2)
    assert yaml.safe_load(header)["library_name"] == "alphaflow"
    before, _, rest = body.partition("```python\n")
    code, _, after = rest.partition("```")
    text = before + after
    assert "<" not in text and "\n# Title" not in text and "://" not in text
    assert "](" not in text.replace("\\]", "") and "`x`" not in text and "```" not in text.split("## Recipe")[0]
    assert not any(one in card for one in ("\u202e", "\udce9"))
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    told = [line.replace("\\|", "") for line in rows if "Class names" in line or "Fingerprint" in line]
    columns = {len(line.split("|")) for line in told}
    assert columns == {4} and len(rows) > 8
    compile(code, "card", "exec")
    assert 'af.load("out\\"; import os #")' in code


@pytest.mark.parametrize(
    "word", ["digits", "step-00000600", "runs_of_mine", "sd-vae-ft-ema", "12.35 ± 0.5", "α = 1 → 0"]
)
def test_plain_words_stay_as_they_are(word):
    assert plain(word) == word


def test_figures_of_the_wrong_kind(digits, tmp_path):
    export(digits, tmp_path / "model")
    record = json.loads((tmp_path / "model" / "alphaflow.json").read_text())
    record["metrics"] = {"results": [3], "halves": 5}
    (tmp_path / "model" / "alphaflow.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="figures of model are damaged"):
        export(tmp_path / "model", tmp_path / "out")
