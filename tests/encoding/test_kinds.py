"""Every class of autoencoders of diffusers that is read: latents, their scale and pictures are those that the
library itself and its pipelines make, and a run on them ends in pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import alphaflow as af
from alphaflow.cli import run
from alphaflow.data import Latents
from alphaflow.data.sources import decode, open_source
from alphaflow.encoding.decoder import decoder_of
from alphaflow.encoding.kinds import KINDS, why_not
from alphaflow.encoding.vae import load_vae, weights_hash
from alphaflow.errors import UserError
from autoencoders import (
    DETERMINISTIC,
    TINY,
    made_by_diffusers,
    save_autoencoder,
    scaled_by_pipelines,
    shown_by_diffusers,
)

SIDE = 16
SHAPES = {
    "AutoencoderKL": (6, 8, 8),
    "AutoencoderKLFlux2": (4, 8, 8),
    "AsymmetricAutoencoderKL": (4, 8, 8),
    "AutoencoderKLHunyuanImage": (4, 4, 4),
    "AutoencoderKLKVAE": (4, 8, 8),
    "AutoencoderKLTemporalDecoder": (4, 8, 8),
    "AutoencoderDC": (8, 8, 8),
    "AutoencoderTiny": (5, 4, 4),
    "VQModel": (3, 8, 8),
    "AutoencoderRAE": (64, 4, 4),
    "AutoencoderKLQwenImage": (4, 8, 8),
    "AutoencoderKLWan": (4, 8, 8),
    "AutoencoderKLLTXVideo": (4, 4, 4),
    "AutoencoderKLLTX2Video": (4, 4, 4),
    "AutoencoderKLCogVideoX": (4, 8, 8),
    "AutoencoderKLHunyuanVideo": (4, 2, 2),
    "AutoencoderKLHunyuanVideo15": (4, 8, 8),
    "AutoencoderKLHunyuanImageRefiner": (4, 8, 8),
    "AutoencoderKLMagvit": (4, 8, 8),
    "AutoencoderKLMochi": (4, 8, 8),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Photos in two classes, from which sets are made beside them."""
    root, rng = tmp_path_factory.mktemp("home"), np.random.default_rng(0)
    for k in range(6):
        folder = root / "photos" / "ab"[k % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(folder / f"{k}.png")
    return root


def pixels_of(home: Path) -> torch.Tensor:
    source = open_source(str(home / "photos"))
    images = np.stack([decode(source.read(index), SIDE) for index in range(len(source))])
    return torch.from_numpy(images) / 127.5 - 1


def test_every_class_is_tried() -> None:
    assert set(SHAPES) == set(KINDS) == set(TINY)


@pytest.mark.parametrize("name", SHAPES)
def test_latents_scale_and_pictures_are_those_of_diffusers(home, tmp_path, name) -> None:
    import diffusers

    folder, root = save_autoencoder(tmp_path / "vae", name), tmp_path / "set"
    scale = "statistics" if name == "AutoencoderKLKVAE" else "own"
    words = [
        "encode",
        str(home / "photos"),
        str(root),
        "--vae",
        str(folder),
        "--size",
        str(SIDE),
        "--scale",
        scale,
    ]
    assert run([*words, "--flips", "none"]) == 0
    net = getattr(diffusers, name).from_pretrained(folder, low_cpu_mem_usage=False).eval()
    if name == "AutoencoderKLHunyuanVideo15":  # fails on more than one row at once
        net.enable_slicing()
    data, x = Latents(root), pixels_of(home)
    with torch.no_grad():
        mean, logvar = made_by_diffusers(name, net, x)
    about, variance = data.manifest.fingerprint, name not in DETERMINISTIC
    assert data.shape == SHAPES[name] == tuple(mean.shape[1:])
    assert data.manifest.variance == variance == (logvar.numel() > 0)
    assert (about.vae_class, about.vae) == (name, load_vae(str(folder)).hash)
    stored = torch.from_numpy(data._read(np.arange(6), np.zeros(6, np.int64), np.empty(6, np.int64))).float()
    expected = torch.cat([mean, logvar.clamp(-30, 20)], 1) if variance else mean
    torch.testing.assert_close(stored, expected, rtol=1e-3, atol=1e-4)  # kept as float16
    if variance:  # drawn: known by its mean and spread, over many visits
        rows = torch.zeros(400, dtype=torch.int64)
        drawn = data.draw(rows, torch.arange(400), 0)[0]
    else:
        drawn, again = (data.draw(torch.arange(6), torch.arange(6) + seed, seed)[0] for seed in (0, 1))
        assert torch.equal(drawn, again), "there is nothing to draw"
    if name == "AutoencoderKLKVAE":
        return  # nobody states a scale
    target = scaled_by_pipelines(name, net, mean)
    if variance:
        spread = scaled_by_pipelines(name, net, mean + (logvar / 2).exp())[0] - target[0]
        assert ((drawn.mean(0) - target[0]).abs() <= 5 * spread.abs() / 20 + 2e-3).all()
    else:
        torch.testing.assert_close(drawn, target, rtol=2e-3, atol=1e-3)
    shown = decoder_of(data.manifest, vae=str(folder))(target)
    with torch.no_grad():
        theirs = shown_by_diffusers(name, net, mean)
    assert shown.shape == (6, 3, SIDE, SIDE) and theirs.std() > 1e-3
    torch.testing.assert_close(shown, theirs, rtol=1e-3, atol=2e-3)


RUN = "--steps 3 --batch-size 4 --log-every 1 --precision float32 --model.width 16 --model.depth 1 --model.heads 2"


@pytest.mark.parametrize("name", SHAPES)
def test_a_run_on_its_latents_ends_in_pictures(home, tmp_path, name) -> None:
    """The network's size follows the set, and flips are drawn from those that were stored."""
    folder, root, out = save_autoencoder(tmp_path / "vae", name), tmp_path / "set", tmp_path / "run"
    words = ["encode", str(home / "photos"), str(root), "--vae", str(folder), "--size", str(SIDE)]
    assert run(words) == 0
    words = ["train", "latents", "--data.path", str(root), "--out", str(out), *RUN.split(), "--device", "cpu"]
    assert run([*words, "--model.patch", "2"]) == 0
    generator = af.load(out)
    assert generator.shape == SHAPES[name]
    assert run(["sample", str(out), "--out", str(tmp_path / "x.npz"), "--count", "2"]) == 0
    images = np.load(tmp_path / "x.npz")["images"]
    assert images.shape == (2, SIDE, SIDE, 3) and images.std() > 0


def test_the_class_comes_from_the_config_and_from_nowhere_else(tmp_path) -> None:
    """Two classes with the same names of weights are told apart, and none is guessed."""
    folder = save_autoencoder(tmp_path / "wan", "AutoencoderKLWan")
    vae = load_vae(str(folder))
    assert (vae.class_name, type(vae.net).__name__) == ("AutoencoderKLWan", "AutoencoderKLWan")
    config = folder / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"_class_name": "AutoencoderKLWan",', ""))
    with pytest.raises(UserError, match=r'config\.json names no class: add "_class_name"'):
        load_vae(str(folder))
    config.write_text(text.replace("AutoencoderKLWan", "AutoencoderKLQwenImage"))
    assert type(load_vae(str(folder)).net).__name__ == "AutoencoderKLQwenImage"


@pytest.mark.parametrize(
    ("class_name", "said"),
    [
        (
            "AutoencoderOobleck",
            "holds an AutoencoderOobleck, which encodes sound: give an autoencoder of pictures",
        ),
        ("AutoencoderKLLTX2Audio", "which encodes sound"),
        ("ConsistencyDecoderVAE", "a ConsistencyDecoderVAE, which decodes by sampling: give the AutoencoderKL"),
        (
            "AutoencoderKLAllegro",
            "which is not known to encode single pictures: give an AutoencoderKL, or another",
        ),
        ("UNet2DModel", "holds a UNet2DModel, which is no autoencoder of pictures: give an AutoencoderKL"),
        ("os.system", "holds an os.system, which is no autoencoder"),
    ],
)
def test_other_classes_are_refused_in_one_line(tmp_path, class_name, said) -> None:
    (tmp_path / "config.json").write_text(f'{{"_class_name": "{class_name}"}}')
    with pytest.raises(UserError) as error:
        load_vae(str(tmp_path))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_all_autoencoders_of_diffusers_are_read_or_refused_for_a_reason() -> None:
    from diffusers.models import autoencoders

    names = [name for name in vars(autoencoders) if name[:1].isupper()]
    assert set(KINDS) <= set(names) and len(names) > 30
    assert all(name in KINDS or why_not(name).endswith(("pictures", "lists", "shares")) for name in names)


def test_a_class_that_the_installed_diffusers_lacks_asks_for_a_newer_one(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(KINDS, "AutoencoderOfTomorrow", KINDS["AutoencoderKL"])
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderOfTomorrow"}')
    with pytest.raises(
        UserError, match=r"an AutoencoderOfTomorrow, which diffusers .* has not: install a newer one"
    ):
        load_vae(str(tmp_path))


def test_what_a_probe_cannot_encode_and_decode_again_is_refused(tmp_path) -> None:
    """A representation autoencoder whose latents are left as tokens."""
    folder = save_autoencoder(
        tmp_path / "rae", "AutoencoderRAE", {**TINY["AutoencoderRAE"], "reshape_to_2d": False}
    )
    with pytest.raises(
        UserError, match=r"shape \(16, 64\), not \(channels, side, side\).*give an autoencoder of single"
    ):
        print(load_vae(str(folder)).factor)


def test_a_representation_autoencoder_has_one_size(home, tmp_path, capsys) -> None:
    folder = save_autoencoder(tmp_path / "rae", "AutoencoderRAE")
    words = ["encode", str(home / "photos"), str(tmp_path / "set"), "--vae", str(folder), "--size", "32"]
    assert run(words) == 2
    assert "32×32 do not fit" in (said := capsys.readouterr().err) and "give --size 16" in said


def test_sets_made_before_the_own_class_was_loaded_keep_their_autoencoder(tmp_path) -> None:
    """FLUX.2's and asymmetric ones were once read as an AutoencoderKL, without weights that it does not have."""
    from diffusers import AutoencoderKL

    flux = save_autoencoder(tmp_path / "flux", "AutoencoderKLFlux2")
    as_before = AutoencoderKL.from_pretrained(flux, low_cpu_mem_usage=False)
    assert load_vae(str(flux)).hash == weights_hash(as_before)
    equal = {**TINY["AsymmetricAutoencoderKL"], "up_block_out_channels": [8, 8]}
    folder = save_autoencoder(tmp_path / "asymmetric", "AsymmetricAutoencoderKL", equal)
    net = load_vae(str(folder)).net
    old = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[8, 8],
        latent_channels=4,
        norm_num_groups=4,
    )
    old.load_state_dict(
        {k: v for k, v in net.state_dict().items() if not k.startswith("decoder.condition_encoder.")}
    )
    assert load_vae(str(folder)).hash == weights_hash(old)


def test_movq_is_decoded_as_it_is_and_others_are_rounded_to_the_code_book(tmp_path) -> None:
    z = torch.randn(2, 3, 8, 8, generator=torch.manual_seed(0))
    for norm, rounded in (("group", True), ("spatial", False)):
        settings = {**TINY["VQModel"], "norm_type": norm, "vq_embed_dim": 3, "block_out_channels": [32, 32]}
        vae = load_vae(str(save_autoencoder(tmp_path / norm, "VQModel", settings)))
        with torch.no_grad():
            expected = vae.net.decode(z, force_not_quantize=not rounded).sample
            other = vae.net.decode(z, force_not_quantize=rounded).sample
        torch.testing.assert_close(vae.decode(z), expected)
        assert not torch.allclose(expected, other, atol=1e-4)


def test_the_scale_of_its_makers_and_a_single_number_are_one_set(home, tmp_path) -> None:
    """Where one number serves all channels, own is scalar; the fingerprints agree."""
    folder, digests = save_autoencoder(tmp_path / "vae", "AutoencoderTiny"), []
    for scale in ("own", "scalar"):
        words = ["encode", str(home / "photos"), str(tmp_path / scale), "--vae", str(folder), "--size", str(SIDE)]
        assert run([*words, "--scale", scale]) == 0
        digests.append(Latents(tmp_path / scale).manifest.fingerprint)
    assert digests[0] == digests[1] and (digests[0].scale, digests[0].shift) == ("0.5", 0.25)


def test_a_set_is_not_gone_on_with_under_other_means(home, tmp_path, capsys) -> None:
    """The means of Wan stand in its config, which the hash of the weights does not see."""
    one = save_autoencoder(tmp_path / "one", "AutoencoderKLWan")
    other = save_autoencoder(
        tmp_path / "other", "AutoencoderKLWan", {**TINY["AutoencoderKLWan"], "latents_mean": [0.0] * 4}
    )
    assert load_vae(str(one)).hash == load_vae(str(other)).hash
    words = ["encode", str(home / "photos"), str(tmp_path / "set"), "--size", str(SIDE), "--scale", "own", "--vae"]
    assert run([*words, str(one)]) == 0
    capsys.readouterr()
    assert run([*words, str(other)]) == 1
    assert "own_mean 4 (0.0, 0.0, 0.0, 0.0) here, 4 (0.1, -0.2, 0.3, 0.4) there" in capsys.readouterr().err
    assert run([*words[:-1], "--vae", str(one), "--dry-run"]) == 0
    assert "AutoencoderKLWan" in (said := capsys.readouterr().out) and "scale own" in said
