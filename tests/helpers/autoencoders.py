"""Tiny random autoencoders of diffusers, made on the spot."""

from pathlib import Path
from typing import Any

import pytest
import torch


def save_vae(folder: Path, seed: int = 0, **changes: object) -> Path:
    """An `AutoencoderKL` that halves twice and has four latent channels, saved as diffusers does."""
    settings = {
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
        "block_out_channels": [8, 8, 8],
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "sample_size": 16,
        **changes,
    }
    return save_autoencoder(folder, "AutoencoderKL", settings, seed)


def save_autoencoder(folder: Path, class_name: str, settings: dict[str, Any] | None = None, seed: int = 0) -> Path:
    """An autoencoder of diffusers by the name of its class, with the settings of `TINY` unless others are given.

    Its statistics of latents, where they lie with the weights, are no units.
    """
    diffusers = pytest.importorskip("diffusers")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = getattr(diffusers, class_name)(**(TINY[class_name] if settings is None else settings))
        for name, buffer in net.named_buffers():
            if name in ("latents_mean", "bn.running_mean", "_latents_mean"):
                buffer.copy_(torch.randn_like(buffer))
            elif name in ("latents_std", "bn.running_var", "_latents_std"):
                buffer.copy_(torch.rand_like(buffer) + 0.5)
        net.save_pretrained(folder)
    return folder


_KL = {
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [8, 8],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
}
_MEAN, _STD = [0.1, -0.2, 0.3, 0.4], [0.5, 0.7, 0.9, 1.1]
_WAN = {
    "base_dim": 4,
    "z_dim": 4,
    "dim_mult": [1, 1],
    "num_res_blocks": 1,
    "temperal_downsample": [True],
    "latents_mean": _MEAN,
    "latents_std": _STD,
}
_HUNYUAN = {
    "latent_channels": 4,
    "block_out_channels": [8, 8],
    "layers_per_block": 1,
    "spatial_compression_ratio": 2,
    "temporal_compression_ratio": 2,
    "scaling_factor": 0.75,
}
_LTX = {
    "latent_channels": 4,
    "block_out_channels": [8, 8],
    "decoder_block_out_channels": [8, 8],
    "layers_per_block": [1, 1],
    "decoder_layers_per_block": [1, 1],
    "spatio_temporal_scaling": [True, False],
    "decoder_spatio_temporal_scaling": [True, False],
    "decoder_inject_noise": [False, False],
    "patch_size": 2,
    "scaling_factor": 0.5,
}

TINY: dict[str, dict[str, Any]] = {
    "AutoencoderKL": {**_KL, "latent_channels": 6, "scaling_factor": 0.36, "shift_factor": 0.125},
    "AutoencoderKLFlux2": {**_KL, "batch_norm_eps": 0.01},
    "AsymmetricAutoencoderKL": {
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "down_block_out_channels": [8, 8],
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "up_block_out_channels": [8, 16],
        "latent_channels": 4,
        "norm_num_groups": 4,
        "scaling_factor": 0.25,
    },
    "AutoencoderKLHunyuanImage": {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 4,
        "block_out_channels": [32, 32, 32],
        "layers_per_block": 1,
        "spatial_compression_ratio": 4,
        "sample_size": 16,
        "scaling_factor": 0.75,
    },
    "AutoencoderKLKVAE": {
        "channels": 32,
        "num_enc_blocks": 1,
        "num_dec_blocks": 1,
        "z_channels": 4,
        "ch_mult": [1, 1],
    },
    "AutoencoderKLTemporalDecoder": {
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "block_out_channels": [32, 32],
        "latent_channels": 4,
        "scaling_factor": 0.25,
    },
    "AutoencoderDC": {
        "latent_channels": 8,
        "attention_head_dim": 2,
        "encoder_block_types": ["ResBlock", "EfficientViTBlock"],
        "decoder_block_types": ["ResBlock", "EfficientViTBlock"],
        "encoder_block_out_channels": [8, 8],
        "decoder_block_out_channels": [8, 8],
        "encoder_layers_per_block": [1, 1],
        "decoder_layers_per_block": [1, 1],
        "encoder_qkv_multiscales": [[], [5]],
        "decoder_qkv_multiscales": [[], [5]],
        "scaling_factor": 0.41407,
    },
    "AutoencoderTiny": {
        "encoder_block_out_channels": [8, 8, 8],
        "decoder_block_out_channels": [8, 8, 8],
        "num_encoder_blocks": [1, 1, 1],
        "num_decoder_blocks": [1, 1, 1],
        "latent_channels": 5,
        "scaling_factor": 0.5,
        "shift_factor": 0.25,
    },
    "VQModel": {**_KL, "latent_channels": 3, "num_vq_embeddings": 16, "scaling_factor": 0.5},
    "AutoencoderRAE": {
        "encoder_hidden_size": 64,
        "encoder_patch_size": 14,
        "encoder_num_hidden_layers": 1,
        "decoder_hidden_size": 32,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 32,
        "patch_size": 4,
        "encoder_input_size": 56,
        "latents_mean": [[[0.25]]] * 64,
        "latents_std": [[[0.5]]] * 64,
    },
    "AutoencoderKLQwenImage": _WAN,
    "AutoencoderKLWan": _WAN,
    "AutoencoderKLLTXVideo": {
        **_LTX,
        "down_block_types": ["LTXVideoDownBlock3D"] * 2,
        "layers_per_block": [1, 1, 1],
        "decoder_layers_per_block": [1, 1, 1],
        "decoder_inject_noise": [True, False, False],
        "downsample_type": ["conv", "conv"],
        "upsample_residual": [False, False],
        "upsample_factor": [1, 1],
        "timestep_conditioning": True,
    },
    "AutoencoderKLLTX2Video": {
        **_LTX,
        "down_block_types": ["LTX2VideoDownBlock3D"] * 2,
        "decoder_block_out_channels": [8],
        "decoder_layers_per_block": [1, 1],
        "decoder_spatio_temporal_scaling": [True],
        "downsample_type": ["spatiotemporal", "spatial"],
        "upsample_residual": [True],
        "upsample_factor": [2],
        "upsample_type": ["spatiotemporal"],
    },
    "AutoencoderKLCogVideoX": {
        "down_block_types": ["CogVideoXDownBlock3D"] * 2,
        "up_block_types": ["CogVideoXUpBlock3D"] * 2,
        "block_out_channels": [8, 8],
        "latent_channels": 4,
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "temporal_compression_ratio": 2,
    },
    "AutoencoderKLHunyuanVideo": {
        **_HUNYUAN,
        "block_out_channels": [8, 8, 8, 8],
        "spatial_compression_ratio": 8,
        "temporal_compression_ratio": 4,
        "down_block_types": ["HunyuanVideoDownBlock3D"] * 4,
        "up_block_types": ["HunyuanVideoUpBlock3D"] * 4,
        "norm_num_groups": 4,
    },
    "AutoencoderKLHunyuanVideo15": _HUNYUAN,
    "AutoencoderKLHunyuanImageRefiner": _HUNYUAN,
    "AutoencoderKLMagvit": {
        "latent_channels": 4,
        "block_out_channels": [8, 8],
        "down_block_types": ["SpatialDownBlock3D", "SpatialTemporalDownBlock3D"],
        "up_block_types": ["SpatialUpBlock3D", "SpatialTemporalUpBlock3D"],
        "layers_per_block": 1,
        "norm_num_groups": 4,
    },
    "AutoencoderKLMochi": {
        "encoder_block_out_channels": [32, 32],
        "decoder_block_out_channels": [32, 32],
        "latent_channels": 4,
        "layers_per_block": [1, 1, 1],
        "temporal_expansions": [2],
        "spatial_expansions": [2],
        "add_attention_block": [False, False, False],
        "latents_mean": _MEAN,
        "latents_std": _STD,
    },
}
"""Settings of a tiny autoencoder of each class that is read."""

