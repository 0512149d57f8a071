"""Transformers and U-Nets of diffusers for videos and sound, tiny: z is (channels, frames, height, width) or
(time, channels)."""

from typing import Any

import torch
from torch import Tensor

from .diffusers_calls import SMALL, TEXT, UNET, diffusers, long_cat, masked, sound, stable_audio, whole
from .entry import Entry

VIDEO = (4, 2, 8, 8)
BOTH = {"in_channels": 4, "out_channels": 4}
WAN = {**SMALL, **BOTH, "text_dim": 16, "freq_dim": 16, "ffn_dim": 32, "num_layers": 2, "rope_max_seq_len": 16}
WAN["attention_head_dim"] = 12


def frames_first(net: Any, z: Tensor, t: Tensor, w: Tensor) -> Tensor:
    """CogVideoX: (B, frames, channels, height, width)."""
    return net(z.transpose(1, 2), w, 1000 * t, return_dict=False)[0].transpose(1, 2)


def ltx(net: Any, z: Tensor, t: Tensor, w: Tensor) -> Tensor:
    """LTX-Video: tokens (B, frames × height × width, channels)."""
    out = net(z.flatten(2).transpose(1, 2), w, 1000 * t[:, None], whole(w), 2, 8, 8, return_dict=False)[0]
    return out.transpose(1, 2).reshape(z.shape)


def plain(net: Any, z: Tensor, t: Tensor, w: Tensor) -> Tensor:
    return net(z, 1000 * t, w, return_dict=False)[0]


def hunyuan(net: Any, z: Tensor, t: Tensor, w: Tensor) -> Tensor:
    return net(z, 1000 * t, w, whole(w), w.mean(1), return_dict=False)[0]


def hunyuan15(net: Any, z: Tensor, t: Tensor, w: Tensor) -> Tensor:
    return net(
        z,
        1000 * t,
        w,
        whole(w),
        encoder_hidden_states_2=w,
        encoder_attention_mask_2=whole(w),
        image_embeds=torch.zeros(len(z), 2, 16).to(z),
        return_dict=False,
    )[0]


def cosmos(net: Any, z: Tensor, t: Tensor, w: Tensor) -> Tensor:
    return net(z, t, w, fps=24, return_dict=False)[0]


def svd(net: Any, z: Tensor, t: Tensor, w: Tensor) -> Tensor:
    """Stable Video Diffusion: frames first, and a picture's latents beside the noise."""
    pair = torch.cat([z, z[:, :, :1].expand_as(z)], 1).transpose(1, 2)
    times = torch.zeros(len(z), 3).to(z)
    return net(pair, 1000 * t, w[:, :1], times, return_dict=False)[0].transpose(1, 2)


def mochi(net: Any, z: Tensor, t: Tensor, w: Tensor) -> Tensor:
    return net(z, w, 1000 * t, whole(w), return_dict=False)[0]


def any_flow(net: Any, z: Tensor, t: Tensor, w: Tensor) -> Tensor:
    frames = 1000 * t[:, None].expand(-1, 2)
    return net(z.transpose(1, 2), frames, frames, w, return_dict=False)[0].transpose(1, 2)


def allegro(net: Any, z: Tensor, t: Tensor, w: Tensor) -> Tensor:
    from diffusers.models.embeddings import get_3d_rotary_pos_embed_allegro

    *turned, deep, high, wide = get_3d_rotary_pos_embed_allegro(24, ((0, 0), (4, 4)), (4, 4), 2)
    places = torch.cartesian_prod(deep.long(), high.long(), wide.long()).T.reshape(3, 1, -1).unbind()
    told = {"encoder_attention_mask": whole(w).to(z), "image_rotary_emb": (tuple(turned), places)}
    return net(z, w, 1000 * t, **told, return_dict=False)[0]


def motion(net: Any, z: Tensor, t: Tensor, w: Tensor) -> Tensor:
    """AnimateDiff: the text once for each frame."""
    return net(z, 1000 * t, w.repeat_interleave(z.shape[2], 0), return_dict=False)[0]


def easy(net: Any, z: Tensor, t: Tensor, w: Tensor) -> Tensor:
    return net(z, 1000 * t, encoder_hidden_states=w, return_dict=False)[0]


HUNYUAN: dict[str, Any] = {
    **SMALL,
    "num_layers": 1,
    "num_refiner_layers": 1,
    "text_embed_dim": 16,
    "rope_axes_dim": (2, 2, 4),
}
UNET3D = {**UNET, "cross_attention_dim": 16}

