"""The classes of autoencoders in diffusers that can encode pictures, and what is peculiar to each.

The scales are those that diffusers' own pipelines apply between the autoencoder and the network (0.42.1):
Stable Diffusion (XL, 3), FLUX.1 and .2, Sana, Kandinsky, Latent Diffusion, Qwen-Image, Wan, LTX-Video, CogVideoX,
HunyuanImage and -Video, EasyAnimate, Mochi, Stable Video Diffusion.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..data.latents.manifest import tuples


@dataclass(frozen=True)
class Convention:
    """The scale that an autoencoder's makers give its latents: x = (latent - mean) / std.

    Either one number serves all channels, or each channel, or each place of a pattern that repeats, has its own.
    """

    factor: float | None = None
    """The number, 1 / std, where it serves all channels."""
    shift: float = 0.0
    """What is subtracted before it."""
    mean: Any = ()
    """Numbers as nested tuples: (C,), or (C, p, q) for each place of a pattern of p × q; empty with a factor."""
    std: Any = ()
    missing: str = ""
    """Why there is none, in words that follow the autoencoder's name."""


def _number(net: Any) -> Convention:
    """Read scaling_factor, and shift_factor where there is one."""
    config = net.config
    if config.get("scaling_factor") is None:
        return Convention(missing="has no scaling_factor in its config")
    return Convention(float(config["scaling_factor"]), float(config.get("shift_factor") or 0.0))


def _by_channel(net: Any) -> Convention:
    """Read latents_mean and latents_std of the config, and the scaling_factor; without them the number alone."""
    mean, std = (net.config.get(name) for name in ("latents_mean", "latents_std"))
    if mean is None or std is None:
        return _number(net)
    return _table(net, mean, std)


def _by_buffers(net: Any) -> Convention:
    """Read the same from what lies with the weights (LTX-Video)."""
    return _table(net, net.latents_mean.tolist(), net.latents_std.tolist())


def _table(net: Any, mean: Any, std: Any) -> Convention:
    factor = float(net.config.get("scaling_factor") or 1.0)
    return Convention(mean=tuple(map(float, mean)), std=tuple(float(one) / factor for one in std))


def _by_batch_statistics(net: Any) -> Convention:
    """Read FLUX.2's: latents are cut into patches, and each channel of each place in one has its statistics."""
    patch = tuple(net.config.get("patch_size") or (2, 2))
    std = (net.bn.running_var + net.config["batch_norm_eps"]).sqrt()
    mean, std = (part.double().unflatten(0, (-1, *patch)).tolist() for part in (net.bn.running_mean, std))
    return Convention(mean=tuples(mean), std=tuples(std))


def _none(net: Any) -> Convention:
    return Convention(missing="states no scale of its latents, neither in its config nor by a pipeline")


def _scaled_inside(net: Any) -> Convention:
    """Leave latents as they are: AutoencoderRAE scales in `encode` itself."""
    return Convention(1.0)


def _no_options(config: Mapping[str, Any]) -> dict[str, Any]:
    return {}


def _one_frame_each(config: Mapping[str, Any]) -> dict[str, Any]:
    return {"num_frames": 1}


def _unquantised(config: Mapping[str, Any]) -> dict[str, Any]:
    """Let MoVQ (Kandinsky's) decode latents as they are; others round them to the code book first."""
    movq = config.get("norm_type") == "spatial" and not config.get("lookup_from_codebook")
    return {"force_not_quantize": True} if movq else {}