DETERMINISTIC = ("AutoencoderDC", "AutoencoderTiny", "VQModel", "AutoencoderRAE")
PICTURES = (*list(TINY)[:10],)
"""Classes that take pictures; the others take videos."""


def made_by_diffusers(name: str, net: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and log-variance (an empty tensor where there is none) of pictures in [-1, 1], by its own `encode`."""
    if name == "AutoencoderRAE":
        return net.encode((x + 1) / 2).latent, torch.empty(0)
    if name == "AutoencoderDC":
        return net.encode(x).latent, torch.empty(0)
    if name in ("AutoencoderTiny", "VQModel"):
        return net.encode(x).latents, torch.empty(0)
    if name in PICTURES:
        posterior = net.encode(x).latent_dist
        return posterior.mean, posterior.logvar
    posterior = net.encode(x.unsqueeze(2)).latent_dist
    return posterior.mean[:, :, 0], posterior.logvar[:, :, 0]


def scaled_by_pipelines(name: str, net: torch.nn.Module, z: torch.Tensor) -> torch.Tensor:
    """What the network of a pipeline would see of latents z."""
    config = net.config
    if name == "AutoencoderRAE":
        return z
    if name == "AutoencoderKLFlux2":  # pipeline_flux2: patches of 2 × 2 become channels, and back
        b, c, h, w = z.shape
        packed = z.view(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(b, 4 * c, h // 2, w // 2)
        mean = net.bn.running_mean.view(1, -1, 1, 1)
        std = torch.sqrt(net.bn.running_var.view(1, -1, 1, 1) + config.batch_norm_eps)
        packed = (packed - mean) / std
        return packed.reshape(b, c, 2, 2, h // 2, w // 2).permute(0, 1, 4, 2, 5, 3).reshape(b, c, h, w)
    if "LTX" in name:
        mean, std = (part.view(1, -1, 1, 1) for part in (net.latents_mean, net.latents_std))
        return (z - mean) * config.scaling_factor / std
    if config.get("latents_mean"):  # Qwen-Image, Wan, Mochi
        mean, std = (torch.tensor(config[part]).view(1, -1, 1, 1) for part in ("latents_mean", "latents_std"))
        return (z - mean) / std * (config.get("scaling_factor") or 1)
    return (z - (config.get("shift_factor") or 0)) * config.scaling_factor


def shown_by_diffusers(name: str, net: torch.nn.Module, z: torch.Tensor) -> torch.Tensor:
    """Pictures in [-1, 1] of latents z, by its own `decode`."""
    if name == "AutoencoderRAE":
        return net.decode(z).sample * 2 - 1
    if name == "AutoencoderKLTemporalDecoder":
        return net.decode(z, num_frames=1).sample
    if name == "AutoencoderKLLTXVideo":  # told the noise's level, and adding noise of its own
        torch.manual_seed(0)
        return net.decode(z.unsqueeze(2), torch.zeros(len(z))).sample[:, :, 0]
    return net.decode(z).sample if name in PICTURES else net.decode(z.unsqueeze(2)).sample[:, :, 0]
