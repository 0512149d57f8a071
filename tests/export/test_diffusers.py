"""The exported pipeline shows what `alphaflow.load` shows, pixel by pixel, and does so without alphaflow."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import alphaflow as af
from alphaflow import UserError, models
from alphaflow.export import export
from alphaflow.export.diffusers import KINDS, bundle
from alphaflow.runs import model_folder
from autoencoders import save_autoencoder, save_vae

pytest.importorskip("diffusers")
CLASSES = ("cat", "dog", "emu")


def make(
    folder: Path, net: nn.Module, shape: tuple[int, ...], kind: str = "image", guides=None, **data: object
) -> Path:
    """A model's folder with random weights that make contrasty pictures."""
    torch.manual_seed(0)
    for weight in net.parameters():
        nn.init.normal_(weight, std=0.1)
    record = model_folder.ModelRecord(
        network=model_folder.describe_network(net),
        guides=guides,
        data={"shape": list(shape), "kind": kind, "num_classes": 3, "class_names": list(CLASSES), **data},
    )
    model_folder.write_model(folder, record, net.state_dict())
    return folder


def make_dit(folder: Path) -> Path:
    return make(folder, models.DiT(8, 2, 1, 16, 1, 2, 3), (1, 8, 8))


def make_unet(folder: Path) -> Path:
    net = models.DataPrediction(models.UNet(3, width=8, multipliers=(1, 2), num_classes=3))
    return make(folder, net, (3, 8, 8))


def make_video(folder: Path) -> Path:
    return make(folder, models.VideoDiT(4, 2, 2, 1, 16, 2, 2, 3, attention="factorised"), (1, 2, 4, 4), "video")


def make_latents(folder: Path) -> Path:
    from alphaflow.encoding.vae import load_vae

    name = str(save_vae(folder.with_name("vae")))
    latents = {
        "vae": load_vae(name).hash,
        "vae_name": name,
        "address": "/home/somebody/photos",
        "divisor": [1.5, 0.7, 1.0, 2.0],
        "offset": [0.1, -0.3, 0.0, 0.2],
    }
    return make(folder, models.DiT(4, 2, 4, 16, 1, 2, 3), (4, 4, 4), "latent", latents=latents)


def make_latents_of(class_name: str, shape: tuple[int, int, int]):
    """A maker of a model on latents of another autoencoder, whose scale is a pattern of two by two."""

    def maker(folder: Path) -> Path:
        from alphaflow.encoding.vae import load_vae

        name = str(save_autoencoder(folder.with_name("vae"), class_name))
        channels, side, _ = shape
        table = torch.rand(2, channels, 2, 2, generator=torch.manual_seed(0)) + 0.5
        latents = {"vae": load_vae(name).hash, "vae_name": name, "address": ""}
        latents |= {"divisor": table[0].tolist(), "offset": table[1].tolist()}
        net = models.DiT(side, 2, channels, 16, 1, 2, 3)
        return make(folder, net, shape, "latent", latents=latents)

    return maker


@pytest.fixture
def open_pipeline(tmp_path, monkeypatch):
    from diffusers import DiffusionPipeline
    from diffusers.utils import dynamic_modules_utils

    monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))

    def open_it(folder: Path, **options: object):
        pipe = DiffusionPipeline.from_pretrained(
            str(folder), custom_pipeline=str(folder), trust_remote_code=True, **options
        )
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return open_it


OTHERS = {
    "AutoencoderKLFlux2": (4, 4, 4),
    "AutoencoderRAE": (64, 4, 4),
    "AutoencoderKLWan": (4, 4, 4),
    "AutoencoderKLTemporalDecoder": (4, 4, 4),
}


@pytest.mark.parametrize(
    "maker",
    [make_dit, make_unet, make_video, make_latents, *(make_latents_of(*item) for item in OTHERS.items())],
    ids=["dit", "unet", "video", "latents", *OTHERS],
)
def test_the_pipeline_shows_what_load_shows(maker, tmp_path, open_pipeline):
    model = maker(tmp_path / "model")
    export(model, tmp_path / "pipe", "diffusers")
    generator, pipe = af.load(model), open_pipeline(tmp_path / "pipe")
    noise, y = torch.randn(4, *generator.shape, generator=torch.manual_seed(1)), torch.tensor([0, 1, 2, 3])
    for times in ((1.0, 0.0), (1.0, 0.6, 0.3, 0.0)):
        ours = generator.pictures(af.sample(generator.net, noise, y, times=times))
        assert ours.std() > 5  # not all grey, where a mistake would not show
        theirs = pipe(y.tolist(), timesteps=times, latents=noise, output_type="np").images
        assert np.array_equal(theirs, ours)