VIDEOS: dict[str, Entry] = {
    "CogVideoXTransformer3DModel": diffusers(
        "CogVideoXTransformer3DModel",
        VIDEO,
        frames_first,
        **SMALL,
        **BOTH,
        time_embed_dim=16,
        text_embed_dim=16,
        num_layers=2,
        sample_width=8,
        sample_height=8,
        sample_frames=5,
        max_text_seq_length=5,
    ),
    "LTXVideoTransformer3DModel": diffusers(
        "LTXVideoTransformer3DModel",
        VIDEO,
        ltx,
        **SMALL,
        **BOTH,
        cross_attention_dim=16,
        num_layers=2,
        caption_channels=16,
    ),
    "WanTransformer3DModel": diffusers("WanTransformer3DModel", VIDEO, plain, **WAN),
    "SkyReelsV2Transformer3DModel": diffusers("SkyReelsV2Transformer3DModel", VIDEO, plain, **WAN),
    "ChronoEditTransformer3DModel": diffusers(
        "ChronoEditTransformer3DModel", VIDEO, plain, **WAN, rope_temporal_skip_len=2
    ),
    "AnyFlowTransformer3DModel": diffusers("AnyFlowTransformer3DModel", VIDEO, any_flow, **WAN),
    "HunyuanVideoTransformer3DModel": diffusers(
        "HunyuanVideoTransformer3DModel",
        VIDEO,
        hunyuan,
        **HUNYUAN,
        **BOTH,
        num_single_layers=1,
        guidance_embeds=False,
        pooled_projection_dim=16,
    ),
    "HunyuanVideo15Transformer3DModel": diffusers(
        "HunyuanVideo15Transformer3DModel",
        VIDEO,
        hunyuan15,
        **HUNYUAN,
        **BOTH,
        text_embed_2_dim=16,
        image_embed_dim=16,
        target_size=16,
    ),
    "MochiTransformer3DModel": diffusers(
        "MochiTransformer3DModel",
        VIDEO,
        mochi,
        **SMALL,
        in_channels=4,
        num_layers=2,
        pooled_projection_dim=16,
        text_embed_dim=16,
        time_embed_dim=8,
        max_sequence_length=5,
    ),
    "AllegroTransformer3DModel": diffusers(
        "AllegroTransformer3DModel",
        VIDEO,
        allegro,
        **BOTH,
        num_attention_heads=2,
        attention_head_dim=24,
        num_layers=2,
        cross_attention_dim=48,
        sample_height=8,
        sample_width=8,
        sample_frames=2,
        caption_channels=16,
    ),
    "CosmosTransformer3DModel": diffusers(
        "CosmosTransformer3DModel",
        VIDEO,
        cosmos,
        **BOTH,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        mlp_ratio=2,
        concat_padding_mask=False,
        text_embed_dim=16,
        adaln_lora_dim=4,
        max_size=(4, 16, 16),
    ),
    "EasyAnimateTransformer3DModel": diffusers(
        "EasyAnimateTransformer3DModel",
        VIDEO,
        easy,
        **SMALL | {"attention_head_dim": 16},
        **BOTH,
        patch_size=2,
        sample_width=8,
        sample_height=8,
        num_layers=2,
        mmdit_layers=1,
        time_embed_dim=16,
        text_embed_dim=16,
    ),
    "LatteTransformer3DModel": diffusers(
        "LatteTransformer3DModel",
        VIDEO,
        lambda net, z, t, w: net(z, 1000 * t, w, return_dict=False)[0],
        **SMALL,
        **BOTH,
        num_layers=1,
        patch_size=2,
        sample_size=8,
        caption_channels=16,
        cross_attention_dim=16,
        video_length=2,
        norm_type="ada_norm_single",
        num_embeds_ada_norm=1000,
        norm_elementwise_affine=False,
    ),
    "SanaVideoTransformer3DModel": diffusers(
        "SanaVideoTransformer3DModel",
        VIDEO,
        TEXT,
        **SMALL | {"attention_head_dim": 12},
        **BOTH,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=16,
        sample_size=8,
    ),
    "MotifVideoTransformer3DModel": diffusers(
        "MotifVideoTransformer3DModel",
        VIDEO,
        masked,
        **SMALL,
        **BOTH,
        num_layers=1,
        num_single_layers=1,
        text_embed_dim=16,
        rope_axes_dim=(2, 2, 4),
    ),
    "UNet3DConditionModel": diffusers(
        "UNet3DConditionModel",
        VIDEO,
        plain,
        **UNET3D,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
    ),
    "UNetMotionModel (AnimateDiff)": diffusers(
        "UNetMotionModel",
        VIDEO,
        motion,
        **UNET3D,
        num_attention_heads=2,
        motion_num_attention_heads=2,
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
    ),
    "UNetSpatioTemporalConditionModel (SVD)": diffusers(
        "UNetSpatioTemporalConditionModel",
        VIDEO,
        svd,
        sample_size=8,
        in_channels=8,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(32, 32),
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
        cross_attention_dim=16,
        num_attention_heads=(2, 2),
        num_frames=2,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
    ),
}

SOUND: dict[str, Entry] = {
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
