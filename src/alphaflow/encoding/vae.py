"""Autoencoders of the diffusers kind: images to means and log-variances of latents, and back.

diffusers is an extra, imported when a VAE is loaded.
"""

import contextlib
import hashlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import UserError, missing, one_line
from ..pixels import scale_pixels
from .kinds import KINDS, why_not

Precision = Literal["bf16", "fp32"]

PINNED = {
    "sd-vae-ft-ema": ("stabilityai/sd-vae-ft-ema", "f04b2c4b98319346dad8c65879f680b1997b204a"),
    "sd-vae-ft-mse": ("stabilityai/sd-vae-ft-mse", "31f26fdeee1355a5c34592e401dd41e45d25a493"),
}
"""Short names of the autoencoders that papers use: repository on the Hugging Face hub, and its revision."""

_LOGVAR = (-30.0, 20.0)  # as diffusers' DiagonalGaussianDistribution bounds it
_PROBE = 128  # pixels a side
_PARTS = ("vae", "movq", "vqvae", "vqgan")
"""Where pipelines keep their autoencoder."""


class VAE:
    """An autoencoder of diffusers with frozen weights on one device, made by `load_vae`.

    Attributes:
        name: its name as it was asked for.
        class_name: its class in diffusers, one of `KINDS`.
        hash: 16 hexadecimal digits of the weights.
        variance: whether it makes a Gaussian of an image, rather than one latent.
        side: the only side of pictures, in pixels, that it decodes to; 0 where any will do.
        own: the scale that its makers give its latents.
    """

    def __init__(
        self, net: Any, name: str, device: torch.device, precision: Precision, class_name: str = "AutoencoderKL"
    ) -> None:
        self._kind = kind = KINDS[class_name]
        for entry in kind.channels:
            if net.config[entry] != 3:
                raise UserError(
                    f"{name} has {entry} {net.config[entry]}: only autoencoders of RGB images are supported"
                )
        self.name, self.class_name, self.device, self.precision = name, class_name, device, precision
        self.hash = weights_hash(net, kind.unhashed, {entry: net.config[entry] for entry in kind.hashed})
        self.variance: bool = kind.variance
        self.side: int = getattr(net, kind.side) if kind.side else 0
        self.own = kind.convention(net)
        self.options = kind.options(net.config)
        self.net = net.to(device).eval().requires_grad_(False)
        if kind.one_by_one:
            self.net.enable_slicing()

    @property
    def frames(self) -> bool:
        """Whether a picture is given to it as a video of one frame."""
        return self._kind.frames

    @property
    def black(self) -> float:
        """The value of a black pixel, -1 or 0, where a white one is 1."""
        return self._kind.black

    @property
    def channels(self) -> int:
        """Channels of a latent."""
        return self._probed[0]

    @property
    def factor(self) -> int:
        """Pixels along a side that one latent stands for."""
        return self._probed[1]

    @property
    def scaling(self) -> float | None:
        """The number that its makers multiply latents by, once `shift` is subtracted; None where there is none."""
        return self.own.factor

    @property
    def shift(self) -> float:
        """What its makers subtract from latents; see `scaling`."""
        return self.own.shift

    def scalar(self) -> float:
        """Return `scaling`.

        Raises:
            UserError: its config asks for more than a number, or for none.
        """
        if self.own.factor is not None:
            return self.own.factor
        if self.own.missing:
            raise UserError(f"{self.name} {self.own.missing}: give --scale statistics")
        if isinstance(self.own.mean[0], tuple):
            why = (
                "has no number for all channels in its config (it scales patches of latents, by batch statistics)"
            )
        else:
            why = "scales each channel by its own mean and deviation (latents_mean, latents_std in its config)"
        raise UserError(f"{self.name} {why}: give --scale statistics, or --scale own for these")

    @cached_property
    def _probed(self) -> tuple[int, int]:
        """Channels and factor, of a picture that is sent through.

        Raises:
            UserError: it makes something else of a picture than a picture of channels, or no picture of that.
        """
        side = self.side or _PROBE
        try:
            with torch.inference_mode():
                latent = self._latents(torch.zeros(1, 3, side, side, dtype=torch.uint8))
            shape = tuple(latent.shape)
            if len(shape) != 4 or shape[2] != shape[3] or not shape[2] or side % shape[2]:
                raise ValueError(f"it makes latents of the shape {shape[1:]}, not (channels, side, side)")
            channels = shape[1] // 2 if self.variance else shape[1]
            picture = tuple(self.decode(latent[:, :channels]).shape)
            if picture != (1, 3, side, side):
                raise ValueError(f"it decodes them to {picture[1:]}")
        except (ValueError, RuntimeError, TypeError, IndexError, NotImplementedError) as error:
            raise UserError(
                f"{self.name} ({self.class_name}) cannot encode a picture of {side}×{side} and decode it again "
                f"({one_line(error, 160)}): give an autoencoder of single pictures"
            ) from None
        return channels, side // shape[2]

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """Return means and log-variances, (B, 2C, h, w) float32, of images, uint8 (B, 3, H, W); or, without
        `variance`, latents (B, C, h, w).

        Raises:
            UserError: the sides of the images are not `side`, or no multiples of `factor`.
        """
        self.check_size(*images.shape[2:])
        return self._latents(images)

    def check_size(self, height: int, width: int) -> None:
        """Raise a `UserError` for images whose sides it cannot encode and decode again."""
        if self.side and (height, width) != (self.side, self.side):
            raise UserError(
                f"images of {height}×{width} do not fit {self.name}, which makes {self.side}×{self.side} only: "
                f"give --size {self.side}",
                status=2,
            )
        if height % self.factor or width % self.factor:
            size = f"--size {height}" if height == width else f"images of {height}×{width}"
            fits = "does" if height == width else "do"
            raise UserError(
                f"{size} {fits} not fit {self.name}: give a multiple of {self.factor}, which is how many pixels "
                "one latent stands for",
                status=2,
            )

    def _latents(self, images: Tensor) -> Tensor:
        pixels = scale_pixels(images.to(self.device))
        if self.black == 0:
            pixels = (pixels + 1) / 2
        with self._autocast():
            made = getattr(self.net.encode(pixels[:, :, None] if self.frames else pixels), self._kind.output)
        latents: Tensor = (made.parameters if self.variance else made).float()
        if self.frames:
            latents = latents.squeeze(2)
        if not self.variance:
            return latents
        mean, logvar = latents.chunk(2, dim=1)
        return torch.cat([mean, logvar.clamp(*_LOGVAR)], dim=1)

    @torch.inference_mode()
    def decode(self, latents: Tensor, at_once: int = 16) -> Tensor:
        """Return images (B, 3, H, W) float32 in about [-1, 1], on the CPU, of latents (B, C, h, w) as the encoder
        makes them.

        The latents are not scaled. `at_once` rows are decoded together, which bounds the memory. A decoder that
        adds noise of its own (some of LTX-Video's) adds the same each time.
        """
        parts = []
        for part in latents.split(at_once):
            options = {
                name: torch.full((len(part),), value, device=self.device) if type(value) is float else value
                for name, value in self.options.items()
            }
            part = part.to(self.device)
            with self._autocast(), self._same_noise():
                made = self.net.decode(part[:, :, None] if self.frames else part, **options).sample.float()
            parts.append((made.squeeze(2) if self.frames else made).cpu())
        images = torch.cat(parts)
        return images if self.black else images * 2 - 1

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    @contextlib.contextmanager
    def _same_noise(self) -> Iterator[None]:
        """For a while, let a decoder that draws noise draw the same as ever."""
        if not any(self.net.config.get("decoder_inject_noise") or ()):
            yield
            return
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            torch.manual_seed(0)
            yield


