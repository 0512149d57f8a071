"""Moving digits end to end, as a user types it, on a tiny run."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import alphaflow as af
from alphaflow.cli import run
from autoencoders import save_vae
from clips import write_clip
from published_weights import TinyI3D, scripted

TINY = "--batch-size 8 --model.width 16 --model.depth 2 --model.heads 2 --log-every 1 --data.frames 3".split()


@pytest.fixture(scope="module", params=["joint", "factorised"])
def moving(request, tmp_path_factory) -> Path:
    """A run of four steps."""
    out = tmp_path_factory.mktemp("runs") / request.param
    words = ["train", "moving-digits", "--out", str(out), "--steps", "4", *TINY]
    assert run([*words, "--model.attention", request.param]) == 0
    return out


def test_videos_to_every_kind_of_file(moving, tmp_path) -> None:
    for name in ("v.npz", "v.gif", "v.mp4", "v.png", "v"):
        assert run(["sample", str(moving), "--out", str(tmp_path / name), "--count", "20", "--rate", "4"]) == 0
    with np.load(tmp_path / "v.npz", allow_pickle=False) as stored:
        assert stored["videos"].shape == (20, 3, 12, 12, 1) and stored["videos"].dtype == np.uint8
        assert stored["labels"].tolist() == [*range(10), *range(10)]
        videos = stored["videos"]
    with Image.open(tmp_path / "v.gif") as opened:
        assert opened.n_frames == 3 and opened.info["duration"] == 250
    assert len(list((tmp_path / "v").iterdir())) == 20 and (tmp_path / "v.mp4").stat().st_size > 0
    generator = af.load(moving)
    assert np.array_equal(generator(list(range(10)), seed=0), videos[:10])


def test_training_leaves_film_strips(moving) -> None:
    (path,) = (moving / "samples").glob("step-*.png")
    with Image.open(path) as strips:  # ten videos, three frames each, enlarged four times
        assert strips.size == (3 * 13 * 4 + 4, 10 * 13 * 4 + 4)


def test_a_run_of_videos_is_scored_and_reported_in_motion(moving, capsys) -> None:
    assert run(["evaluate", str(moving), "--count", "64", "--nfe", "1"]) == 0
    record = json.loads((moving / "evaluation.json").read_text())
    assert record["detector"].startswith("moving-digits-cnn")
    figures = record["results"][0]["figures"]
    assert {"frechet", "accuracy", "precision", "copies"} <= figures.keys()
    assert record["halves"]["accuracy"] > 0.98 and record["halves"]["frechet"] < figures["frechet"]
    assert run(["report", str(moving)]) == 0
    page = (moving / "report.html").read_text()
    assert "a video DiT" in page and "videos of 1 × 3 × 12 × 12" in page
    pictures = [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]
    counts = [getattr(Image.open(io.BytesIO(picture)), "n_frames", 1) for picture in pictures]
    assert counts.count(3) >= 5  # one step, three numbers of evaluations, the data


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.attention", "factorised", "--model.depth", "1"], "no block across frames"),
        (["--model.name", "dit"], "'dit' does not fit samples of shape (1, 8, 12, 12)"),
        (["--data.size", "8"], "digits of 8 pixels cannot move in frames of 8"),
        (["--model.patch", "5"], "cannot be cut into patches of 5"),
    ],
)
def test_mistakes_with_videos(words, message, tmp_path, capsys) -> None:
    assert run(["train", "moving-digits", "--out", str(tmp_path / "run"), *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_a_folder_of_video_files_end_to_end(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("ALPHAFLOW_CACHE", str(tmp_path / "cache"))
    for k in range(8):
        write_clip(tmp_path / "videos" / "ab"[k % 2] / f"{k}.mp4", 12)
    (tmp_path / "videos" / "a" / "broken.mp4").write_bytes(b"")
    out = str(tmp_path / "run")
    words = "--data.name clips --data.rate 5 --data.size 12 --data.tolerance 0.2 --data.flip".split()
    words = ["moving-digits", "--out", out, "--data.path", str(tmp_path / "videos"), "--steps", "3", *TINY, *words]
    assert run(["train", *words]) == 0
    assert "skipped" in capsys.readouterr().err
    assert run(["sample", out, "--out", str(tmp_path / "v.npz"), "--count", "4"]) == 0
    with np.load(tmp_path / "v.npz", allow_pickle=False) as stored:
        assert stored["videos"].shape == (4, 3, 12, 12, 3)
    assert run(["evaluate", out, "--count", "8", "--nfe", "1"]) == 0
    assert run(["report", out]) == 0
    assert run(["train", "--resume", out, "--steps", "4"]) == 0


def test_clips_need_a_path(tmp_path, capsys) -> None:
    assert run(["train", "moving-digits", "--data.name", "clips", "--out", str(tmp_path / "run")]) == 2
    assert "--data.path" in capsys.readouterr().err


def test_videos_as_latents_end_to_end(tmp_path, publish, capsys) -> None:
    """As Kinetics is meant to go: clips encoded frame by frame, a broken one left out, trained on, decoded."""
    pytest.importorskip("diffusers")
    vae, videos, latents, out = (tmp_path / name for name in ("vae", "videos", "latents", "run"))
    save_vae(vae)
    for k in range(8):
        write_clip(videos / "ab"[k % 2] / f"{k}.mp4", 12)
    (videos / "a" / "3broken.mp4").write_bytes(b"no video")
    words = [str(videos), str(latents), "--vae", str(vae), "--size", "16", "--frames", "10", "--rate", "10"]
    assert run(["encode", *words, "--tolerance", "0.2"]) == 0
    assert "80 latents" in capsys.readouterr().out
    model = "--model.width 16 --model.depth 2 --model.heads 2 --model.patch 2 --batch-size 8".split()
    words = ["kinetics-700", "--out", str(out), "--data.path", str(latents), "--data.frames", "10", *model]
    assert run(["train", *words, "--steps", "2", "--precision", "float32", "--data.flip"]) == 0
    assert run(["sample", str(out), "--out", str(tmp_path / "v.npz"), "--count", "4"]) == 0
    with np.load(tmp_path / "v.npz", allow_pickle=False) as stored:
        assert stored["videos"].shape == (4, 10, 16, 16, 3)
    detector = ["--detector", "i3d", "--detector-path", str(publish("i3d", scripted(TinyI3D())))]
    assert (
        run(["evaluate", str(out), "--nfe", "1", "--count", "16", *detector, "--json", str(tmp_path / "e")]) == 0
    )
    record = json.loads((tmp_path / "e").read_text())
    assert (record["distance"], record["shape"]) == ("FVD", "10 × 16 × 16 × 3")
    assert "frechet" in record["results"][0]["figures"]
    assert run(["report", str(out)]) == 0
    assert (
        run(["encode", str(videos), str(tmp_path / "no"), "--vae", "x", "--frames", "3", "--flips", "drawn"]) == 2
    )
