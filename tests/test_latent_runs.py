"""From pictures to latents to a run and back to pictures, as a user types it; and what is refused on the way."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import alphaflow as af
from alphaflow.cli import run
from alphaflow.data import Latents
from alphaflow.encoding.vae import load_vae
from alphaflow.errors import UserError
from alphaflow.generation.generator import Generator
from alphaflow.pixels import false_colours, to_uint8
from autoencoders import save_vae

TINY = "--steps 4 --batch-size 12 --log-every 1 --precision float32 --model.width 16 --model.depth 1".split()
TINY += "--model.heads 2 --model.patch 2 --device cpu".split()


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """photos/ in two classes, vae/, latents/ and runs/latents."""
    root, rng = tmp_path_factory.mktemp("home"), np.random.default_rng(0)
    for k in range(20):
        folder = root / "photos" / ("cat" if k % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).resize((32, 40)).save(folder / f"{k:02d}.png")
    save_vae(root / "vae")
    assert run(encode_words(root, "latents")) == 0
    assert run(train_words(root, "latents", "run")) == 0
    return root


def encode_words(root: Path, name: str, *more: str) -> list[str]:
    return ["encode", str(root / "photos"), str(root / name), "--vae", str(root / "vae"), "--size", "32", *more]


def train_words(root: Path, data: str, out: str, *more: str) -> list[str]:
    return ["train", "latents", "--data.path", str(root / data), "--out", str(root / out), *TINY, *more]


def refused(words: list[str], capsys) -> str:
    assert run(words) == 1
    (said,) = capsys.readouterr().err.strip().splitlines()[-1:]
    return said


def test_the_run_records_the_fingerprint(home):
    record = yaml.safe_load((home / "run" / "config.yaml").read_text())["data"]
    data = Latents(home / "latents")
    assert record["fingerprint"] == data.fingerprint and record["kind"] == "latent"
    assert record["latents"]["vae"] == load_vae(str(home / "vae")).hash
    assert record["latents"]["offset"] == pytest.approx(data.manifest.mean, rel=1e-6)


def test_samples_are_decoded_by_the_autoencoder(home, tmp_path):
    assert run(["sample", str(home / "run"), "--out", str(tmp_path / "x.npz"), "--count", "6"]) == 0
    images = np.load(tmp_path / "x.npz")["images"]
    generator = af.load(home / "run")
    latents = generator.samples(torch.arange(6) % 2)
    _, std = Latents(home / "latents").manifest.mean, Latents(home / "latents").manifest.std
    unscaled = latents * torch.tensor(std)[:, None, None] + torch.tensor(_)[:, None, None]
    with torch.no_grad():
        decoded = load_vae(str(home / "vae")).net.decode(unscaled.float()).sample
    assert images.shape == (6, 32, 32, 3)
    assert np.abs(images.astype(int) - to_uint8(decoded)).max() <= 1
    assert np.array_equal(images, generator(torch.arange(6) % 2))


def test_an_autoencoder_that_has_moved_is_asked_for(home, tmp_path, capsys):
    shutil.copytree(home / "vae", tmp_path / "vae")
    words = [
        "encode",
        str(home / "photos"),
        str(tmp_path / "data"),
        "--vae",
        str(tmp_path / "vae"),
        "--size",
        "32",
    ]
    assert run(words) == 0 and run(train_words(tmp_path, "data", "moved")) == 0
    (tmp_path / "vae").rename(tmp_path / "there")
    words = ["sample", str(tmp_path / "moved"), "--out", str(tmp_path / "x.npz"), "--count", "2"]
    said = refused(words, capsys)
    assert f"no autoencoder {tmp_path / 'vae'}" in said and "--vae says where" in said
    assert run([*words, "--vae", str(tmp_path / "there")]) == 0


def test_decoding_undoes_encoding_and_scaling(home):
    """A row of the set, scaled and sent back through the decoder, is what the autoencoder makes of its picture."""
    data, vae = Latents(home / "latents"), load_vae(str(home / "vae"))
    from alphaflow.data.sources import decode, open_source
    from alphaflow.encoding.decoder import decoder_of

    pixels = torch.from_numpy(decode(open_source(str(home / "photos")).read(3), 32).copy())[None]
    mean, logvar = vae.encode(pixels).chunk(2, dim=1)
    rows = torch.full((200,), 3)
    x, _ = data.draw(rows, torch.arange(200), 0)
    offset, divisor = (torch.from_numpy(part)[:, None, None] for part in data.manifest.scaling)
    assert torch.allclose((x * divisor + offset).mean(0), mean[0], atol=5 * float((logvar / 2).exp().max()) / 14)
    scaled = (mean - offset) / divisor
    assert torch.allclose(decoder_of(data.manifest, vae=str(home / "vae"))(scaled), vae.decode(mean), atol=1e-4)


def test_snapshots_are_in_false_colours(home):
    x = torch.tensor([-3.0, 0.0, 3.0, 9.0])[None, :, None, None].expand(1, 4, 2, 2)
    assert false_colours(x)[0, 0, 0].tolist() == [0, 128, 255]
    assert false_colours(x[:, 1:3])[0, 0, 0].tolist() == [128, 255, 255]
    assert Image.open(home / "run" / "samples" / "step-00000004.png").size[0] > 8


def test_resumption_evaluation_and_report_go_through(home, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(home / "run", out, symlinks=True)
    assert run(["train", "--resume", str(out), "--steps", "6"]) == 0
    assert run(["evaluate", str(out), "--nfe", "1", "--count", "16", "--out", str(tmp_path / "pictures")]) == 0
    files = sorted((tmp_path / "pictures").rglob("*.png"), key=lambda file: file.name)
    labels = [int(file.stem.split("class")[1]) for file in files]
    assert np.array_equal(np.stack([np.asarray(Image.open(file)) for file in files]), af.load(out)(labels))
    figures = json.loads((out / "evaluation.json").read_text())["results"][0]["figures"]
    assert {"energy", "sliced_wasserstein"} <= figures.keys()
    assert run(["report", str(out)]) == 0
    assert "latents of 4 × 8 × 8" in (out / "report.html").read_text()


def test_fine_tuning_takes_other_images_and_refuses_other_numbers(home, tmp_path, capsys):
    shutil.copytree(home / "photos", tmp_path / "photos")
    (tmp_path / "photos" / "cat" / "01.png").unlink()
    vae = str(home / "vae")
    assert run(["encode", str(tmp_path / "photos"), str(tmp_path / "same"), "--vae", vae, "--size", "32"]) == 0
    init = ["--init", str(home / "run")]
    assert run(train_words(tmp_path, "same", "tuned", *init)) == 0
    other = str(save_vae(tmp_path / "other", seed=1))
    for name, *words in (("vae", "--vae", other), ("scale", "--vae", vae, "--scale", "scalar")):
        assert run(["encode", str(home / "photos"), str(tmp_path / name), "--size", "32", *words]) == 0
        said = refused(train_words(tmp_path, name, f"run-{name}", *init), capsys)
        assert f"was trained on latents with {name}" in said and "and these have" in said
    assert load_vae(vae).hash in refused(train_words(tmp_path, "vae", "run-vae", *init), capsys)


def test_a_run_gone_on_with_is_the_same_as_one_not_interrupted(home, tmp_path):
    """The noise of the latents follows from the step, as everything else does."""
    words = train_words(home, "latents", "unused")
    words[words.index("--out") + 1] = str(tmp_path / "run")
    assert run([*words, "--stop-after", "2"]) == 0
    assert run(["train", "--resume", str(tmp_path / "run")]) == 0
    lines = [(folder / "metrics.jsonl").read_text().splitlines() for folder in (home / "run", tmp_path / "run")]
    one, other = ([json.loads(line)["loss"] for line in each] for each in lines)
    assert one == other and len(one) == 4


def test_inspect_prints_the_fingerprint_and_decodes_a_grid(home, tmp_path, capsys):
    data, grid = Latents(home / "latents"), tmp_path / "grid.png"
    assert run(["inspect", str(home / "latents"), "--grid", str(grid), "--count", "4"]) == 0
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[:-1])
    assert said["fingerprint"] == data.fingerprint and said["class_names"] == "2 (cat, dog)"
    assert said["latent"].startswith("4 × 8 × 8") and said["scale"] == "statistics"
    assert Image.open(grid).size[0] >= 2 * 32
    assert run(["inspect", str(home / "photos")]) == 1
    assert run(["inspect", str(home / "latents"), "--count", "0"]) == 2


# ---------------------------------------------------------------------------------- what is refused


def test_another_set_in_its_place_is_refused_with_both_values(home, tmp_path, capsys):
    """Resuming, evaluating; the report says it in place of the data."""
    out, moved = tmp_path / "run", tmp_path / "latents"
    shutil.copytree(home / "run", out, symlinks=True)
    config = (out / "config.yaml").read_text()
    (out / "config.yaml").write_text(config.replace(f"path: {home / 'latents'}", f"path: {moved}"))
    assert run(encode_words(home, str(moved), "--scale", "scalar", "--crop", "box")) == 0
    for words in (["train", "--resume", str(out), "--steps", "6"], ["evaluate", str(out)]):
        said = refused(words, capsys)
        assert (
            "scale 0.18215 here, statistics there" in said
            and "crop box here, lanczos at whole pixels there" in said
        )
    shutil.rmtree(moved)
    assert "no set of latents" in refused(["train", "--resume", str(out), "--steps", "6"], capsys)


def test_another_autoencoder_is_refused_with_both_hashes(home, tmp_path, capsys):
    other = save_vae(tmp_path / "other", seed=1)
    words = ["sample", str(home / "run"), "--out", str(tmp_path / "x.png"), "--vae"]
    said = refused([*words, str(other)], capsys)
    assert load_vae(str(other)).hash in said and load_vae(str(home / "vae")).hash in said
    moved = shutil.copytree(home / "vae", tmp_path / "moved")
    assert run([*words, str(moved)]) == 0


def test_a_report_without_the_autoencoder_shows_false_colours(home, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(home / "run", out, symlinks=True)
    config = (out / "config.yaml").read_text()
    (out / "config.yaml").write_text(config.replace(f"vae_name: {home / 'vae'}", "vae_name: /gone"))
    assert run(["report", str(out)]) == 0
    said = (out / "report.html").read_text()
    assert "Latents in false colours" in said and "no autoencoder /gone" in said


def test_flips_need_stored_ones_and_a_path_is_needed(home, tmp_path, capsys):
    words = encode_words(home, "plain", "--flips", "none")
    assert run(words) == 0
    assert "encode with --flips stored" in refused(train_words(home, "plain", "run2"), capsys)
    assert run(train_words(home, "plain", "run2", "--data.flip", "False", "--data.classes", "cat")) == 0
    assert run(["train", "latents", "--out", str(tmp_path / "x"), *TINY]) == 2
    assert "--data.path" in capsys.readouterr().err


def test_class_filters_and_balance_are_settings(home, tmp_path, capsys):
    words = train_words(home, "latents", "balanced", "--data.balanced", "--data.classes", "0-1")
    assert run(words) == 0
    wrong = train_words(home, "latents", "wrong", "--data.classes", "cow")
    assert run(wrong) == 2
    assert "unknown class 'cow'" in capsys.readouterr().err
    with pytest.raises(UserError, match="not images"):
        Generator(torch.nn.Identity(), (2,), 0, (), "points", 0, torch.device("cpu"))(1)


def test_what_is_asked_for_goes_by_the_command_s_own_options(home, tmp_path, capsys, caplog):
    """Folders speak of `train`'s options; `encode` has others for the same, and `stats` has none."""
    for part in ("train", "val"):
        (tmp_path / "photos" / part).mkdir(parents=True)
        Image.new("RGB", (20, 20)).save(tmp_path / "photos" / part / "0.png")
    words = ["encode", str(tmp_path / "photos"), str(tmp_path / "set"), "--vae", str(home / "vae"), "--size", "16"]
    said = refused(words, capsys)
    assert "give one of them, " in said and "add --labels folders" in said and "--data." not in said
    assert run([*words, "--labels", "folders", "--flips", "none"]) == 0
    words = ["stats", str(tmp_path / "photos"), str(tmp_path / "s.npz"), "--detector", "digits", "--size", "8"]
    said = refused(words, capsys)
    assert said.rstrip().endswith("photos/train") and "--data." not in said
    for part in ("train", "val"):
        shutil.rmtree(tmp_path / "photos" / part)
    (tmp_path / "photos" / "one").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "photos" / "one" / "0.png")
    words = [
        "encode",
        str(tmp_path / "photos"),
        str(tmp_path / "lone"),
        "--vae",
        str(home / "vae"),
        "--size",
        "16",
    ]
    assert run(words) == 0
    assert "is one class, one: give" in caplog.text and "--data." not in caplog.text
