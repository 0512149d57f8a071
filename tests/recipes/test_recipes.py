"""The recipes do what they state, at their full length."""

import json

import pytest

from alphaflow.cli import run
from alphaflow.recipes import RECIPES


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.bounds])
def test_a_recipe_reaches_what_it_states(name, tmp_path):
    out = tmp_path / name
    words = RECIPES[name].command.split()[1:]
    assert run([*words[: words.index("--out") + 1], str(out)]) == 0
    assert run(["evaluate", str(out), "--nfe", "1", "2"]) == 0
    one, two = (result["figures"] for result in json.loads((out / "evaluation.json").read_text())["results"])
    for metric, (lowest, highest) in RECIPES[name].bounds.items():
        assert lowest <= one[metric] <= highest, f"{metric} {one[metric]}"
    better = "frechet" if "frechet" in one else "energy"
    assert two[better] <= one[better]
