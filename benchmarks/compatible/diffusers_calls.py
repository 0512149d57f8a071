"""How networks of diffusers for images and sound are called, each with its own names."""

from typing import Any

import torch
from torch import Tensor

from .entry import Call, Entry, grid

W = (5, 16)
IMAGE, TOKENS = (4, 8, 8), (16, 4)
SMALL: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 8}
FLUX: dict[str, Any] = {
    **SMALL,
    "in_channels": 4,
    "num_layers": 1,
    "num_single_layers": 1,
    "joint_attention_dim": 16,
}
ROPE = {"axes_dims_rope": (2, 2, 4)}
TEXT: Call = lambda net, z, t, w: net(  # noqa: E731
    hidden_states=z, encoder_hidden_states=w, timestep=1000 * t, return_dict=False
)[0]
UNET: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
}
WIDE = UNET | {"block_out_channels": (32, 32), "norm_num_groups": 32}


def diffusers(
    name: str, shape: tuple[int, ...], call: Call = TEXT, words=W, classes: int = 0, **config: Any
) -> Entry:
    """A network of diffusers by its class and config."""

    def make() -> torch.nn.Module:
        import diffusers

        return getattr(diffusers, name)(**config)

    return Entry(make, shape, call, words, classes)


def whole(w: Tensor) -> Tensor:
    """A mask that lets all words through."""
    return torch.ones(w.shape[:2], dtype=torch.bool)


def pooled(net: Any, z: Tensor, t: Tensor, w: Tensor) -> Tensor:
    return net(
        hidden_states=z,
        encoder_hidden_states=w,
        pooled_projections=w.mean(1),
        timestep=1000 * t,
        return_dict=False,
    )[0]


def flux(axes: int = 3, **further: Any) -> Call:
    """Flux and its kin: the positions of tokens are given."""

    def call(net: Any, z: Tensor, t: Tensor, w: Tensor) -> Tensor:
        told = {"pooled_projections": w.mean(1)} if further.get("pool") else {}
        return net(
            hidden_states=z,
            encoder_hidden_states=w,
            timestep=t,
            img_ids=grid(4, 4, axes=axes),
            txt_ids=torch.zeros(w.shape[1], axes),
            return_dict=False,
            **told,
        )[0]

    return call


def sizes(net: Any, z: Tensor, t: Tensor, w: Tensor) -> Tensor:
    """CogView: the picture's sizes are told."""
    size, corner = torch.full((len(z), 2), 64.0), torch.zeros(len(z), 2)
    return net(z, w, 1000 * t, size.to(z), size.to(z), corner.to(z), return_dict=False)[0]


def masked(net: Any, z: Tensor, t: Tensor, w: Tensor) -> Tensor:
    return net(
        hidden_states=z,
        timestep=t,
        encoder_hidden_states=w,
        encoder_attention_mask=whole(w),
        return_dict=False,
    )[0]


def qwen(net: Any, z: Tensor, t: Tensor, w: Tensor) -> Tensor:
    return net(
        hidden_states=z,
        timestep=t,
        encoder_hidden_states=w,
        encoder_hidden_states_mask=whole(w),
        img_shapes=[[(1, 4, 4)]] * len(z),
        return_dict=False,
    )[0]


def z_image(net: Any, z: Tensor, t: Tensor, w: Tensor) -> Tensor:
    out = net(list(z.unsqueeze(2).unbind(0)), t, list(w.unbind(0)), return_dict=False)[0]
    return torch.stack(list(out)).squeeze(2)


def hidream(net: Any, z: Tensor, t: Tensor, w: Tensor) -> Tensor:
    return net(
        hidden_states=z,
        timesteps=1000 * t,
        encoder_hidden_states_t5=w,
        encoder_hidden_states_llama3=w[None],
        pooled_embeds=w.mean(1),
        return_dict=False,
    )[0]


def prior(net: Any, z: Tensor, t: Tensor, w: Tensor) -> Tensor:
    out = net(z[:, 0], 1000 * t, w.mean(1), w, whole(w), return_dict=False)[0]
    return out[:, None]


