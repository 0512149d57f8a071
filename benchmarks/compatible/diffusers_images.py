"""Transformers and U-Nets of diffusers for images and sound, tiny."""

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

IMAGES: dict[str, Entry] = {
    "UNet2DModel": diffusers(
        "UNet2DModel",
        IMAGE,
        simple,
        None,
        **UNET,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ),
    "UNet2DModel, FIR resampling": diffusers(
        "UNet2DModel",
        (3, 8, 8),
        simple,
        None,
        **WIDE | {"in_channels": 3, "out_channels": 3},
        time_embedding_type="fourier",
        down_block_types=("SkipDownBlock2D", "AttnSkipDownBlock2D"),
        up_block_types=("AttnSkipUpBlock2D", "SkipUpBlock2D"),
    ),
    "UNet2DModel, ResNet resampling": diffusers(
        "UNet2DModel",
        IMAGE,
        simple,
        None,
        **UNET,
        resnet_time_scale_shift="scale_shift",
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    ),
    "UNet2DConditionModel (Stable Diffusion)": diffusers(
        "UNet2DConditionModel",
        IMAGE,
        unet,
        **UNET,
        **CROSS,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ),
    "UNet2DConditionModel, linear projections": diffusers(
        "UNet2DConditionModel",
        IMAGE,
        unet,
        **UNET,
        **CROSS,
        use_linear_projection=True,
        upcast_attention=True,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    ),
    "UNet2DConditionModel, simple cross attention (DeepFloyd)": diffusers(
        "UNet2DConditionModel",
        IMAGE,
        unet,
        **UNET,
        **CROSS,
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    ),
    "Kandinsky3UNet": diffusers(
        "Kandinsky3UNet",
        IMAGE,
        lambda net, z, t, w: net(z, 1000 * t, w, whole(w), return_dict=False)[0],
        time_embedding_dim=16,
        groups=4,
        attention_head_dim=4,
        layers_per_block=2,
        block_out_channels=(16, 16, 16, 16),
        cross_attention_dim=16,
        encoder_hid_dim=16,
    ),
    "StableCascadeUNet": diffusers(
        "StableCascadeUNet",
        IMAGE,
        cascade,
        in_channels=4,
        out_channels=4,
        conditioning_dim=16,
        block_out_channels=(16, 16),
        num_attention_heads=(2, 2),
        down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1),
        clip_text_pooled_in_channels=16,
        timestep_ratio_embedding_dim=16,
    ),
    "DiTTransformer2DModel": diffusers(
        "DiTTransformer2DModel",
        IMAGE,
        lambda net, z, t, y: net(z, 1000 * t, y, return_dict=False)[0],
        None,
        3,
        **DIT,
        num_embeds_ada_norm=3,
    ),
    "PixArtTransformer2DModel": diffusers(
        "PixArtTransformer2DModel",
        IMAGE,
        lambda net, z, t, w: net(z, w, 1000 * t, {"resolution": None, "aspect_ratio": None}, return_dict=False)[0],
        **DIT,
        out_channels=4,
        cross_attention_dim=16,
        caption_channels=16,
    ),
    "SD3Transformer2DModel": diffusers("SD3Transformer2DModel", IMAGE, pooled, **SD3),
    "SD3Transformer2DModel, 3.5": diffusers(
        "SD3Transformer2DModel", IMAGE, pooled, **SD3, qk_norm="rms_norm", dual_attention_layers=(0,)
    ),
    "AuraFlowTransformer2DModel": diffusers(
        "AuraFlowTransformer2DModel",
        IMAGE,
        lambda net, z, t, w: net(z, w, t, return_dict=False)[0],
        **SMALL,
        sample_size=8,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pos_embed_max_size=16,
    ),
    "FluxTransformer2DModel": diffusers(
        "FluxTransformer2DModel", TOKENS, flux(pool=True), **FLUX, **ROPE, pooled_projection_dim=16
    ),
    "Flux2Transformer2DModel": diffusers(
        "Flux2Transformer2DModel", TOKENS, flux(4), **FLUX, axes_dims_rope=(2, 2, 2, 2), guidance_embeds=False
    ),
    "Flux3Transformer2DModel": diffusers(
        "Flux3Transformer2DModel", TOKENS, flux(4), **FLUX, axes_dims_rope=(2, 2, 2, 2)
    ),
    "ChromaTransformer2DModel": diffusers(
        "ChromaTransformer2DModel",
        TOKENS,
        flux(),
        **FLUX,
        **ROPE,
        approximator_num_channels=16,
        approximator_hidden_dim=16,
        approximator_layers=1,
    ),
    "BriaTransformer2DModel": diffusers("BriaTransformer2DModel", TOKENS, flux(), **FLUX, **ROPE),
    "LongCatImageTransformer2DModel": diffusers(
        "LongCatImageTransformer2DModel", TOKENS, flux(), **FLUX, **ROPE, pooled_projection_dim=16
    ),
    "OvisImageTransformer2DModel": diffusers(
        "OvisImageTransformer2DModel", TOKENS, flux(), **FLUX, **ROPE, out_channels=4
    ),
    "QwenImageTransformer2DModel": diffusers(
        "QwenImageTransformer2DModel",
        TOKENS,
        qwen,
        **SMALL,
        **ROPE,
        patch_size=2,
        in_channels=4,
        out_channels=1,
        num_layers=2,
        joint_attention_dim=16,
    ),
    "SanaTransformer2DModel": diffusers(
        "SanaTransformer2DModel",
        IMAGE,
        **SMALL,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=16,
        sample_size=8,
    ),
    "Lumina2Transformer2DModel": diffusers(
        "Lumina2Transformer2DModel",
        IMAGE,
        masked,
        **KV,
        sample_size=8,
        in_channels=4,
        hidden_size=16,
        num_layers=1,
        num_refiner_layers=1,
        multiple_of=8,
        axes_dim_rope=(2, 2, 4),
        axes_lens=(16, 16, 16),
        cap_feat_dim=16,
    ),
    "LuminaNextDiT2DModel": diffusers(
        "LuminaNextDiT2DModel",
        IMAGE,
        lumina,
        **KV,
        sample_size=8,
        in_channels=4,
        hidden_size=16,
        num_layers=2,
        multiple_of=8,
        learn_sigma=False,
        cross_attention_dim=16,
    ),
    "HunyuanDiT2DModel": diffusers(
        "HunyuanDiT2DModel",
        IMAGE,
        hunyuan_dit,
        **DIT,
        hidden_size=16,
        cross_attention_dim=16,
        cross_attention_dim_t5=16,
        pooled_projection_dim=16,
        text_len=5,
        text_len_t5=5,
        learn_sigma=False,
    ),
    "ZImageTransformer2DModel": diffusers(
        "ZImageTransformer2DModel",
        IMAGE,
        z_image,
        in_channels=4,
        dim=16,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[2, 2, 4],
        axes_lens=[64, 16, 16],
    ),
    "CogView3PlusTransformer2DModel": diffusers(
        "CogView3PlusTransformer2DModel", IMAGE, sizes, **COG, pos_embed_max_size=8
    ),
    "CogView4Transformer2DModel": diffusers(
        "CogView4Transformer2DModel", IMAGE, sizes, **COG, rope_axes_dim=(8, 8)
    ),
    "GlmImageTransformer2DModel": diffusers(
        "GlmImageTransformer2DModel",
        IMAGE,
        glm,
        **{key: value for key, value in COG.items() if key != "sample_size"},
        prior_vq_quantizer_codebook_size=32,
    ),
    "HiDreamImageTransformer2DModel": diffusers(
        "HiDreamImageTransformer2DModel",
        IMAGE,
        hidream,
        **SMALL,
        patch_size=2,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        caption_channels=[16, 16],
        text_emb_dim=16,
        axes_dims_rope=(2, 2, 4),
        max_resolution=(16, 16),
        llama_layers=[0, 0],
        num_routed_experts=2,
        force_inference_output=True,
    ),
    "HunyuanImageTransformer2DModel": diffusers(
        "HunyuanImageTransformer2DModel",
        IMAGE,
        masked,
        **SMALL,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=(2, 2),
        text_embed_dim=16,
        rope_axes_dim=(4, 4),
    ),
    "ErnieImageTransformer2DModel": diffusers(
        "ErnieImageTransformer2DModel",
        IMAGE,
        ernie,
        hidden_size=16,
        num_attention_heads=2,
        num_layers=2,
        ffn_hidden_size=32,
        in_channels=4,
        out_channels=4,
        text_in_dim=16,
        rope_axes_dim=(2, 2, 4),
    ),
    "PRXTransformer2DModel": diffusers(
        "PRXTransformer2DModel",
        IMAGE,
        lambda net, z, t, w: net(z, t, w, return_dict=False)[0],
        in_channels=4,
        context_in_dim=16,
        hidden_size=16,
        num_heads=2,
        depth=2,
        axes_dim=[4, 4],
    ),
    "Krea2Transformer2DModel": diffusers(
        "Krea2Transformer2DModel",
        TOKENS,
        krea,
        **SMALL,
        **ROPE,
        in_channels=4,
        num_layers=2,
        num_key_value_heads=1,
        intermediate_size=32,
        timestep_embed_dim=16,
        text_hidden_dim=16,
        num_text_layers=2,
        text_num_attention_heads=2,
        text_num_key_value_heads=2,
        text_intermediate_size=32,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
    ),
    "PriorTransformer": diffusers(
        "PriorTransformer",
        (1, 16),
        prior,
        **SMALL,
        num_layers=2,
        embedding_dim=16,
        num_embeddings=5,
        additional_embeddings=4,
    ),
    "UNet1DModel (sound)": diffusers(
        "UNet1DModel",
        (32, 2),
        sound,
        None,
        sample_size=32,
        extra_in_channels=64,
        block_out_channels=(32, 32, 32),
    ),
    "StableAudioDiTModel": diffusers(
        "StableAudioDiTModel",
        (16, 4),
        stable_audio,
        sample_size=16,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        num_key_value_attention_heads=2,
        cross_attention_dim=16,
        time_proj_dim=16,
        global_states_input_dim=16,
        cross_attention_input_dim=16,
    ),
    "LongCatAudioDiTTransformer": diffusers(
        "LongCatAudioDiTTransformer",
        (16, 4),
        long_cat,
        dit_dim=16,
        dit_depth=2,
        dit_heads=2,
        dit_text_dim=16,
        latent_dim=4,
        use_latent_condition=False,
    ),
    "MiniMaxMusic3Transformer1DModel": diffusers(
        "MiniMaxMusic3Transformer1DModel",
        (16, 4),
        lambda net, z, t, w: net(z.transpose(1, 2), t, w, return_dict=False)[0].transpose(1, 2),
        (16, 16),
        **SMALL,
        in_channels=4,
        condition_dim=16,
        num_layers=2,
        ff_inner_dim=32,
        rotary_dim=4,
        fourier_embedding_dim=16,
    ),
}
