"""DINOv2 and CLIP's image tower: published weights in the classes of transformers.

Facebook and OpenAI publish files of their own, whose hashes the literature's numbers belong to; here their
tensors get the names transformers uses. Sizes are read off the tensors; every head has 64 dimensions in all of
these networks. transformers is imported without torchvision, as nothing of its image processing is used.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alphaflow.errors import missing

_HEAD = 64
_DINO_OFFSET = 0.1  # facebookresearch/dinov2 scales position embeddings by (n + 0.1) / N rather than n / N
_DINO_BLOCK = {
    "norm1": "norm1",
    "attn.proj": "attention.o_proj",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_CLIP_BLOCK = {
    "ln_1": "layer_norm1",
    "attn.out_proj": "self_attn.out_proj",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


class ClassToken(nn.Module):
    """DINOv2: the class token after the last norm, (N, D), of normalised images (N, 3, size, size)."""

    def __init__(self, published: Mapping[str, Tensor], size: int) -> None:
        super().__init__()
        _need_transformers()
        from transformers.models.dinov2.configuration_dinov2 import Dinov2Config
        from transformers.models.dinov2.modeling_dinov2 import Dinov2Model

        weights, config = dinov2_weights(published, size)
        self.net = Dinov2Model(Dinov2Config(**config))
        self.net.load_state_dict(weights)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(pixel_values=x).pooler_output


class ImageEmbedding(nn.Module):
    """CLIP: the projected image embedding, (N, D), not normalised, of normalised images (N, 3, size, size)."""

    def __init__(self, published: Mapping[str, Tensor], size: int) -> None:
        super().__init__()
        _need_transformers()
        from transformers.models.clip.configuration_clip import CLIPVisionConfig
        from transformers.models.clip.modeling_clip import CLIPVisionModelWithProjection

        weights, config = clip_weights(published, size)
        self.net = CLIPVisionModelWithProjection(CLIPVisionConfig(**config))
        self.net.load_state_dict(weights)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(pixel_values=x).image_embeds


def dinov2_weights(published: Mapping[str, Tensor], size: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return weights and configuration for transformers' `Dinov2Model` at images of `size`.

    Position embeddings are resized here, as facebookresearch/dinov2 does it: transformers' own resizing leaves out
    the offset of 0.1, and its features are slightly others.
    """
    width, _, patch, _ = published["patch_embed.proj.weight"].shape
    depth = _depth(published, "blocks.")
    weights = {
        "embeddings.cls_token": published["cls_token"],
        "embeddings.mask_token": published["mask_token"],
        "embeddings.position_embeddings": _resized(published["pos_embed"], size // patch),
        "embeddings.patch_embeddings.projection.weight": published["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.projection.bias": published["patch_embed.proj.bias"],
        "layernorm.weight": published["norm.weight"],
        "layernorm.bias": published["norm.bias"],
    }
    for k in range(depth):
        old, new = f"blocks.{k}.", f"encoder.layer.{k}."
        for kind in ("weight", "bias"):
            for theirs, ours in _DINO_BLOCK.items():
                weights[f"{new}{ours}.{kind}"] = published[f"{old}{theirs}.{kind}"]
            for letter, part in zip("qkv", published[f"{old}attn.qkv.{kind}"].chunk(3)):
                weights[f"{new}attention.{letter}_proj.{kind}"] = part
        for n in (1, 2):
            weights[f"{new}layer_scale{n}.lambda1"] = published[f"{old}ls{n}.gamma"]
    config = {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": width // _HEAD,
        "mlp_ratio": published["blocks.0.mlp.fc1.weight"].shape[0] // width,
        "image_size": size,
        "patch_size": patch,
        "layer_norm_eps": 1e-6,
    }
    return {name: weight.float() for name, weight in weights.items()}, config


def clip_weights(published: Mapping[str, Tensor], size: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return weights and configuration for transformers' `CLIPVisionModelWithProjection`, in float32."""
    width, _, patch, _ = published["visual.conv1.weight"].shape
    depth = _depth(published, "visual.transformer.resblocks.")
    tower = "vision_model."
    weights = {
        tower + "embeddings.class_embedding": published["visual.class_embedding"],
        tower + "embeddings.patch_embedding.weight": published["visual.conv1.weight"],
        tower + "embeddings.position_embedding.weight": published["visual.positional_embedding"],
        "visual_projection.weight": published["visual.proj"].T.contiguous(),
    }
    for kind in ("weight", "bias"):
        weights[f"{tower}pre_layrnorm.{kind}"] = published[f"visual.ln_pre.{kind}"]
        weights[f"{tower}post_layernorm.{kind}"] = published[f"visual.ln_post.{kind}"]
        for k in range(depth):
            old, new = f"visual.transformer.resblocks.{k}.", f"{tower}encoder.layers.{k}."
            for theirs, ours in _CLIP_BLOCK.items():
                weights[f"{new}{ours}.{kind}"] = published[f"{old}{theirs}.{kind}"]
            for letter, part in zip("qkv", published[f"{old}attn.in_proj_{kind}"].chunk(3)):
                weights[f"{new}self_attn.{letter}_proj.{kind}"] = part
    config = {
        "hidden_size": width,
        "intermediate_size": published["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        "projection_dim": published["visual.proj"].shape[1],
        "num_hidden_layers": depth,
        "num_attention_heads": width // _HEAD,
        "image_size": size,
        "patch_size": patch,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    }
    return {name: weight.float() for name, weight in weights.items()}, config


def _resized(positions: Tensor, side: int) -> Tensor:
    """Return position embeddings (1, 1 + N², D) resized for side² patches."""
    old = round((positions.shape[1] - 1) ** 0.5)
    if old == side:
        return positions
    grid = positions[:, 1:].float().unflatten(1, (old, old)).permute(0, 3, 1, 2)
    factor = (side + _DINO_OFFSET) / old
    grid = F.interpolate(grid, scale_factor=(factor, factor), mode="bicubic")
    return torch.cat([positions[:, :1].float(), grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def _depth(published: Mapping[str, Tensor], prefix: str) -> int:
    return 1 + max(int(name[len(prefix) :].split(".")[0]) for name in published if name.startswith(prefix))


def _need_transformers() -> None:
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise missing("dinov2 and clip need transformers", "metrics", error) from None
