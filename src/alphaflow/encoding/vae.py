"""Autoencoders of the diffusers kind: images to means and log-variances of latents, and back.

diffusers is an extra, imported when a VAE is loaded.
"""

import contextlib
import hashlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import UserError, missing, one_line
from ..pixels import scale_pixels

Precision = Literal["bf16", "fp32"]

PINNED = {
    "sd-vae-ft-ema": ("stabilityai/sd-vae-ft-ema", "f04b2c4b98319346dad8c65879f680b1997b204a"),
    "sd-vae-ft-mse": ("stabilityai/sd-vae-ft-mse", "31f26fdeee1355a5c34592e401dd41e45d25a493"),
}
"""Short names of the autoencoders that papers use: repository on the Hugging Face hub, and its revision."""

_LOGVAR = (-30.0, 20.0)  # as diffusers' DiagonalGaussianDistribution bounds it
_CLASSES = ("AutoencoderKL", "AutoencoderKLFlux2", "AsymmetricAutoencoderKL")
"""Classes of diffusers with the weights of an AutoencoderKL; a folder that lacks some is refused all the same."""


class VAE:
    """An `AutoencoderKL` with frozen weights on one device, made by `load_vae`.

    Attributes:
        name: its name as it was asked for.
        hash: 16 hexadecimal digits of the weights.
        channels: channels of a latent.
        factor: pixels along a side that one latent stands for.
        scaling, shift: the scalar convention of its makers, see `scalar`.
    """

    def __init__(
        self, net: Any, name: str, device: torch.device, precision: Precision, class_name: str = "AutoencoderKL"
    ) -> None:
        config = net.config
        for side in ("in_channels", "out_channels"):
            if config[side] != 3:
                raise UserError(f"{name} has {side} {config[side]}: only autoencoders of RGB images are supported")
        self.name, self.device, self.precision = name, device, precision
        self.hash = weights_hash(net)
        self.channels: int = config.latent_channels
        self.factor: int = 2 ** (len(config.block_out_channels) - 1)
        self.scaling = float(config.scaling_factor)
        self.shift = float(config.shift_factor or 0.0)
        self._scale_misses = _what_scale_misses(config, class_name)
        self.net = net.to(device).eval().requires_grad_(False)

    def scalar(self) -> float:
        """Return the number that its makers multiply latents by, once `shift` is subtracted.

        Raises:
            UserError: its config asks for more than a number, or for none.
        """
        if self._scale_misses:
            raise UserError(f"{self.name} {self._scale_misses}: give --scale statistics")
        return self.scaling

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """Return means and log-variances, (B, 2C, h, w) float32, of images, uint8 (B, 3, H, W).

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
        """Return images (B, 3, H, W) float32 in about [-1, 1], on the CPU, of latents (B, C, h, w) as the encoder
        makes them.

        The latents are not scaled. `at_once` rows are decoded together, which bounds the memory.
        """
        parts = []
        for part in latents.split(at_once):
            with self._autocast():
                parts.append(self.net.decode(part.to(self.device)).sample.float().cpu())
        return torch.cat(parts)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")


def weights_hash(net: torch.nn.Module) -> str:
    """Return 16 hexadecimal digits of the weights' names, shapes and float32 values, whatever file they came
    from."""
    digest = hashlib.sha256()
    for name, weight in sorted(net.state_dict().items()):
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(weight.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]


def check_name(name: str) -> None:
    """Refuse what is neither a folder nor a name of an autoencoder elsewhere; nothing is loaded.

    Raises:
        UserError: says what there may be.
    """
    named = not name.startswith((".", "/", "~")) and name.count("/") == 1
    if name not in PINNED and not named and not Path(name).is_dir():
        raise UserError(f"no autoencoder {name}: give a folder, {' or '.join(PINNED)}, or a hub id like a/b")


def load_vae(name: str, device: torch.device | str = "cpu", precision: Precision = "fp32") -> VAE:
    """Load an autoencoder.

    Args:
        name: one of `PINNED`; a folder as diffusers saves it (of the autoencoder, or of a pipeline with one in
            `vae/`); or an id of the Hugging Face hub, downloaded the first time.
        precision: "bf16" computes in bfloat16 where that is safe (autocast); weights stay float32.

    Raises:
        UserError: diffusers is not installed, or nothing under that name could be loaded.
    """
    check_name(name)
    where: dict[str, Any] = {}
    path = Path(name)
    if name in PINNED:
        source, where["revision"] = PINNED[name]
    elif path.is_dir():
        source = str(path if (path / "config.json").exists() or not (path / "vae").is_dir() else path / "vae")
        where["local_files_only"] = True
    else:
        source = name
    kind = _autoencoder()
    try:
        with _quiet():  # what is missing we say ourselves
            class_name = str(kind.load_config(source, **where).get("_class_name", _CLASSES[0]))
            _check_class(name, class_name)
            net, info = kind.from_pretrained(
                source, low_cpu_mem_usage=False, torch_dtype=torch.float32, output_loading_info=True, **where
            )
    except UserError:
        raise
    except Exception as error:  # diffusers and the hub raise many kinds
        if "local_files_only" not in where and _unreached(error):
            raise UserError(
                f"cannot load the autoencoder {name}: the Hugging Face hub cannot be reached, and the cache has "
                "none; give a folder with its config.json"
            ) from None
        what = one_line(error, 200)
        raise UserError(
            f"cannot load the autoencoder {name} ({what}): give a folder with its config.json"
        ) from None
    _check_whole(name, net, info)
    return VAE(net, name, torch.device(device), precision, class_name)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """For a while, silence what the libraries log of retries, of arguments between them, and of weights."""
    loggers = [logging.getLogger(name) for name in ("diffusers", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


def _unreached(error: BaseException | None) -> bool:
    """Return whether the hub did not answer, in which case diffusers says that a file is not there."""
    while error is not None:
        if type(error).__name__ in ("LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectError"):
            return True
        error = error.__cause__ or error.__context__
    return False


def _check_class(name: str, class_name: str) -> None:
    """Refuse another class's folder: of its weights AutoencoderKL would take what fits, and invent the rest."""
    if class_name not in _CLASSES:
        article = "an" if class_name[:1] in "AEIOU" else "a"
        raise UserError(f"{name} holds {article} {class_name}; only AutoencoderKL is supported")