def _at_time_zero(config: Mapping[str, Any]) -> dict[str, Any]:
    """Tell a decoder that asks how noisy its latents are that they are not."""
    return {"temb": 0.0} if config.get("timestep_conditioning") else {}


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What is peculiar to one class."""

    output: str = "latent_dist"
    """The attribute of what `encode` returns: latent_dist is a Gaussian, others are latents themselves."""
    frames: bool = False
    """Whether it takes videos, (B, 3, T, H, W), so that a picture is a video of one frame."""
    black: float = -1.0
    """The value of a black pixel; a white one is 1."""
    convention: Callable[[Any], Convention] = _number
    """A function from the network to its scale."""
    options: Callable[[Mapping[str, Any]], dict[str, Any]] = _no_options
    """A function from the config to what `decode` takes besides latents; a float is meant for each row."""
    channels: tuple[str, ...] = ("in_channels", "out_channels")
    """The entries of the config that must be 3."""
    side: str = ""
    """The attribute of the network that holds the only side of its pictures in pixels, where there is one."""
    one_by_one: bool = False
    """Whether its batches are cut into single rows; diffusers' own code fails on more."""
    unhashed: tuple[str, ...] = ()
    """Beginnings of the names of weights that change no latent and no picture decoded from it."""
    hashed: tuple[str, ...] = ()
    """Entries of the config that change latents beyond what weights say."""

    @property
    def variance(self) -> bool:
        """Whether it makes a Gaussian of an image."""
        return self.output == "latent_dist"


KINDS: dict[str, Kind] = {
    "AutoencoderKL": Kind(convention=_by_channel),
    "AutoencoderKLFlux2": Kind(convention=_by_batch_statistics, unhashed=("bn.",)),
    "AsymmetricAutoencoderKL": Kind(unhashed=("decoder.condition_encoder.",)),
    "AutoencoderKLHunyuanImage": Kind(),
    "AutoencoderKLKVAE": Kind(convention=_none, channels=("in_channels",)),
    "AutoencoderKLTemporalDecoder": Kind(options=_one_frame_each),
    "AutoencoderDC": Kind(output="latent", channels=("in_channels",)),
    "AutoencoderTiny": Kind(output="latents"),
    "VQModel": Kind(output="latents", options=_unquantised),
    "AutoencoderRAE": Kind(
        output="latent",
        black=0.0,
        convention=_scaled_inside,
        channels=("num_channels",),
        side="decoder_image_size",
        hashed=("encoder_input_size", "scaling_factor"),
    ),
    "AutoencoderKLQwenImage": Kind(frames=True, convention=_by_channel, channels=("input_channels",)),
    "AutoencoderKLWan": Kind(frames=True, convention=_by_channel),
    "AutoencoderKLLTXVideo": Kind(frames=True, convention=_by_buffers, options=_at_time_zero),
    "AutoencoderKLLTX2Video": Kind(frames=True, convention=_by_buffers, options=_at_time_zero),
    "AutoencoderKLCogVideoX": Kind(frames=True),
    "AutoencoderKLHunyuanVideo": Kind(frames=True),
    "AutoencoderKLHunyuanVideo15": Kind(frames=True, one_by_one=True),
    "AutoencoderKLHunyuanImageRefiner": Kind(frames=True),
    "AutoencoderKLMagvit": Kind(frames=True),
    "AutoencoderKLMochi": Kind(frames=True, convention=_by_channel, channels=("out_channels",)),
}
"""All classes that are read, by the `_class_name` in their config.json."""

_SOUND = (
    "AutoencoderOobleck",
    "AutoencoderSAME",
    "MMAudioVAE",
    "LongCatAudioDiTVae",
    "MiniMaxMusic3Vocoder",
    "MMAudioVocoder",
)
_INSTEAD = "give an AutoencoderKL, or another class that docs/data.md lists"
_UNSUITED = {
    "ConsistencyDecoderVAE": "decodes by sampling: give the AutoencoderKL whose latents it shares",
    "RFD4ProteinaAutoencoder": "encodes proteins: give one of pictures",
}


def why_not(class_name: str) -> str:
    """Return why a class is not read and what to give instead, in words that follow its name; "" for one that
    is."""
    if class_name in KINDS:
        return ""
    if "Audio" in class_name or class_name in _SOUND:
        return "encodes sound: give an autoencoder of pictures"
    if class_name in _UNSUITED:
        return _UNSUITED[class_name]
    if class_name.startswith("Autoencoder") or class_name.endswith("VAE"):
        return f"is not known to encode single pictures: {_INSTEAD}"
    return f"is no autoencoder of pictures: {_INSTEAD}"
