"""Tiny random networks of diffusers' flow classes, of one channel and sides of 8."""

from typing import Any

import torch

CONFIGS: dict[str, dict[str, Any]] = {
    "SD3Transformer2DModel": {
        "sample_size": 8,
        "patch_size": 2,
        "in_channels": 1,
        "out_channels": 1,
        "num_layers": 3,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 12,
        "caption_projection_dim": 16,
        "pooled_projection_dim": 10,
        "pos_embed_max_size": 8,
        "qk_norm": "rms_norm",
    },
    "FluxTransformer2DModel": {
        "in_channels": 4,
        "num_layers": 1,
        "num_single_layers": 2,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 12,
        "pooled_projection_dim": 10,
        "axes_dims_rope": (2, 2, 4),
    },
    "SanaTransformer2DModel": {
        "in_channels": 1,
        "out_channels": 1,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_layers": 3,
        "num_cross_attention_heads": 2,
        "cross_attention_head_dim": 8,
        "cross_attention_dim": 16,
        "caption_channels": 12,
        "sample_size": 8,
        "patch_size": 1,
    },
    "Lumina2Transformer2DModel": {
        "sample_size": 8,
        "in_channels": 1,
        "hidden_size": 24,
        "num_layers": 3,
        "num_refiner_layers": 1,
        "num_attention_heads": 2,
        "num_kv_heads": 1,
        "multiple_of": 8,
        "axes_dim_rope": (4, 4, 4),
        "axes_lens": (32, 16, 16),
        "cap_feat_dim": 12,
    },
    "AuraFlowTransformer2DModel": {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "num_mmdit_layers": 1,
        "num_single_dit_layers": 2,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 12,
        "caption_projection_dim": 16,
        "pos_embed_max_size": 64,
    },
    "QwenImageTransformer2DModel": {
        "in_channels": 4,
        "out_channels": 1,
        "num_layers": 3,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 12,
        "axes_dims_rope": (2, 2, 4),
    },
    "LTXVideoTransformer3DModel": {
        "in_channels": 1,
        "out_channels": 1,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "cross_attention_dim": 16,
        "num_layers": 3,
        "caption_channels": 12,
    },
    "WanTransformer3DModel": {
        "patch_size": (1, 2, 2),
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 1,
        "out_channels": 1,
        "text_dim": 12,
        "freq_dim": 16,
        "ffn_dim": 32,
        "num_layers": 3,
        "rope_max_seq_len": 32,
    },
}
"""Settings by the names of the classes."""


def tiny_flow(name: str, seed: int = 0, **changes: Any) -> Any:
    """A network of this class in evaluation mode, whose layers all say something."""
    import diffusers

    torch.manual_seed(seed)
    net = getattr(diffusers, name)(**CONFIGS[name] | changes).eval()
    with torch.no_grad():
        for weight in net.parameters():
            if weight.ndim > 1:
                weight.add_(0.1 * torch.randn_like(weight))
    return net


def tiny_batch(name: str, rows: int = 4, seed: int = 1) -> tuple[torch.Tensor, ...]:
    """z, v, r, t of its samples; the last row has r = t."""
    source = torch.Generator().manual_seed(seed)
    shape = (rows, 1, 2, 8, 8) if "3D" in name else (rows, 1, 8, 8)
    z, v = (torch.randn(shape, generator=source) for _ in range(2))
    return z, v, torch.tensor([0.0, 0.2, 0.4, 0.5])[:rows], torch.tensor([1.0, 0.6, 0.9, 0.5])[:rows]
