"""Autoencoders of the diffusers kind: images to means and log-variances of latents, and back.

diffusers is an extra, imported when a VAE is loaded.
"""

import hashlib
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from .errors import UserError
from .pixels import scale_pixels

Precision = Literal["bf16", "fp32"]

PINNED = {
    "sd-vae-ft-ema": ("stabilityai/sd-vae-ft-ema", "f04b2c4b98319346dad8c65879f680b1997b204a"),
    "sd-vae-ft-mse": ("stabilityai/sd-vae-ft-mse", "31f26fdeee1355a5c34592e401dd41e45d25a493"),
}
"""Short names of the autoencoders that papers use: repository on the Hugging Face hub, and its revision."""

_LOGVAR = (-30.0, 20.0)  # as diffusers' DiagonalGaussianDistribution bounds it


class VAE:
    """An `AutoencoderKL` with frozen weights on one device. Made by `load_vae`.

    name: as it was asked for. hash: 16 hexadecimal digits of the weights. channels: of a latent. factor: pixels
    along a side that one latent stands for. scaling, shift: the scalar convention of its makers.
    """

    def __init__(self, net: Any, name: str, device: torch.device, precision: Precision) -> None:
        config = net.config
        self.name, self.device, self.precision = name, device, precision
        self.hash = weights_hash(net)
        self.channels: int = config.latent_channels
        self.factor: int = 2 ** (len(config.block_out_channels) - 1)
        self.scaling = float(config.scaling_factor)
        self.shift = float(config.shift_factor or 0.0)
        self.net = net.to(device).eval().requires_grad_(False)

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """Means and log-variances, (B, 2C, h, w) float32, of images, uint8 (B, 3, H, W).

        Raises:
            UserError: the sides of the images are no multiples of `factor`.
        """
        height, width = images.shape[2:]
        if height % self.factor or width % self.factor:
            raise UserError(
                f"images of {height}×{width} do not fit {self.name}, which halves {self.factor.bit_length() - 1} "
                f"times: give a --size that is a multiple of {self.factor}"
            )
        with self._autocast():
            moments = self.net.encode(scale_pixels(images.to(self.device))).latent_dist.parameters.float()
        mean, logvar = moments.chunk(2, dim=1)
        return torch.cat([mean, logvar.clamp(*_LOGVAR)], dim=1)

    @torch.inference_mode()
    def decode(self, latents: Tensor, at_once: int = 16) -> Tensor:
        """Images (B, 3, H, W) float32 in about [-1, 1], on the CPU, of latents (B, C, h, w) as the encoder makes
        them, not scaled. `at_once`: rows that are decoded together, which bounds the memory."""
        parts = []
        for part in latents.split(at_once):
            with self._autocast():
                parts.append(self.net.decode(part.to(self.device)).sample.float().cpu())
        return torch.cat(parts)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")


def weights_hash(net: torch.nn.Module) -> str:
    """16 hexadecimal digits of the weights' names, shapes and float32 values, whatever file they came from."""
    digest = hashlib.sha256()
    for name, weight in sorted(net.state_dict().items()):
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(weight.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]


def load_vae(name: str, device: torch.device | str = "cpu", precision: Precision = "fp32") -> VAE:
    """Load an autoencoder.

    Args:
        name: one of `PINNED`; a folder as diffusers saves it (of the autoencoder, or of a pipeline with one in
            `vae/`); or an id of the Hugging Face hub, downloaded the first time.
        precision: "bf16" computes in bfloat16 where that is safe (autocast); weights stay float32.

    Raises:
        UserError: diffusers is not installed, or nothing under that name could be loaded.
    """
    where: dict[str, Any] = {}
    path = Path(name)
    if name in PINNED:
        source, where["revision"] = PINNED[name]
    elif path.is_dir():
        source = str(path if (path / "config.json").exists() or not (path / "vae").is_dir() else path / "vae")
        where["local_files_only"] = True
    elif name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UserError(f"no autoencoder {name}: give a folder, {' or '.join(PINNED)}, or a hub id like a/b")
    else:
        source = name
    kind = _autoencoder()
    try:
        net = kind.from_pretrained(source, low_cpu_mem_usage=False, torch_dtype=torch.float32, **where)
    except Exception as error:  # diffusers and the hub raise many kinds
        what = " ".join(str(error).split())[:200]
        raise UserError(
            f"cannot load the autoencoder {name} ({what}): give a folder with its config.json"
        ) from None
    return VAE(net, name, torch.device(device), precision)


def _autoencoder() -> Any:
    try:
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    except ImportError as error:
        raise UserError(f"autoencoders need diffusers ({error}): pip install 'alphaflow[latents]'") from None
    return AutoencoderKL