def weights_hash(
    net: torch.nn.Module, leave_out: tuple[str, ...] = (), settings: Mapping[str, Any] | None = None
) -> str:
    """Return 16 hexadecimal digits of the weights' names, shapes and float32 values, whatever file they came
    from.

    Args:
        leave_out: beginnings of the names of weights that do not count.
        settings: what counts besides.
    """
    digest = hashlib.sha256(repr(sorted(settings.items())).encode() if settings else b"")
    for name, weight in sorted(net.state_dict().items()):
        if leave_out and name.startswith(leave_out):
            continue
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
    """Load an autoencoder, as the class that its config.json names.

    Args:
        name: one of `PINNED`; a folder as diffusers saves it (of the autoencoder, or of a pipeline with one in
            `vae/`, or `movq/`, `vqvae/`, `vqgan/`); or an id of the Hugging Face hub, downloaded the first time.
        precision: "bf16" computes in bfloat16 where that is safe (autocast); weights stay float32.

    Raises:
        UserError: diffusers is not installed, nothing under that name could be loaded, or its class is not one of
            `KINDS`.
    """
    check_name(name)
    where: dict[str, Any] = {}
    path = Path(name)
    if name in PINNED:
        source, where["revision"] = PINNED[name]
    elif path.is_dir():
        part = next((part for part in _PARTS if (path / part).is_dir()), "")
        source = str(path if (path / "config.json").exists() else path / part)
        where["local_files_only"] = True
    else:
        source = name
    diffusers = _diffusers()
    try:
        with _quiet():  # what is missing we say ourselves
            config = diffusers.AutoencoderKL.load_config(source, **where)
            class_name = _class_name(name, config)
            kind = getattr(diffusers, class_name, None)
            if kind is None:
                raise UserError(
                    f"{name} holds {_article(class_name)} {class_name}, which diffusers {diffusers.__version__} "
                    "has not: install a newer one"
                )
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


def _class_name(name: str, config: Mapping[str, Any]) -> str:
    """Return the class that a config names.

    Raises:
        UserError: it names none, or one that is not read.
    """
    class_name = config.get("_class_name")
    if not isinstance(class_name, str):
        raise UserError(f'{name}: its config.json names no class: add "_class_name", such as "AutoencoderKL"')
    if why := why_not(class_name):
        raise UserError(f"{name} holds {_article(class_name)} {class_name}, which {why}")
    return class_name


def _article(class_name: str) -> str:
    return "an" if class_name[:1].upper() in tuple("AEIO") else "a"


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


def _diffusers() -> Any:
    try:
        import diffusers
        from diffusers.models.autoencoders import autoencoder_kl  # noqa: F401  (what diffusers itself needs)
    except ImportError as error:
        raise missing("autoencoders need diffusers", "latents", error) from None
    return diffusers
