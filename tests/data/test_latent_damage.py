"""Damaged and hostile sets: the shard is named, and nothing is read that the file's size does not bear out."""

import json

import numpy as np
import pytest
import torch

from alphaflow.cli import run
from alphaflow.data import Latents
from alphaflow.data.latents.manifest import MANIFEST
from alphaflow.data.latents.shards import open_shard
from alphaflow.errors import UserError
from latent_sets import make_set

N, SHAPE = 20, (4, 4, 4)
TINY = "--steps 3 --batch-size 8 --data.flip False --model.width 16 --model.depth 1 --model.heads 2".split()
TINY += "--model.patch 2 --device cpu".split()


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    moments = rng.standard_normal((N, 1, 8, 4, 4)).astype(np.float16)
    make_set(tmp_path / "set", moments, np.arange(N) % 3)
    return tmp_path / "set"


def overwrite(path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def train(root, out, capsys) -> str:
    assert run(["train", "latents", "--data.path", str(root), "--out", str(out), *TINY]) == 1
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize("label", [-1, -5, 3, 10**12])
def test_a_label_in_a_shard_that_is_no_class_is_found_when_it_is_opened(root, tmp_path, capsys, label) -> None:
    path = root / "shard-000001.safetensors"
    overwrite(path, open_shard(path).labels_at + 8 * 2, int(label).to_bytes(8, "little", signed=True))
    with pytest.raises(
        UserError, match=f"shard-000001.safetensors: row 2 has label {label}, and the set has 3 classes"
    ):
        Latents(root)
    assert f"row 2 has label {label}" in train(root, tmp_path / "run", capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_blamed_on_their_shard(root, tmp_path, capsys, value) -> None:
    """Not on the derivative, nor on an operator of the network."""
    path = root / "shard-000001.safetensors"
    for row in range(7):
        at = open_shard(path).moments_at + row * open_shard(path).row_bytes
        overwrite(path, at, np.float16(value).tobytes())
    data = Latents(root)
    data.batch(torch.arange(7))
    with pytest.raises(UserError, match=r"shard-000001.safetensors: row 3 holds numbers that are not finite"):
        data.batch(torch.tensor([0, 10, 11]))
    said = train(root, tmp_path / "run", capsys)
    assert "shard-000001.safetensors: row" in said and "not finite" in said and "derivative" not in said


def change_head(path, change) -> None:
    """Rewrite the head of a safetensors file, its tensors as they are."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    head = json.loads(content[8 : 8 + length])
    head = change(head) or head
    made = head.encode() if isinstance(head, str) else json.dumps(head).encode()
    path.write_bytes(len(made).to_bytes(8, "little") + made + content[8 + length :])


def larger(head) -> None:
    head["moments"]["shape"][0] = 10**9


def doubles(head) -> None:
    head["labels"]["dtype"] = "F64"


def negative(head) -> None:
    head["moments"]["data_offsets"] = [-8, head["moments"]["data_offsets"][1] - 8]


def more_skipped(head) -> None:
    about = json.loads(head["__metadata__"]["shard"])
    about["stop"] = 10**9
    head["__metadata__"]["shard"] = json.dumps(about)


def no_dictionary(head) -> str:
    return "[1]"


def deep(head) -> str:
    return "[" * 100_000


@pytest.mark.parametrize("change", [larger, doubles, negative, more_skipped, no_dictionary, deep])
def test_a_head_that_the_file_does_not_bear_out_is_damage(root, change) -> None:
    path = root / "shard-000001.safetensors"
    change_head(path, change)
    with pytest.raises(UserError, match=r"shard-000001.safetensors is damaged"):
        Latents(root)


def test_a_manifest_names_files_of_its_own_folder_only(root, tmp_path) -> None:
    content = json.loads((root / MANIFEST).read_text())
    content["shards"][0][0] = "../set/shard-000000.safetensors"
    (root / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(UserError, match="lies outside of the set"):
        Latents(root)
    (root / MANIFEST).write_text("[" * 100_000)
    with pytest.raises(UserError, match="cannot understand"):
        Latents(root)
