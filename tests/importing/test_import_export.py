"""Imported models are handed on as trained ones are, also networks of other code and latents scaled by place."""

import numpy as np
import pytest
import torch

import alphaflow as af
import foreign_improved
import foreign_transformers as theirs
from alphaflow.export import export
from alphaflow.importing.import_checkpoint import ImportOptions, import_checkpoint
from autoencoders import save_vae


@pytest.fixture(scope="module", params=["alphaflow", "imf"])
def model(request, tmp_path_factory):
    home = tmp_path_factory.mktemp(request.param)
    vae = str(save_vae(home / "vae"))
    if request.param == "alphaflow":
        file, *_ = theirs.alphaflow_file(home / "snapshot.pt")
        import_checkpoint(file, home / "model", ImportOptions(vae=vae))
    else:
        torch.manual_seed(0)
        file = theirs.write(home / "net.pth", theirs.torch_bytes(foreign_improved.Improved().state_dict()))
        import_checkpoint(file, home / "model", ImportOptions(side=theirs.SIDE, vae=vae))
    return home / "model"


def test_a_folder_with_a_card(model, tmp_path):
    export(model, tmp_path / "out", "safetensors", licence="cc-by-nc-4.0")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "- layout: " in card and "- imported: " in card
    assert np.array_equal(af.load(tmp_path / "out")([0, 1]), af.load(model)([0, 1]))


def test_onnx(model, tmp_path):
    pytest.importorskip("onnxruntime")
    export(model, tmp_path / "out", "onnx")  # which compares onnxruntime's answers with ours


def test_a_pipeline_of_diffusers(model, tmp_path, monkeypatch):
    from diffusers import DiffusionPipeline
    from diffusers.utils import dynamic_modules_utils

    monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = str(tmp_path / "pipe")
    export(model, tmp_path / "pipe", "diffusers")
    pipe = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    generator = af.load(model)
    noise, y = torch.randn(3, *generator.shape, generator=torch.manual_seed(1)), torch.tensor([0, 1, 5])
    ours = generator.pictures(af.sample(generator.net, noise, y, times=(1.0, 0.5, 0.0)))
    shown = pipe(y.tolist(), timesteps=(1.0, 0.5, 0.0), latents=noise, output_type="np").images
    assert ours.std() > 5 and np.array_equal(shown, ours)
