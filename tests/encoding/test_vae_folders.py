"""Folders of autoencoders: another class, missing weights, other images and other scales are refused by name."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from alphaflow.cli import run
from alphaflow.encoding import EncodingSettings
from alphaflow.encoding.plan import scale_of
from alphaflow.encoding.vae import load_vae
from alphaflow.errors import UserError
from autoencoders import save_vae

WEIGHTS = "diffusion_pytorch_model.safetensors"


def without(folder, *starts):
    """The same folder without the weights whose names start so."""
    weights = load_file(folder / WEIGHTS)
    save_file({name: tensor for name, tensor in weights.items() if not name.startswith(starts)}, folder / WEIGHTS)
    return folder


def of_class(folder, name, **settings):
    """A folder of another class of diffusers, as the library writes it."""
    diffusers = pytest.importorskip("diffusers")
    getattr(diffusers, name)(**settings).save_pretrained(folder)
    return folder


def test_another_class_is_refused_by_its_name(tmp_path, capsys) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"_class_name": "AutoencoderOobleck"}')
    (tmp_path / "photos").mkdir()
    words = ["encode", str(tmp_path / "photos"), str(tmp_path / "out"), "--vae", str(tmp_path / "other")]
    assert run(words) == 1
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert said == (
        f"alphaflow: {tmp_path / 'other'} holds an AutoencoderOobleck, which encodes sound: give an autoencoder "
        "of pictures"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (("decoder.", "post_quant_conv."), "it has no decoder, without which samples cannot be shown"),
        (("encoder.", "quant_conv."), "it has no encoder"),
        (("quant_conv.",), "it has no quant_conv, and its config.json does not say use_quant_conv: false"),
        (("encoder.conv_in.weight", "decoder.conv_in.weight"), "lacks 2 of"),
    ],
)
def test_missing_weights_are_refused_and_not_made_up(tmp_path, capsys, gone, said) -> None:
    folder = without(save_vae(tmp_path / "vae"), *gone)
    with pytest.raises(UserError, match=said):
        load_vae(str(folder))
    assert capsys.readouterr().err == "", "one line is enough"


def test_an_autoencoder_that_says_it_has_no_quant_conv_needs_none(tmp_path) -> None:
    folder = save_vae(tmp_path / "vae", use_quant_conv=False, use_post_quant_conv=False)
    assert load_vae(str(folder)).encode(torch.zeros(1, 3, 16, 16, dtype=torch.uint8)).shape == (1, 8, 4, 4)


def test_attention_under_its_old_names_is_whole(tmp_path) -> None:
    """As in sd-vae-ft-ema and -mse: query, key, value, proj_attn."""
    whole = load_vae(str(save_vae(tmp_path / "vae")))
    new_to_old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = load_file(tmp_path / "vae" / WEIGHTS)
    renamed = {}
    for name, tensor in weights.items():
        for new, old in new_to_old.items():
            name = name.replace(f".{new}.", f".{old}.")
        renamed[name] = tensor
    assert renamed.keys() != weights.keys()
    save_file(renamed, tmp_path / "vae" / WEIGHTS)
    assert load_vae(str(tmp_path / "vae")).hash == whole.hash


@pytest.mark.parametrize(
    "changes", [{"in_channels": 1, "out_channels": 1}, {"in_channels": 4}, {"out_channels": 4}]
)
def test_images_that_are_not_rgb_are_refused(tmp_path, changes) -> None:
    with pytest.raises(UserError, match=r"_channels [14]: only autoencoders of RGB images"):
        load_vae(str(save_vae(tmp_path / "vae", **changes)))


def test_a_scale_that_is_no_number_is_refused_and_statistics_are_not(tmp_path) -> None:
    """SDXL's means and deviations, FLUX.2's batch statistics."""
    parts = {"latents_mean": [0.0, 1.0, 2.0, 3.0], "latents_std": [1.0, 2.0, 3.0, 4.0]}
    for folder, said in (
        (save_vae(tmp_path / "xl", **parts), "latents_mean, latents_std in its config"),
        (flux(tmp_path / "flux"), "has no number for all channels in its config"),
    ):
        vae = load_vae(str(folder))
        with pytest.raises(UserError, match=f"{said}.*give --scale statistics"):
            scale_of(EncodingSettings(scale="scalar"), vae)
        assert scale_of(EncodingSettings(), vae) == ("statistics", 0.0)
    plain = load_vae(str(save_vae(tmp_path / "vae", scaling_factor=0.5, shift_factor=0.25)))
    assert scale_of(EncodingSettings(scale="scalar"), plain) == ("0.5", 0.25)


def flux(folder):
    return of_class(
        folder,
        "AutoencoderKLFlux2",
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[8, 8],
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
    )


def test_classes_with_the_weights_of_an_autoencoder_kl_encode_as_they_do_themselves(tmp_path) -> None:
    """FLUX.2's and an asymmetric one with equal halves: means and log-variances are those of their own class."""
    diffusers = pytest.importorskip("diffusers")
    of_class(
        tmp_path / "asymmetric",
        "AsymmetricAutoencoderKL",
        down_block_types=["DownEncoderBlock2D"] * 2,
        down_block_out_channels=[8, 8],
        up_block_types=["UpDecoderBlock2D"] * 2,
        up_block_out_channels=[8, 8],
        latent_channels=4,
        norm_num_groups=4,
    )
    flux(tmp_path / "flux")
    images = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8)
    for name, own in (("asymmetric", diffusers.AsymmetricAutoencoderKL), ("flux", diffusers.AutoencoderKLFlux2)):
        net = own.from_pretrained(tmp_path / name, low_cpu_mem_usage=False).eval()
        with torch.no_grad():
            posterior = net.encode(images / 127.5 - 1).latent_dist
        expected = torch.cat([posterior.mean, posterior.logvar], dim=1)
        assert torch.allclose(load_vae(str(tmp_path / name)).encode(images), expected, atol=1e-5)
