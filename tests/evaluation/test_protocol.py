"""FID, FVD and their like as a user asks for them: detectors by name, reference statistics, decoded latents."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import alphaflow as af
from alphaflow.cli import run
from alphaflow.data import Images, Latents, VideoClips
from alphaflow.encoding.decoder import decoder_of
from alphaflow.metrics import frechet_from_features, load_detector
from alphaflow.metrics.reference import read_reference
from alphaflow.pixels import to_uint8
from autoencoders import save_vae
from clips import write_clip
from launched import launch
from published_weights import Publish, TinyI3D, TinyInception, scripted

TINY = "--steps 2 --precision float32 --device cpu --model.width 16 --model.heads 2 --batch-size 8".split()
COUNT = 72
Evaluate = Callable[..., dict]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """photos/, and runs on their pixels, on their latents and on the digits."""
    root, rng = tmp_path_factory.mktemp("home"), np.random.default_rng(0)
    for k in range(COUNT):
        folder = root / "photos" / "ab"[k % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).resize((32, 40)).save(folder / f"{k:02d}.png")
    photos, model = str(root / "photos"), ["--model.depth", "1", "--model.patch", "4", *TINY]
    words = ["train", "folder", "--data.path", photos, "--data.size", "16", "--out", str(root / "pixels"), *model]
    assert run(words) == 0
    assert run(["train", "digits", "--out", str(root / "digits"), *model]) == 0
    save_vae(root / "vae")
    assert run(["encode", photos, str(root / "set"), "--vae", str(root / "vae"), "--size", "32"]) == 0
    assert run(["train", "latents", "--data.path", str(root / "set"), "--out", str(root / "latents"), *model]) == 0
    return root


@pytest.fixture
def inception(publish: Publish) -> tuple[TinyInception, list[str]]:
    """A network, and the words that make it the detector."""
    torch.manual_seed(1)
    net = TinyInception()
    return net, ["--detector", "inception", "--detector-path", str(publish("inception", scripted(net)))]


@pytest.fixture
def evaluated(tmp_path: Path) -> Evaluate:
    def now(folder: Path, *words: str) -> dict:
        file = tmp_path / "evaluation.json"
        assert run(["evaluate", str(folder), "--nfe", "1", "--count", "16", *words, "--json", str(file)]) == 0
        return json.loads(file.read_text())

    return now


def seen(net: TinyInception, images: NDArray[np.uint8]) -> torch.Tensor:
    with torch.no_grad():
        return net(torch.from_numpy(images).movedim(-1, 1), return_features=True).double()


def said(words: list[str], capsys) -> str:
    assert run(words) != 0
    return capsys.readouterr().err.strip().splitlines()[-1]


# ------------------------------------------------------------------ images


def test_fid_of_a_run_is_that_of_its_pictures_features(home, inception, evaluated, capsys, tmp_path):
    net, words = inception
    record = evaluated(home / "pixels", *words, "--labels", "balanced", "--plot", str(tmp_path / "p.png"))
    figures = record["results"][0]["figures"]
    real = to_uint8(Images(home / "photos", 16).batch(torch.arange(COUNT))[0])
    fake = af.load(home / "pixels")(torch.arange(16) % 2, nfe=1)
    assert figures["frechet"] == pytest.approx(frechet_from_features(seen(net, real), seen(net, fake)), rel=1e-6)
    assert set(figures) == {"frechet", "precision", "recall", "neighbour", "copies"}  # 1,000 classes are others
    assert record["detector"].startswith("inception, sha256") and record["distance"] == "FID"
    assert "299" in record["preprocessing"] and (record["shape"], record["crop"]) == (
        "16 × 16 × 3",
        "lanczos at whole pixels",
    )
    table = capsys.readouterr().out
    assert " FID " in table.splitlines()[-4] and "against the run's data, 72 samples, seen by inception" in table
    assert run(["compare", *2 * [str(tmp_path / "evaluation.json")]]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "FID" in lines[1] and not any("frechet" in line for line in lines)


def test_a_reference_takes_the_place_of_the_data(home, inception, evaluated, tmp_path):
    _, words = inception
    file = str(tmp_path / "photos.npz")
    assert run(["stats", str(home / "photos"), file, "--size", "16", *words, "--device", "cpu"]) == 0
    plain = evaluated(home / "pixels", *words)
    record = evaluated(home / "pixels", *words, "--reference", file, "--metrics", "frechet", "inception")
    figures = record["results"][0]["figures"]
    assert figures["frechet"] == pytest.approx(plain["results"][0]["figures"]["frechet"], rel=1e-9)
    assert figures["inception_score"] > 1 and record["halves"] == {}
    assert (record["against"], record["real_count"]) == ("reference statistics", COUNT)
    assert set(evaluated(home / "pixels", *words, "--reference", file)["results"][0]["figures"]) == {"frechet"}
    mine = read_reference(file).statistics
    theirs = str(tmp_path / "adm.npz")
    np.savez(theirs, mu=mine.mean.numpy() + 1, sigma=mine.cov.numpy())
    other = evaluated(home / "pixels", *words, "--reference", theirs)
    assert other["real_count"] == 0 and other["against"] == "reference statistics of unknown origin"
    assert other["results"][0]["figures"]["frechet"] != figures["frechet"]  # not what was kept for the first file
    assert run(["report", str(home / "pixels")]) == 0
    page = (home / "pixels" / "report.html").read_text()
    assert "FID" in page and "Real halves" not in page


def test_a_folder_of_pictures_against_a_reference(home, inception, evaluated, tmp_path):
    net, words = inception
    file, out = tmp_path / "photos.npz", tmp_path / "e.json"
    assert run(["stats", str(home / "photos"), str(file), "--size", "16", *words, "--device", "cpu"]) == 0
    drawn = tmp_path / "drawn"
    assert run(["sample", str(home / "pixels"), "--out", str(drawn), "--count", "16"]) == 0
    line = ["evaluate", str(home / "pixels"), "--from-folder", str(drawn), *words, "--device", "cpu"]
    assert run([*line, "--reference", str(file), "--json", str(out)]) == 0
    fake = np.stack([np.asarray(Image.open(one)) for one in sorted(drawn.iterdir())])
    real = to_uint8(Images(home / "photos", 16).batch(torch.arange(COUNT))[0])
    found = json.loads(out.read_text())["results"][0]["figures"]["frechet"]
    assert found == pytest.approx(frechet_from_features(seen(net, real), seen(net, fake)), rel=1e-6)


def test_references_made_in_another_way_are_refused(home, inception, capsys, tmp_path, publish):
    _, words = inception
    line = ["evaluate", str(home / "pixels"), "--nfe", "1", "--count", "16", *words]
    for name, more, message in (
        ("box", ["--size", "16", "--crop", "box"], "has crop box, and this lanczos"),
        ("big", ["--size", "32"], "has resolution 32, and this 16"),
    ):
        file = str(tmp_path / f"{name}.npz")
        assert run(["stats", str(home / "photos"), file, *more, *words, "--device", "cpu"]) == 0
        assert message in said([*line, "--reference", file], capsys)
    np.savez(tmp_path / "narrow.npz", mu=np.zeros(4), sigma=np.eye(4))
    assert "has features 4, and this 6" in said([*line, "--reference", str(tmp_path / "narrow.npz")], capsys)
    file = str(tmp_path / "digits.npz")
    assert run(["stats", "digits", file, "--detector", "digits", "--device", "cpu"]) == 0
    assert "has detector digits-cnn" in said([*line, "--reference", file], capsys)
    assert "needs --detector: the one it was made with (digits-cnn" in said(
        ["evaluate", str(home / "pixels"), "--reference", file], capsys
    )


def test_what_does_not_apply_is_refused(home, inception, capsys, tmp_path, publish):
    _, words = inception
    file = str(tmp_path / "photos.npz")
    assert run(["stats", str(home / "photos"), file, "--size", "16", *words, "--device", "cpu"]) == 0
    video = ["--detector", "i3d", "--detector-path", str(publish("i3d", scripted(TinyI3D())))]
    wrong = ["--detector", "inception", "--detector-path", video[-1]]
    few = str(tmp_path / "few")
    shutil.copytree(home / "photos" / "a", tmp_path / "nine")
    for file_left in sorted((tmp_path / "nine").iterdir())[9:]:
        file_left.unlink()
    made = ["--data.path", str(tmp_path / "nine"), "--data.size", "16", "--model.depth", "1"]
    assert run(["train", "folder", "--out", few, *made, "--model.patch", "4", *TINY]) == 0
    pixels, digits, stats = str(home / "pixels"), str(home / "digits"), ["stats", str(home / "photos"), file]
    for line, message in (
        ([pixels, *words, "--reference", file, "--metrics", "manifold"], "'manifold' compares pairs of samples"),
        ([pixels, *words, "--metrics", "accuracy"], "knows the classes of the data, as inception does not"),
        ([pixels, *words[2:]], "--detector-path needs --detector"),
        ([pixels, "--metrics", "frechet"], "name one with --detector"),
        ([pixels, *video], "detector i3d takes videos (N, T, H, W, 3), not (N, 16, 16, 3)"),
        ([few, *words, "--metrics", "density"], "needs 12 real samples, and there are 9"),
        ([digits, *words], "detector inception takes images (N, H, W, 3), not (N, 8, 8, 1)"),
        ([pixels, *wrong], "has sha256"),
        ([pixels, "--vae", "elsewhere"], "vae 'elsewhere' is for models of latents, and this one makes images"),
        ([pixels, *words, "--reference", str(tmp_path)], "cannot read statistics"),
        ([*stats, "--detector", "digits"], "detector digits-cnn takes images (N, 8, 8, 1), not (N, 256, 256, 3)"),
        ([*stats, *words, "--frames", "3"], "--frames does not apply: detector inception looks at images"),
        ([*stats, *video, "--crop", "box"], "--crop does not apply"),
    ):
        assert message in said(line if line[0] == "stats" else ["evaluate", *line], capsys)
    assert run(["train", "toy", "--out", str(tmp_path / "toy"), "--steps", "2", "--batch-size", "8"]) == 0
    assert "generates points, which no detector sees" in said(["evaluate", str(tmp_path / "toy"), *words], capsys)


# ------------------------------------------------------------------ latents


def test_latents_are_scored_as_the_pictures_they_stand_for(home, inception, evaluated, tmp_path):
    """Against the pictures that were encoded, by their statistics, or against the data's own latents, decoded."""
    net, words = inception
    folder, file = home / "latents", str(tmp_path / "photos.npz")
    assert run(["stats", str(home / "photos"), file, "--size", "32", *words, "--device", "cpu"]) == 0
    fake = seen(net, af.load(folder)(torch.arange(16) % 2, nfe=1))
    photos = to_uint8(Images(home / "photos", 32).batch(torch.arange(COUNT))[0])
    record = evaluated(folder, *words, "--labels", "balanced", "--reference", file)
    found = record["results"][0]["figures"]["frechet"]
    assert found == pytest.approx(frechet_from_features(seen(net, photos), fake), rel=1e-6)
    assert record["shape"] == "32 × 32 × 3" and record["results"][0]["rounding"] == "uint8, as in a PNG"
    data = Latents(home / "set")
    decoded = to_uint8(decoder_of(data.manifest)(data.batch(torch.arange(COUNT))[0]))
    record = evaluated(folder, *words, "--labels", "balanced")
    figures = record["results"][0]["figures"]
    assert record["against"] == "latents of the run's data, decoded" and "precision" in figures
    assert figures["frechet"] == pytest.approx(frechet_from_features(seen(net, decoded), fake), rel=1e-4)
    assert figures["frechet"] != pytest.approx(found, rel=1e-2)  # the autoencoder's own loss
    assert evaluated(folder)["detector"] is None  # nobody asked: the latents themselves


