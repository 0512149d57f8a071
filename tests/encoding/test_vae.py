"""Autoencoders: the wrapper changes nothing of diffusers' numbers, and weights are told apart."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from alphaflow.encoding.vae import PINNED, load_vae
from alphaflow.errors import UserError
from alphaflow.pixels import scale_pixels
from autoencoders import save_vae


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_vae(tmp_path_factory.mktemp("vae"), shift_factor=0.25, scaling_factor=0.5)


def test_encoding_and_decoding_are_those_of_diffusers(folder):
    vae = load_vae(str(folder))
    assert (vae.channels, vae.factor, vae.scaling, vae.shift) == (4, 4, 0.5, 0.25)
    images = torch.randint(256, (5, 3, 16, 24), dtype=torch.uint8)
    with torch.no_grad():
        posterior = vae.net.encode(scale_pixels(images)).latent_dist
        decoded = vae.net.decode(posterior.mean).sample
    moments = vae.encode(images)
    assert torch.equal(moments, torch.cat([posterior.mean, posterior.logvar], dim=1))
    assert moments.shape == (5, 8, 4, 6)
    assert torch.allclose(vae.decode(posterior.mean, at_once=2), decoded, atol=1e-5)


def test_the_hash_is_of_the_weights_and_not_of_the_file(tmp_path, folder):
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    AutoencoderKL.from_pretrained(folder, low_cpu_mem_usage=False).save_pretrained(
        tmp_path / "pipeline" / "vae", safe_serialization=False
    )
    same = load_vae(str(tmp_path / "pipeline"))
    assert same.hash == load_vae(str(folder)).hash == load_vae(str(folder), precision="bf16").hash
    assert load_vae(str(save_vae(tmp_path / "other", seed=1))).hash != same.hash


def test_refusals(tmp_path, folder):
    with pytest.raises(UserError, match="no autoencoder /nowhere: give a folder, sd-vae-ft-ema"):
        load_vae("/nowhere")
    with pytest.raises(UserError, match="cannot load the autoencoder"):
        load_vae(str(tmp_path))
    with pytest.raises(UserError, match="multiple of 4"):
        load_vae(str(folder)).encode(torch.zeros(1, 3, 18, 16, dtype=torch.uint8))


def test_the_pinned_ones_have_a_repository_and_a_revision():
    for name, (repository, revision) in PINNED.items():
        assert repository == f"stabilityai/{name}" and len(revision) == 40 and np.base_repr(int(revision, 16))


def test_a_hub_that_cannot_be_reached_is_one_line(tmp_path):
    """Neither retries nor the libraries' warnings among each other are told."""
    code = (
        "import logging\n"
        "from alphaflow.encoding import vae\n"
        "with vae._quiet():\n"
        "    import huggingface_hub.utils\n"
        "    logging.getLogger('huggingface_hub.utils._http').warning('Retrying in 1s')\n"
        "try:\n"
        "    vae.load_vae('sd-vae-ft-ema')\n"
        "except vae.UserError as error:\n"
        "    print(error)\n"
    )
    nowhere = {"HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **nowhere}, check=True
    )
    assert done.stderr == "" and len(done.stdout.splitlines()) == 1
    assert "the Hugging Face hub cannot be reached" in done.stdout and "sd-vae-ft-ema" in done.stdout
