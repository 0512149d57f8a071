"""What README.md and docs/commands.md tell people to type is typed here, in their order, in an empty folder."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alphaflow.cli import run
from alphaflow.recipes import RECIPES
from autoencoders import save_vae

ROOT = Path(__file__).parent.parent
PAGES = [(ROOT / name).read_text() for name in ("README.md", "docs/commands.md")]
SMALL = "--steps 3 --batch-size 16 --model.width 16 --model.depth 1 --model.heads 2 --model.patch 4".split()


def blocks(language: str) -> list[str]:
    return [block for page in PAGES for block in re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)]


def commands() -> list[list[str]]:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("alphaflow ")]


def test_every_command_of_the_readme_and_of_the_page_of_commands_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("cats", "dogs"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for k in range(8):
            pixels = np.full((80, 70, 3), 20 * k, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{k}.jpg")
    small_vae = {"sd-vae-ft-ema": str(save_vae(tmp_path / "vae")), "256": "32"}  # the one meant needs a network
    shutil.make_archive(str(tmp_path / "photos"), "zip", tmp_path / "photos")
    seen = set()
    for words in commands():
        small = SMALL if words[0] == "train" and "--resume" not in words else []
        if small and "--budget" in words:  # which is how long, and so are the steps of SMALL
            start = words.index("--budget")
            words = words[:start] + words[start + 2 :]
        if words[0] == "diagnose":
            small = ["--batches", "3"]
        if words[0] == "encode":
            words = [small_vae.get(word, word) for word in words]
        assert run([*words, *small]) == 0, words
        seen.add(words[0])
    assert seen == set("recipes train sample evaluate compare diagnose report bench encode inspect export".split())
    assert (
        Path("samples.png").exists() and Path("digits.npz").exists() and Path("runs/digits/report.html").exists()
    )


def test_the_loop_of_the_readme_runs(capsys):
    (code,) = blocks("python")
    small = code.replace('af.models.dit("S/4", input_size=32', 'af.models.dit("S/16", input_size=32')
    assert small != code
    batches = [(torch.rand(4, 3, 32, 32) * 2 - 1, torch.randint(10, (4,))) for _ in range(2)]
    names = {"batches": batches}
    exec(small, names)
    assert names["images"].shape == (16, 3, 32, 32)
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_states_its_own_command(name):
    words = shlex.split(RECIPES[name].command)
    assert words[:3] == ["alphaflow", "train", name]
    assert RECIPES[name].config.recipe == name