@pytest.mark.parametrize("method", ["ode", "consistency", "euler"])
def test_the_scheduler_steps_as_our_samplers_do(method, tmp_path, open_pipeline):
    model = make_dit(tmp_path / "model")
    said = export(model, tmp_path / "pipe", "diffusers", method=method)
    generator, pipe = af.load(model), open_pipeline(tmp_path / "pipe")
    own = method != "ode"
    name = "FlowMapScheduler" if own else "FlowMapEulerDiscreteScheduler"
    assert type(pipe.scheduler).__name__ == name and f"with {'its own' if own else 'diffusers'}" in said
    assert (tmp_path / "pipe" / "scheduler" / "flow_map_scheduler.py").exists() is own
    assert ("flow_map_scheduler.py" in (tmp_path / "pipe" / "README.md").read_text()) is own
    noise, y = torch.randn(3, 1, 8, 8), torch.tensor([0, 1, 3])
    ours = af.sample(
        generator.net, noise, y, times=(1.0, 0.75, 0.5, 0.25, 0.0), method=method, generator=torch.manual_seed(2)
    )
    theirs = pipe([0, 1, 3], 4, latents=noise, output_type="latent", generator=torch.manual_seed(2)).images
    torch.testing.assert_close(theirs, ours)


def test_diffusers_own_scheduler_shifts_times_and_lets_a_path_end_before_the_data(tmp_path, open_pipeline):
    """s = 3 of t → s t / (1 + (s - 1) t); the network is told the times between which the scheduler steps."""
    from diffusers import FlowMapEulerDiscreteScheduler

    model = make_dit(tmp_path / "model")
    export(model, tmp_path / "pipe", "diffusers")
    generator, pipe = af.load(model), open_pipeline(tmp_path / "pipe")
    noise, y = torch.randn(3, 1, 8, 8), torch.tensor([0, 1, 3])
    words = {"latents": noise, "output_type": "latent"}
    ends = (1.0, 0.7, 0.3)
    torch.testing.assert_close(
        pipe([0, 1, 3], timesteps=ends, **words).images, af.sample(generator.net, noise, y, times=ends)
    )
    pipe.scheduler = FlowMapEulerDiscreteScheduler(shift=3.0)
    shifted = af.sample(generator.net, noise, y, times=(1.0, 0.9, 0.75, 0.5, 0.0))
    torch.testing.assert_close(pipe([0, 1, 3], 4, **words).images, shifted)
    given = af.sample(generator.net, noise, y, times=(1.0, 0.75, 0.5))
    torch.testing.assert_close(pipe([0, 1, 3], timesteps=(1.0, 0.5, 0.25), **words).images, given)


def test_a_method_is_a_pipelines(tmp_path):
    model = make_dit(tmp_path / "model")
    with pytest.raises(UserError, match="--method euler goes with --format diffusers"):
        export(model, tmp_path / "net", "safetensors", method="euler")
    with pytest.raises(UserError, match="did you mean 'euler'"):
        export(model, tmp_path / "pipe", "diffusers", method="eular")


def test_guidance_is_that_of_load(tmp_path, open_pipeline):
    net = models.DiT(8, 2, 1, 16, 1, 2, 3)
    model = make(tmp_path / "model", net, (1, 8, 8), guides=(0.3, 0.8))
    export(model, tmp_path / "pipe", "diffusers")
    generator, pipe = af.load(model), open_pipeline(tmp_path / "pipe")
    noise, y, times = torch.randn(3, 1, 8, 8), torch.tensor([0, 1, 3]), (1.0, 0.6, 0.2, 0.0)
    for scale in (1.0, 2.5):
        ours = af.sample(generator.guided(scale), noise, y, times=times)
        words = {"timesteps": times, "latents": noise, "output_type": "latent", "guidance_scale": scale}
        torch.testing.assert_close(pipe([0, 1, 3], **words).images, ours)
    with pytest.raises(ValueError, match="guidance_scale 2 needs"):
        pipe(num_images=2, guidance_scale=2)


