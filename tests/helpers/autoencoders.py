"""A tiny random autoencoder of the diffusers kind, made on the spot."""

from pathlib import Path

import pytest
import torch


def save_vae(folder: Path, seed: int = 0, **changes: object) -> Path:
    """An `AutoencoderKL` that halves twice and has four latent channels, saved as diffusers does."""
    pytest.importorskip("diffusers")
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

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
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        AutoencoderKL(**settings).save_pretrained(folder)
    return folder