def hunyuan_dit(net: Any, z: Tensor, t: Tensor, w: Tensor) -> Tensor:
    turned = (torch.ones(16, 8, dtype=z.dtype), torch.zeros(16, 8, dtype=z.dtype))
    return net(
        z,
        1000 * t,
        encoder_hidden_states=w,
        text_embedding_mask=whole(w),
        encoder_hidden_states_t5=w,
        text_embedding_mask_t5=whole(w),
        image_meta_size=torch.zeros(len(z), 6).to(z),
        style=torch.zeros(len(z), dtype=torch.int64),
        image_rotary_emb=turned,
        return_dict=False,
    )[0]


def lumina(net: Any, z: Tensor, t: Tensor, w: Tensor) -> Tensor:
    from diffusers.models.embeddings import get_2d_rotary_pos_embed_lumina

    turned = get_2d_rotary_pos_embed_lumina(8, 384, 384)
    return net(z, t, w, whole(w), turned, cross_attention_kwargs={}, return_dict=False)[0]


def stable_audio(net: Any, z: Tensor, t: Tensor, w: Tensor) -> Tensor:
    from diffusers.models.embeddings import get_1d_rotary_pos_embed

    turned = get_1d_rotary_pos_embed(4, 17, use_real=True, repeat_interleave_real=False)
    out = net(
        z.transpose(1, 2),
        t,
        encoder_hidden_states=w,
        global_hidden_states=w[:, :1],
        rotary_embedding=turned,
        return_dict=False,
    )[0]
    return out.transpose(1, 2)


def unet(net: Any, z: Tensor, t: Tensor, w: Tensor) -> Tensor:
    return net(z, 1000 * t, encoder_hidden_states=w, return_dict=False)[0]


def simple(net: Any, z: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
    return net(z, 1000 * t, return_dict=False)[0]


def sound(net: Any, z: Tensor, t: Tensor, w: Tensor | None) -> Tensor:
    return net(z.transpose(1, 2), t, return_dict=False)[0].transpose(1, 2)


def cascade(net: Any, z: Tensor, t: Tensor, w: Tensor) -> Tensor:
    return net(z, t, clip_text_pooled=w[:, :1], return_dict=False)[0]


def long_cat(net: Any, z: Tensor, t: Tensor, w: Tensor) -> Tensor:
    return net(z, w, whole(w), t, return_dict=False)[0]


def glm(net: Any, z: Tensor, t: Tensor, w: Tensor) -> Tensor:
    size, corner = torch.full((len(z), 2), 64.0).to(z), torch.zeros(len(z), 2).to(z)
    kept = torch.zeros(len(z), 16, dtype=torch.bool)
    token = torch.arange(16).expand(len(z), -1)
    return net(z, w, token, kept, 1000 * t, size, corner, return_dict=False)[0]


def ernie(net: Any, z: Tensor, t: Tensor, w: Tensor) -> Tensor:
    lengths = torch.full((len(z),), w.shape[1])
    return net(z, 1000 * t, w, lengths, return_dict=False)[0]


def krea(net: Any, z: Tensor, t: Tensor, w: Tensor) -> Tensor:
    layers = torch.stack([w, w.flip(1)], 2)
    places = torch.cat([torch.zeros(w.shape[1], 3), grid(4, 4)])
    return net(z, layers, t, places, return_dict=False)[0]


SD3 = {**SMALL, "sample_size": 8, "in_channels": 4, "out_channels": 4, "num_layers": 2, "joint_attention_dim": 16}
SD3 |= {"caption_projection_dim": 16, "pooled_projection_dim": 16, "pos_embed_max_size": 8}
DIT = {**SMALL, "in_channels": 4, "num_layers": 2, "sample_size": 8, "patch_size": 2}
CROSS = {"cross_attention_dim": 16, "attention_head_dim": 4}
COG = {**SMALL, "in_channels": 4, "out_channels": 4, "num_layers": 2, "text_embed_dim": 16, "time_embed_dim": 16}
COG |= {"condition_dim": 8, "sample_size": 8}
KV = {"num_attention_heads": 2, "num_kv_heads": 1}