@pytest.mark.parametrize("sparing", [True, False])
def test_it_loads_with_accelerate_and_without(sparing, tmp_path, open_pipeline):
    """With it, diffusers builds the network on meta, where positions must not be left."""
    if sparing:
        pytest.importorskip("accelerate")
    model = make_dit(tmp_path / "model")
    export(model, tmp_path / "pipe", "diffusers")
    pipe = open_pipeline(tmp_path / "pipe", low_cpu_mem_usage=sparing)
    assert torch.equal(pipe.transformer.net.pos_embed, af.load(model).net.pos_embed)


def test_what_a_person_asks_of_it(tmp_path, open_pipeline):
    export(make_dit(tmp_path / "model"), tmp_path / "pipe", "diffusers")
    pipe = open_pipeline(tmp_path / "pipe", dtype=torch.bfloat16)
    assert pipe.transformer.dtype == torch.bfloat16
    first, second = (pipe(["dog", 2], generator=torch.manual_seed(3)).images for _ in range(2))
    assert [one.size for one in first] == [(8, 8)] * 2
    assert np.array_equal(np.asarray(first[0]), np.asarray(second[0]))
    assert len(pipe(num_images=5).images) == 5
    assert pipe("cat", return_dict=False, output_type="pt")[0].shape == (1, 1, 8, 8)
    for words, message in (
        ({"class_labels": "cow"}, "no class 'cow': give one of 3 by number or name"),
        ({"class_labels": [4]}, "no class 4"),
        ({"latents": torch.zeros(1, 1, 4, 4)}, r"latents have shape \(1, 1, 4, 4\): give \(1, 1, 8, 8\)"),
        ({"num_inference_steps": 0}, "num_inference_steps 0 must be at least 1"),
        ({"timesteps": (0.5, 1)}, "must fall, within"),
        ({"output_type": "jpg"}, "unknown output_type 'jpg'"),
    ):
        with pytest.raises(ValueError, match=message):
            pipe(**words)
    export(make_dit(tmp_path / "model"), tmp_path / "jumps", "diffusers", method="consistency")
    pipe = open_pipeline(tmp_path / "jumps")
    with pytest.raises(ValueError, match="must fall, within"):
        pipe(timesteps=(0.5, 1))
    with pytest.raises(ValueError, match="unknown method 'heun': choose ode, consistency or euler"):
        type(pipe.scheduler)(method="heun")


def test_it_runs_where_alphaflow_is_not_installed(tmp_path):
    """A program of its own, in which alphaflow cannot be imported; a video's frames are pictures."""
    export(make_video(tmp_path / "model"), tmp_path / "pipe", "diffusers")
    code = (
        "import sys\nsys.modules['alphaflow'] = None\nfrom diffusers import DiffusionPipeline\n"
        "pipe = DiffusionPipeline.from_pretrained('pipe', custom_pipeline='pipe', trust_remote_code=True)\n"
        "video, = pipe('cat', num_inference_steps=2).images\nprint(len(video), video[0].size)\n"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf")}
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == "2 (4, 4)\n"


def test_an_autoencoder_that_has_moved_is_recorded_where_it_is(tmp_path):
    model = make_latents(tmp_path / "model")
    (tmp_path / "vae").rename(tmp_path / "moved")
    export(model, tmp_path / "there", vae=str(tmp_path / "moved"))
    assert af.load(tmp_path / "there")([0, 1]).shape == (2, 16, 16, 3)
    with pytest.raises(UserError, match="--vae"):
        af.load(model)([0])


def test_points_have_no_pipeline(points, tmp_path):
    with pytest.raises(UserError, match="makes pictures, and this model makes points"):
        export(points, tmp_path / "pipe", "diffusers")


def test_the_pipelines_code_knows_every_network_that_makes_pictures_of_classes():
    from alphaflow.export.pipeline import network

    assert set(KINDS) == set(network.KINDS) == set(model_folder.NETWORKS) - {"mlp", "worded-dit", "adapted"}


def test_a_network_that_it_does_not_know_is_refused(tmp_path):
    model = make(tmp_path / "model", models.MLP(4, 8, 1, 3), (1, 2, 2))
    with pytest.raises(UserError, match="knows dit, video-dit, unet, improved-dit, and this is mlp"):
        export(model, tmp_path / "pipe", "diffusers")


def test_the_networks_file_holds_no_import_of_ours_and_each_import_once():
    imports = [line for line in bundle().splitlines() if line.startswith(("import ", "from "))]
    assert not [line for line in imports if "alphaflow" in line]
    froms = [line.split()[1] for line in imports if line.startswith("from ")]
    assert len(set(froms)) == len(froms)
