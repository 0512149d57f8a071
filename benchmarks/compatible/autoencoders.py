"""Autoencoders of diffusers: what `alphaflow encode` stores and is decoded again, against diffusers' own."""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from alphaflow.cli import run
from alphaflow.data import Latents
from alphaflow.encoding.decoder import decoder_of
from alphaflow.encoding.vae import VAE, load_vae

sys.path.append(str(Path(__file__).parents[2] / "tests" / "helpers"))
import autoencoders as tiny

SIDE, COUNT = 16, 6


def measure(name: str) -> dict[str, Any]:
    """The row of a class."""
    import diffusers

    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        x = pictures(home / "photos")
        folder = str(tiny.save_autoencoder(home / "vae", name))
        vae = load_vae(folder)
        words = ["encode", str(home / "photos"), str(home / "set"), "--vae", folder, "--size", str(SIDE)]
        scale = "statistics" if vae.own.missing else "own"
        assert run([*words, "--scale", scale, "--flips", "none"]) == 0, "encode failed"
        net = getattr(diffusers, name).from_pretrained(folder, low_cpu_mem_usage=False).eval()
        if name == "AutoencoderKLHunyuanVideo15":  # diffusers' own code fails on more than one row at once
            net.enable_slicing()
        data = Latents(home / "set")
        with torch.no_grad():
            mean, _ = tiny.made_by_diffusers(name, net, x)
            shown = tiny.shown_by_diffusers(name, net, mean)
            round_trip = vae.decode(mean)
        none = np.zeros(COUNT, np.int64)
        stored = torch.from_numpy(data._read(np.arange(COUNT), none, none.copy())).float()
        row = {
            "rank": 5 if vae.frames else 4,
            "channels": data.shape[0],
            "compression": SIDE // data.shape[1],
            "variance": vae.variance,
            "scale": convention(vae),
            "encoded": off(stored[:, : mean.shape[1]], mean),
            "decoded": off(round_trip, shown),
        }
        if not vae.own.missing:
            scaled = tiny.scaled_by_pipelines(name, net, mean)
            row["scaled, decoded"] = off(decoder_of(data.manifest, vae=folder)(scaled), shown)
        return row


def pictures(folder: Path) -> Tensor:
    """Pictures of noise, as files and in [-1, 1]."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (COUNT, SIDE, SIDE, 3), np.uint8)
    folder.mkdir()
    for number, one in enumerate(pixels):
        Image.fromarray(one).save(folder / f"{number}.png")
    return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1


def convention(vae: VAE) -> str:
    own = vae.own
    if own.missing:
        return "stated nowhere: `--scale statistics`"
    if own.factor is None:
        places = " and place of a patch" if isinstance(own.mean[0], tuple) else ""
        return f"a mean and deviation for each channel{places}"
    if own.factor == 1:
        return "none: scaled inside"
    return f"(x − {own.shift:g}) · {own.factor:g}" if own.shift else f"x · {own.factor:g}"


def off(a: Tensor, b: Tensor) -> float:
    """‖a - b‖ / ‖b‖."""
    return float((a.double() - b.double()).norm() / b.double().norm())