def test_an_autoencoder_that_has_moved_is_named(home, inception, evaluated, tmp_path, capsys):
    _, words = inception
    other = str(save_vae(tmp_path / "other", seed=1))
    line = ["evaluate", str(home / "latents"), "--nfe", "1", "--count", "16", *words]
    assert "give that one with --vae" in said([*line, "--vae", other], capsys)
    (home / "vae").rename(tmp_path / "moved")
    try:
        assert "--vae says where" in said(line, capsys)
        assert evaluated(home / "latents", *words, "--vae", str(tmp_path / "moved"))["distance"] == "FID"
    finally:
        (tmp_path / "moved").rename(home / "vae")


# ------------------------------------------------------------------ videos


def test_fvd_of_a_run_on_videos(publish, evaluated, tmp_path, capsys):
    videos, longer, out = (tmp_path / name for name in ("videos", "longer", "run"))
    for k in range(12):
        write_clip(videos / "ab"[k % 2] / f"{k:02d}.mp4", 10 + k)
        write_clip(longer / f"{k}.mp4", 12 + k)
    words = ["--detector", "i3d", "--detector-path", str(publish("i3d", scripted(TinyI3D())))]
    clips = ["--frames", "10", "--rate", "10", "--size", "12"]
    file = str(tmp_path / "clips.npz")
    assert run(["stats", str(videos), file, *clips, *words, "--device", "cpu"]) == 0
    assert "12 videos, 6 features of i3d" in capsys.readouterr().out
    data = "--data.name clips --data.frames 10 --data.rate 10 --data.size 12 --model.depth 2".split()
    assert run(["train", "moving-digits", "--data.path", str(videos), "--out", str(out), *data, *TINY]) == 0
    plain = evaluated(out, *words)
    assert plain["distance"] == "FVD" and plain["shape"] == "10 × 12 × 12 × 3"
    assert "precision" in plain["results"][0]["figures"]
    assert "  FVD  " in capsys.readouterr().out
    record = evaluated(out, *words, "--reference", file)
    figures = [one["results"][0]["figures"]["frechet"] for one in (plain, record)]
    assert figures[0] == pytest.approx(figures[1], rel=1e-9)
    balanced = evaluated(out, *words, "--labels", "balanced")["results"][0]["figures"]["frechet"]
    detector = load_detector("i3d", path=words[-1])
    real = to_uint8(VideoClips(videos, frames=10, rate=10, size=12).batch(torch.arange(12))[0])
    fake = af.load(out)(torch.arange(16) % 2, nfe=1)
    features = [detector.features(one).double() for one in (real, fake)]
    assert balanced == pytest.approx(frechet_from_features(*features), rel=1e-6)
    for setting, value, message in (
        ("--frames", "11", "has frames 11, and this 10"),
        ("--rate", "11", "has frames a second 11.0, and this 10.0"),
        ("--size", "14", "has resolution 14, and this 12"),
    ):
        line = ["stats", str(longer), file, *clips, *words, "--device", "cpu"]
        line[line.index(setting) + 1] = value
        assert run(line) == 0
        assert message in said(["evaluate", str(out), *words, "--reference", file], capsys)