def _check_whole(name: str, net: Any, info: Mapping[str, Any]) -> None:
    """Refuse what the file does not have: diffusers leaves it as the memory was."""
    missing = sorted(info["missing_keys"])
    if not missing:
        return
    total = len(net.state_dict())
    parts = {key.partition(".")[0] for key in missing}
    if parts <= {"quant_conv", "post_quant_conv"}:
        why = f"it has no {' and no '.join(sorted(parts))}, and its config.json does not say use_quant_conv: false"
    elif parts <= {"decoder", "post_quant_conv"}:
        why = "it has no decoder, without which samples cannot be shown"
    elif parts <= {"encoder", "quant_conv"}:
        why = "it has no encoder"
    else:
        why = "its weights are those of another network"
    raise UserError(
        f"{name} lacks {len(missing)} of {total} weights (such as {missing[0]}): {why}; give the whole autoencoder"
    )


def _what_scale_misses(config: Mapping[str, Any], class_name: str) -> str:
    """Return why one number is not the scale of this autoencoder's latents; "" where it is."""
    if config.get("latents_mean") is not None or config.get("latents_std") is not None:
        return "scales each channel by its own mean and deviation (latents_mean, latents_std in its config)"
    if class_name == "AutoencoderKLFlux2":
        return (
            "has no number for all channels in its config (FLUX.2 scales patches of latents, by batch statistics)"
        )
    return ""


def _autoencoder() -> Any:
    try:
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    except ImportError as error:
        raise missing("autoencoders need diffusers", "latents", error) from None
    return AutoencoderKL