# ------------------------------------------------------------------ several processes


def test_two_processes_make_the_same_reference_and_the_same_figures(home, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()

    def tasks(folder: Path) -> list[dict]:
        stats, figures = str(folder / "digits.npz"), str(folder / "e.json")
        scored = ["evaluate", str(home / "digits"), "--nfe", "1", "--count", "200", "--detector", "digits"]
        return [
            {"words": ["stats", "digits", stats, "--detector", "digits", "--device", "cpu"]},
            {"words": [*scored, "--reference", stats, "--json", figures, "--seed", str(3)]},
        ]

    folder = home / "digits" / "evaluations"
    launch(2, tasks(two), tmp_path)
    for file in folder.iterdir():
        file.unlink()
    for task in tasks(one):
        assert run(task["words"]) == 0
    for name in ("digits.npz", "e.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    record = json.loads((one / "e.json").read_text())
    assert set(record["results"][0]["figures"]) == {"frechet", "accuracy"} and record["distance"] == "frechet"


def test_a_detector_that_does_not_fit_is_refused_before_anything_is_decoded(tmp_path, capsys):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "1.png").write_bytes(b"never looked at")
    assert run(["stats", str(tmp_path / "set"), str(tmp_path / "o.npz"), "--detector", "digits"]) == 2
    assert "detector digits-cnn takes images (N, 8, 8, 1), not (N, 256, 256, 3)" in capsys.readouterr().err
